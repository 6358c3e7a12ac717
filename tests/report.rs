//! Two models compared, by their answers and on held-out songs: the figures, the page, and the page in a browser.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::command::{fails, fixture, json, run, stdout, text};
use common::{fresh_model, gpu};
use retto::{
    CompareOptions, Dataset, Error, LoraConfig, PrepareOptions, Trainer, TrainingArguments, compare, compare_with,
    prepare,
};
use serde_json::Value;

/// Songs whose lines are all of one kind, so that a few steps teach something.
fn songs(folder: &Path) -> PathBuf {
    let song = |i: usize| format!("the rain and {}\n\nyou and the rain in the town\n", ["you", "town", "again"][i % 3]);
    let path = folder.join("songs.txt");
    std::fs::write(&path, (0..30).map(song).collect::<Vec<_>>().join("\n\n\n")).unwrap();
    path
}

struct Models {
    folder: tempfile::TempDir,
    base: String,
    adapted: String,
    songs: String,
}

/// A base model, and the same adapted by the command, as whole model or as adapter.
fn models(more: &[&str]) -> Models {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let (base, adapted, songs) = (path("base"), path("adapted"), songs(folder.path()));
    fresh_model().save(&base).unwrap();
    let songs = text(&songs).to_owned();
    let args = ["adapt", "--model", &base, "--train", &songs, "--validation-split", "0.2", "--output", &adapted];
    let steps = ["--max-steps", "24", "--learning-rate", "1e-2", "--logging-steps", "4", "--no-dropout"];
    stdout(&run(&[&args[..], &steps, more].concat()));
    Models { folder, base, adapted, songs }
}

#[cfg(feature = "default-model")]
#[test]
fn compare_shows_two_models_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let (base, adapted) = (fixture("fillmask"), folder.path().join("adapted"));
    let original = retto::Model::open(gpu(), &base).unwrap();
    let mut trainer = retto::Trainer::new(&original, retto::TrainingArguments::default()).unwrap();
    let (mask, rain) =
        (original.tokenizer().mask_token_id().unwrap(), original.tokenizer().token_to_id("rain").unwrap());
    let mut batch = retto::PackedBatch::default();
    let ids = original.tokenizer().encode("the [MASK] and you").unwrap();
    batch.push_masked(&ids, &[(ids.iter().position(|&id| id == mask).unwrap() as u32, rain)]);
    for _ in 0..30 {
        trainer.train_step(&batch, 1e-2).unwrap();
    }
    trainer.into_model().save(&adapted).unwrap();

    let args = ["compare", "--base", &base, "--adapted", text(&adapted), "--gold", "rain", "--top-k", "3"];
    let rows = json(&[&args[..], &["--json", "the [MASK] and you"]].concat());
    let row = &rows[0];
    assert_eq!((&row["text"], &row["mask"]), (&"the [MASK] and you".into(), &1.into()));
    assert_eq!(row["adapted"]["answers"][0]["token_str"], "rain");
    assert_eq!((&row["adapted"]["gold"]["rank"], &row["adapted"]["gold"]["token"]), (&1.into(), &rain.into()));
    // The whole order of the base model's answers holds the rank that is told.
    let all = json(&["fill", "--model", &base, "--top-k", "100000", "--json", "the [MASK] and you"]);
    let place = all.as_array().unwrap().iter().position(|fill| fill["token"] == rain).unwrap();
    assert_eq!(row["base"]["gold"]["rank"], place + 1);
    // One command prints f32 in full, the other the shortest digits that give it back.
    let near = |a: &Value, b: &Value| a.as_f64().unwrap() as f32 == b.as_f64().unwrap() as f32;
    assert!(near(&row["base"]["gold"]["score"], &all[place]["score"]));
    for (shown, fill) in row["base"]["answers"].as_array().unwrap().iter().zip(all.as_array().unwrap()) {
        assert!(shown["token"] == fill["token"] && near(&shown["score"], &fill["score"]), "{shown} {fill}");
    }
    assert_eq!(row["base"]["answers"].as_array().unwrap().len(), 3);

    let shown = stdout(&run(&[&args[..], &["the [MASK] and you"]].concat()));
    assert!(shown.contains("rain *") && shown.contains("adapted rank 1"), "{shown}");
    let two = json(&["compare", "--base", &base, "--adapted", text(&adapted), "--json", "[MASK] and [MASK]"]);
    assert_eq!((two.as_array().unwrap().len(), &two[1]["mask"]), (2, &2.into()));

    fails(&[&args[..], &["the [MASK] and [MASK]"]].concat(), &["one blank", "has 2"]);
    let odd = ["compare", "--base", &base, "--adapted", text(&adapted), "--gold", "rain the", "a [MASK]"];
    fails(&odd, &["'rain the'", "not one token"]);
    fails(&["compare", "--base", &base, "--adapted", text(&adapted), "no blank"], &["[MASK]"]);
    fails(&["compare", "--adapted", &format!("{base}/nothing"), "a [MASK]"], &["nothing", "config.json"]);
}

#[test]
fn a_low_rank_adapter_is_written_opened_compared_and_merged() {
    let Models { folder, base, adapted, songs } =
        models(&["--lora-r", "4", "--lora-alpha", "16", "--lora-target-modules", "query,value,dense"]);
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let config: Value =
        serde_json::from_slice(&std::fs::read(format!("{adapted}/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"], &config["lora_alpha"]), (&"LORA".into(), &4.into(), &16.0.into()));
    assert_eq!(config["base_model_name_or_path"], base.as_str());
    assert!(!Path::new(&adapted).join("model.safetensors").exists());
    let fill = |args: &[&str]| json(&[&["fill", "--json", "the [MASK] and you"], args].concat());
    let with_adapter = fill(&["--model", &base, "--adapter", &adapted]);
    assert_ne!(with_adapter, fill(&["--model", &base]));
    stdout(&run(&["merge", "--model", &base, "--adapter", &adapted, "--output", &path("merged")]));
    assert_eq!(with_adapter, fill(&["--model", &path("merged")]));
    let compared = |adapted: &str| {
        json(&["compare", "--base", &base, "--adapted", adapted, "--data", &songs, "--json", "--showcases", "1"])
    };
    assert_eq!(compared(&adapted), compared(&path("merged")));
    let loss = |side: &str| compared(&adapted)[side]["loss"]["value"].as_f64().unwrap();
    assert!(loss("adapted") < 0.9 * loss("base"), "{} {}", loss("adapted"), loss("base"));
    let again = |output: &str, more: &[&str], words: &[&str]| {
        fails(&[&["adapt", "--model", &base, "--train", &songs, "--output", output], more].concat(), words);
    };
    again(&adapted, &[], &["holds a low-rank adapter"]);
    again(&path("merged"), &["--lora-r", "4"], &["holds a whole model"]);
    fails(&["fill", "--model", &adapted, "a [MASK]"], &["low-rank adapter", "--adapter"]);
    fails(&["fill", "--adapter", &adapted, "a [MASK]"], &["adapter"]);
    fails(&["merge", "--model", &base, "--adapter", &base, "--output", &path("x")], &["adapter_config.json"]);
}

#[test]
fn comparisons_count_every_blank_and_pair_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let base = fresh_model();
    let lora = Some(LoraConfig { r: 4, lora_alpha: 32.0, target_modules: vec!["dense".into()] });
    let arguments = TrainingArguments { max_steps: Some(20), learning_rate: 1e-2, lora, ..Default::default() };
    let mut trainer = Trainer::new(&base, arguments).unwrap();
    let cache = folder.path().join("c.safetensors");
    prepare(base.tokenizer(), &[songs(folder.path())], &cache, None, &PrepareOptions::new(32), |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let data = Dataset::open(&cache, base.tokenizer()).unwrap();
    trainer.train_dataset(&data, None, |_| ControlFlow::Continue(())).unwrap();
    let adapted = trainer.into_model();

    let options = CompareOptions { mlm_probability: 1.0, max_blanks: 1_000_000, ..Default::default() };
    let all = compare(&base, &adapted, &data, &options).unwrap();
    let words = std::fs::read_to_string(folder.path().join("songs.txt")).unwrap().split_whitespace().count();
    assert_eq!((all.blanks + all.words_of_several_tokens, all.groups), (words, 30));
    assert!(all.blanks > all.words_of_several_tokens && all.words_of_several_tokens > 0);
    let kinds = all.kinds;
    assert_eq!(kinds.both_right + kinds.both_wrong + kinds.gained + kinds.lost + kinds.other, all.blanks);
    let parts = [all.base.loss, all.adapted.loss, all.difference.loss];
    assert!((parts[1].value - parts[0].value - parts[2].value).abs() < 1e-9);
    assert!(parts.iter().all(|interval| interval.low <= interval.value && interval.value <= interval.high));
    let mut told = Vec::new();
    let again = compare_with(&base, &adapted, &data, &options, |done, total| {
        assert_eq!(total, 2 * all.blanks);
        told.push(done);
        ControlFlow::Continue(())
    });
    assert_eq!(all, again.unwrap(), "the same seed");
    assert!(
        told.len() > 2 && told[0] == 0 && told.is_sorted_by(|a, b| a < b) && told.contains(&all.blanks),
        "{told:?}"
    );
    let broken_off = compare_with(&base, &adapted, &data, &options, |done, _| match done < all.blanks {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    });
    assert!(matches!(broken_off, Err(Error::Cancelled)));
    // What a showcase says is what a query says.
    for case in &all.showcases {
        let gold = base.rank_gold(&case.text, &case.gold).unwrap();
        assert_eq!(gold.rank, case.base.rank, "{case:?}");
        let asked = base.fill_mask(&case.text, 10).unwrap();
        assert_eq!(
            asked[0].iter().map(|fill| fill.token).collect::<Vec<_>>(),
            case.base.answers.iter().map(|fill| fill.token).collect::<Vec<_>>()
        );
    }
    assert!(!all.showcases.is_empty());
    let few = compare(&base, &adapted, &data, &CompareOptions { max_blanks: 17, ..options.clone() }).unwrap();
    assert_eq!(few.blanks, 17);
    let same = compare(&base, &base, &data, &options).unwrap();
    assert_eq!((same.difference.loss.value, same.difference.top1.high, same.kinds.gained), (0.0, 0.0, 0));
    assert!(compare(&base, &adapted, &data, &CompareOptions { mlm_probability: 0.0, ..options }).is_err());
}

/// The first of the usual names that is there.
fn browser() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROME") {
        return Some(named.into());
    }
    let paths: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome.exe"];
    let on_path = names.iter().flat_map(|name| paths.iter().map(move |path| path.join(name)));
    let elsewhere = [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    ];
    on_path.chain(elsewhere.map(PathBuf::from)).find(|path| path.is_file())
}

#[test]
fn the_page_renders_in_a_browser_and_holds_the_figures() {
    let Models { folder, base, adapted, songs } = models(&[]);
    let page = folder.path().join(if cfg!(windows) { "report &1.html" } else { "report <1>.html" });
    let args = ["compare", "--base", &base, "--adapted", &adapted, "--data", &songs, "--html", text(&page), "--json"];
    let comparison = json(&args);
    assert!(Path::new(&adapted).join("loss.svg").is_file());
    let settings: Value =
        serde_json::from_slice(&std::fs::read(format!("{adapted}/training_args.json")).unwrap()).unwrap();
    assert_eq!((&settings["max_steps"], &settings["dropout"]), (&24.into(), &false.into()));
    let source = std::fs::read_to_string(&page).unwrap();
    for fetches in ["src=\"http", "src=\"//", "href=\"http", "href=\"//", "url(", "@import", "<link", "<script"] {
        assert!(!source.contains(fetches), "nothing is fetched: {fetches}");
    }

    if std::env::var("RETTO_NO_BROWSER").as_deref() == Ok("1") {
        eprintln!("RETTO_NO_BROWSER=1: the page was not opened");
        return;
    }
    let browser = browser().expect("install Chromium or Chrome, or set RETTO_NO_BROWSER=1 to leave this out");
    let open = |more: &[&str]| {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new(&browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(more)
            .arg(&page)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!messages.contains("CONSOLE"), "{messages}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let dom = open(&["--dump-dom"]);
    for side in ["base", "adapted"] {
        for figure in ["loss", "top1", "top10", "mrr"] {
            let value = comparison[side][figure]["value"].as_f64().unwrap();
            assert!(dom.contains(&format!("{value:.3} [")), "{side} {figure} {value}");
        }
    }
    assert!(dom.contains(&format!("{} blanks", comparison["blanks"])));
    for (name, count) in comparison["kinds"].as_object().unwrap() {
        assert!(dom.contains(&format!("<td class=\"n\">{count}</td>")), "{name}");
    }
    assert!(dom.contains("<svg") && dom.contains("</svg>") && dom.contains("learning_rate"));
    let cases = comparison["showcases"].as_array().unwrap().len();
    assert!(cases > 0 && dom.matches("class=\"showcase\"").count() == cases);
    // On a phone nothing is wider than the screen.
    let picture = folder.path().join("phone.png");
    open(&["--window-size=390,2400", &format!("--screenshot={}", picture.display())]);
    assert!(std::fs::metadata(&picture).unwrap().len() > 10_000, "a picture of a page, not of nothing");
}
