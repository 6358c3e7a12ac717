//! A run that was interrupted and resumed ends with the same bits as one that was not, or is refused.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use common::{fixtures, fresh_model, gpu};
use retto::{Error, LoraConfig, Model, Result, TrainEvent, TrainOutput, Trainer, TrainingArguments};

fn model() -> Model {
    Model::open(gpu(), fixtures().join("fillmask")).unwrap()
}

fn lines() -> Vec<String> {
    (0..23).map(|i| format!("{} the rain {}", ["you", "and", "the"][i % 3], "and you ".repeat(1 + i % 4))).collect()
}

/// 23 lines, four a step, in twos: six steps an epoch, of which the last is a part; 15 in all.
fn arguments(output: &Path) -> TrainingArguments {
    TrainingArguments {
        num_train_epochs: 2.5,
        learning_rate: 1e-2,
        warmup_ratio: 0.1,
        weight_decay: 0.01,
        mlm_probability: 0.3,
        per_device_train_batch_size: 2,
        gradient_accumulation_steps: 2,
        logging_steps: 4,
        output_dir: Some(output.to_owned()),
        save_steps: Some(2),
        ..Default::default()
    }
}

/// Everything a run can be that has a state of its own to come back to.
fn variants(output: &Path) -> Vec<(&'static str, TrainingArguments)> {
    let plain = arguments(output);
    // As people get it who want rank-stabilized scaling, with all its digits: 16 times the root of 2.
    let lora = LoraConfig { r: 2, lora_alpha: 22.627416997969522, ..Default::default() };
    let fp16 = gpu().adapter().shader_f16;
    vec![
        ("mixed precision", TrainingArguments { fp16, freeze_embeddings: true, ..plain.clone() }),
        ("low-rank", TrainingArguments { lora: Some(lora), ..plain.clone() }),
        ("frozen", TrainingArguments { freeze_layers: vec![0], freeze_embeddings: true, ..plain.clone() }),
        ("by tokens", TrainingArguments { batch_tokens: Some(24), group_by_length: true, ..plain.clone() }),
        ("without dropout", TrainingArguments { dropout: false, gradient_checkpointing: true, ..plain }),
    ]
}

#[test]
fn every_kind_of_run_is_resumed_to_the_same_bits() {
    let base = fresh_model();
    for index in 0..variants(Path::new("")).len() {
        let [whole_folder, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (what, arguments) = variants(whole_folder.path()).swap_remove(index);
        let mut whole = Trainer::new(&base, arguments).unwrap();
        let (want, whole_told) = train(&mut whole, u64::MAX).unwrap();
        let stop = want.steps - 4;
        let again = || variants(folder.path()).swap_remove(index).1;
        assert!(train(&mut Trainer::new(&base, again()).unwrap(), stop).unwrap().0.cancelled);
        let mut trainer = Trainer::new(&base, again()).unwrap();
        assert_eq!(trainer.resume_from_checkpoint().unwrap(), Some(stop), "{what}");
        let (got, told) = train(&mut trainer, u64::MAX).unwrap();
        assert_eq!(told, whole_told.into_iter().filter(|(step, _)| *step > stop).collect::<Told>(), "{what}");
        assert_eq!((got.steps, got.tokens, got.train_loss), (want.steps, want.tokens, want.train_loss), "{what}");
        let merged = |trainer: Trainer| parameters(&trainer.into_model().merge().unwrap());
        assert_eq!(merged(trainer), merged(whole), "{what}");
        // As another kind of run it is refused, before its steps.
        let other = TrainingArguments { gradient_accumulation_steps: 2, ..arguments_of_another_kind(&again()) };
        let mut other = Trainer::new(&base, other).unwrap();
        let refused = other.resume_from_checkpoint().map(|_| ()).and_then(|()| train(&mut other, u64::MAX).map(|_| ()));
        let error = refused.unwrap_err().to_string();
        assert!(what != "low-rank" || error.contains("this one would train a whole model"), "{what}: {error}");
    }
}

fn arguments_of_another_kind(arguments: &TrainingArguments) -> TrainingArguments {
    let mut other = arguments.clone();
    match other.lora.take() {
        Some(_) => {}
        None if other.freeze_embeddings => other.freeze_embeddings = false,
        None if other.batch_tokens.is_some() => other.batch_tokens = Some(25),
        None => other.dropout = true,
    }
    other
}

/// Cancelled at the very step that is to be evaluated: the evaluation is made up for, and decides as it would have.
#[test]
fn an_evaluation_that_was_cut_off_still_counts() {
    let base = model();
    let judged = |folder: &Path, save| TrainingArguments {
        eval_steps: Some(5),
        load_best_model_at_end: true,
        save_steps: save,
        // So fast that the loss rises in the end, and the best is not the last.
        learning_rate: 0.1,
        ..arguments(folder)
    };
    let held_out = ["you and town", "the river and you and the town"].map(str::to_owned);
    let run = |trainer: &mut Trainer, stop_at: u64| {
        let mut evaluated = Vec::new();
        let output = trainer.train(&lines(), &held_out, |event| match event {
            TrainEvent::Step(report) if report.step == stop_at => ControlFlow::Break(()),
            TrainEvent::Evaluated { evaluation, step, .. } => {
                evaluated.push((*step, evaluation.loss.to_bits()));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        });
        (output.unwrap(), evaluated)
    };
    let whole_folder = tempfile::tempdir().unwrap();
    let mut whole = Trainer::new(&base, judged(whole_folder.path(), None)).unwrap();
    let (want, evaluated) = run(&mut whole, u64::MAX);
    assert_eq!(evaluated.len(), 3);
    for stop in [5, 10, 15] {
        let folder = tempfile::tempdir().unwrap();
        let begin = || Trainer::new(&base, judged(folder.path(), Some(100))).unwrap();
        let (cut, before) = run(&mut begin(), stop);
        assert!(cut.cancelled, "stopped at {stop}");
        let mut trainer = begin();
        trainer.resume_from_checkpoint().unwrap();
        let (got, after) = run(&mut trainer, u64::MAX);
        assert_eq!([before, after].concat(), evaluated, "stopped at {stop}");
        assert_eq!(got.best, want.best, "stopped at {stop}");
        assert_eq!(parameters(trainer.model()), parameters(whole.model()), "stopped at {stop}");
    }
}

#[test]
fn what_decides_about_a_run_does_not_fall_away_nor_does_its_best_model() {
    let (base, folder) = (model(), tempfile::tempdir().unwrap());
    let judged = || TrainingArguments {
        eval_steps: Some(5),
        load_best_model_at_end: true,
        early_stopping_patience: Some(9),
        save_steps: Some(100),
        ..arguments(folder.path())
    };
    let held_out = ["you and town", "the river and you and the town"].map(str::to_owned);
    let run = |trainer: &mut Trainer, stop_at: u64| {
        trainer.train(&lines(), &held_out, |event| match event {
            TrainEvent::Step(report) if report.step == stop_at => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    };
    // What an earlier run of another kind left there is not taken for this one's best.
    let kept = folder.path().join("checkpoint-best");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("adapter_config.json"), "{}").unwrap();
    assert!(run(&mut Trainer::new(&base, judged()).unwrap(), 7).unwrap().cancelled);
    assert!(kept.join("model.safetensors").exists() && !kept.join("adapter_config.json").exists());

    let resumed = |arguments: TrainingArguments| {
        let mut trainer = Trainer::new(&base, arguments).unwrap();
        trainer.resume_from_checkpoint().unwrap();
        run(&mut trainer, 8).map_err(|error| error.to_string())
    };
    let plain = TrainingArguments { early_stopping_patience: None, load_best_model_at_end: false, ..judged() };
    assert!(resumed(plain).unwrap_err().contains("early_stopping_patience was 9"));
    fs::rename(&kept, folder.path().join("away")).unwrap();
    let error = resumed(judged()).unwrap_err();
    assert!(error.contains("checkpoint-best is missing, the best model so far, of step 5"), "{error}");
    fs::rename(folder.path().join("away"), &kept).unwrap();
    assert!(resumed(judged()).unwrap().cancelled);
}

/// A head that was trained is there again, before any further step.
#[test]
fn a_checkpoint_says_whether_there_is_a_head() {
    let base = common::encoder_without_head();
    let lines: Vec<String> = (0..8).map(|i| format!("w5 w6 w{} w7 w8", 9 + i)).collect();
    let held_out = ["w5 w6 w9 w7 w8".to_owned()];
    let folder = tempfile::tempdir().unwrap();
    let judged = || TrainingArguments { max_steps: Some(2), mlm_probability: 0.5, ..arguments(folder.path()) };
    let mut trainer = Trainer::new(&base, judged()).unwrap();
    // Cancelled where it is to be evaluated, which the run begins with when it is taken up again.
    let cut = trainer.train(&lines, &held_out, |event| match event {
        TrainEvent::Step(report) if report.step == 2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(cut.unwrap().cancelled && trainer.model().has_mlm_head());
    let mut resumed = Trainer::new(&base, judged()).unwrap();
    assert_eq!(resumed.resume_from_checkpoint().unwrap(), Some(2));
    let mut evaluated = 0;
    let output = resumed.train(&lines, &held_out, |event| {
        evaluated += usize::from(matches!(event, TrainEvent::Evaluated { .. }));
        ControlFlow::Continue(())
    });
    assert_eq!((output.unwrap().steps, evaluated), (2, 1));
    assert!(resumed.model().has_mlm_head());
    assert_eq!(parameters(resumed.model()), parameters(trainer.model()));
}

/// Whatever fails, it is taken up at its last step, and ends with the same bits.
#[test]
fn a_run_that_fails_is_kept_at_its_last_step() {
    let [whole, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let judged = |output: &Path| TrainingArguments {
        eval_steps: Some(3),
        load_best_model_at_end: true,
        save_steps: Some(u64::MAX),
        ..arguments(output)
    };
    // The best model cannot be kept here.
    let in_the_way = folder.path().join("checkpoint-best");
    fs::write(&in_the_way, "").unwrap();
    let mut saved = Vec::new();
    let mut trainer = Trainer::new(&model(), judged(folder.path())).unwrap();
    let failed = trainer.train(&lines(), &lines(), |event| {
        if let TrainEvent::Saved { path, step, .. } = event {
            saved.push((path.clone(), *step));
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    assert_eq!(saved, [(folder.path().join("checkpoint-3"), 3)]);
    fs::remove_file(&in_the_way).unwrap();
    let mut resumed = Trainer::new(&model(), judged(folder.path())).unwrap();
    assert_eq!(resumed.resume_from_checkpoint().unwrap(), Some(3));
    let mut uninterrupted = Trainer::new(&model(), judged(whole.path())).unwrap();
    let ended = [&mut resumed, &mut uninterrupted]
        .map(|trainer| trainer.train(&lines(), &lines(), |_| ControlFlow::Continue(())).unwrap().best);
    assert_eq!(ended[0], ended[1]);
    assert_eq!(parameters(resumed.model()), parameters(uninterrupted.model()));
}

/// A run that diverged would do so again from a checkpoint, which would only be in the way of one with a lower rate.
#[test]
fn a_run_that_diverges_leaves_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let of_rate = |learning_rate| TrainingArguments {
        learning_rate,
        max_grad_norm: 0.0,
        warmup_ratio: 0.0,
        save_steps: Some(u64::MAX),
        ..arguments(folder.path())
    };
    let wild =
        Trainer::new(&fresh_model(), of_rate(1000.0)).unwrap().train(&lines(), &[], |_| ControlFlow::Continue(()));
    assert!(matches!(wild, Err(Error::Diverged { step: 2.., .. })), "{wild:?}");
    Trainer::new(&fresh_model(), of_rate(1e-3)).unwrap().train(&lines(), &[], |_| ControlFlow::Continue(())).unwrap();
}

/// Later checkpoints may take the place of the one that the run is taken up at.
#[test]
fn a_run_taken_up_at_its_best_model_keeps_that() {
    let folder = tempfile::tempdir().unwrap();
    let judged = || TrainingArguments { eval_steps: Some(2), load_best_model_at_end: true, ..arguments(folder.path()) };
    let (base, best) = (model(), folder.path().join("checkpoint-best"));
    let mut first = Trainer::new(&base, judged()).unwrap();
    let cancelled = first.train(&lines(), &lines(), |event| match event {
        TrainEvent::Saved { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(cancelled.unwrap().best.map(|(_, step)| step), Some(2));
    fs::remove_dir_all(&best).unwrap();
    let mut resumed = Trainer::new(&base, judged()).unwrap();
    assert_eq!(resumed.resume_from_checkpoint().unwrap(), Some(2));
    let went_on = resumed.train(&lines(), &lines(), |event| match event {
        TrainEvent::Step(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(went_on.unwrap().cancelled);
    assert_eq!(parameters(&Model::open(gpu(), &best).unwrap()), parameters(first.model()));
}

/// Taken twice it is kept once, and as long as the trainer is there.
#[test]
fn the_output_stays_locked() {
    let (base, folder) = (model(), tempfile::tempdir().unwrap());
    let mut trainer = Trainer::new(&base, arguments(folder.path())).unwrap();
    let mut other = Trainer::new(&base, arguments(folder.path())).unwrap();
    for _ in 0..2 {
        trainer.lock_output_dir().unwrap();
        assert!(matches!(other.lock_output_dir(), Err(Error::FolderInUse { .. })));
    }
    train(&mut trainer, u64::MAX).unwrap();
    assert!(matches!(other.lock_output_dir(), Err(Error::FolderInUse { .. })));
    drop(trainer);
    other.lock_output_dir().unwrap();
}

/// On the GPU that a checkpoint was made on it can be read again.
#[test]
fn resuming_takes_no_more_memory_than_training() {
    let (base, folder) = (model(), tempfile::tempdir().unwrap());
    train(&mut Trainer::new(&base, arguments(folder.path())).unwrap(), 3).unwrap();
    let fresh = retto::Gpu::open(&gpu().adapter().index.to_string()).unwrap();
    let base = Model::open(&fresh, fixtures().join("fillmask")).unwrap();
    let mut trainer = Trainer::new(&base, arguments(folder.path())).unwrap();
    let before = fresh.memory_in_use();
    assert_eq!(trainer.resume_from_checkpoint().unwrap(), Some(3));
    assert_eq!(fresh.memory_in_use(), before);
    // What is refused has changed nothing.
    let bits = parameters(trainer.model());
    let checkpoint = folder.path().join("checkpoint-3");
    let moments = fs::read(checkpoint.join("optimizer.safetensors")).unwrap();
    let renamed = String::from_utf8_lossy(&moments[..200]).into_owned();
    let at = renamed.find("exp_avg").unwrap();
    let mut other = moments.clone();
    other[at] = b'E';
    fs::write(checkpoint.join("optimizer.safetensors"), other).unwrap();
    fs::write(checkpoint.join("model.safetensors"), "short").unwrap();
    assert!(matches!(trainer.resume_from_checkpoint(), Err(Error::BadCheckpoint { .. })));
    assert_eq!(parameters(trainer.model()), bits);
}

#[test]
fn a_run_is_not_continued_from_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let base = model();
    train(&mut Trainer::new(&base, arguments(folder.path())).unwrap(), 3).unwrap();
    let mut other = Trainer::new(&base, TrainingArguments { max_steps: Some(1), ..Default::default() }).unwrap();
    other.train(&lines(), &[], |_| ControlFlow::Continue(())).unwrap();
    let mut trainer = Trainer::new(&other.into_model(), arguments(folder.path())).unwrap();
    trainer.resume_from_checkpoint().unwrap();
    let error = train(&mut trainer, u64::MAX).unwrap_err().to_string();
    assert!(error.contains("the model to start from was"), "{error}");
}

fn parameters(model: &Model) -> Vec<Vec<u32>> {
    let bits = |key: &str| model.parameter(key).unwrap().iter().map(|value| value.to_bits()).collect();
    model.parameter_shapes().iter().map(|(key, _)| bits(key)).collect()
}

/// The losses told, step by step and by log entry.
type Told = Vec<(u64, f64)>;

fn train(trainer: &mut Trainer, stop_at: u64) -> Result<(TrainOutput, Told)> {
    let mut told = Vec::new();
    let output = trainer.train(&lines(), &[], |event| {
        match event {
            TrainEvent::Step(report) if report.step == stop_at => return ControlFlow::Break(()),
            TrainEvent::Step(report) => told.push((report.step, f64::from(report.loss))),
            TrainEvent::Log { report, loss, .. } if report.step % 4 == 0 => told.push((report.step, *loss)),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    output.map(|output| (output, told))
}

fn checkpoints(folder: &Path) -> Vec<String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(entry).collect();
    names.sort();
    names
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let base = model();
    let whole_folder = tempfile::tempdir().unwrap();
    let mut whole = Trainer::new(&base, arguments(whole_folder.path())).unwrap();
    let (want, whole_told) = train(&mut whole, u64::MAX).unwrap();
    assert_eq!(want.steps, 15);
    // In an epoch, at its end, at its beginning, between two log entries, at the last step but one.
    for stop in [1, 5, 6, 7, 12, 14] {
        let folder = tempfile::tempdir().unwrap();
        let (cut, _) = train(&mut Trainer::new(&base, arguments(folder.path())).unwrap(), stop).unwrap();
        assert!(cut.cancelled && cut.steps == stop);
        let mut trainer = Trainer::new(&base, arguments(folder.path())).unwrap();
        assert_eq!(trainer.resume_from_checkpoint().unwrap(), Some(stop));
        let (mut got, told) = train(&mut trainer, u64::MAX).unwrap();
        assert_eq!(parameters(trainer.model()), parameters(whole.model()), "stopped at {stop}");
        // How long it took is the one thing that differs.
        (got.runtime, got.steps_per_second) = (want.runtime, want.steps_per_second);
        (got.samples_per_second, got.tokens_per_second) = (want.samples_per_second, want.tokens_per_second);
        assert_eq!(got, want);
        let later: Told = whole_told.iter().copied().filter(|(step, _)| *step > stop).collect();
        assert_eq!(told, later, "stopped at {stop}");
    }
}

#[test]
fn resuming_where_nothing_is_starts() {
    let folder = tempfile::tempdir().unwrap();
    let base = model();
    let mut trainer = Trainer::new(&base, arguments(&folder.path().join("new"))).unwrap();
    assert_eq!(trainer.resume_from_checkpoint().unwrap(), None);
    assert_eq!(train(&mut trainer, 3).unwrap().0.steps, 3);
    let nowhere = TrainingArguments { output_dir: None, save_steps: None, ..arguments(folder.path()) };
    let mut trainer = Trainer::new(&base, nowhere.clone()).unwrap();
    assert!(matches!(trainer.resume_from_checkpoint(), Err(Error::InvalidArgument(_))));
    let without_a_folder = TrainingArguments { save_steps: Some(1), ..nowhere };
    assert!(matches!(Trainer::new(&base, without_a_folder), Err(Error::InvalidArgument(_))));
}

#[test]
fn only_the_latest_checkpoints_are_kept_and_nothing_temporary() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments { save_total_limit: Some(2), ..arguments(folder.path()) };
    train(&mut Trainer::new(&model(), arguments).unwrap(), 11).unwrap();
    assert_eq!(checkpoints(folder.path()), ["checkpoint-10", "checkpoint-11"]);
    // Each is a model like any other.
    Model::open(gpu(), folder.path().join("checkpoint-10")).unwrap().fill_mask("the [MASK]", 3).unwrap();
}

#[test]
fn what_only_has_a_checkpoints_name_is_found_out_before_training() {
    let folder = tempfile::tempdir().unwrap();
    train(&mut Trainer::new(&model(), arguments(folder.path())).unwrap(), 3).unwrap();
    std::fs::create_dir(folder.path().join("checkpoint-8")).unwrap();
    let mut trainer = Trainer::new(&model(), arguments(folder.path())).unwrap();
    trainer.resume_from_checkpoint().unwrap();
    let error = trainer.train(&lines(), &[], |_| panic!("training began")).unwrap_err().to_string();
    assert!(error.contains("checkpoint-8") && error.contains("remove it"), "{error}");
    std::fs::remove_dir(folder.path().join("checkpoint-8")).unwrap();
    trainer.train(&lines(), &[], |_| std::ops::ControlFlow::Continue(())).unwrap();
}

#[test]
fn what_would_mask_nothing_is_not_trained() {
    let arguments = TrainingArguments { mlm_probability: 1e-9, max_steps: Some(1), ..Default::default() };
    let mut trainer = Trainer::new(&model(), arguments).unwrap();
    let error = trainer.train(&lines(), &[], |_| panic!("training began")).unwrap_err().to_string();
    assert!(error.contains("would be masked"), "{error}");
}

/// Its weights are the same, and what it makes of them is not.
#[test]
fn an_edited_config_is_another_run() {
    let (folder, edited) = (tempfile::tempdir().unwrap(), common::copy_fixture("fillmask"));
    train(&mut Trainer::new(&model(), arguments(folder.path())).unwrap(), 3).unwrap();
    let path = edited.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["hidden_act"] = "relu".into();
    std::fs::write(&path, config.to_string()).unwrap();
    let base = Model::open(gpu(), edited.path()).unwrap();
    let mut trainer = Trainer::new(&base, arguments(folder.path())).unwrap();
    trainer.resume_from_checkpoint().unwrap();
    let error = trainer.train(&lines(), &[], |_| panic!("training began")).unwrap_err().to_string();
    assert!(error.contains("the model's config was") && error.contains("Relu"), "{error}");
    // A checkpoint of before it was recorded is taken up as ever.
    let state = folder.path().join("checkpoint-3/trainer_state.json");
    let mut recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    assert!(recorded["run"].as_object_mut().unwrap().remove("the model's config").is_some());
    std::fs::write(&state, recorded.to_string()).unwrap();
    let mut trainer = Trainer::new(&model(), arguments(folder.path())).unwrap();
    trainer.resume_from_checkpoint().unwrap();
    train(&mut trainer, 11).unwrap();
}

#[test]
fn another_run_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let base = model();
    train(&mut Trainer::new(&base, arguments(folder.path())).unwrap(), 3).unwrap();
    let refused = |arguments: TrainingArguments, resume: bool, lines: &[String]| {
        let mut trainer = Trainer::new(&base, arguments).unwrap();
        if resume {
            trainer.resume_from_checkpoint().unwrap();
        }
        match trainer.train(lines, &[], |_| panic!("training began")) {
            Err(Error::OtherRun(text)) if resume => text,
            Err(Error::InvalidArgument(text)) if !resume => text,
            other => panic!("{other:?}"),
        }
    };
    let faster = TrainingArguments { learning_rate: 2e-2, ..arguments(folder.path()) };
    assert!(refused(faster, true, &lines()).contains("learning_rate was 0.01, and is 0.02"));
    assert!(refused(arguments(folder.path()), true, &lines()[1..]).contains("training data"));
    // Refused, a trainer still stands where it was resumed, and does not begin anew with the weights of step 3.
    let mut trainer = Trainer::new(&base, arguments(folder.path())).unwrap();
    trainer.resume_from_checkpoint().unwrap();
    for _ in 0..2 {
        let error = trainer.train(&lines()[1..], &[], |_| panic!("training began")).unwrap_err();
        assert!(error.to_string().contains("cannot resume"), "{error}");
    }
    assert!(refused(arguments(folder.path()), false, &lines()).contains("checkpoint-3 is of an earlier run"));
    let other = Model::open(gpu(), common::copy_fixture("odd").path()).unwrap();
    let mut trainer = Trainer::new(&other, arguments(folder.path())).unwrap();
    assert!(matches!(trainer.resume_from_checkpoint(), Err(Error::OtherRun(_))));
    for (file, bytes) in [("trainer_state.json", "{"), ("optimizer.safetensors", "short")] {
        let copy = tempfile::tempdir().unwrap();
        let from = folder.path().join("checkpoint-3");
        let to = copy.path().join("checkpoint-3");
        fs::create_dir(&to).unwrap();
        for name in checkpoints(&from) {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
        fs::write(to.join(file), bytes).unwrap();
        let mut trainer = Trainer::new(&base, arguments(copy.path())).unwrap();
        let error = trainer.resume_from_checkpoint().unwrap_err();
        assert!(matches!(&error, Error::BadCheckpoint { path, .. } if path.ends_with(file)), "{error}");
    }
}
