//! Rung 3: the model equals Hugging Face transformers. Hidden states, logits, loss, every parameter's gradient, and ten
//! AdamW steps, on small random models that `reference/make_fixtures.py` made; and the same comparison for the large models
//! that `reference/live.py` makes, which names their folder in `RETTO_LIVE_REFERENCE`.

mod common;

use std::path::Path;

use common::{Tensors, copy_model, difference, fixtures, gpu};
use retto::{
    DistanceMetric, EmbeddingLoss, EmbeddingObjective, Model, PackedBatch, Pooling, Trainer, TrainingArguments,
    Triplets,
};

/// The reference's batch: packed as it is stored.
fn batch(reference: &Tensors) -> PackedBatch {
    let ids = |name: &str| -> Vec<u32> { reference.i32(name).iter().map(|&id| id as u32).collect() };
    let starts = ids("cu_seqlens");
    let position = |pair: &[u32]| 0..pair[1] - pair[0];
    let labels = reference.i32("labels");
    let masked = |&row: &usize| labels[row] >= 0;
    PackedBatch {
        input_ids: ids("input_ids"),
        position_ids: starts.windows(2).flat_map(position).collect(),
        token_type_ids: ids("token_type_ids"),
        masked_rows: (0..labels.len()).filter(masked).map(|row| row as u32).collect(),
        labels: labels.iter().filter(|&&label| label >= 0).map(|&label| label as u32).collect(),
        cu_seqlens: starts,
        dropout_seeds: Vec::new(),
    }
}

/// What may differ, in absolute terms; for gradients and parameters relative to the largest of the tensor, with a floor.
struct Tolerances {
    activations: f64,
    loss: f64,
    gradients: f64,
}

const SMALL: Tolerances = Tolerances { activations: 2e-5, loss: 1e-5, gradients: 1e-4 };
const LIVE: Tolerances = Tolerances { activations: 2e-4, loss: 1e-4, gradients: 1e-3 };

/// A parameter that transformers keeps but never uses once the decoder is untied.
const DEAD: &str = "cls.predictions.bias";

fn compare(folder: &Path, tolerances: &Tolerances) {
    let name = folder.file_name().unwrap().to_string_lossy();
    let reference = Tensors::read(&folder.join("reference.safetensors"));
    let copy = copy_model(folder);
    let model = Model::open(gpu(), copy.path()).unwrap();
    let mut batch = batch(&reference);

    let check = |what: &str, got: &[f32], want: &[f32], tolerance: f64| {
        let (error, _) = difference(got, want);
        println!("{name}: {what}: largest difference {error:.1e}");
        assert!(error <= tolerance, "{name}: {what}: differs by {error:e}, allowed are {tolerance:e}");
    };
    let hidden_states = model.hidden_states(&batch).unwrap();
    check("hidden states", &hidden_states, reference.f32("hidden_states"), tolerances.activations);
    if !reference.tensors.contains_key("loss") {
        return; // an encoder without a head
    }
    let labels = std::mem::take(&mut batch.labels);
    check("logits", &model.logits(&batch).unwrap(), reference.f32("logits"), tolerances.activations);
    batch.labels = labels;

    let (loss, gradients) = model.loss_and_gradients(&batch).unwrap();
    check("loss", &[loss], reference.f32("loss"), tolerances.loss);
    let untied = gradients.iter().any(|(key, _)| key == "cls.predictions.decoder.weight");
    let mut expected = reference.names("grad.");
    expected.retain(|key| !(untied && key == DEAD));
    let mut got: Vec<_> = gradients.iter().map(|(key, _)| key.clone()).collect();
    got.sort();
    assert_eq!(got, expected, "{name}: a gradient for every parameter");
    let mut worst = (0.0, "");
    for (key, gradient) in &gradients {
        let (error, largest) = difference(gradient, reference.f32(&format!("grad.{key}")));
        // The true gradient of a key's bias is zero, softmax cancels it: what is left is rounding, measured against the
        // gradient of the same layer's weight.
        let largest = match key.strip_suffix("self.key.bias") {
            Some(layer) => largest_of(reference.f32(&format!("grad.{layer}self.key.weight"))),
            None => largest,
        };
        let relative = error / largest.max(1e-6);
        assert!(relative <= tolerances.gradients, "{name}: gradient of {key}: {error:e} of {largest:e}");
        if relative > worst.0 {
            worst = (relative, key.as_str());
        }
    }
    println!("{name}: {} gradients: largest relative difference {:.1e} ({})", got.len(), worst.0, worst.1);

    if reference.metadata.get("has_adamw").is_some_and(|has| has == "true") {
        compare_steps(&name, &model, &batch, &reference);
    }
}

fn largest_of(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs().into()))
}

/// Ten steps on the same batch: losses, norms, and every parameter afterwards.
fn compare_steps(name: &str, model: &Model, batch: &PackedBatch, reference: &Tensors) {
    let number = |key: &str| -> f64 { reference.metadata[key].parse().unwrap() };
    let (warmup, steps) = (number("warmup_steps"), number("max_steps") as u64);
    // Where there is dropout, transformers' own drew Retto's numbers.
    let seeds = reference.metadata.get("dropout_seeds");
    let mut batch = batch.clone();
    batch.dropout_seeds = seeds.iter().flat_map(|seeds| seeds.split(' ')).map(|seed| seed.parse().unwrap()).collect();
    let batch = &batch;
    let arguments = TrainingArguments {
        dropout: seeds.is_some(),
        learning_rate: number("learning_rate"),
        weight_decay: number("weight_decay"),
        max_grad_norm: number("max_grad_norm"),
        ..Default::default()
    };
    let rate = arguments.learning_rate;
    let mut trainer = Trainer::new(model, arguments).unwrap();
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let done = step as f64;
        let factor = if done < warmup { done / warmup } else { (steps as f64 - done) / (steps as f64 - warmup) };
        let report = trainer.train_step(batch, rate * factor).unwrap();
        losses.push(report.loss);
        norms.push(report.grad_norm);
    }
    let close = |what: &str, got: &[f32], want: &[f32], tolerance: f64| {
        let (error, largest) = difference(got, want);
        assert!(error <= tolerance * largest.max(1.0), "{name}: {what}: differs by {error:e} of {largest:e}");
        error
    };
    close("losses of ten steps", &losses, reference.f32("adamw_losses"), 1e-4);
    close("gradient norms of ten steps", &norms, reference.f32("adamw_grad_norms"), 2e-4);
    let mut worst: f64 = 0.0;
    for key in reference.names("adamw.") {
        // Adam divides by the root of the second moment, so where the true gradient is zero it makes steps of the whole
        // learning rate out of rounding noise, in transformers' own f32 as well: the bound is the sum of learning rates.
        let tolerance = if key.ends_with("self.key.bias") { 5e-3 } else { 2e-5 };
        if !(key == DEAD && reference.tensors.contains_key("adamw.cls.predictions.decoder.weight")) {
            let values = trainer.model().parameter(&key).unwrap();
            let error = close(&key, &values, reference.f32(&format!("adamw.{key}")), tolerance);
            worst = if tolerance < 1e-3 { worst.max(error) } else { worst };
        }
    }
    println!("{name}: {steps} AdamW steps: largest difference of a parameter {worst:.1e}");
}

/// sentence-transformers' losses through the network: each loss, and the gradient of every parameter.
#[test]
fn losses_of_embeddings() {
    let reference = Tensors::read(&fixtures().join("embedding/reference.safetensors"));
    let cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("embedding/cases.json")).unwrap()).unwrap();
    let model = Model::open(gpu(), fixtures().join("fillmask")).unwrap();
    let texts = |negatives: bool| {
        let triplets = cases["triplets"].as_array().unwrap().iter();
        let texts = triplets.map(|triplet| {
            let text = |role: usize| triplet[role].as_str().unwrap();
            (text(0), text(1), negatives.then(|| text(2)))
        });
        Triplets::from_texts(model.tokenizer(), texts, 128).unwrap()
    };
    for (index, case) in cases["cases"].as_array().unwrap().iter().enumerate() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let loss = match case["loss"].as_str().unwrap() {
            "triplet" => EmbeddingLoss::Triplet {
                distance_metric: match case["distance_metric"].as_str().unwrap() {
                    "cosine" => DistanceMetric::Cosine,
                    _ => DistanceMetric::Euclidean,
                },
                triplet_margin: number("triplet_margin"),
                semi_hard: false,
            },
            _ => EmbeddingLoss::MultipleNegativesRanking { scale: number("scale") },
        };
        let pooling = match case["pooling"].as_str().unwrap() {
            "cls" => Pooling::Cls,
            "max" => Pooling::Max,
            _ => Pooling::Mean,
        };
        let objective = EmbeddingObjective { loss, pooling, normalize: case["normalize"].as_bool().unwrap() };
        let data = texts(case["negatives"].as_bool().unwrap_or(true));
        let (got, gradients) = model.embedding_loss_and_gradients(&data, &objective).unwrap();
        let want = reference.f32(&format!("{index}.loss"))[0];
        assert!((got - want).abs() <= 2e-6 * want.max(1.0), "{case}: a loss of {got}, not {want}");
        let of_encoder = gradients.iter().filter(|(key, _)| key.starts_with("bert."));
        let names: Vec<_> = of_encoder.clone().map(|(key, _)| key.clone()).collect();
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(sorted, reference.names(&format!("{index}.grad.")), "{case}");
        for (key, gradient) in of_encoder {
            let want = |key: &str| reference.f32(&format!("{index}.grad.{key}"));
            let (error, mut largest) = difference(gradient, want(key));
            // Where the true gradient is zero (softmax cancels that of a key's bias, the difference of two vectors what was
            // added to both), what is left is rounding, measured against the same layer's weight.
            if let Some(layer) = key.strip_suffix("bias") {
                largest = largest.max(largest_of(want(&format!("{layer}weight"))));
            }
            assert!(error <= 1e-4 * largest.max(1e-6), "{case}: gradient of {key}: {error:e} of {largest:e}");
        }
        assert!(gradients.iter().filter(|(key, _)| key.starts_with("cls.")).all(|(_, g)| g.iter().all(|&g| g == 0.0)));
    }
}

#[test]
fn base() {
    compare(&fixtures().join("base"), &SMALL);
}

#[test]
fn gelu_new() {
    compare(&fixtures().join("gelu_new"), &SMALL);
}

#[test]
fn three_heads_and_odd_sizes() {
    compare(&fixtures().join("odd"), &SMALL);
}

#[test]
fn relu_and_an_untied_decoder() {
    compare(&fixtures().join("relu_untied"), &SMALL);
}

#[test]
fn sequences_longer_than_an_attention_piece() {
    compare(&fixtures().join("long"), &SMALL);
}

#[test]
fn a_head_wider_than_a_workgroup() {
    compare(&fixtures().join("wide_head"), &SMALL);
}

/// Where dropout is, with which share and in which order, and LayerNorms with an epsilon that matters.
#[test]
fn dropout_where_transformers_has_it() {
    compare(&fixtures().join("dropout"), &SMALL);
}

#[test]
#[ignore = "reference/live.py makes its models, and runs it"]
fn live() {
    let root = std::env::var("RETTO_LIVE_REFERENCE").expect("RETTO_LIVE_REFERENCE names the folder");
    println!("{}", gpu());
    let mut folders: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("reference.safetensors").exists());
    folders.sort();
    assert!(!folders.is_empty());
    for folder in folders {
        compare(&folder, &LIVE);
    }
}
