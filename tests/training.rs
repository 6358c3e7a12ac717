//! Rung 4: training behaves. It learns, repeats to the bit, stops when told, leaves the base model alone, and leaks nothing.

mod common;

use std::ops::ControlFlow;

use common::{copy_fixture, fixtures, gpu};
use retto::{Error, EvaluationOptions, Model, PackedBatch, TrainEvent, TrainOutput, Trainer, TrainingArguments};

fn model() -> Model {
    Model::open(gpu(), fixtures().join("fillmask")).unwrap()
}

fn lines() -> Vec<String> {
    (0..40)
        .map(|i| format!("{} the rain {}", ["you", "and", "the"][i % 3], ["you", "and"][i % 2].repeat(1 + i % 4)))
        .collect()
}

fn parameters(model: &Model) -> Vec<Vec<u32>> {
    let bits = |key: &str| model.parameter(key).unwrap().iter().map(|value| value.to_bits()).collect();
    model.parameter_shapes().iter().map(|(key, _)| bits(key)).collect()
}

fn arguments() -> TrainingArguments {
    TrainingArguments {
        num_train_epochs: 2.0,
        learning_rate: 1e-2,
        warmup_ratio: 0.1,
        weight_decay: 0.01,
        mlm_probability: 0.3,
        ..Default::default()
    }
}

fn train(model: &Model, arguments: TrainingArguments) -> (Model, Vec<TrainEvent>, TrainOutput) {
    let mut trainer = Trainer::new(model, arguments).unwrap();
    let mut events = Vec::new();
    let output = trainer.train(&lines(), &lines()[..10], |event| {
        events.push(event.clone());
        ControlFlow::Continue(())
    });
    (trainer.into_model(), events, output.unwrap())
}

#[test]
fn one_batch_is_learnt_by_heart() {
    let folder = copy_fixture("base");
    let base = Model::open(gpu(), folder.path()).unwrap();
    let mut batch = PackedBatch::default();
    batch.push_masked(&[2, 10, 4, 12, 4, 14, 3], &[(2, 11), (4, 13)]);
    batch.push_masked(&[2, 4, 30, 3], &[(1, 29)]);
    batch.push_masked(&[2, 40, 41, 4, 43, 44, 3], &[(3, 42)]);
    let mut trainer = Trainer::new(&base, TrainingArguments::default()).unwrap();
    let first = trainer.train_step(&batch, 3e-3).unwrap();
    let mut last = first.clone();
    for _ in 0..150 {
        last = trainer.train_step(&batch, 3e-3).unwrap();
    }
    assert!(first.loss > 2.0 && last.loss < 0.01, "{} -> {}", first.loss, last.loss);
    assert_eq!((last.step, last.masked_tokens, last.tokens), (151, 4, 18));
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let base = model();
    let (first, ..) = train(&base, arguments());
    let (second, ..) = train(&base, arguments());
    assert_eq!(parameters(&first), parameters(&second));
    let (other, ..) = train(&base, TrainingArguments { seed: 43, ..arguments() });
    assert_ne!(parameters(&first), parameters(&other));
}

#[test]
fn every_parameter_is_trained() {
    let base = model();
    let (trained, ..) = train(&base, arguments());
    for ((key, _), (before, after)) in
        base.parameter_shapes().iter().zip(parameters(&base).iter().zip(&parameters(&trained)))
    {
        assert_ne!(before, after, "{key} did not move");
    }
}

#[test]
fn training_improves_what_it_was_trained_for() {
    let base = model();
    let long = TrainingArguments { num_train_epochs: 30.0, ..arguments() };
    let (trained, events, output) = train(&base, long.clone());
    let options = EvaluationOptions { mlm_probability: 0.3, ..Default::default() };
    let (before, after) = (base.evaluate(&lines(), &options).unwrap(), trained.evaluate(&lines(), &options).unwrap());
    assert!(after.loss < before.loss * 0.6, "{before:?} -> {after:?}");
    assert!(after.top1_accuracy > before.top1_accuracy && after.top10_accuracy >= after.top1_accuracy);
    assert_eq!(before.masked_tokens, after.masked_tokens);
    assert!((after.perplexity - after.loss.exp()).abs() < 1e-9);
    let (mut told, few) = (Vec::new(), EvaluationOptions { per_device_eval_batch_size: 16, ..options });
    let observe = |done, total| {
        told.push((done, total));
        ControlFlow::Continue(())
    };
    assert_eq!(base.evaluate_with(&lines(), &few, observe).unwrap(), base.evaluate(&lines(), &few).unwrap());
    assert_eq!(told, [(1, 3), (2, 3)]);
    let broken_off = base.evaluate_with(&lines(), &few, |_, _| ControlFlow::Break(()));
    assert!(matches!(broken_off, Err(Error::Cancelled)));

    // 40 lines in batches of 8, 30 epochs: 150 steps, 30 evaluations.
    assert_eq!((output.steps, output.epoch, output.samples), (150, 30.0, 1200));
    assert!(!output.cancelled && output.train_loss > 0.0);
    let steps = events.iter().filter_map(|event| match event {
        TrainEvent::Step(report) => Some(report),
        _ => None,
    });
    let steps: Vec<_> = steps.collect();
    assert_eq!(steps.iter().map(|report| report.step).collect::<Vec<_>>(), (1..=150).collect::<Vec<_>>());
    assert_eq!((steps[0].learning_rate, steps[15].learning_rate), (0.0, long.learning_rate));
    assert!(steps.iter().all(|report| report.max_steps == 150 && report.tokens > 0 && report.grad_norm >= 0.0));
    let evaluated = events.iter().filter(|event| matches!(event, TrainEvent::Evaluated { .. })).count();
    assert_eq!(evaluated, 30);
}

#[test]
fn the_observer_ends_the_run() {
    let mut trainer = Trainer::new(&model(), arguments()).unwrap();
    let mut logged = 0;
    let output = trainer.train(&lines(), &[], |event| match event {
        TrainEvent::Step(report) if report.step == 3 => ControlFlow::Break(()),
        TrainEvent::Log { .. } => {
            logged += 1;
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Continue(()),
    });
    let output = output.unwrap();
    assert!(output.cancelled && output.steps == 3);
    assert_eq!(logged, 1, "what was not yet logged is logged at the end");
    // The model so far can be used.
    assert_eq!(trainer.model().fill_mask("the [MASK]", 3).unwrap()[0].len(), 3);
}

#[test]
fn accumulated_batches_are_as_one() {
    let base = model();
    let run = |per_device_train_batch_size, gradient_accumulation_steps| {
        // Batches of other sizes sum in another order; Adam would make a visible step of an invisible gradient.
        let sizes = TrainingArguments {
            per_device_train_batch_size,
            gradient_accumulation_steps,
            adam_epsilon: 1e-4,
            ..arguments()
        };
        train(&base, sizes)
    };
    let (whole, whole_events, whole_output) = run(16, 1);
    // 40 lines: the last step of an epoch is half a step.
    for (size, accumulation) in [(8, 2), (4, 4), (1, 16)] {
        let (parts, events, output) = run(size, accumulation);
        assert_eq!((output.steps, output.tokens), (whole_output.steps, whole_output.tokens));
        assert_eq!(events.len(), whole_events.len());
        for (got, want) in events.iter().zip(&whole_events) {
            let (TrainEvent::Step(got), TrainEvent::Step(want)) = (got, want) else { continue };
            assert_eq!(got.masked_tokens, want.masked_tokens);
            assert!((got.loss - want.loss).abs() < 1e-4 * want.loss, "{got:?} {want:?}");
            assert!((got.grad_norm - want.grad_norm).abs() < 1e-3 * want.grad_norm, "{got:?} {want:?}");
        }
        for (key, _) in base.parameter_shapes() {
            let (got, want) = (parts.parameter(&key).unwrap(), whole.parameter(&key).unwrap());
            let furthest = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, common::worse);
            assert!(furthest < 1e-4, "{key}: {furthest}");
        }
    }
}

#[test]
fn max_steps_go_before_epochs() {
    let (_, events, output) = train(&model(), TrainingArguments { max_steps: Some(7), ..arguments() });
    assert_eq!(output.steps, 7);
    assert!((output.epoch - 1.4).abs() < 1e-9, "{}", output.epoch);
    assert!(matches!(events.last(), Some(TrainEvent::Evaluated { step: 7, .. })));
    let (untouched, _, output) = train(&model(), TrainingArguments { max_steps: Some(0), ..arguments() });
    assert_eq!((output.steps, parameters(&untouched)), (0, parameters(&model())));
}

#[test]
fn the_base_model_answers_unchanged_while_another_trains() {
    let base = model();
    let before = base.fill_mask("the [MASK] in the rain", 5).unwrap();
    std::thread::scope(|scope| {
        let base = &base;
        let training = scope.spawn(move || train(base, TrainingArguments { num_train_epochs: 10.0, ..arguments() }));
        while !training.is_finished() {
            assert_eq!(base.fill_mask("the [MASK] in the rain", 5).unwrap(), before);
        }
        training.join().unwrap();
    });
    assert_eq!(base.fill_mask("the [MASK] in the rain", 5).unwrap(), before);
}

/// A device of its own: other tests allocate on the shared one.
#[test]
fn memory_stays_flat_and_is_given_back() {
    let gpu = retto::Gpu::open(&gpu().adapter().index.to_string()).unwrap();
    let base = Model::open(&gpu, fixtures().join("fillmask")).unwrap();
    let alone = gpu.memory_in_use();
    let mut trainer = Trainer::new(&base, arguments()).unwrap();
    let mut batch = PackedBatch::default();
    batch.push_masked(&[4, 20, 6, 21, 5], &[(2, 22)]);
    // The second may find buffers taken by what is smaller than what they were made for.
    let mut step = || trainer.train_step(&batch, 1e-3).map(|_| gpu.memory_in_use()).unwrap();
    let after_two = [step(), step()][1];
    for _ in 0..20 {
        assert_eq!(step(), after_two);
    }
    drop(trainer);
    gpu.trim();
    assert_eq!(gpu.memory_in_use(), alone);
    drop(base);
    gpu.trim();
    assert_eq!(gpu.memory_in_use(), 0);
}

#[test]
fn what_cannot_be_trained_on_is_refused() {
    let base = model();
    let mut trainer = Trainer::new(&base, arguments()).unwrap();
    let go = |_: &TrainEvent| ControlFlow::Continue(());
    assert!(matches!(trainer.train::<&str>(&[], &[], go), Err(Error::EmptyCorpus { .. })));
    assert!(matches!(trainer.train(&["", "  "], &[], go), Err(Error::EmptyCorpus { .. })));
    assert!(matches!(
        Trainer::new(&base, TrainingArguments { learning_rate: -1.0, ..arguments() }),
        Err(Error::InvalidArgument(_))
    ));
    assert!(matches!(
        Trainer::new(&base, TrainingArguments { max_seq_length: Some(100_000), ..arguments() }),
        Err(Error::InvalidArgument(_))
    ));
    let nothing_masked = base.evaluate(&["the"], &EvaluationOptions { mlm_probability: 1e-9, ..Default::default() });
    assert!(matches!(nothing_masked, Err(Error::InvalidArgument(_))));
    // Held-out lines that cannot be evaluated are found out before the first step.
    let refused = |validation: &str| {
        let mut trainer = Trainer::new(&base, TrainingArguments { mlm_probability: 1e-9, ..arguments() }).unwrap();
        let observe = |_: &TrainEvent| panic!("training began");
        trainer.train(&["the rain"], &[validation], observe)
    };
    assert!(matches!(refused("the"), Err(Error::InvalidArgument(_))));
    assert!(matches!(refused("  "), Err(Error::InvalidArgument(_))));
    let mut unlabelled = PackedBatch::default();
    unlabelled.push(&[4, 20, 5]);
    unlabelled.masked_rows.push(1);
    assert!(matches!(trainer.train_step(&unlabelled, 1e-3), Err(Error::InvalidArgument(_))));
    assert!(matches!(base.loss_and_gradients(&unlabelled), Err(Error::InvalidArgument(_))));
    let mut outside = PackedBatch::default();
    outside.push_masked(&[4, 1_000_000, 5], &[(1, 7)]);
    assert!(matches!(trainer.train_step(&outside, 1e-3), Err(Error::InvalidArgument(_))));
    assert_eq!(parameters(trainer.model()), parameters(&base));
}

/// Whatever a model was made by, and whichever of its parameters are trained there.
#[test]
fn gradients_are_of_all_parameters() {
    let base = model();
    let lora = Some(retto::LoraConfig { r: 2, ..Default::default() });
    let mut adapted = Trainer::new(&base, TrainingArguments { lora, max_steps: Some(3), ..arguments() }).unwrap();
    adapted.train(&lines(), &[], |_| ControlFlow::Continue(())).unwrap();
    let frozen = TrainingArguments { freeze_embeddings: true, ..arguments() };
    let frozen = Trainer::new(&base, frozen).unwrap();
    let mut batch = PackedBatch::default();
    batch.push_masked(&[2, 7, 4, 3], &[(2, 8)]);
    let gradients = |model: &Model| {
        let (loss, gradients) = model.loss_and_gradients(&batch).unwrap();
        let shapes = model.parameter_shapes();
        assert!(gradients.iter().map(|(key, _)| key).eq(shapes.iter().map(|(key, _)| key)));
        assert!(
            gradients
                .iter()
                .zip(&shapes)
                .all(|((_, values), (_, shape))| values.len() == shape.iter().product::<usize>())
        );
        (loss, gradients)
    };
    let of_base = gradients(&base);
    assert_eq!(gradients(&base.merge().unwrap()), of_base);
    assert_eq!(gradients(frozen.model()), of_base);
    let merged = gradients(&adapted.model().merge().unwrap());
    assert_eq!(gradients(adapted.model()), merged);
    assert_eq!(gradients(&adapted.snapshot().unwrap()), merged);
    assert_ne!(merged, of_base);
}

#[test]
fn a_step_without_labels_changes_nothing() {
    let base = model();
    let mut trainer = Trainer::new(&base, arguments()).unwrap();
    let mut batch = PackedBatch::default();
    batch.push(&[4, 20, 21, 5]);
    let report = trainer.train_step(&batch, 1e-2).unwrap();
    assert_eq!((report.loss, report.masked_tokens), (0.0, 0));
    assert_eq!(parameters(trainer.model()), parameters(&base));
}

#[test]
fn divergence_is_an_error_and_is_not_saved() {
    let base = model();
    let reckless = TrainingArguments { learning_rate: 1e3, max_grad_norm: 0.0, ..arguments() };
    let mut trainer = Trainer::new(&base, reckless).unwrap();
    let mut batch = PackedBatch::default();
    batch.push_masked(&[4, 20, 6, 21, 5], &[(2, 22)]);
    let bits = |model: &Model| {
        let of = |key: &str| model.parameter(key).unwrap().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        model.parameter_shapes().iter().map(|(key, _)| of(key)).collect::<Vec<_>>()
    };
    let mut before = bits(trainer.model());
    let error = (0..10_000).find_map(|_| {
        let error = trainer.train_step(&batch, 1e3).err();
        if error.is_none() {
            before = bits(trainer.model());
        }
        error
    });
    let error = error.expect("values of millions overflow");
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(bits(trainer.model()) == before, "the step that failed changed something");
    // What is no number is not saved; what is finite may be.
    let is_finite = before.iter().flatten().all(|&bits| f32::from_bits(bits).is_finite());
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(trainer.model().save(folder.path().join("model")).is_ok(), is_finite);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), usize::from(is_finite));
}

#[test]
fn long_lines_are_cut_and_counted() {
    let base = model();
    let max = base.config().max_position_embeddings;
    let mut trainer = Trainer::new(&base, TrainingArguments { max_steps: Some(1), ..arguments() }).unwrap();
    let lines = ["the ".repeat(3 * max), "the rain".to_owned()];
    let output = trainer.train(&lines, &[], |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((output.truncated, output.tokens), (1, max + base.tokenizer().encode("the rain").unwrap().len()));
}

/// What is made of a trainer's model stays as it is, whatever the trainer does next.
#[test]
fn what_is_made_of_a_model_in_training_is_its_own() {
    let (key, frozen) = ("cls.predictions.transform.dense.weight", "bert.encoder.layer.0.output.dense.weight");
    let arguments = TrainingArguments { learning_rate: 1e-2, ..Default::default() };
    let mut trainer = Trainer::new(&model(), arguments.clone()).unwrap();
    let mut batch = PackedBatch::default();
    batch.push_masked(&[2, 4, 9, 3], &[(1, 7)]);
    trainer.train_step(&batch, 1e-2).unwrap();
    let merged = trainer.model().merge().unwrap();
    let other = Trainer::new(trainer.model(), TrainingArguments { freeze_layers: vec![0], ..arguments }).unwrap();
    let of = |model: &Model| [key, frozen].map(|key| model.parameter(key).unwrap());
    let before = of(trainer.model());
    trainer.train_step(&batch, 1e-2).unwrap();
    assert_ne!(of(trainer.model()), before);
    assert_eq!(of(&merged), before);
    assert_eq!(of(other.model()), before);
    // And a rate that is no number changes nothing.
    for rate in [f64::NAN, f64::INFINITY, -1.0] {
        let before = of(trainer.model());
        assert!(matches!(trainer.train_step(&batch, rate), Err(Error::InvalidArgument(_))));
        assert_eq!(of(trainer.model()), before);
    }
}

/// Cancelled within the evaluation that ends the run: the log has its last step all the same, and none twice.
#[test]
fn a_log_is_the_same_where_an_evaluation_was_broken_off() {
    let base = model();
    let judged = |folder: &std::path::Path| TrainingArguments {
        eval_steps: Some(3),
        early_stopping_patience: Some(1),
        // No evaluation after the first is good enough.
        early_stopping_threshold: 100.0,
        save_steps: Some(100),
        per_device_eval_batch_size: 1,
        output_dir: Some(folder.to_owned()),
        logging_steps: 4,
        ..arguments()
    };
    let held_out = ["you and town", "the river and you and the town"].map(str::to_owned);
    // Told of losses and evaluations, and cut off after so many parts of the evaluation at step 6.
    let run = |trainer: &mut Trainer, log: &mut retto::MetricsFile, parts: usize| {
        let mut heard = 0;
        let output = trainer.train(&lines(), &held_out, |event| {
            log.event(event).unwrap();
            heard += usize::from(matches!(event, TrainEvent::Evaluating { step: 6, .. }));
            if parts > 0 && heard == parts { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        output.unwrap()
    };
    let entries = |folder: &std::path::Path| -> Vec<(u64, Vec<u64>)> {
        let log = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        let entries = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let figures = |entry: serde_json::Value| {
            let figure = |name: &str| entry[name].as_f64().map(f64::to_bits);
            (entry["step"].as_u64().unwrap(), ["loss", "eval_loss"].into_iter().filter_map(figure).collect())
        };
        entries.filter(|entry| entry["train_loss"].is_null()).map(figures).collect()
    };
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [whole, cut] = folders.each_ref().map(tempfile::TempDir::path);
    let mut log = retto::MetricsFile::create(whole).unwrap();
    let output = run(&mut Trainer::new(&base, judged(whole)).unwrap(), &mut log, 0);
    assert!(output.stopped_early && output.steps == 6);
    log.finish(&output).unwrap();
    let begin = || Trainer::new(&base, judged(cut)).unwrap();
    assert!(run(&mut begin(), &mut retto::MetricsFile::create(cut).unwrap(), 1).cancelled);
    let again = || {
        let mut trainer = begin();
        assert_eq!(trainer.resume_from_checkpoint().unwrap(), Some(6));
        (trainer, retto::MetricsFile::resume(cut, 6).unwrap())
    };
    // Once as if it were killed when it has told of the evaluation, and once to the end.
    let (mut trainer, mut log) = again();
    assert!(run(&mut trainer, &mut log, 0).stopped_early);
    drop((trainer, log));
    let (mut trainer, mut log) = again();
    let output = run(&mut trainer, &mut log, 0);
    log.finish(&output).unwrap();
    let (mut want, mut got) = (entries(whole), entries(cut));
    // Which of the last two comes first depends on the break.
    want.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, want);
}
