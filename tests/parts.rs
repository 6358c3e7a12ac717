//! Training a part of a model, or in less memory: what is frozen stays, what is shared is not stored twice, and what only
//! saves memory changes no bit.

mod common;

use std::ops::ControlFlow;

#[cfg(feature = "default-model")]
use common::gpu;
use common::{fixtures, fresh_model};
use retto::{BertConfig, Dataset, Error, Gpu, LoraConfig, Model, Tokenizer, Trainer, TrainingArguments};

fn lines() -> Vec<String> {
    (0..16).map(|i| format!("the rain {}", "and you ".repeat(1 + i % 4))).collect()
}

fn arguments() -> TrainingArguments {
    TrainingArguments { max_steps: Some(5), learning_rate: 1e-2, mlm_probability: 0.3, ..Default::default() }
}

fn train(base: &Model, arguments: TrainingArguments) -> Model {
    let mut trainer = Trainer::new(base, arguments).unwrap();
    trainer.train(&lines(), &[], |_| ControlFlow::Continue(())).unwrap();
    trainer.into_model()
}

/// The keys of parameters whose bits differ.
fn changed(a: &Model, b: &Model) -> Vec<String> {
    let bits =
        |model: &Model, key: &str| -> Vec<u32> { model.parameter(key).unwrap().iter().map(|x| x.to_bits()).collect() };
    let keys = a.parameter_shapes().into_iter().map(|(key, _)| key);
    keys.filter(|key| bits(a, key) != bits(b, key)).collect()
}

#[test]
fn what_is_frozen_stays_and_the_rest_is_trained() {
    let base = fresh_model();
    let all: Vec<String> = base.parameter_shapes().into_iter().map(|(key, _)| key).collect();
    let frozen = |layers: &[usize], embeddings: bool| TrainingArguments {
        freeze_layers: layers.to_vec(),
        freeze_embeddings: embeddings,
        ..arguments()
    };
    // The key's bias has no gradient but rounding: softmax does not see what is added to a whole row.
    let certain = |key: &&String| !key.ends_with("key.bias") && !key.contains("token_type");
    for (layers, embeddings) in [(&[][..], false), (&[0], false), (&[1], true), (&[0, 1], true), (&[0, 1], false)] {
        let trained = train(&base, frozen(layers, embeddings));
        let expected = |key: &&String| {
            let layer = layers.iter().any(|layer| key.starts_with(&format!("bert.encoder.layer.{layer}.")));
            let embedding = embeddings && key.starts_with("bert.embeddings.");
            !layer && !embedding
        };
        let got = changed(&base, &trained);
        assert!(got.iter().all(|key| expected(&key)), "{layers:?} {embeddings}: {got:?}");
        let missing: Vec<_> = all.iter().filter(expected).filter(certain).filter(|key| !got.contains(key)).collect();
        assert!(missing.is_empty(), "{layers:?} {embeddings}: {missing:?}");
    }
    let error = Trainer::new(&base, frozen(&[2], false)).unwrap_err().to_string();
    assert!(error.contains("freeze_layers names layer 2, but the model has layers 0 to 1"), "{error}");
}

#[test]
fn a_low_rank_adaptation_learns_and_leaves_the_weights() {
    let base = fresh_model();
    let lora =
        LoraConfig { r: 4, lora_alpha: 16.0, target_modules: vec!["query".into(), "value".into(), "dense".into()] };
    let evaluate = |model: &Model| {
        let options = retto::EvaluationOptions { mlm_probability: 0.3, ..Default::default() };
        model.evaluate(&lines(), &options).unwrap().loss
    };
    let before = evaluate(&base);
    let trained = train(&base, TrainingArguments { lora: Some(lora), max_steps: Some(30), ..arguments() });
    assert!(changed(&base, &trained).is_empty(), "the weights themselves stay");
    assert!(evaluate(&trained) < 0.7 * before, "{} {before}", evaluate(&trained));
    let merged = trained.merge().unwrap();
    assert!((evaluate(&trained) - evaluate(&merged)).abs() < 1e-6);
    let updated = changed(&base, &merged);
    assert!(
        updated.iter().all(|key| key.ends_with("weight")) && updated.iter().any(|key| key.contains("query")),
        "{updated:?}"
    );
    assert!(!updated.iter().any(|key| key.contains("key") || key.contains("LayerNorm")), "{updated:?}");
    // Trained again, the first adaptation stays a part of the weights.
    let again =
        train(&trained, TrainingArguments { lora: Some(LoraConfig::default()), max_steps: Some(0), ..arguments() });
    assert!((evaluate(&again) - evaluate(&merged)).abs() < 1e-6);
    let encoder = common::encoder_without_head();
    assert!(!encoder.has_mlm_head());
    let arguments = TrainingArguments { lora: Some(LoraConfig::default()), ..arguments() };
    assert!(matches!(Trainer::new(&encoder, arguments), Err(Error::NoMlmHead)));
}

#[test]
fn checkpointing_activations_changes_no_bit() {
    let base = fresh_model();
    for dropout in [true, false] {
        let plain = TrainingArguments { dropout, gradient_accumulation_steps: 2, ..arguments() };
        let with = TrainingArguments { gradient_checkpointing: true, ..plain.clone() };
        assert!(changed(&train(&base, plain), &train(&base, with)).is_empty());
    }
}

#[test]
fn dropout_is_the_configs_and_can_be_turned_off() {
    let base = fresh_model();
    let (on, off) = (arguments(), TrainingArguments { dropout: false, ..arguments() });
    assert!(!changed(&train(&base, on.clone()), &train(&base, off.clone())).is_empty());
    // Accumulated or in one batch, and in whatever order, an example drops the same.
    let halves = TrainingArguments { per_device_train_batch_size: 4, gradient_accumulation_steps: 2, ..on.clone() };
    let (one, two) = (train(&base, on), train(&base, halves));
    let far = |key: &str| {
        let (a, b) = (one.parameter(key).unwrap(), two.parameter(key).unwrap());
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, common::worse)
    };
    let key = "bert.encoder.layer.0.intermediate.dense.weight";
    assert!(far(key) < 1e-4, "{}", far(key));
}

/// With nothing in its memory yet.
fn fresh_gpu() -> Gpu {
    match std::env::var("RETTO_DEVICE") {
        Ok(device) => Gpu::open(&device).unwrap(),
        Err(_) => Gpu::open_default().unwrap(),
    }
}

fn large_model(gpu: &Gpu) -> Model {
    let tokenizer = Tokenizer::open(fixtures().join("fillmask")).unwrap();
    let mut config = BertConfig::new(6000);
    (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) = (128, 6, 2);
    (config.intermediate_size, config.max_position_embeddings) = (512, 64);
    Model::init(gpu, config, tokenizer, 1).unwrap()
}

/// GPU memory, in bytes of the model's own weights.
fn memory(prepare: impl FnOnce(&Model) -> Option<Trainer>) -> f64 {
    let gpu = fresh_gpu();
    let model = large_model(&gpu);
    let weights = model.num_parameters() as f64 * 4.0;
    let mut trainer = prepare(&model);
    if let Some(trainer) = &mut trainer {
        trainer.train(&lines(), &[], |_| ControlFlow::Continue(())).unwrap();
    }
    gpu.trim();
    gpu.memory_in_use() as f64 / weights
}

#[test]
fn parts_take_the_memory_of_parts() {
    let make = |arguments: TrainingArguments| move |model: &Model| Some(Trainer::new(model, arguments).unwrap());
    let alone = memory(|_| None);
    assert!((alone - 1.0).abs() < 0.01, "{alone}");
    // The model itself, and weights, gradients and two moments of what is trained.
    let full = memory(make(arguments()));
    assert!((full - 5.0).abs() < 0.05, "{full}");
    let lora = memory(make(TrainingArguments { lora: Some(LoraConfig::default()), ..arguments() }));
    assert!(lora < 1.5, "a low-rank adaptation takes {lora} times the weights");
    let frozen = TrainingArguments { freeze_layers: (0..6).collect(), freeze_embeddings: true, ..arguments() };
    let head = memory(make(frozen));
    assert!(head < 1.5, "{head}");
}

#[test]
fn memory_is_foreseen_and_what_cannot_fit_refused() {
    let lines = vec!["the rain and you ".repeat(8); 64];
    let mut foreseen = Vec::new();
    for gradient_checkpointing in [false, true] {
        for lora in [None, Some(LoraConfig::default())] {
            let gpu = fresh_gpu();
            let model = large_model(&gpu);
            let data = Dataset::from_lines(model.tokenizer(), &lines, 64).unwrap();
            let what = format!("{gradient_checkpointing} {lora:?}");
            let arguments = TrainingArguments { gradient_checkpointing, lora, max_steps: Some(1), ..arguments() };
            let mut trainer = Trainer::new(&model, arguments).unwrap();
            let forecast = trainer.forecast(&data).unwrap();
            assert_eq!(forecast.steps, 1);
            assert!(forecast.duration.as_secs_f64() > 0.0);
            trainer.train_dataset(&data, None, |_| ControlFlow::Continue(())).unwrap();
            let (all, state) = (gpu.memory_in_use() as f64, forecast.state_bytes as f64);
            gpu.trim();
            assert!((gpu.memory_in_use() as f64 / state - 1.0).abs() < 0.02, "{what}: {} {state}", gpu.memory_in_use());
            let activations = all - gpu.memory_in_use() as f64;
            let share = forecast.activation_bytes as f64 / activations;
            assert!((0.7..1.6).contains(&share), "{what}: {share} of {activations} bytes");
            foreseen.push(forecast.activation_bytes);
        }
    }
    assert!(foreseen[2] < foreseen[0] / 2, "checkpointing saves activations: {foreseen:?}");

    // A batch larger than any memory.
    let gpu = fresh_gpu();
    let Some(available) = gpu.adapter().memory_bytes else { return };
    let model = large_model(&gpu);
    let examples = (available / 64 / 4 / (6 * 2200)) as usize + 1;
    let line = "the rain and you ".repeat(20);
    let data = Dataset::from_lines(model.tokenizer(), &vec![line.as_str(); examples.min(200_000)], 64).unwrap();
    let huge = TrainingArguments { per_device_train_batch_size: examples, ..arguments() };
    if examples <= 200_000 {
        let trainer = Trainer::new(&model, huge).unwrap();
        // What it would take is told, and refused when it is to be done.
        let forecast = trainer.forecast(&data).unwrap();
        assert!(forecast.state_bytes + forecast.activation_bytes > available, "{forecast:?}");
        let mut trainer = trainer;
        let error = trainer.train_dataset(&data, None, |_| panic!("training began")).unwrap_err();
        assert!(matches!(&error, Error::WouldNotFit { needed, available, .. } if needed > available), "{error}");
        assert!(error.to_string().contains("gradient_checkpointing"), "{error}");
    }
}

/// On an adapter without f16 the refusal is what is tested: there is nothing else to test there.
#[cfg(feature = "default-model")]
#[test]
fn mixed_precision_converges_as_f32_does() {
    let base = Model::open_default(gpu()).unwrap();
    let lyrics = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/lyrics/original.txt");
    let lines = retto::read_lines(&[lyrics]).unwrap();
    let arguments = |fp16| TrainingArguments {
        fp16,
        max_steps: Some(40),
        learning_rate: 1e-3,
        per_device_train_batch_size: 32,
        ..Default::default()
    };
    if !gpu().adapter().shader_f16 {
        let refused = Trainer::new(&base, arguments(true)).unwrap_err();
        assert!(matches!(&refused, Error::Unsupported(reason) if reason.contains("fp16")), "{refused}");
        return;
    }
    let train = |fp16| {
        let mut trainer = Trainer::new(&base, arguments(fp16)).unwrap();
        let output = trainer.train(&lines[100..], &[], |_| ControlFlow::Continue(())).unwrap();
        let evaluation = trainer.model().evaluate(&lines[..100], &Default::default()).unwrap();
        (trainer.into_model(), output.train_loss, evaluation.loss)
    };
    let before = base.evaluate(&lines[..100], &Default::default()).unwrap().loss;
    let (exact, loss, held_out) = train(false);
    let (mixed, mixed_loss, mixed_held_out) = train(true);
    assert!(held_out < 0.95 * before, "{held_out} {before}");
    assert!((mixed_loss / loss - 1.0).abs() < 0.01, "{mixed_loss} {loss}");
    assert!((mixed_held_out / held_out - 1.0).abs() < 0.01, "{mixed_held_out} {held_out}");
    assert!(!changed(&exact, &mixed).is_empty(), "it is another arithmetic");
}
