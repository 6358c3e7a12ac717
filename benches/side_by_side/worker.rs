//! Retto's own worker: the protocol of benches/peers/README.md.

use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use retto::{Dtype, Gpu, GpuOptions, Model, TrainEvent, Trainer, TrainingArguments};
use serde_json::{Value, json};

type Answer = Result<Value, Box<dyn std::error::Error>>;

/// With a folder for what the command keeps in one, too: compiled shaders, and which kernels are the fastest.
pub fn open_gpu() -> retto::Result<Gpu> {
    Gpu::open_with(&GpuOptions {
        name: std::env::var("RETTO_DEVICE").ok(),
        cache_dir: Some("target/bench-models/cache".into()),
        ..GpuOptions::default()
    })
}

pub fn run(folder: &Path, dtype: Dtype) {
    let mut out = std::io::stdout().lock();
    let gpu = match open_gpu() {
        Ok(gpu) => gpu,
        Err(error) => {
            let _ = writeln!(out, "{}", json!({ "ready": false, "error": error.to_string() }));
            return;
        }
    };
    let adapter = gpu.adapter();
    let about = json!({
        "ready": true, "name": format!("retto {} ({gpu})", env!("CARGO_PKG_VERSION")), "adapter": gpu.to_string(),
        "adapter_name": adapter.name, "device": adapter.device_type, "dtype": dtype.to_string(),
    });
    let _ = writeln!(out, "{about}");
    // By the first request that needs it, as the others do.
    let mut model = None;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let request: Value = serde_json::from_str(&line).unwrap_or_default();
        if request["task"] == "quit" {
            break;
        }
        let answer = answer(&gpu, (folder, dtype), &mut model, &request);
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        let _ = writeln!(out, "{answer}").and_then(|()| out.flush());
    }
}

fn answer(gpu: &Gpu, (folder, dtype): (&Path, Dtype), model: &mut Option<Model>, request: &Value) -> Answer {
    let number = |key: &str| request[key].as_u64().ok_or(format!("{key} is missing")).map(|n| n as usize);
    let budget = Duration::from_secs_f64(request["seconds"].as_f64().unwrap_or(1.0));
    let task = request["task"].as_str().unwrap_or_default();
    if model.is_none() && ["fill", "adapt", "profile"].contains(&task) {
        *model = Some(Model::open_with_dtype(gpu, folder, dtype)?);
    }
    match task {
        // In a process of its own: those that are measured find what it kept.
        "tune" => Ok(retto::bench::tune(gpu).map(|()| json!({}))?),
        "ceiling" => Ok(
            json!({ "seconds": retto::bench::ceiling(gpu, budget)?.into_iter().map(f64::recip).collect::<Vec<_>>() }),
        ),
        "tilings" => {
            let shape = [number("m")?, number("n")?, number("k")?];
            Ok(json!({ "tilings": retto::bench::tilings(gpu, shape, request["dtype"] == "f16") }))
        }
        "gemm" => {
            let shape = [number("m")?, number("n")?, number("k")?];
            let half = request["dtype"] == "f16";
            let seconds = retto::bench::gemm(gpu, shape, half, request["tiling"].as_str(), budget)?;
            let chosen = retto::bench::chosen(gpu, shape, half);
            Ok(json!({ "seconds": seconds, "tiling": request["tiling"].as_str().unwrap_or(chosen) }))
        }
        "fill" => fill(model.as_ref().ok_or("no model")?, request, budget),
        "adapt" => adapt(model.as_ref().ok_or("no model")?, request, budget, || ()),
        "profile" => profile(model.as_ref().ok_or("no model")?, request),
        "memory" => Ok(json!({ "peak_host_bytes": peak_host_bytes("self"), "gpu_bytes": gpu.peak_memory_in_use() })),
        task => Err(format!("no task '{task}'").into()),
    }
}

fn fill(model: &Model, request: &Value, budget: Duration) -> Answer {
    let texts: Vec<String> = serde_json::from_value(request["texts"].clone())?;
    let top_k = request["top_k"].as_u64().unwrap_or(10) as usize;
    let run = || model.fill_mask_batch(&texts, top_k);
    for _ in 0..3 {
        run()?;
    }
    let (began, mut seconds, mut answers) = (Instant::now(), Vec::new(), Vec::new());
    while began.elapsed() < budget || seconds.len() < 5 {
        let run_began = Instant::now();
        answers = run()?;
        seconds.push(run_began.elapsed().as_secs_f64());
    }
    let first: Vec<_> = answers[0][0].iter().map(|fill| (&fill.token_str, fill.score)).collect();
    Ok(json!({ "seconds": seconds, "answers": first }))
}

/// Dispatches and their milliseconds by kernel of one query, or of one training step where there is a file, each dispatch by
/// itself.
fn profile(model: &Model, request: &Value) -> Answer {
    const QUERIES: u32 = 5;
    let texts: Vec<String> = serde_json::from_value(request["texts"].clone()).unwrap_or_default();
    let runs = if texts.is_empty() { request["steps"].as_u64().unwrap_or(3) as u32 } else { QUERIES };
    if !texts.is_empty() {
        model.fill_mask_batch(&texts, 10)?;
    }
    if texts.is_empty() {
        adapt(model, request, Duration::ZERO, retto::bench::profile::start)?;
    } else {
        retto::bench::profile::start();
        for _ in 0..QUERIES {
            model.fill_mask_batch(&texts, 10)?;
        }
    }
    let profile = retto::bench::profile::finish();
    let each = |(kernel, (dispatches, time)): (String, (u64, Duration))| {
        let runs = f64::from(runs);
        (kernel, [dispatches as f64 / runs, time.as_secs_f64() * 1e3 / runs])
    };
    Ok(json!({ "kernels": profile.into_iter().map(each).collect::<std::collections::BTreeMap<_, _>>() }))
}

/// So that none of them decides how long is measured.
const MOST_STEPS: u64 = 1_000_000;

/// The same job as the peers': lines of similar length together, dropout as the config says, clipping, AdamW.
/// So many steps, and on until the time is over. Calls `warmed_up` after the first one, which takes the largest batch.
fn adapt(model: &Model, request: &Value, budget: Duration, warmed_up: impl Fn()) -> Answer {
    let path = request["file"].as_str().ok_or("file is missing")?;
    let count = request["lines"].as_u64().unwrap_or(u64::MAX) as usize;
    let lines: Vec<String> = retto::read_lines(&[path.into()])?.into_iter().take(count).collect();
    let steps = request["steps"].as_u64().unwrap_or(3);
    let arguments = TrainingArguments {
        per_device_train_batch_size: request["batch_size"].as_u64().unwrap_or(32) as usize,
        group_by_length: true,
        max_steps: Some(MOST_STEPS),
        fp16: request["precision"] == "f16",
        seed: request["seed"].as_u64().unwrap_or(0),
        ..TrainingArguments::default()
    };
    let mut trainer = Trainer::new(model, arguments)?;
    let (mut seconds, mut tokens, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    let (mut all_began, mut began) = (Instant::now(), Instant::now());
    trainer.train(&lines, &[], |event| {
        if let TrainEvent::Step(report) = event {
            if report.step > 1 {
                seconds.push(began.elapsed().as_secs_f64());
                tokens.push(report.tokens);
                losses.push(report.loss);
            } else {
                warmed_up();
                all_began = Instant::now();
            }
            began = Instant::now();
            if report.step > steps && all_began.elapsed() >= budget {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(json!({ "seconds": seconds, "tokens": tokens, "loss": losses }))
}

/// Of a process since it began, where the system tells: the same figure as the Python workers'.
pub fn peak_host_bytes(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
