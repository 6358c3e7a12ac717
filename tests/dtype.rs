//! Weights in f16 or int8: less memory, nearly the same answers, and nothing that would take them for f32.

mod common;

use std::ops::ControlFlow;

use common::{fresh_model, gpu, root};
use retto::{Dtype, EmbedOptions, Error, EvaluationOptions, Gpu, Model, Trainer, TrainingArguments, read_lines};

fn bundled(gpu: &Gpu) -> Model {
    Model::open(gpu, root().join("models/retto-tiny")).unwrap()
}

/// Lines of this repository's lyrics with one word of each taken out.
fn blanks() -> Vec<String> {
    let lines = read_lines(&[root().join("data/lyrics")]).unwrap();
    let blank = |(i, line): (usize, &String)| {
        let mut words: Vec<&str> = line.split(' ').collect();
        let at = i % words.len();
        words[at] = "[MASK]";
        words.join(" ")
    };
    lines.iter().enumerate().filter(|(i, line)| i % 7 == 0 && line.split(' ').count() > 4).map(blank).collect()
}

#[test]
fn answers_are_nearly_those_of_f32() {
    let model = bundled(gpu());
    let blanks = blanks();
    assert!(blanks.len() > 150, "{}", blanks.len());
    let exact = model.fill_mask_batch(&blanks, 1).unwrap();
    let lines = read_lines(&[root().join("data/lyrics")]).unwrap();
    let loss = |model: &Model| model.evaluate(&lines, &EvaluationOptions::default()).unwrap().loss;
    let exact_loss = loss(&model);
    for (dtype, same_at_least, loss_at_most) in [(Dtype::Float16, 0.99, 1e-5), (Dtype::Int8, 0.98, 1e-3)] {
        let packed = model.to_dtype(dtype).unwrap();
        let answers = packed.fill_mask_batch(&blanks, 1).unwrap();
        let same = answers.iter().zip(&exact).filter(|(a, b)| a[0][0].token == b[0][0].token).count();
        let same = same as f64 / blanks.len() as f64;
        let off = (loss(&packed) / exact_loss - 1.0).abs();
        println!("{dtype}: the same first answer for {same:.4} of {} blanks, loss off by {off:.2e}", blanks.len());
        assert!(same >= same_at_least && off < loss_at_most, "{dtype}: {same} {off}");
    }
}

#[test]
fn vectors_point_nearly_where_those_of_f32_do() {
    let model = bundled(gpu());
    let texts = ["the rain on the window", "you and me", "a long way home from here tonight, my love"];
    let vectors = |model: &Model| {
        let options = EmbedOptions { normalize: true, ..Default::default() };
        model.embed(&texts, &options).unwrap().values().to_vec()
    };
    let exact = vectors(&model);
    for (dtype, least) in [(Dtype::Float16, 0.999_999), (Dtype::Int8, 0.999)] {
        let got = vectors(&model.to_dtype(dtype).unwrap());
        for (a, b) in exact.chunks(128).zip(got.chunks(128)) {
            let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!(cosine > least, "{dtype}: {cosine}");
        }
    }
}

#[test]
fn memory_is_that_of_the_smaller_weights() {
    // A device of its own, on which nothing else is.
    let index = gpu().adapter().index.to_string();
    let gpu = Gpu::open(&index).unwrap();
    let model = bundled(&gpu);
    let whole = gpu.memory_in_use();
    for (dtype, most) in [(Dtype::Float16, 0.55), (Dtype::Int8, 0.33)] {
        let packed = model.to_dtype(dtype).unwrap();
        let share = (gpu.memory_in_use() - whole) as f64 / whole as f64;
        assert!(share < most && share > most / 2.0, "{dtype}: {share}");
        drop(packed);
        assert_eq!(gpu.memory_in_use(), whole);
    }
    // With the original gone, only what the copy needs is left.
    let packed = model.to_dtype(Dtype::Int8).unwrap();
    drop(model);
    assert!((gpu.memory_in_use() as f64) < 0.4 * whole as f64);
    assert_eq!(packed.fill_mask("the rain on the [MASK]", 3).unwrap()[0].len(), 3);
}

#[test]
fn a_model_is_opened_as_it_would_be_made() {
    let exact = bundled(gpu());
    let lines: Vec<String> = blanks().into_iter().take(5).collect();
    let answers = |model: &Model| model.fill_mask_batch(&lines, 5).unwrap();
    for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Int8] {
        let opened = Model::open_with_dtype(gpu(), root().join("models/retto-tiny"), dtype).unwrap();
        assert_eq!(opened.dtype(), dtype);
        assert_eq!(answers(&opened), answers(&exact.to_dtype(dtype).unwrap()), "{dtype}");
    }
    let error = Model::open_with_dtype(gpu(), "no/such/folder", Dtype::Int8).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn what_needs_f32_says_so() {
    let model = fresh_model();
    let folder = tempfile::tempdir().unwrap();
    for dtype in [Dtype::Float16, Dtype::Int8] {
        let packed = model.to_dtype(dtype).unwrap();
        let unsupported = |what: &str, result: retto::Result<()>| match result {
            Err(Error::Unsupported(reason)) => assert!(reason.contains(&dtype.to_string()), "{what}: {reason}"),
            other => panic!("{what}: {other:?}"),
        };
        unsupported("train", Trainer::new(&packed, TrainingArguments::default()).map(|_| ()));
        unsupported("devices", Trainer::with_devices(&packed, &[], TrainingArguments::default()).map(|_| ()));
        unsupported("save", packed.save(folder.path().join("model")));
        unsupported("parameter", packed.parameter("bert.encoder.layer.0.intermediate.dense.weight").map(|_| ()));
        let other = if dtype == Dtype::Int8 { Dtype::Float16 } else { Dtype::Int8 };
        unsupported("another type", packed.to_dtype(other).map(|_| ()));
        unsupported("back", packed.to_dtype(Dtype::Float32).map(|_| ()));
        assert_eq!(packed.to_dtype(dtype).unwrap().dtype(), dtype);
        assert!(!folder.path().join("model").exists());
    }
    assert_eq!("int8".parse::<Dtype>().unwrap(), Dtype::Int8);
    let error = "fp8".parse::<Dtype>().unwrap_err().to_string();
    assert!(error.contains("float16") && error.contains("fp8"), "{error}");
    // A copy in f32 is a model as any other.
    assert!(Trainer::new(&model.to_dtype(Dtype::Float32).unwrap(), TrainingArguments::default()).is_ok());
}

#[test]
fn a_model_that_is_being_trained_can_be_queried_in_int8() {
    let model = bundled(gpu());
    let arguments = TrainingArguments { max_steps: Some(2), lora: Some(Default::default()), ..Default::default() };
    let mut trainer = Trainer::new(&model, arguments).unwrap();
    trainer.train(&["the rain on the window", "you and me"], &[], |_| ControlFlow::Continue(())).unwrap();
    // The low-rank adapter has become part of the weights.
    let packed = trainer.model().to_dtype(Dtype::Int8).unwrap();
    assert_eq!(packed.fill_mask("the rain on the [MASK]", 3).unwrap()[0].len(), 3);
}

#[test]
fn a_copy_is_left_alone_by_later_steps() {
    let arguments = TrainingArguments { max_steps: Some(2), learning_rate: 1e-2, ..Default::default() };
    let mut trainer = Trainer::new(&bundled(gpu()), arguments).unwrap();
    let lines = ["the rain on the window", "you and me"];
    trainer.train(&lines, &[], |_| ControlFlow::Continue(())).unwrap();
    for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Int8] {
        let copy = trainer.model().to_dtype(dtype).unwrap();
        let again = copy.to_dtype(dtype).unwrap();
        let answers = |model: &Model| model.fill_mask("the rain on the [MASK]", 5).unwrap();
        let before = answers(&copy);
        trainer.train(&lines, &[], |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((answers(&copy), answers(&again)), (before.clone(), before), "{dtype}");
        if dtype == Dtype::Float32 {
            let mut batch = retto::PackedBatch::default();
            batch.push_masked(&[2, 7, 4, 3], &[(2, 8)]);
            assert_eq!(copy.loss_and_gradients(&batch).unwrap().1.len(), copy.parameter_shapes().len());
        }
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_command_takes_it_where_models_are_queried() {
    use common::command::{json, run};
    let fill = |dtype: &str| json(&["fill", "the rain on the [MASK]", "--json", "--dtype", dtype]);
    let (exact, half, small) = (fill("float32"), fill("float16"), fill("int8"));
    // The bundled file is in f16: nothing is rounded, and sums are in the same order.
    assert_eq!(exact, half);
    assert_ne!(exact, small);
    assert_eq!(exact[0]["token_str"], small[0]["token_str"]);
    // On CPUs that know no f16 Mesa's software has none, which it can be told of this one (up to 25).
    for (dtype, expected) in [("float32", &exact), ("float16", &half), ("int8", &small)] {
        let mut without = common::command::retto(&["fill", "the rain on the [MASK]", "--json", "--dtype", dtype]);
        let output = without.env("GALLIUM_OVERRIDE_CPU_CAPS", "sse4.1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answers: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let tokens = |answers: &serde_json::Value| -> Vec<_> {
            answers.as_array().unwrap().iter().map(|answer| answer["token_str"].clone()).collect()
        };
        assert_eq!(tokens(&answers), tokens(expected), "{dtype}");
    }
    let refused = run(&["eval", "--data", "data/lyrics", "--dtype", "fp8"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("float16") && told.contains("fp8"), "{told}");
}
