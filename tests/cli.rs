//! The command: results on stdout, one error line on stderr, exit codes 0, 1 and 2.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::command::{fails, fixture, json, retto, run, stdout, text};
use common::{fixtures, gpu};
use serde_json::Value;

#[test]
fn devices_lists_the_adapter_of_the_tests() {
    let listed = json(&["devices", "--json"]);
    let adapter = &listed[gpu().adapter().index];
    assert_eq!(adapter["name"], gpu().adapter().name.as_str());
    for key in ["index", "type", "backend", "driver", "max_storage_buffer_binding_size", "subgroup", "shader_f16"] {
        assert!(!adapter[key].is_null(), "{key}: {adapter}");
    }
    assert!(stdout(&run(&["devices"])).contains(&gpu().adapter().name));
}

#[test]
fn fill_prints_what_the_pipeline_returns() {
    let cases = std::fs::read(fixtures().join("fillmask/fillmask.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    for case in cases {
        let inputs = &case["inputs"];
        let texts: Vec<&str> = match inputs.as_array() {
            Some(texts) => texts.iter().map(|text| text.as_str().unwrap()).collect(),
            None => vec![inputs.as_str().unwrap()],
        };
        let model = fixture("fillmask");
        let got = json(&[&["fill", "--json", "--top-k", "5", "--model", &model], texts.as_slice()].concat());
        assert_like(&got, &case["outputs"]);
    }
}

/// Equal in shape and in everything but scores, which are equal to 1e-5.
fn assert_like(got: &Value, want: &Value) {
    match (got, want) {
        (Value::Array(got), Value::Array(want)) => {
            assert_eq!(got.len(), want.len());
            got.iter().zip(want).for_each(|(got, want)| assert_like(got, want));
        }
        (Value::Object(got), Value::Object(want)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(got), keys(want));
            want.keys().for_each(|key| assert_like(&got[key], &want[key]));
        }
        (Value::Number(got), Value::Number(want)) if want.is_f64() => {
            assert!((got.as_f64().unwrap() - want.as_f64().unwrap()).abs() < 1e-5, "{got} {want}");
        }
        _ => assert_eq!(got, want),
    }
}

#[test]
fn fill_prints_answers_for_people() {
    let output = stdout(&run(&["fill", "--model", &fixture("fillmask"), "--top-k", "3", "the [MASK] and [MASK]"]));
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 8);
    assert_eq!((lines[0], lines[4]), ("the [MASK] and [MASK]  (mask 1)", "the [MASK] and [MASK]  (mask 2)"));
}

#[test]
fn the_bundled_model_answers_without_being_named() {
    let answers = json(&["fill", "--json", "i love [MASK]"]);
    assert_eq!(answers.as_array().unwrap().len(), 10);
}

#[test]
fn usage_errors_exit_with_2() {
    for args in [&["fill"][..], &["adapt", "--output", "x"], &["fill", "--top-k", "many", "[MASK]"], &["sing"], &[]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn options_without_a_meaning_are_refused() {
    let adapted = fixture("fillmask");
    for (args, with) in [
        (&["embed", "a text", "--unit", "section"][..], "--unit"),
        (&["embed", "a text", "--dedup"], "--dedup"),
        (&["compare", "the [MASK]", "--adapted", &adapted, "--seed", "3"], "--seed"),
        (&["compare", "the [MASK]", "--adapted", &adapted, "--strict"], "--strict"),
        (&["compare", "the [MASK]", "--adapted", &adapted, "--html", "x.html"], "--html"),
        (&["eval", "--data", "cache.safetensors", "--static-mask", "--mlm-probability", "0.2"], "--mlm-probability"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("cannot be used with") && said.contains(with), "{args:?}: {said}");
    }
}

#[cfg(unix)]
#[test]
fn a_text_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let output = retto(&["fill"]).arg(std::ffi::OsStr::from_bytes(b"caf\xe9 [MASK]")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("invalid UTF-8") && output.stdout.is_empty());
}

#[test]
fn failures_exit_with_1_and_one_line() {
    let model = fixture("fillmask");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        path(name)
    };
    let (empty, good) = (write("empty.txt", b"\n \n"), write("good.txt", b"the rain\n"));
    let missing = path("missing.txt");

    fails(&["fill", "--model", &model, "no blank"], &["[MASK]", "no blank"]);
    fails(&["fill", "--model", &model, "--top-k", "0", "[MASK]"], &["top_k"]);
    fails(&["fill", "--model", &path("nothing"), "[MASK]"], &["nothing", "config.json"]);
    fails(&["fill", "--model", &model, &format!("{}[MASK]", "the ".repeat(600))], &["603 tokens", "shorten"]);
    fails(&["fill", "--model", &model, "--device", "no such adapter", "[MASK]"], &["no such adapter", "0: "]);
    fails(&["eval", "--model", &model, "--data", &empty], &["no usable line", "empty.txt"]);
    fails(&["eval", "--model", &model, "--data", &missing], &["missing.txt"]);
    let output = path("out");
    for (train, words) in [(&empty, &["no usable line", "empty.txt"][..]), (&missing, &["missing.txt"])] {
        fails(&["adapt", "--model", &model, "--train", train, "--output", &output], words);
    }
    fails(
        &["adapt", "--model", &model, "--train", &good, "--output", &output, "--learning-rate", "nan"],
        &["learning_rate"],
    );
    fails(&["init", "--data", &good, "--output", &output, "--vocab-size", "5"], &["vocab_size 5"]);
    fails(&["init", "--data", &good, "--output", &output, "--num-attention-heads", "5"], &["num_attention_heads 5"]);
    fails(&["init", "--data", &good, "--output", &output, "--vocab-size", "4000000000"], &["vocab_size is 4000000000"]);
    fails(
        &["init", "--data", &good, "--output", &output, "--hidden-size", "18446744073709551615"],
        &["hidden_size is"],
    );
    fails(
        &["init", "--data", &good, "--output", &output, "--max-position-embeddings", "2"],
        &["max_position_embeddings"],
    );
    let binary = write("binary.txt", b"ok\n\x01\n");
    fails(&["init", "--data", &binary, "--output", &output], &["no usable line"]);
    fails(&["init", "--data", &binary, "--output", &output, "--strict"], &["binary.txt", "line 2", "0x01"]);
    fails(
        &["eval", "--model", &model, "--data", &good, "--per-device-eval-batch-size", "0"],
        &["per_device_eval_batch_size"],
    );
    assert!(!folder.path().join("out").exists(), "no partial output");
    // Found out before training, not after.
    let below_a_file = format!("{good}/below");
    fails(&["adapt", "--model", &model, "--train", &good, "--output", &below_a_file], &["good.txt"]);
}

#[cfg(target_os = "linux")]
#[test]
fn no_adapter_is_an_error_that_says_what_to_install() {
    let nothing = tempfile::tempdir().unwrap();
    let mut command = retto(&["fill", "--model", &fixture("fillmask"), "[MASK]"]);
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        command.env(variable, nothing.path().join("none.json"));
    }
    let output = command.env_remove("RETTO_DEVICE").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.starts_with("error: no GPU adapter") && error.contains("mesa-vulkan-drivers"), "{error}");
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let mut child = retto(&["fill", "--model", &fixture("fillmask"), "--top-k", "293", "[MASK]"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// From a folder of text to a model of one's own: init, adapt, eval, fill.
#[test]
fn a_model_from_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let (data, held_out, start, trained) = (path("data"), path("held.txt"), path("start"), path("trained"));
    std::fs::create_dir(&data).unwrap();
    let lines: Vec<String> = (0..300)
        .map(|i| {
            format!(
                "{} {} in the {}",
                ["rain", "snow", "sun"][i % 3],
                ["falls", "waits"][i % 2],
                ["city", "hills", "night"][i % 3]
            )
        })
        .collect();
    std::fs::write(format!("{data}/a.txt"), lines.join("\n")).unwrap();
    std::fs::write(&held_out, lines[..60].join("\n\n")).unwrap();

    let sizes = ["--hidden-size", "32", "--num-hidden-layers", "1", "--num-attention-heads", "2"];
    let sizes = [&sizes[..], &["--max-position-embeddings", "16", "--vocab-size", "60", "--seed", "7"]].concat();
    let output = stdout(&run(&[&["init", "--data", &data, "--output", &start], sizes.as_slice()].concat()));
    assert!(output.contains("parameters"), "{output}");
    // The same seed makes the same model.
    let again = path("again");
    stdout(&run(&[&["init", "--data", &data, "--output", &again], sizes.as_slice()].concat()));
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let read = |folder: &str| std::fs::read(Path::new(folder).join(name)).unwrap();
        assert!(read(&start) == read(&again), "{name}");
    }

    let before = json(&["eval", "--model", &start, "--data", &held_out, "--json"]);
    let options = ["--learning-rate", "5e-3", "--num-train-epochs", "12", "--per-device-train-batch-size", "32"];
    let options =
        [&options[..], &["--warmup-ratio", "0.1", "--logging-steps", "30", "--validation", &held_out]].concat();
    let run =
        run(&[&["adapt", "--model", &start, "--train", &data, "--output", &trained], options.as_slice()].concat());
    assert!(stdout(&run).starts_with(&trained));
    let progress = String::from_utf8(run.stderr).unwrap();
    assert!(progress.contains("tokens/s") && progress.contains("loss") && progress.contains("left"), "{progress}");

    let after = json(&["eval", "--model", &trained, "--data", &held_out, "--json"]);
    let keys: Vec<&String> = after.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["loss", "perplexity", "top1_accuracy", "top10_accuracy", "masked_tokens"]);
    assert!(after["loss"].as_f64().unwrap() < 0.5 * before["loss"].as_f64().unwrap(), "{before} {after}");
    assert_eq!(before["masked_tokens"], after["masked_tokens"]);

    let metrics = std::fs::read_to_string(Path::new(&trained).join("metrics.jsonl")).unwrap();
    let metrics: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |key: &str| metrics.iter().filter(|entry| entry.get(key).is_some()).count();
    // 10 steps an epoch, 120 in all: a log every 30, an evaluation every epoch, and the closing line.
    assert_eq!((with("loss"), with("grad_norm"), with("learning_rate")), (4, 4, 4));
    assert_eq!((with("eval_loss"), with("train_runtime"), with("train_samples_per_second")), (12, 1, 1));
    assert!(metrics.iter().all(|entry| entry["epoch"].is_number() && entry["step"].is_number()));

    let answers = json(&["fill", "--model", &trained, "--json", "--top-k", "3", "rain falls in the [MASK]"]);
    let best = answers[0]["token_str"].as_str().unwrap();
    assert!(["city", "hills", "night"].contains(&best), "{answers}");
    // A tokenizer can be taken instead of learnt.
    let taken = path("taken");
    stdout(&self::run(&[
        "init",
        "--tokenizer",
        &trained,
        "--output",
        &taken,
        "--hidden-size",
        "16",
        "--num-hidden-layers",
        "1",
    ]));
    let read = |folder: &str| std::fs::read(Path::new(folder).join("tokenizer.json")).unwrap();
    assert!(read(&taken) == read(&trained));
    // Not what went with the other model, nor what lay there before.
    std::fs::write(Path::new(&taken).join("modules.json"), "[]").unwrap();
    let again =
        ["init", "--tokenizer", &trained, "--output", &taken, "--hidden-size", "16", "--max-position-embeddings"];
    stdout(&self::run(&[&again[..], &["40"]].concat()));
    assert!(!Path::new(&taken).join("modules.json").exists());
    let config = std::fs::read(Path::new(&taken).join("tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["model_max_length"], 40);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_stderr_does_not_end_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, output) = (folder.path().join("lines.txt"), folder.path().join("out"));
    std::fs::write(&lines, "the rain and you\n".repeat(8)).unwrap();
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("metrics.jsonl"), "an earlier run").unwrap();
    let adapt = |rate: &str| {
        let model = fixture("fillmask");
        let args = ["adapt", "--model", &model, "--train", text(&lines), "--output", text(&output)];
        let more = ["--max-steps", "3", "--logging-steps", "1", "--max-grad-norm", "0", "--learning-rate", rate];
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        retto(&[&args[..], &more].concat()).stdout(Stdio::null()).stderr(full).status().unwrap()
    };
    let metrics = || std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    // A run that fails leaves the log of the one before it.
    assert_eq!(adapt("1e37").code(), Some(1));
    assert_eq!(metrics(), "an earlier run");
    assert!(adapt("1e-3").success());
    assert!(metrics().contains("train_loss"));
    assert!(!output.join("metrics.jsonl.part").exists());
}

/// What was trained is told of and kept, though its output has come to be in the way.
#[test]
fn a_model_that_cannot_be_written_where_it_was_meant_to_be_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (output, lines) = (folder.path().join("out"), folder.path().join("lines.txt"));
    std::fs::write(&lines, "the rain and you\n".repeat(8)).unwrap();
    std::fs::create_dir_all(output.join("model.safetensors")).unwrap();
    let model = fixture("fillmask");
    let adapt = ["adapt", "--model", &model, "--train", text(&lines), "--output", text(&output), "--max-steps", "1"];
    fails(&adapt, &["out-kept", "what was trained is kept"]);
    let kept = retto::Model::open(gpu(), folder.path().join("out-kept")).unwrap();
    assert_eq!(kept.fill_mask("the [MASK]", 3).unwrap()[0].len(), 3);
}

#[test]
fn whole_models_are_not_written_over_adapters_nor_beside_another_runs_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    std::fs::write(path("lines.txt"), "the rain and you\n".repeat(8)).unwrap();
    let model = fixture("fillmask");
    let adapt = |more: &[&str]| {
        let adapt = ["adapt", "--model", &model, "--train", &path("lines.txt"), "--max-steps", "1"];
        assert!(retto(&[&adapt[..], more].concat()).output().unwrap().status.success());
    };
    adapt(&["--output", &path("adapter"), "--lora-r", "2"]);
    adapt(&["--output", &path("merged")]);
    let merge = ["merge", "--model", &model, "--adapter", &path("adapter"), "--output"];
    fails(&[&merge[..], &[&path("adapter")]].concat(), &["holds a low-rank adapter"]);
    fails(&["init", "--data", &path("lines.txt"), "--output", &path("adapter")], &["holds a low-rank adapter"]);
    assert!(folder.path().join("merged/training_args.json").exists());
    assert!(retto(&[&merge[..], &[&path("merged")]].concat()).output().unwrap().status.success());
    for name in ["metrics.jsonl", "loss.svg"] {
        assert!(!folder.path().join("merged").join(name).exists(), "{name}");
    }
    // Nor over a run that may be gone on with, or the best model of one that cannot.
    let adapt =
        ["adapt", "--model", &model, "--train", &path("lines.txt"), "--output", &path("run"), "--max-steps", "2"];
    let evaluated = ["--validation", &path("lines.txt"), "--load-best-model-at-end", "--save-steps", "2"];
    let adapt = [&adapt[..], &evaluated].concat();
    assert!(retto(&adapt).output().unwrap().status.success());
    fails(&[&merge[..], &[&path("run")]].concat(), &["run/checkpoint-2 is of a run"]);
    fails(&["init", "--data", &path("lines.txt"), "--output", &path("run")], &["run/checkpoint-2 is of a run"]);
    std::fs::remove_dir_all(path("run/checkpoint-2")).unwrap();
    std::fs::write(path("run/metrics.jsonl.part"), "").unwrap();
    let best = std::fs::read(path("run/checkpoint-best/model.safetensors")).unwrap();
    let again = retto(&[&adapt[..], &["--learning-rate", "1e-3", "--resume"]].concat()).output().unwrap();
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && told.contains("earlier run is kept in"), "{told}");
    assert!(std::fs::read(path("run/checkpoint-best-1/model.safetensors")).unwrap() == best);
    // What it was trained on is what the adapter was.
    let options = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.path().join(name).join("training_args.json")).unwrap()).unwrap()
    };
    assert!(options("merged") == options("adapter") && options("merged")["lora"]["r"] == 2);
}

/// Killed at any moment, `adapt` leaves the old model or the new one, whole.
#[test]
fn an_interruption_leaves_a_whole_model() {
    let folder = tempfile::tempdir().unwrap();
    let (model, lines) = (folder.path().join("model"), folder.path().join("lines.txt"));
    std::fs::write(&lines, "the rain and you\n".repeat(8)).unwrap();
    let original = retto::Model::open(gpu(), fixtures().join("fillmask")).unwrap();
    original.save(&model).unwrap();
    let adapt = || {
        let args = ["adapt", "--model", text(&model), "--train", text(&lines), "--output", text(&model)];
        let mut command = retto(&[&args[..], &["--max-steps", "1", "--learning-rate", "1e-3"]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let began = std::time::Instant::now();
    assert!(adapt().wait().unwrap().success());
    let whole = began.elapsed();
    let rounds = 16;
    for round in 0..rounds {
        let mut child = adapt();
        // Mostly near the end, where the saving is.
        std::thread::sleep(
            whole.mul_f64(0.6 + 0.5 * f64::from(round) / f64::from(rounds)).max(Duration::from_millis(1)),
        );
        let _ = child.kill();
        child.wait().unwrap();
        let model = retto::Model::open(gpu(), &model).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(model.fill_mask("the [MASK]", 3).unwrap()[0].len(), 3);
    }
}

/// What an adaptation measured of the adapter is there for later calls, and changes none of their results.
#[test]
fn the_cache_folder_is_made_filled_and_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("made/if/need/be");
    let base = fixture("fillmask");
    let fill = |cache: &str| {
        let mut command = retto(&["fill", "--json", "--model", &base, "the [MASK] and you"]);
        stdout(&command.env("RETTO_CACHE_DIR", cache).output().unwrap())
    };
    let without = fill("");
    assert_eq!(fill(text(&cache)), without);
    let lines = folder.path().join("lines.txt");
    std::fs::write(&lines, "the rain and you\n".repeat(8)).unwrap();
    let output = folder.path().join("adapted");
    let args = ["adapt", "--model", &base, "--train", text(&lines), "--output", text(&output), "--max-steps", "1"];
    stdout(&retto(&args).env("RETTO_CACHE_DIR", &cache).output().unwrap());
    let kept = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let choices = kept.filter(|name| name.starts_with("choices-") && name.ends_with(".json")).count();
    // An adapter with one kernel alone has nothing to choose.
    assert!(choices <= 1);
    assert_eq!(fill(text(&cache)), without);
    // A file in the folder's place.
    let mut refused = retto(&["fill", "--model", &base, "the [MASK]"]);
    let refused = refused.env("RETTO_CACHE_DIR", &lines).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lines.txt"));
}

/// Ctrl-C ends the run after its step with a checkpoint, from which the same command goes on.
#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_goes_on() {
    use std::io::BufRead;
    use std::process::Command;

    let folder = tempfile::tempdir().unwrap();
    let (base, lines) = (fixture("fillmask"), folder.path().join("lines.txt"));
    std::fs::write(&lines, "the rain and you\n".repeat(8)).unwrap();
    let adapt = |output: &Path, steps: &str, more: &[&str]| {
        let args = ["adapt", "--model", &base, "--train", text(&lines), "--output", text(output)];
        retto(&[&args[..], &["--max-steps", steps, "--logging-steps", "1"], more].concat())
    };
    let (alone, cut) = (folder.path().join("alone"), folder.path().join("cut"));
    let mut child = adapt(&cut, "400", &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let step = |line: &str| line.starts_with("step ");
    assert!(stderr.by_ref().any(|line| step(&line.unwrap())), "a step is done");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let said: Vec<String> = stderr.map(|line| line.unwrap()).filter(|line| !step(line)).collect();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(said.len() == 1 && said[0].starts_with("error: interrupted at step "), "{said:?}");
    assert!(!cut.join("model.safetensors").exists(), "an unfinished model is not passed off as finished");
    // Forgetting --resume loses nothing.
    let forgotten = adapt(&cut, "400", &[]).output().unwrap();
    assert!(String::from_utf8_lossy(&forgotten.stderr).contains("of an earlier run"));
    stdout(&adapt(&cut, "400", &["--resume"]).output().unwrap());
    stdout(&adapt(&alone, "400", &[]).output().unwrap());
    let weights = |output: &Path| std::fs::read(output.join("model.safetensors")).unwrap();
    assert!(weights(&cut) == weights(&alone));
}

/// Killed at thirty moments, `adapt --resume` ends each time with the model and the log of a run that was left alone.
#[test]
fn a_killed_run_is_resumed_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (base, lines) = (fixture("fillmask"), folder.path().join("lines.txt"));
    std::fs::write(&lines, "the rain and you\nyou and the rain\nand the rain\n".repeat(8)).unwrap();
    let adapt = |output: &Path| {
        let args = ["adapt", "--resume", "--model", &base, "--train", text(&lines), "--output", text(output)];
        let more = ["--max-steps", "14", "--learning-rate", "1e-3", "--save-steps", "1", "--save-total-limit", "2"];
        let log = ["--logging-steps", "1"];
        let mut command = retto(&[&args[..], &more, &log].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let weights = |output: &Path| std::fs::read(output.join("model.safetensors")).unwrap();
    let losses = |output: &Path| {
        let log = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|entry| entry.get("loss").is_some()).map(|entry| entry.to_string()).collect::<Vec<_>>()
    };
    let alone = folder.path().join("alone");
    let began = std::time::Instant::now();
    assert!(adapt(&alone).wait().unwrap().success());
    let mut whole = began.elapsed();
    assert_eq!(losses(&alone).len(), 14);

    let (mut kills, mut round) = (0u32, 0);
    while kills < 30 {
        round += 1;
        let output = folder.path().join(format!("round-{round}"));
        loop {
            let mut child = adapt(&output);
            // Spread over the run by the golden ratio; it does not matter that a busy machine shifts them.
            std::thread::sleep(whole.mul_f64(0.3 + 0.6 * (f64::from(kills) * 0.618_034).fract()));
            let ended = if kills < 30 { child.try_wait().unwrap() } else { Some(child.wait().unwrap()) };
            if let Some(status) = ended {
                assert!(status.success());
                // The machine was busier when it was measured.
                whole = whole.mul_f64(0.8);
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        assert!(weights(&output) == weights(&alone), "after {kills} kills");
        assert_eq!(losses(&output), losses(&alone), "after {kills} kills");
    }
}
