//! Several devices that train together make the steps that one makes: several wgpu devices on one adapter stand for several GPUs.

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use common::{fresh_model, gpu};
use retto::{
    CommHook, DistanceMetric, EmbeddingLoss, EmbeddingObjective, Error, Gpu, LoraConfig, Model, Objective, PackedBatch,
    TrainEvent, TrainOutput, Trainer, TrainingArguments, Triplets,
};

/// Other devices on the adapter of the tests.
fn others(count: usize) -> Vec<Gpu> {
    let open = |_| match std::env::var("RETTO_DEVICE") {
        Ok(device) => Gpu::open(&device).unwrap(),
        Err(_) => Gpu::open_default().unwrap(),
    };
    (0..count).map(open).collect()
}

/// 23 lines of different lengths, seven in a step, so that the last step of an epoch has two: fewer than four devices.
fn lines() -> Vec<String> {
    (0..23).map(|i| format!("{} the rain {}", ["you", "and", "the"][i % 3], "and you ".repeat(1 + i % 4))).collect()
}

fn arguments() -> TrainingArguments {
    TrainingArguments {
        num_train_epochs: 2.0,
        learning_rate: 2e-3,
        weight_decay: 0.01,
        mlm_probability: 0.3,
        per_device_train_batch_size: 7,
        per_device_eval_batch_size: 2,
        eval_steps: Some(3),
        ..Default::default()
    }
}

/// What a run tells of itself: losses, gradient norms, tokens, and held-out losses.
#[derive(Default)]
struct Told {
    losses: Vec<f64>,
    norms: Vec<f64>,
    tokens: Vec<usize>,
    held_out: Vec<f64>,
}

fn train(trainer: &mut Trainer, stop_at: u64) -> (TrainOutput, Told) {
    let mut told = Told::default();
    let output = trainer.train(&lines(), &lines()[..5], |event| {
        match event {
            TrainEvent::Step(report) => {
                told.losses.push(report.loss.into());
                told.norms.push(report.grad_norm.into());
                told.tokens.push(report.tokens);
                assert!((0.0..=1.0).contains(&report.communication_share));
                if report.step == stop_at {
                    return ControlFlow::Break(());
                }
            }
            TrainEvent::Evaluated { evaluation, .. } => told.held_out.push(evaluation.loss),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    (output.unwrap(), told)
}

fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance * want.abs().max(1e-3), "{what}: {got} {want}");
    }
}

/// The largest difference of two models' parameters; those of keys' biases left out, whose gradient is rounding alone.
fn difference(a: &Model, b: &Model) -> f32 {
    let keys = a.parameter_shapes().into_iter().map(|(key, _)| key).filter(|key| !key.ends_with("key.bias"));
    let of = |key: String| {
        let pairs = a.parameter(&key).unwrap().into_iter().zip(b.parameter(&key).unwrap());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, common::worse)
    };
    keys.map(of).fold(0.0, common::worse)
}

/// Kinds of run in which something is divided or summed in a way of its own.
fn variants() -> Vec<(&'static str, TrainingArguments)> {
    let plain = arguments();
    let lora = LoraConfig { r: 2, lora_alpha: 8.0, ..Default::default() };
    let parts = TrainingArguments { per_device_train_batch_size: 3, gradient_accumulation_steps: 2, ..plain.clone() };
    vec![
        ("low-rank", TrainingArguments { lora: Some(lora), ..plain.clone() }),
        ("balanced", TrainingArguments { balance_devices: true, ..plain.clone() }),
        ("accumulated", TrainingArguments { gradient_checkpointing: true, ..parts }),
        ("by tokens", TrainingArguments { batch_tokens: Some(40), group_by_length: true, ..plain.clone() }),
        ("frozen", TrainingArguments { freeze_layers: vec![1], freeze_embeddings: true, ..plain.clone() }),
        ("plain", plain),
    ]
}

#[test]
fn two_and_four_devices_make_the_steps_of_one() {
    let base = fresh_model();
    for (what, arguments) in variants() {
        let mut alone = Trainer::new(&base, arguments.clone()).unwrap();
        let (want, told) = train(&mut alone, u64::MAX);
        let first = alone.into_model().merge().unwrap();
        for count in [2, 4] {
            let what = format!("{what} on {count}");
            let mut trainer = Trainer::with_devices(&base, &others(count - 1), arguments.clone()).unwrap();
            assert_eq!(trainer.devices(), count);
            let (output, found) = train(&mut trainer, u64::MAX);
            assert_eq!(
                (output.steps, output.tokens, output.samples),
                (want.steps, want.tokens, want.samples),
                "{what}"
            );
            assert_eq!(found.tokens, told.tokens, "{what}");
            assert_near(&format!("{what}: losses"), &found.losses, &told.losses, 1e-5);
            assert_near(&format!("{what}: norms"), &found.norms, &told.norms, 1e-4);
            assert_near(&format!("{what}: held-out losses"), &found.held_out, &told.held_out, 1e-5);
            assert!(!found.held_out.is_empty());
            let far = difference(&trainer.into_model().merge().unwrap(), &first);
            assert!(far < 2e-4, "{what}: weights differ by {far}");
        }
    }
}

/// Gradients that travel in 16 bits are rounded, and hardly matter.
#[test]
fn fewer_bits_between_devices_are_nearly_the_same() {
    let base = fresh_model();
    let run = |ddp_comm_hook, count: usize| {
        let arguments = TrainingArguments { ddp_comm_hook, ..arguments() };
        train(&mut Trainer::with_devices(&base, &others(count - 1), arguments).unwrap(), u64::MAX).1.losses
    };
    let exact = run(CommHook::No, 1);
    assert_eq!(run(CommHook::Fp16, 1), exact, "nothing travels");
    for (hook, tolerance) in [(CommHook::Fp16, 1e-3), (CommHook::Bf16, 5e-3)] {
        let rounded = run(hook, 2);
        assert_near(&format!("{hook:?}"), &rounded, &exact, tolerance);
        assert_ne!(rounded, exact, "{hook:?}");
    }
}

#[test]
fn so_many_devices_give_the_same_bits_again() {
    let base = fresh_model();
    let run = || {
        let mut trainer = Trainer::with_devices(&base, &others(2), arguments()).unwrap();
        let told = train(&mut trainer, u64::MAX).1;
        (told.losses, trainer.into_model())
    };
    let ((losses, model), (again, same)) = (run(), run());
    assert_eq!(losses, again);
    for (key, _) in model.parameter_shapes() {
        let bits = |of: &Model| of.parameter(&key).unwrap().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&model), bits(&same), "{key}");
    }
}

#[test]
fn a_run_is_taken_up_again_on_another_number_of_devices() {
    let base = fresh_model();
    let of = |folder: &Path| TrainingArguments {
        output_dir: Some(folder.to_owned()),
        save_steps: Some(100),
        load_best_model_at_end: true,
        ..arguments()
    };
    let folder = tempfile::tempdir().unwrap();
    let whole = TrainingArguments { save_steps: None, ..of(folder.path()) };
    let mut whole = Trainer::new(&base, whole).unwrap();
    let (want, told) = train(&mut whole, u64::MAX);
    for (first, second) in [(1, 2), (4, 1), (2, 3)] {
        let folder = tempfile::tempdir().unwrap();
        let begin = |count: usize| Trainer::with_devices(&base, &others(count - 1), of(folder.path())).unwrap();
        let (cut, before) = train(&mut begin(first), 5);
        assert!(cut.cancelled);
        let mut trainer = begin(second);
        assert_eq!(trainer.resume_from_checkpoint().unwrap(), Some(5));
        let (got, after) = train(&mut trainer, u64::MAX);
        let what = format!("{first}, then {second}");
        assert_near(&what, &[before.losses, after.losses].concat(), &told.losses, 1e-5);
        assert_eq!((got.steps, got.best.unwrap().1), (want.steps, want.best.unwrap().1), "{what}");
        assert!(difference(trainer.model(), whole.model()) < 2e-4, "{what}");
    }
}

#[test]
fn triplets_and_batches_of_ones_own_are_divided_too() {
    let base = fresh_model();
    let loss =
        EmbeddingLoss::Triplet { distance_metric: DistanceMetric::Cosine, triplet_margin: 0.5, semi_hard: false };
    let objective = |loss| Objective::Embedding(EmbeddingObjective { loss, ..Default::default() });
    let of = |loss| TrainingArguments { objective: objective(loss), eval_steps: None, ..arguments() };
    let texts = lines();
    let triplets = (0..20).map(|i| (&texts[i][..], &texts[i + 2][..], Some(&texts[i + 1][..])));
    let triplets = Triplets::from_texts(base.tokenizer(), triplets, 32).unwrap();
    let train = |trainer: &mut Trainer| {
        let mut losses = Vec::new();
        let observe = |event: &TrainEvent| {
            if let TrainEvent::Step(report) = event {
                losses.push(f64::from(report.loss));
            }
            ControlFlow::Continue(())
        };
        trainer.train_triplets(&triplets, Some(&triplets), observe).unwrap();
        losses
    };
    let (mut one, mut three) =
        (Trainer::new(&base, of(loss)).unwrap(), Trainer::with_devices(&base, &others(2), of(loss)).unwrap());
    assert_near("triplets", &train(&mut three), &train(&mut one), 1e-5);
    let ranking = EmbeddingLoss::MultipleNegativesRanking { scale: 20.0 };
    let refused = Trainer::with_devices(&base, &others(1), of(ranking)).unwrap_err();
    assert!(matches!(&refused, Error::Unsupported(reason) if reason.contains("negatives")), "{refused}");

    let batch = |first: u32| {
        let mut batch = PackedBatch::default();
        batch.push_masked(&[2, first, 4, 12, 3], &[(2, 11)]);
        batch.push_masked(&[2, 4, 30, first, 14, 3], &[(1, 29), (4, 8)]);
        batch
    };
    let batches = [batch(10), batch(20), batch(30)];
    let steps = |mut trainer: Trainer| {
        let step = |_| trainer.train_step_accumulated(&batches, 1e-3).unwrap();
        (0..3).map(step).map(|report| (report.loss, report.masked_tokens)).unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (one, two) = (Trainer::new(&base, arguments()), Trainer::with_devices(&base, &others(1), arguments()));
    let ((want, labels), (got, counted)) = (steps(one.unwrap()), steps(two.unwrap()));
    assert_eq!(labels, counted);
    let f64s = |losses: Vec<f32>| losses.into_iter().map(f64::from).collect::<Vec<_>>();
    assert_near("batches", &f64s(got), &f64s(want), 1e-5);
}

/// The command, killed while two devices train, and taken up again on one.
#[cfg(feature = "cli")]
#[test]
fn a_killed_command_goes_on_with_another_number_of_devices() {
    use common::command::{fails, retto, run, stdout, text};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let (base, songs) = (path("base"), path("songs.txt"));
    fresh_model().save(&base).unwrap();
    std::fs::write(&songs, lines().join("\n")).unwrap();
    let index = gpu().adapter().index.to_string();
    let pair = format!("{index},{index}");
    let common = ["adapt", "--model", &base, "--train", &songs, "--max-steps", "40", "--learning-rate", "1e-3"];
    let common = [&common[..], &["--logging-steps", "1", "--save-steps", "3"]].concat();
    let losses = |folder: &str| {
        let log = std::fs::read_to_string(format!("{folder}/metrics.jsonl")).unwrap();
        let entries = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        entries.filter_map(|entry| entry["loss"].as_f64()).collect::<Vec<_>>()
    };
    let (whole, cut) = (path("whole"), path("cut"));
    stdout(&run(&[&common[..], &["--output", &whole, "--device", &index]].concat()));
    let args = [&common[..], &["--output", &cut, "--devices", &pair]].concat();
    let mut child =
        retto(&args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let began = std::time::Instant::now();
    while !Path::new(&cut).join("checkpoint-6").is_dir() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first checkpoint");
        assert!(began.elapsed().as_secs() < 120, "no checkpoint came");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!Path::new(&cut).join("config.json").exists(), "it came to its end");
    let output = run(&[&common[..], &["--output", &cut, "--device", &index, "--resume"]].concat());
    assert!(stdout(&output).contains("40 steps"));
    assert_near("losses", &losses(&cut), &losses(&whole), 1e-5);
    let (a, b) = (Model::open(gpu(), &cut).unwrap(), Model::open(gpu(), &whole).unwrap());
    assert!(difference(&a, &b) < 5e-4, "{}", difference(&a, &b));
    let three = format!("{index},{index},{index}");
    let output = run(&[&common[..], &["--output", &path("three"), "--devices", &three]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("3 devices: "));
    assert!(stdout(&output).contains("40 steps"));
    fails(&[&common[..], &["--output", &path("none"), "--devices", "no such GPU"]].concat(), &["no such GPU"]);
    stdout(&run(&[&common[..], &["--output", &path("all"), "--devices", "all"]].concat()));
}

/// What goes wrong on every device, or on the first alone, ends the run with its own error, and the trainer can be used again.
#[test]
fn errors_end_all_devices_at_once() {
    let base = fresh_model();
    let began = std::time::Instant::now();
    let mut trainer =
        Trainer::with_devices(&base, &others(2), TrainingArguments { learning_rate: 1e-3, ..arguments() }).unwrap();
    let mut bad = PackedBatch::default();
    bad.push_masked(&[2, 1_000_000, 3], &[(1, 5)]);
    let mut good = PackedBatch::default();
    good.push_masked(&[2, 7, 3], &[(1, 5)]);
    // Only the first device gets the bad batch; then the last alone.
    for batches in [[bad.clone(), good.clone(), good.clone()], [good.clone(), good.clone(), bad]] {
        let error = trainer.train_step_accumulated(&batches, 1e-3).unwrap_err();
        assert!(matches!(&error, Error::InvalidArgument(reason) if reason.contains("1000000")), "{error}");
        trainer.train_step_accumulated(&[good.clone(), good.clone()], 1e-3).unwrap();
    }
    // A disk that refuses the first device's checkpoint.
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "in the way").unwrap();
    let arguments = TrainingArguments { output_dir: Some(blocked), save_steps: Some(2), ..arguments() };
    let mut trainer = Trainer::with_devices(&base, &others(2), arguments).unwrap();
    let error = trainer.train(&lines(), &[], |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(&error, Error::Io { .. }), "{error}");
    assert!(began.elapsed().as_secs() < 120, "nobody waited for the watchdog");
    assert_eq!(difference(&base, &fresh_model()), 0.0);
    assert!(gpu().adapter().index < usize::MAX);
}
