//! `retto downstream`: the same task trained from two models, in figures, in words and on pages.

mod common;

use std::fs;

use common::command::{fails, json, run, stdout, text};
use common::songs::{lines_of, write_songs};
use common::{fresh_model, gpu};
use retto::Model;
use serde_json::Value;

#[test]
fn two_models_are_compared_by_a_task_built_on_both() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let (base, adapted, songs) = (path("base"), path("adapted"), text(&write_songs(folder.path(), 30)).to_owned());
    fresh_model().save(&base).unwrap();
    let adapt = ["adapt", "--model", &base, "--train", &songs, "--validation-split", "0.2", "--output", &adapted];
    stdout(&run(&[&adapt[..], &["--max-steps", "10", "--learning-rate", "5e-3"]].concat()));
    let (results, page) = (path("results.json"), path("page.html"));
    let args = ["downstream", "--base", &base, "--adapted", &adapted, "--data", &songs, "--validation-split", "0.2"];
    let steps = ["--max-steps", "6", "--learning-rate", "2e-3", "--seeds", "2", "--triplet-margin", "1"];
    let files = ["--json", "--output", &results, "--html", &page];
    let printed = json(&[&args[..], &steps, &files].concat());
    let written: Value = serde_json::from_slice(&fs::read(&results).unwrap()).unwrap();
    assert_eq!(printed, written);
    let found = &printed["results"];
    assert_eq!((&found["groups"], &found["triplets"], &found["queries"]), (&6.into(), &24.into(), &18.into()));
    assert_eq!(found["train_triplets"], 24);
    let value = |stage: &str, side: &str, figure: &str| found[stage][side][figure]["value"].as_f64().unwrap();
    for figure in ["loss", "accuracy", "recall_at_1", "recall_at_10", "mrr"] {
        for stage in ["before", "after"] {
            let difference = value(stage, "adapted", figure) - value(stage, "base", figure);
            assert!((difference - value(stage, "difference", figure)).abs() < 1e-9, "{stage} {figure}");
        }
    }
    assert!(value("after", "base", "loss") < value("before", "base", "loss"));
    // Each seed is a training of its own, as `finetune` does it: the mean of the runs is the figure.
    let runs = found["runs"].as_array().unwrap();
    let of = |run: usize| runs[run]["base"][0].as_f64().unwrap();
    assert!(runs.len() == 2 && of(0) != of(1));
    assert!(((of(0) + of(1)) / 2.0 - value("after", "base", "loss")).abs() < 1e-9);
    assert_eq!(json(&[&args[..], &steps, &["--json"]].concat())["results"], *found, "the same seeds");
    let same =
        ["downstream", "--base", &base, "--adapted", &base, "--data", &songs, "--max-steps", "2", "--seeds", "1"];
    assert_eq!(json(&[&same[..], &["--json"]].concat())["results"]["after"]["difference"]["loss"]["value"], 0.0);

    // The songs that the adaptation held out are held out here; others it has been trained on.
    assert_eq!(printed["settings"]["seen_by_adapted"], false);
    let short = ["--max-steps", "1", "--seeds", "1"];
    let told = |data: &[&str]| {
        let args = ["downstream", "--base", &base, "--adapted", &adapted];
        let output = run(&[&args[..], &short, data].concat());
        stdout(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    let seen = "so it looks better here than it is";
    assert!(!told(&["--data", &songs, "--validation-split", "0.2"]).contains(seen));
    assert!(told(&["--data", &songs]).contains("held out --validation-split 0.2 with --seed 42"));
    assert!(told(&["--data", &songs, "--validation-split", "0.2", "--seed", "7"]).contains(seen));
    let other = path("other.txt");
    let words = fs::read_to_string(&songs).unwrap().replace("again", "again again").replace("the ", "you the ");
    fs::write(&other, words).unwrap();
    assert!(told(&["--data", &other, "--validation", &songs]).contains(seen));
    assert!(!told(&["--data", &songs, "--validation", &other]).contains(seen));
    // How to hold out as the adaptation did is said as it is done here.
    assert!(told(&["--data", &songs, "--validation-split", "0.1"]).contains("give these here, too"));
    // What goes with a run's output, or with judging it, is none of these trainings'.
    let model = Model::open(gpu(), &base).unwrap();
    let loss = retto::EmbeddingLoss::MultipleNegativesRanking { scale: 20.0 };
    let objective = retto::EmbeddingObjective { loss, pooling: retto::Pooling::Mean, normalize: false };
    let triplets = retto::Triplets::from_texts(model.tokenizer(), [("the rain", "you", Some("town")); 4], 16);
    let options = retto::DownstreamOptions {
        arguments: retto::TrainingArguments {
            objective: retto::Objective::Embedding(objective),
            save_steps: Some(1),
            per_device_train_batch_size: 4,
            load_best_model_at_end: true,
            early_stopping_patience: Some(1),
            max_steps: Some(1),
            ..Default::default()
        },
        seeds: 1,
    };
    let triplets = triplets.unwrap();
    let go = |_: &retto::DownstreamEvent| std::ops::ControlFlow::Continue(());
    retto::downstream(&model, &model, &triplets, &triplets, &options, go).unwrap();
    // What this task learns cannot judge it.
    let same = ["downstream", "--base", &base, "--adapted", &adapted, "--data", &songs, "--validation", &songs];
    fails(&same, &["held-out songs", "among those that are learnt"]);

    let report = path("report.html");
    let compare = ["compare", "--base", &base, "--adapted", &adapted, "--data", &songs];
    stdout(&run(&[&compare[..], &["--html", &report, "--downstream", &results]].concat()));
    assert!(!fs::read_to_string(&page).unwrap().contains(seen) && fs::read_to_string(&report).unwrap().contains(seen));
    for page in [page, report] {
        let page = fs::read_to_string(page).unwrap();
        for stage in ["before", "after"] {
            let figure = format!("{:.3} [", value(stage, "adapted", "mrr"));
            assert!(page.contains(&format!("id=\"{stage}\"")) && page.contains(&figure), "{stage}");
        }
    }
    fails(&[&compare[..], &["--html", &path("x"), "--downstream", &songs]].concat(), &["songs.txt"]);
    fails(&[&args[..], &["--max-seq-length", "65"]].concat(), &["max_seq_length is 65", "64"]);
    fails(&[&args[..], &["--html", &path("none/x.html")]].concat(), &["none/x.html"]);
    // Of given triplets, and with a name that a page must not take for its own.
    let (held_out, odd) = (path("held.jsonl"), path(if cfg!(windows) { "&b.html" } else { "<b>.html" }));
    fs::write(&held_out, lines_of(4)).unwrap();
    let given = ["downstream", "--base", &base, "--adapted", &adapted, "--data", &held_out, "--validation", &held_out];
    let output = run(&[&given[..], &["--max-steps", "1", "--seeds", "1", "--html", &odd]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("held.jsonl is trained on as well"));
    let output = stdout(&output);
    assert!(output.contains("4 held-out triplets; 1 trainings") && output.contains("over anchors\n"), "{output}");
    let page = fs::read_to_string(&odd).unwrap();
    assert!(page.contains("There was one training of each model"), "{page}");
    assert!(page.contains("4 held-out triplets") && !page.contains("resampled over songs"), "{page}");
    assert!(page.contains("There are only 4") && !page.contains("n good") && !page.contains("n bad"), "{page}");
    fails(&["downstream", "--adapted", &adapted, "--data", &songs], &["different tokenizers"]);
    // The model that was trained on is as it was.
    let (opened, fresh) = (Model::open(gpu(), &base).unwrap(), fresh_model());
    for (key, _) in fresh.parameter_shapes() {
        assert_eq!(opened.parameter(&key).unwrap(), fresh.parameter(&key).unwrap(), "{key}");
    }
}
