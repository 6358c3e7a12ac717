//! One function a table. Within a table the programs take turns, round by round, so that what else the machine does meets
//! all of them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::peer::{self, Peer};
use crate::report::{Cell, Sample, Table};

pub struct Options {
    /// Seconds that a program repeats a figure, all rounds together.
    pub seconds: f64,
    pub rounds: usize,
    pub lyrics: PathBuf,
    pub burn: bool,
    /// What Retto is started with.
    pub runner: Vec<String>,
    /// What Retto's worker calls itself.
    pub retto_is: String,
    /// The name of Retto's adapter.
    pub adapter: String,
    /// Whether that is software, which is compared with what others do on the CPU.
    pub on_cpu: bool,
}

/// Beside what CUDA is wanted for.
const NO_CUDA: &str = "CUDA is not used here";

impl Options {
    pub fn retto(&self, shape: &Shape) -> Peer {
        peer::retto(&shape.folder, &self.runner)
    }

    pub fn python(&self, label: &str, shape: &Shape, more: &[&str]) -> Peer {
        peer::python(label, &shape.folder, more, self.on_cpu).on(&self.adapter, "CUDA_VISIBLE_DEVICES")
    }

    /// As a user's program has it.
    pub fn transformers(&self, label: &str, shape: &Shape) -> Peer {
        self.python(label, shape, &["--peer", "transformers"])
    }

    pub fn burn(&self, shape: &Shape) -> Peer {
        match self.burn {
            true => peer::burn(&shape.folder, &self.runner, &self.adapter),
            false => Peer::absent("burn", "not asked for: --burn"),
        }
    }
}

/// A model of the comparison.
pub struct Shape {
    pub name: &'static str,
    pub folder: PathBuf,
}

/// What one of the programs measured, with its last answer; or why there is nothing.
pub type Measured = Result<(Sample, Value), String>;

/// Seconds of every peer for one request, in alternating rounds.
pub fn alternate(peers: &mut [Peer], request: &Value, options: &Options) -> Vec<Measured> {
    let requests: Vec<(usize, Value)> =
        peers.iter().enumerate().map(|(i, peer)| (i, for_peer(&peer.label, request))).collect();
    take_turns(peers, &requests, options)
}

/// The same for requests of their own, each to the peer of this number.
pub fn take_turns(peers: &mut [Peer], requests: &[(usize, Value)], options: &Options) -> Vec<Measured> {
    let mut all: Vec<Result<(Vec<f64>, Value), String>> =
        requests.iter().map(|_| Ok((Vec::new(), Value::Null))).collect();
    for _ in 0..options.rounds {
        for ((peer, request), result) in requests.iter().zip(&mut all) {
            let Ok((seconds, last)) = result else { continue };
            let mut request = request.clone();
            request["seconds"] = json!(options.seconds / options.rounds as f64);
            match peers[*peer].ask(&request) {
                Ok(answer) => {
                    seconds.extend(answer["seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64));
                    *last = answer;
                }
                Err(reason) => *result = Err(reason),
            }
        }
    }
    let finished = |(seconds, last): (Vec<f64>, Value)| match seconds.is_empty() {
        true => Err("it measured nothing".to_owned()),
        false => Ok((Sample::new(seconds), last)),
    };
    all.into_iter().map(|result| result.and_then(finished)).collect()
}

/// burn has no tokenizer: it is told the number of tokens where the others get texts.
fn for_peer(label: &str, request: &Value) -> Value {
    let mut request = request.clone();
    let other = if label == "burn" { "texts" } else { "tokens" };
    request.as_object_mut().expect("a request is an object").remove(other);
    request
}

/// A text of so many tokens with one blank: each word of it is one token of the models' vocabularies.
pub fn text_of(tokens: usize) -> String {
    const WORDS: [&str; 8] = ["the", "rain", "and", "you", "in", "my", "heart", "again"];
    let words = (0..tokens - 3).map(|i| WORDS[i % WORDS.len()]);
    words.chain(["[MASK]"]).collect::<Vec<_>>().join(" ")
}

fn fill_peers(shape: &Shape, options: &Options) -> Vec<Peer> {
    // Apart for each model, and never beside the bundled one, which is tracked.
    let cache = Path::new("target/bench-models/onnx").join(shape.folder.file_name().unwrap_or_default());
    let cache = cache.to_string_lossy();
    let onnxruntime = ["--peer", "onnxruntime", "--cache", &cache];
    let mut peers = vec![
        options.retto(shape),
        options.transformers("transformers, eager", shape),
        options.python("onnxruntime", shape, &onnxruntime),
    ];
    let on_cuda = peers[1].is_on_gpu();
    for (label, arguments) in [
        ("transformers, compile", &["--peer", "transformers", "--mode", "compile"][..]),
        ("transformers, cudagraphs", &["--peer", "transformers", "--mode", "cudagraphs"]),
        ("onnxruntime, cuda", &[&onnxruntime[..], &["--provider", "cuda"]].concat()),
    ] {
        peers.push(match on_cuda {
            true => options.python(label, shape, arguments),
            false => Peer::absent(label, NO_CUDA),
        });
    }
    peers.push(options.burn(shape));
    peers
}

/// Milliseconds from a text to its ten answers, one text at a time; and what memory that takes.
pub fn fill(shape: &Shape, options: &Options) -> Vec<Table> {
    let mut peers = fill_peers(shape, options);
    for (place, dtype) in ["float16", "int8"].into_iter().enumerate() {
        peers.insert(1 + place, peer::retto_in(dtype, &shape.folder, &options.runner));
    }
    let mut table = Table::of(format!("fill, {}, one text", shape.name), "ms", &peers);
    for tokens in [12, 32, 128] {
        let request = json!({ "task": "fill", "texts": [text_of(tokens)], "tokens": tokens, "top_k": 10 });
        let results = alternate(&mut peers, &request, options);
        let cells = results.into_iter().map(|result| {
            result.map(|(seconds, answer)| {
                let first = answer["first_seconds"].as_f64().filter(|&first| first > 1.0);
                Cell::noted(seconds.map(|s| s * 1e3), first.map_or(String::new(), |s| format!(", first {s:.0} s")))
            })
        });
        table.row(format!("{tokens} tokens"), cells.collect());
    }
    vec![table, memory(&format!("memory after filling, {}", shape.name), &mut peers)]
}

fn memory(title: &str, peers: &mut [Peer]) -> Table {
    let mut table = Table::of(title, "MiB", peers);
    for (name, key) in [("host, peak", "peak_host_bytes"), ("GPU, peak", "gpu_bytes")] {
        let cells = peers.iter_mut().map(|peer| {
            let bytes = peer.ask(&json!({ "task": "memory" }))?[key].as_f64().ok_or("it does not say")?;
            Ok(Cell::new(Sample::new(vec![bytes / f64::from(1 << 20)])))
        });
        table.row(name, cells.collect());
    }
    table
}

/// Real tokens a second of training, lines of similar length in batches of 32.
pub fn adapt(shape: &Shape, options: &Options) -> Vec<Table> {
    let mut peers = vec![options.retto(shape), options.transformers("transformers", shape), options.burn(shape)];
    let on_cuda = peers[1].is_on_gpu();
    let mut table = Table::of(format!("adapt, {}, lines in batches of 32", shape.name), "tokens/s", &peers);
    for (name, precision) in [("f32", ["f32", "f32"]), ("half: f16, bf16", ["f16", "bf16"])] {
        let half = precision[0] == "f16";
        if half && !on_cuda {
            // PyTorch's autocast to bf16 is for GPUs, as f16 is here.
            table.row(name, peers.iter().map(|peer| Err(peer.no_figure(NO_CUDA))).collect());
            continue;
        }
        let mut all = vec![Ok(Vec::new()); peers.len()];
        for round in 0..options.rounds {
            for (i, (peer, rates)) in peers.iter_mut().zip(&mut all).enumerate() {
                let Ok(known) = rates else { continue };
                let answer = match peer.label.as_str() {
                    "burn" if half => Err("f32 alone".to_owned()),
                    // It has no text: lines of the usual length.
                    "burn" => peer.ask(&json!({ "task": "adapt", "batch_size": 32, "length": 12, "steps": 8 })),
                    _ => peer.ask(&json!({
                        "task": "adapt", "file": options.lyrics, "lines": LINES, "batch_size": 32, "steps": 16,
                        "seconds": options.seconds / options.rounds as f64, "precision": precision[i.min(1)], "seed": round,
                    })),
                };
                match answer {
                    // Tokens of all steps by their time: batches differ in length.
                    Ok(answer) => known.push(sum(&answer["tokens"]) / sum(&answer["seconds"])),
                    Err(reason) => *rates = Err(reason),
                }
            }
        }
        table.row(name, all.into_iter().map(|rates| rates.map(|rates| Cell::new(Sample::new(rates)))).collect());
    }
    vec![table, memory(&format!("memory after adapting, {}", shape.name), &mut peers)]
}

/// Of the file, the first so many.
pub const LINES: usize = 2000;

fn sum(values: &Value) -> f64 {
    values.as_array().into_iter().flatten().filter_map(Value::as_f64).sum()
}

/// Where Retto's own time goes, by kernel.
pub fn profile(shape: &Shape, options: &Options) -> Vec<Table> {
    let mut retto = options.retto(shape);
    let train = json!({ "task": "profile", "file": options.lyrics, "lines": LINES, "batch_size": 32, "steps": 3 });
    let mut jobs: Vec<(String, Value)> = [12, 32, 128]
        .map(|tokens| (format!("fill, {tokens} tokens"), json!({ "task": "profile", "texts": [text_of(tokens)] })))
        .into();
    jobs.push(("a training step".into(), train));
    let mut tables = Vec::new();
    for (name, request) in jobs {
        let column = ["retto".to_owned()];
        let mut table =
            Table::new(format!("{name} by kernel, with its share and dispatches, {}", shape.name), "ms", &column);
        match retto.ask(&request) {
            Ok(answer) => {
                let all = answer["kernels"].as_object().into_iter().flatten();
                let numbers = |(k, pair): (&String, &Value)| Some((k.clone(), pair[0].as_f64()?, pair[1].as_f64()?));
                let mut all: Vec<(String, f64, f64)> = all.filter_map(numbers).collect();
                let total = |of: fn(&(String, f64, f64)) -> f64| all.iter().map(of).sum::<f64>();
                let (dispatches, total) = (total(|kernel| kernel.1), total(|kernel| kernel.2));
                all.sort_by(|a, b| b.2.total_cmp(&a.2));
                all.insert(0, ("all".into(), dispatches, total));
                for (kernel, dispatches, ms) in all {
                    let note = format!(" {:.0} % in {dispatches:.0}", ms * 100.0 / total);
                    table.row(kernel, vec![Ok(Cell::noted(Sample::new(vec![ms]), note))]);
                }
            }
            Err(reason) => table.row("all", vec![Err(reason)]),
        }
        tables.push(table);
    }
    tables
}
