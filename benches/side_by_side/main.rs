//! `make bench`: Retto beside its peers, on the same machine, in the same run.
//!
//! Each program is a process of its own and they take turns. A peer that is not there is named as absent.

mod cold;
mod gemm;
mod growth;
mod measures;
mod peer;
mod report;
mod worker;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use measures::{Options, Shape};
use retto::{BertConfig, Model, Tokenizer};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// Tables: gemm, fill, adapt, cold, growth; and profile, of Retto alone
    #[arg(long, value_delimiter = ',', default_value = "gemm,fill,adapt,cold,growth")]
    only: Vec<String>,
    /// Models: base, mini, bundled
    #[arg(long, value_delimiter = ',', default_value = "base,mini,bundled")]
    models: Vec<String>,
    /// Seconds that each program repeats a figure
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Turns that the programs take
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Lines to adapt to
    #[arg(long, default_value = "data/lyrics/original.txt")]
    lyrics: PathBuf,
    /// With burn, whose first calls take minutes
    #[arg(long)]
    burn: bool,
    /// Seconds that an answer of a program may take, after which it is ended and told to be absent
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    patience: u64,
    /// A program that Retto and burn are started by, with its arguments: another driver's, say
    #[arg(long, value_name = "COMMAND", default_value = "")]
    runner: String,
    /// Where the same is written as JSON
    #[arg(long, default_value = "output/bench.json")]
    json: PathBuf,
    /// What cargo hands over
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("worker") {
        let folder = arguments.next().expect("a model's folder");
        let dtype = arguments.next().and_then(|name| name.parse().ok()).expect("what its weights are kept in");
        return worker::run(Path::new(&folder), dtype);
    }
    let args = Args::parse();
    let _ = peer::PATIENCE.set(Duration::from_secs(args.patience));
    let runner: Vec<String> = args.runner.split_whitespace().map(str::to_owned).collect();
    let about = tuned(&runner);
    let options = Options {
        seconds: args.seconds,
        rounds: args.rounds.max(1),
        lyrics: args.lyrics.clone(),
        burn: args.burn,
        retto_is: about["name"].as_str().unwrap_or_default().to_owned(),
        adapter: about["adapter_name"].as_str().unwrap_or_default().to_owned(),
        on_cpu: about["device"] == "cpu",
        runner,
    };
    // Those that are read, of more.
    let lines =
        retto::read_lines(std::slice::from_ref(&options.lyrics)).map_or(0, |all| all.len().min(measures::LINES));
    let machine = machine(&about);
    println!("{}", machine["adapter"].as_str().unwrap_or_default());
    println!("{}, {} cores", machine["processor"].as_str().unwrap_or("processor unknown"), machine["cores"]);
    println!(
        "each figure repeated for {} s in {} turns; {lines} lines of {}",
        options.seconds,
        options.rounds,
        options.lyrics.display()
    );

    let base = shape("base");
    let shapes: Vec<Shape> = args.models.iter().map(|name| shape(name)).collect();
    let (mut tables, mut programs) = (Vec::new(), BTreeSet::new());
    for wanted in &args.only {
        let new = match wanted.as_str() {
            "gemm" => gemm::gemm(&base, &options),
            "fill" => shapes.iter().flat_map(|shape| measures::fill(shape, &options)).collect(),
            "adapt" => shapes.iter().flat_map(|shape| measures::adapt(shape, &options)).collect(),
            "cold" => shapes.iter().flat_map(|shape| cold::cold(shape, &options)).collect(),
            "profile" => shapes.iter().flat_map(|shape| measures::profile(shape, &options)).collect(),
            "growth" => growth::growth(&shape("mini"), &options),
            other => panic!("no table '{other}': gemm, fill, adapt, cold, growth, profile"),
        };
        for table in new {
            table.print();
            programs.extend(table.programs().map(str::to_owned));
            tables.push(table.json());
        }
    }
    println!("\nmeasured: {}", programs.into_iter().collect::<Vec<_>>().join("; "));
    if let Some(folder) = args.json.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let how = json!({
        "seconds": options.seconds, "rounds": options.rounds, "lyrics": options.lyrics, "lines": lines,
        "runner": options.runner, "burn": options.burn,
    });
    let report = json!({ "machine": machine, "options": how, "tables": tables });
    std::fs::write(&args.json, serde_json::to_string_pretty(&report).unwrap()).expect("the JSON can be written");
    println!("\nthe same as JSON: {}", args.json.display());
}

/// What a worker says of itself, after it has measured which kernels are the fastest, as the command does before it adapts. The worker may run on
/// another driver.
fn tuned(runner: &[String]) -> Value {
    let mut retto = peer::retto(Path::new("models/retto-tiny"), runner);
    if let Err(reason) = retto.ask(&json!({ "task": "tune" })) {
        panic!("Retto itself is absent: {reason}");
    }
    retto.about()
}

fn machine(about: &Value) -> Value {
    let processor = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|info| {
        let line = info.lines().find(|line| line.starts_with("model name"))?.to_owned();
        Some(line.split(": ").nth(1)?.to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "adapter": about["adapter"], "processor": processor, "cores": cores })
}

/// A model of this shape with random weights, made once; the bundled one is real.
fn shape(name: &str) -> Shape {
    let bundled = PathBuf::from("models/retto-tiny");
    let (name, hidden, layers, heads) = match name {
        "base" => ("BERT-base", 768, 12, 12),
        "mini" => ("bert-mini", 256, 4, 4),
        "bundled" => return Shape { name: "the bundled model", folder: bundled },
        other => panic!("no model '{other}': base, mini, bundled"),
    };
    let folder = PathBuf::from(format!("target/bench-models/{name}"));
    if !folder.join("config.json").exists() {
        eprintln!("making {}", folder.display());
        let mut config = BertConfig::new(VOCABULARY);
        (config.hidden_size, config.num_hidden_layers) = (hidden, layers);
        (config.num_attention_heads, config.intermediate_size) = (heads, 4 * hidden);
        let tokenizer = tokenizer(&bundled, folder.parent().unwrap());
        config.pad_token_id = tokenizer.pad_token_id();
        let model = Model::init(&worker::open_gpu().unwrap_or_else(|error| panic!("{error}")), config, tokenizer, 1)
            .and_then(|model| {
                model.save(&folder)?;
                Ok(model)
            });
        model.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    }
    Shape { name, folder }
}

/// That of bert-base-uncased.
const VOCABULARY: usize = 30_522;

/// The bundled model's words, and unused ones up to BERT's number: sizes are BERT's, and texts are still words.
fn tokenizer(bundled: &Path, folder: &Path) -> Tokenizer {
    let words = std::fs::read_to_string(bundled.join("vocab.txt")).expect("the bundled model's vocabulary");
    let mut words: Vec<String> = words.lines().map(str::to_owned).collect();
    words.extend((words.len()..VOCABULARY).map(|i| format!("[unused{i}]")));
    let folder = folder.join("vocabulary");
    std::fs::create_dir_all(&folder).expect("a folder for the vocabulary");
    std::fs::write(folder.join("vocab.txt"), words.join("\n") + "\n").expect("a vocabulary");
    Tokenizer::open(&folder).unwrap_or_else(|error| panic!("{error}"))
}
