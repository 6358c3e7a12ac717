//! One function a table. Within a table the programs take turns, round by round, so that what else the machine does meets
//! all of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::peer::{self, Peer};
use crate::report::{Cell, Sample, Table, exponent};

pub struct Options {
    /// Seconds that a program repeats a figure, all rounds together.
    pub seconds: f64,
    pub rounds: usize,
    pub lyrics: PathBuf,
    pub burn: bool,
    /// What Retto is started with.
    pub runner: Vec<String>,
}

/// A model of the comparison.
pub struct Shape {
    pub name: &'static str,
    pub folder: PathBuf,
}

fn labels(peers: &[Peer]) -> Vec<String> {
    peers.iter().map(|peer| peer.label.clone()).collect()
}

/// Seconds of every peer for one request, in alternating rounds; with each peer's last answer.
fn alternate(peers: &mut [Peer], request: &Value, options: &Options) -> Vec<Result<(Sample, Value), String>> {
    let mut request = request.clone();
    request["seconds"] = json!(options.seconds / options.rounds as f64);
    let mut all: Vec<Result<(Vec<f64>, Value), String>> = peers.iter().map(|_| Ok((Vec::new(), Value::Null))).collect();
    for _ in 0..options.rounds {
        for (peer, result) in peers.iter_mut().zip(&mut all) {
            let Ok((seconds, last)) = result else { continue };
            match peer.ask(&for_peer(&peer.label, &request)) {
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

/// GFLOP/s of `y = x W^T + b`, and each of Retto's kernels beside the one that is chosen.
pub fn gemm(base: &Shape, options: &Options) -> Vec<Table> {
    let mut peers = vec![
        peer::retto(&base.folder, &options.runner),
        peer::python("torch", &base.folder, &["--peer", "transformers"]),
        peer::python("onnxruntime", &base.folder, &["--peer", "onnxruntime"]),
    ];
    if options.burn {
        peers.push(peer::burn(&base.folder, &options.runner));
    }
    let ceiling = peers[0].ask(&json!({ "task": "ceiling", "seconds": options.seconds }));
    let ceiling = ceiling.map(|answer| {
        Sample::new(answer["flops"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect())
    });
    let best = ceiling.as_ref().map_or(f64::NAN, |sample| sample.quantile(1.0));
    let mut table = Table::new("GEMM, x[m,k] W[n,k]^T + b", "GFLOP/s", &labels(&peers));
    let mut row = vec![ceiling.map(|sample| Cell::new(sample.map(|x| x / 1e9)))];
    row.extend(peers.iter().skip(1).map(|_| Err("a ceiling of Retto's adapter".to_owned())));
    table.row("multiply-adds on registers", row);
    let mut shapes = vec![[256u64, 768, 768]];
    for m in [12, 128, 1024] {
        shapes.extend([[m, 768, 768], [m, 3072, 768], [m, 768, 3072], [m, 30_522, 768]]);
    }
    for [m, n, k] in shapes {
        let request = json!({ "task": "gemm", "m": m, "n": n, "k": k });
        let flops = flops_of([m, n, k]);
        let cells = alternate(&mut peers, &request, options).into_iter().enumerate().map(|(i, result)| {
            result.map(|(seconds, answer)| {
                let rate = seconds.map(|s| flops / s / 1e9);
                let note = match i {
                    0 => format!(
                        " {:.0} % {}",
                        rate.median() * 1e11 / best,
                        answer["tiling"].as_str().unwrap_or_default()
                    ),
                    _ => String::new(),
                };
                Cell::noted(rate, note)
            })
        });
        table.row(format!("{m} x {n} x {k}"), cells.collect());
    }

    let names = peers[0].ask(&json!({ "task": "tilings" })).map(|answer| answer["tilings"].clone()).unwrap_or_default();
    let names: Vec<String> = serde_json::from_value(names).unwrap_or_default();
    let mut kernels = Table::new("Retto's kernels on this adapter", "GFLOP/s", &names);
    for [m, n, k] in [[12, 768, 768], [32, 768, 768], [256, 768, 768], [128, 3072, 768]] {
        let cells = names.iter().map(|name| {
            let request = json!({ "task": "gemm", "m": m, "n": n, "k": k, "tiling": name });
            let flops = flops_of([m, n, k]);
            let result = alternate(&mut peers[..1], &request, options).remove(0);
            result.map(|(seconds, _)| Cell::new(seconds.map(|s| flops / s / 1e9)))
        });
        kernels.row(format!("{m} x {n} x {k}"), cells.collect());
    }
    vec![table, kernels]
}

fn flops_of(shape: [u64; 3]) -> f64 {
    2.0 * shape.map(|n| n as f64).iter().product::<f64>()
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
    let transformers = ["--peer", "transformers"];
    let mut peers = vec![
        peer::retto(&shape.folder, &options.runner),
        peer::python("transformers, eager", &shape.folder, &transformers),
        peer::python("onnxruntime", &shape.folder, &["--peer", "onnxruntime", "--cache", &cache]),
    ];
    let on_cuda = peers[1].about()["cuda"].is_string();
    for mode in ["compile", "cudagraphs"].into_iter().filter(|_| on_cuda) {
        let label = format!("transformers, {mode}");
        peers.push(peer::python(&label, &shape.folder, &[&transformers[..], &["--mode", mode]].concat()));
    }
    if options.burn {
        peers.push(peer::burn(&shape.folder, &options.runner));
    }
    peers
}

/// Milliseconds from a text to its ten answers, one text at a time; and what memory that takes.
pub fn fill(shape: &Shape, options: &Options) -> Vec<Table> {
    let mut peers = fill_peers(shape, options);
    for (place, dtype) in ["float16", "int8"].into_iter().enumerate() {
        peers.insert(1 + place, peer::retto_in(dtype, &shape.folder, &options.runner));
    }
    let mut table = Table::new(format!("fill, {}, one text", shape.name), "ms", &labels(&peers));
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
    let mut table = Table::new(title, "MiB", &labels(peers));
    for (name, key) in [("host, peak", "peak_host_bytes"), ("GPU", "gpu_bytes")] {
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
    let mut peers = vec![
        peer::retto(&shape.folder, &options.runner),
        peer::python("transformers", &shape.folder, &["--peer", "transformers"]),
    ];
    if options.burn {
        peers.push(peer::burn(&shape.folder, &options.runner));
    }
    let on_cuda = peers[1].about()["cuda"].is_string();
    let mut table = Table::new(format!("adapt, {}, lines in batches of 32", shape.name), "tokens/s", &labels(&peers));
    let mut precisions = vec![("f32", ["f32", "f32"])];
    if on_cuda {
        precisions.push(("half: f16, bf16", ["f16", "bf16"]));
    }
    for (name, precision) in precisions {
        let mut all = vec![Ok(Vec::new()); peers.len()];
        for round in 0..options.rounds {
            for (i, (peer, rates)) in peers.iter_mut().zip(&mut all).enumerate() {
                let request = match peer.label.as_str() {
                    // It has no text: lines of the usual length.
                    "burn" => json!({ "task": "adapt", "batch_size": 32, "length": 12, "steps": 8 }),
                    _ => json!({
                        "task": "adapt", "file": options.lyrics, "lines": 2000, "batch_size": 32, "steps": 4,
                        "precision": precision[i.min(1)], "seed": round,
                    }),
                };
                let answer = peer.ask(&request);
                let Ok(known) = rates else { continue };
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

fn sum(values: &Value) -> f64 {
    values.as_array().into_iter().flatten().filter_map(Value::as_f64).sum()
}

/// Where Retto's own time goes, by kernel.
pub fn profile(shape: &Shape, options: &Options) -> Vec<Table> {
    let mut retto = peer::retto(&shape.folder, &options.runner);
    let train = json!({ "task": "profile", "file": options.lyrics, "lines": 2000, "batch_size": 32, "steps": 3 });
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

/// Seconds from the start of a process to its first answer.
pub fn cold(shape: &Shape, options: &Options) -> Vec<Table> {
    let text = text_of(12);
    let retto = |shader_cache: &Path| {
        let mut command = peer::under(&options.runner, env!("CARGO_BIN_EXE_retto").as_ref());
        command.args(["fill", "--json", "--model"]).arg(&shape.folder).arg(&text);
        // Mesa's own cache of compiled shaders, and Retto's.
        command.env("MESA_SHADER_CACHE_DIR", shader_cache).env("RETTO_CACHE_DIR", shader_cache);
        command
    };
    let python = |more: &[&str]| {
        let mut command = Command::new(peer::python_path()?);
        command.arg("benches/peers/cold.py").arg("--model").arg(&shape.folder).args(["--text", &text]).args(more);
        Some(command)
    };
    let columns = ["retto, caches cold", "retto, caches warm", "transformers, pipeline", "transformers, direct"];
    let mut table =
        Table::new(format!("from process start to the first answer, {}", shape.name), "s", &columns.map(String::from));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut all: Vec<Result<Vec<f64>, String>> = vec![Ok(Vec::new()); columns.len()];
    for round in 0..options.rounds {
        let fresh = folder.path().join(format!("round-{round}"));
        let commands = [
            Some(retto(&fresh)),
            // What the one before left.
            Some(retto(&fresh)),
            python(&[]),
            python(&["--direct"]),
        ];
        for (command, seconds) in commands.into_iter().zip(&mut all) {
            let measured = command.ok_or_else(|| "no Python environment".to_owned()).and_then(timed);
            match (seconds.as_mut(), measured) {
                (Ok(known), Ok(time)) => known.push(time),
                (_, Err(reason)) => *seconds = Err(reason),
                _ => {}
            }
        }
    }
    table.row("12 tokens", all.into_iter().map(|runs| runs.map(|runs| Cell::new(Sample::new(runs)))).collect());
    vec![table]
}

fn timed(mut command: Command) -> Result<f64, String> {
    let began = Instant::now();
    let output = command.output().map_err(|error| error.to_string())?;
    let seconds = began.elapsed().as_secs_f64();
    match output.status.success() {
        true => Ok(seconds),
        false => Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it failed").to_owned()),
    }
}

/// How time grows: with the length of a text, with the number of texts in one call, with the size of a corpus.
pub fn growth(shape: &Shape, options: &Options) -> Vec<Table> {
    let mut peers = vec![
        peer::retto(&shape.folder, &options.runner),
        peer::python("transformers", &shape.folder, &["--peer", "transformers"]),
    ];
    let mut tables = Vec::new();
    let lengths = [8, 16, 32, 64, 128, 256, 512];
    let batches = [1, 4, 16, 64, 256];
    for (title, xs, by_length) in [
        (format!("one text by its tokens, {}", shape.name), &lengths[..], true),
        (format!("texts of 12 tokens by their number, {}", shape.name), &batches[..], false),
    ] {
        let mut table = Table::new(title, "ms", &labels(&peers));
        let mut points = vec![Vec::new(); peers.len()];
        for &x in xs {
            let texts = if by_length { vec![text_of(x)] } else { vec![text_of(12); x] };
            let results = alternate(&mut peers, &json!({ "task": "fill", "texts": texts, "top_k": 10 }), options);
            let mut cells = Vec::new();
            for (result, points) in results.into_iter().zip(&mut points) {
                cells.push(result.map(|(seconds, _)| {
                    points.push((x as f64, seconds.median()));
                    Cell::new(seconds.map(|s| s * 1e3))
                }));
            }
            table.row(x.to_string(), cells);
        }
        let fitted = points.iter().map(|points| match points.len() {
            0 | 1 => Err("too few points".to_owned()),
            _ => Ok(Cell::new(Sample::new(vec![exponent(points)]))),
        });
        table.row("exponent, fitted", fitted.collect());
        tables.push(table);
    }
    tables.push(preparing(shape, options));
    tables
}

fn preparing(shape: &Shape, options: &Options) -> Table {
    let mut table = Table::new("retto prepare by MB of text", "s", &["retto".to_owned()]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lyrics = std::fs::read(&options.lyrics).unwrap_or_default();
    let mut points = Vec::new();
    for megabytes in [1usize, 4, 16] {
        let corpus = folder.path().join(format!("{megabytes}.txt"));
        let text: Vec<u8> = lyrics.iter().copied().cycle().take(megabytes * 1_000_000).collect();
        std::fs::write(&corpus, text).expect("a corpus");
        let mut runs = Vec::new();
        for _ in 0..options.rounds {
            let mut command = Command::new(env!("CARGO_BIN_EXE_retto"));
            command.args(["prepare", "--data"]).arg(&corpus).arg("--model").arg(&shape.folder);
            command.arg("--output").arg(folder.path().join("cache"));
            runs.push(timed(command));
        }
        let runs: Result<Vec<f64>, String> = runs.into_iter().collect();
        if let Ok(runs) = &runs {
            points.push((megabytes as f64, Sample::new(runs.clone()).median()));
        }
        table.row(megabytes.to_string(), vec![runs.map(|runs| Cell::new(Sample::new(runs)))]);
    }
    if points.len() > 1 {
        table.row("exponent, fitted", vec![Ok(Cell::new(Sample::new(vec![exponent(&points)])))]);
    }
    table
}
