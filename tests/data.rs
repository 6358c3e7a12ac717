//! From a songwriter's folder to a trained model, by the command and by the library.

#![recursion_limit = "256"] // one JSON object of all options

mod common;

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Stdio;

use common::command::{fails, fixture, json, retto, run, stdout, text};
use common::{fixtures, gpu};
use retto::{Dataset, Model, PrepareOptions, TrainEvent, Trainer, TrainingArguments, prepare};

/// Songs in three formats, one of them Latin-1, beside a file that is none.
fn songs(folder: &Path) -> String {
    let songs = folder.join("songs");
    std::fs::create_dir_all(songs.join("more")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(songs.join(name), bytes).unwrap();
    // No two of them alike.
    let words = |i: usize| (0..6).map(|bit| ["you ", "the town "][i >> bit & 1]).collect::<String>();
    let plain: String = (0..40).map(|i| format!("the rain and {}\nand you\n\nthe river\n\n\n", words(i))).collect();
    write("a.txt", plain.as_bytes());
    write("more/b.lrc", b"[ti:Rain]\n[00:01.00]you and the rain\n[00:02.00]the rain\n");
    write("more/c.cho", b"{title: Rain}\n[Am]the ri[G]ver and you\n");
    write("latin.txt", b"the caf\xe9\n");
    write("noise.txt", b"\0\x01\x02");
    text(&songs).to_owned()
}

#[test]
fn a_folder_of_songs_becomes_caches_that_adapt_and_eval_take() {
    let folder = tempfile::tempdir().unwrap();
    let (songs, model) = (songs(folder.path()), fixture("fillmask"));
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let caches = path("caches");
    let args = ["prepare", "--model", &model, "--data", &songs, "--output", &caches, "--validation-split", "0.1"];
    let prepared = run(&[&args[..], &["--unit", "section", "--static-mask", "--json"]].concat());
    let notes = String::from_utf8(prepared.stderr.clone()).unwrap();
    assert!(notes.contains("latin.txt is not UTF-8; read as Latin-1"), "{notes}");
    assert!(notes.contains("noise.txt") && notes.contains("1 of 5 files were left out"), "{notes}");
    let prepared: serde_json::Value = serde_json::from_str(&stdout(&prepared)).unwrap();
    let songs_in = |split: &str| prepared[split]["songs"].as_u64().unwrap();
    assert_eq!((songs_in("train") + songs_in("validation"), prepared["skipped_files"].as_u64()), (43, Some(1)));
    assert!((3..=5).contains(&songs_in("validation")));
    fails(&[&args[..], &["--strict"]].concat(), &["noise.txt", "0x00"]);

    let [train, validation] = ["train", "validation"].map(|name| {
        let cache = Path::new(&caches).join(format!("{name}.safetensors"));
        text(&cache).to_owned()
    });
    let output = path("adapted");
    let adapt = ["adapt", "--model", &model, "--train", &train, "--validation", &validation, "--output", &output];
    let more = ["--batch-tokens", "64", "--group-by-length", "--static-mask", "--max-steps", "3", "--eval-steps", "2"];
    let adapted = run(&[&adapt[..], &more].concat());
    assert!(stdout(&adapted).contains("3 steps"), "{}", stdout(&adapted));
    let log = std::fs::read_to_string(format!("{output}/metrics.jsonl")).unwrap();
    let evaluated = log.lines().filter(|line| line.contains("eval_loss")).count();
    assert_eq!(evaluated, 2, "at step 2 and at the last: {log}");
    // The same blanks for every model: what eval says of the output is what the run said of its last step.
    let eval = json(&["eval", "--json", "--static-mask", "--model", &output, "--data", &validation]);
    let last = log.lines().rfind(|line| line.contains("eval_loss")).unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert!((eval["loss"].as_f64().unwrap() - last["eval_loss"].as_f64().unwrap()).abs() < 1e-5, "{eval} {last}");

    // Masked again with another seed, it is another run.
    let (again, cache) = (path("again"), path("cache"));
    let masked = |seed: &str| {
        let args = ["prepare", "--model", &model, "--data", &songs, "--output", &cache, "--static-mask"];
        stdout(&run(&[&args[..], &["--seed", seed]].concat()));
    };
    masked("1");
    let train_again = format!("{cache}/train.safetensors");
    let args = ["adapt", "--model", &model, "--train", &train_again, "--static-mask", "--output", &again];
    let more = ["--max-steps", "2", "--save-steps", "1", "--resume"];
    stdout(&run(&[&args[..], &more].concat()));
    stdout(&run(&[&args[..], &more].concat()));
    masked("2");
    fails(&[&args[..], &more].concat(), &["cannot resume", "the training data was", "seed 1"]);
    // Songs held out before would be in a new cache of all.
    fails(&["prepare", "--model", &model, "--data", &songs, "--output", &caches], &["validation.safetensors", "split"]);
    let options: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{output}/training_args.json")).unwrap()).unwrap();
    assert_eq!(options["train"], serde_json::json!([train]));
    assert_eq!(
        (&options["unit"], &options["dedup"], &options["text_field"]),
        (&"section".into(), &false.into(), &"text".into())
    );

    // Straight from the songs, held out on the way.
    let from_text =
        ["adapt", "--model", &model, "--train", &songs, "--validation-split", "0.1", "--output", &path("direct")];
    let direct = run(&[&from_text[..], &["--unit", "window", "--max-steps", "1", "--whole-word-mask"]].concat());
    assert!(
        String::from_utf8_lossy(&direct.stderr).contains("held-out loss"),
        "{}",
        String::from_utf8_lossy(&direct.stderr)
    );

    fails(&["adapt", "--train", &train, "--output", &path("x")], &["another tokenizer"]);
    let short = ["adapt", "--model", &model, "--train", &train, "--output", &path("x")];
    fails(&[&short[..], &["--batch-tokens", "4"]].concat(), &["batch_tokens is 4", "longest example"]);
    fails(&[&short[..], &["--max-seq-length", "3"]].concat(), &["examples of", "3 are allowed"]);
    fails(&[&short[..], &["--validation-split", "0.1"]].concat(), &["retto prepare"]);
    fails(&[&short[..], &["--early-stopping-patience", "2"]].concat(), &["--validation-split"]);
    let unmasked = path("unmasked");
    stdout(&run(&["prepare", "--model", &model, "--data", &songs, "--output", &unmasked]));
    let unmasked = format!("{unmasked}/train.safetensors");
    fails(&["eval", "--model", &model, "--data", &unmasked, "--static-mask"], &["no static masks"]);
    fails(&["eval", "--model", &model, "--data", &unmasked, &train], &["given alone"]);
    let eval = ["eval", "--model", &model, "--data", &unmasked];
    fails(&[&eval[..], &["--unit", "section"]].concat(), &["cache is of lines", "prepare one with --unit section"]);
    fails(&[&eval[..], &["--dedup"]].concat(), &["prepare one with --dedup"]);
    // What the vocabulary knows nothing of is told.
    std::fs::write(path("foreign.txt"), "\u{4e16}\u{754c}\n\u{4f60}\n".to_owned() + &"the rain and you\n".repeat(9))
        .unwrap();
    let foreign = run(&["eval", "--model", &model, "--data", &path("foreign.txt")]);
    let notes = String::from_utf8(foreign.stderr.clone()).unwrap();
    assert!(notes.contains("2 lines hold nothing that the vocabulary knows"), "{notes}");
    fails(
        &["prepare", "--model", &model, "--data", &songs, "--output", &caches, "--validation-split", "0.9"],
        &["validation_split"],
    );
    fails(
        &["prepare", "--model", &model, "--data", &songs, "--output", &caches, "--max-seq-length", "100000"],
        &["100000"],
    );
}

/// Each option reaches the run as what it is called, none as another: all of them at once, with values that only they have.
#[test]
fn options_of_a_run_are_what_they_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let (model, songs, held_out, output) = (fixture("fillmask"), path("a.jsonl"), path("b.jsonl"), path("adapted"));
    let song = |i: usize| format!("{{\"words\": \"the rain and you {i}\\nand the river again\"}}\n");
    std::fs::write(&songs, (0..12).map(song).collect::<String>()).unwrap();
    std::fs::write(&held_out, (20..24).map(song).collect::<String>()).unwrap();
    let half = gpu().adapter().shader_f16;
    let options = format!(
        "--num-train-epochs 2.5 --max-steps 3 --learning-rate 3e-4 --lr-scheduler-type constant_with_warmup --warmup-ratio 0.4 \
         --weight-decay 0.07 --max-grad-norm 0.9 --per-device-train-batch-size 3 --gradient-accumulation-steps 2 \
         --per-device-eval-batch-size 5 --max-seq-length 40 --freeze-layers 0 --freeze-embeddings --gradient-checkpointing \
         --precision {} --no-dropout --seed 9 --eval-steps 2 --early-stopping-patience 4 --early-stopping-threshold 0.01 \
         --load-best-model-at-end --logging-steps 7 --save-steps 6 --save-total-limit 8 --ddp-timeout 77 --balance-devices \
         --ddp-comm-hook bf16 --mlm-probability 0.3 --mask-replace-prob 0.6 --random-replace-prob 0.25 --whole-word-mask \
         --group-by-length --unit section --dedup --text-field words --strict",
        if half { "f16" } else { "f32" }
    );
    let args = ["adapt", "--model", &model, "--train", &songs, "--validation", &held_out, "--output", &output];
    stdout(&run(&[&args[..], &options.split_whitespace().collect::<Vec<_>>()].concat()));
    let told: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{output}/training_args.json")).unwrap()).unwrap();
    let expected = serde_json::json!({
        "objective": "masked_lm",
        "num_train_epochs": 2.5, "max_steps": 3, "learning_rate": 3e-4, "lr_scheduler_type": "constant_with_warmup",
        "warmup_ratio": 0.4, "weight_decay": 0.07, "max_grad_norm": 0.9, "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 5, "max_seq_length": 40, "freeze_layers": [0],
        "freeze_embeddings": true, "gradient_checkpointing": true, "fp16": half, "dropout": false, "seed": 9, "eval_steps": 2,
        "early_stopping_patience": 4, "early_stopping_threshold": 0.01, "load_best_model_at_end": true, "logging_steps": 7,
        "save_steps": 6, "save_total_limit": 8, "ddp_timeout": 77, "balance_devices": true, "ddp_comm_hook": "bf16",
        "mlm_probability": 0.3, "mask_replace_prob": 0.6, "random_replace_prob": 0.25, "whole_word_mask": true,
        "group_by_length": true, "unit": "section", "dedup": true, "text_field": "words", "strict": true,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "static_mask": false, "validation_split": 0.0,
        "model": model, "train": [songs], "validation": [held_out],
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&told[name], value, "{name}");
    }
}

fn model() -> Model {
    Model::open(gpu(), fixtures().join("fillmask")).unwrap()
}

fn losses(model: &Model, train: &Dataset, arguments: TrainingArguments) -> Vec<f32> {
    let mut trainer = Trainer::new(model, arguments).unwrap();
    let mut losses = Vec::new();
    let observe = |event: &TrainEvent| {
        if let TrainEvent::Step(report) = event {
            losses.push(report.loss);
        }
        ControlFlow::Continue(())
    };
    trainer.train_dataset(train, None, observe).unwrap();
    losses
}

#[test]
fn a_cache_trains_as_its_lines_do() {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> =
        (0..30).map(|i| format!("the rain {}", "and you ".repeat(1 + i % 4)).trim().into()).collect();
    std::fs::write(folder.path().join("a.txt"), lines.join("\n")).unwrap();
    let model = model();
    let cache = folder.path().join("c.safetensors");
    prepare(model.tokenizer(), &[folder.path().into()], &cache, None, &PrepareOptions::new(32), |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let cache = Dataset::open(&cache, model.tokenizer()).unwrap();
    let lines = Dataset::from_lines(model.tokenizer(), &lines, 32).unwrap();
    let arguments = TrainingArguments { max_steps: Some(6), learning_rate: 1e-3, ..Default::default() };
    assert_eq!(losses(&model, &cache, arguments.clone()), losses(&model, &lines, arguments));
}

#[test]
fn training_stops_when_evaluations_stop_improving_and_keeps_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    let lines = |text: &str, n: usize| Dataset::from_lines(model.tokenizer(), &vec![text; n], 32).unwrap();
    // What is learnt does not help with what is held out.
    let (train, held_out) = (lines("the rain the rain the rain", 40), lines("you and you and town", 8));
    let arguments = TrainingArguments {
        learning_rate: 5e-3,
        max_steps: Some(60),
        mlm_probability: 0.3,
        eval_steps: Some(2),
        early_stopping_patience: Some(3),
        load_best_model_at_end: true,
        output_dir: Some(folder.path().to_owned()),
        ..Default::default()
    };
    let mut evaluations = Vec::new();
    let mut trainer = Trainer::new(&model, arguments.clone()).unwrap();
    let output = trainer.train_dataset(&train, Some(&held_out), |event| {
        if let TrainEvent::Evaluated { evaluation, step, .. } = event {
            evaluations.push((evaluation.loss, *step));
        }
        ControlFlow::Continue(())
    });
    let output = output.unwrap();
    let best = evaluations.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert!(output.stopped_early && !output.cancelled && output.steps < 60, "{output:?}");
    assert_eq!(output.best, Some(best));
    assert_eq!(evaluations.len() as u64, output.steps / 2);
    assert_eq!(best.1 + 3 * 2, output.steps, "three evaluations without improvement: {evaluations:?}");
    let options = retto::EvaluationOptions {
        mlm_probability: 0.3,
        seed: 42,
        per_device_eval_batch_size: 8,
        ..Default::default()
    };
    let kept = trainer.into_model().evaluate_dataset(&held_out, &options).unwrap();
    assert!((kept.loss - best.0).abs() < 1e-6, "{} {}", kept.loss, best.0);
    // A gain that is large enough resets the patience; a small one does not.
    let strict = TrainingArguments { early_stopping_threshold: 100.0, load_best_model_at_end: false, ..arguments };
    let output =
        Trainer::new(&model, strict).unwrap().train_dataset(&train, Some(&held_out), |_| ControlFlow::Continue(()));
    assert_eq!(output.unwrap().steps, 8, "the first evaluation, and three without a gain of 100");
}

/// What cannot be written as a checkpoint is written elsewhere.
#[test]
fn a_run_that_cannot_save_keeps_its_model_beside_its_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (model, lines, output) = (fixture("fillmask"), path("lines.txt"), path("out"));
    std::fs::write(&lines, "the rain and you\n".repeat(8)).unwrap();
    let args = ["adapt", "--model", &model, "--train", text(&lines), "--output", text(&output)];
    let more = ["--max-steps", "300", "--save-steps", "300", "--logging-steps", "1"];
    let mut child = retto(&[&args[..], &more].concat()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    // Found before the first step, it would be refused.
    assert!(stderr.by_ref().any(|line| line.starts_with("step ")), "a step is done");
    std::fs::create_dir_all(output.join("checkpoint-300/in the way")).unwrap();
    let said = stderr.collect::<Vec<_>>().join("\n");
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("the model as it was after step 300 is kept in") && said.contains("out-kept"), "{said}");
    stdout(&run(&["fill", "--model", text(&path("out-kept")), "the rain [MASK]"]));
}
