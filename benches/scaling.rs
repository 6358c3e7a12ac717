//! `make bench-scaling`: what several devices cost each other. Prints one JSON object a line; docs/scaling.md is made of them.
//!
//!     scaling sums                threads of this process, 1 to 4; under mpirun the processes there are
//!     scaling steps [LINES]       training steps of a model of BERT-base's shape, whole and low-rank, on 1 to 4 devices of one adapter

use std::time::Instant;

use retto::{BertConfig, Gpu, LoraConfig, Model, PackedBatch, Result, Tokenizer, Trainer, TrainingArguments, bench};
use serde_json::json;

const ROUNDS: usize = 9;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn gpu() -> Result<Gpu> {
    match std::env::var("RETTO_DEVICE") {
        Ok(device) if !device.is_empty() => Gpu::open(&device),
        _ => Gpu::open_default(),
    }
}

/// From a kilobyte to 64 megabytes.
fn lengths() -> impl Iterator<Item = usize> {
    (8..=24).step_by(2).map(|power| 1usize << power)
}

fn sums() -> Result<()> {
    #[cfg(feature = "mpi")]
    if std::env::var_os("OMPI_COMM_WORLD_SIZE").or_else(|| std::env::var_os("PMI_SIZE")).is_some() {
        let mpi = retto::Mpi::init()?;
        for len in lengths() {
            let seconds = median(bench::sums_of_processes(&mpi, len, ROUNDS)?);
            if mpi.rank() == 0 {
                println!(
                    "{}",
                    json!({ "sum": "processes", "ranks": mpi.size(), "bytes": 4 * len, "seconds": seconds })
                );
            }
        }
        return Ok(());
    }
    for (ranks, len) in [2, 3, 4].into_iter().flat_map(|ranks| lengths().map(move |len| (ranks, len))) {
        let seconds = median(bench::sums_of_threads(ranks, len, ROUNDS)?);
        println!("{}", json!({ "sum": "threads", "ranks": ranks, "bytes": 4 * len, "seconds": seconds }));
    }
    let gpu = gpu()?;
    for len in lengths() {
        let seconds = median(bench::staging(&gpu, len, ROUNDS)?);
        println!("{}", json!({ "staging": gpu.to_string(), "bytes": 4 * len, "seconds": seconds }));
    }
    Ok(())
}

fn steps(lines: usize) -> Result<()> {
    let gpu = gpu()?;
    let tokenizer = Tokenizer::open("models/retto-tiny")?;
    // BERT-base but for its vocabulary, which is the tokenizer's; so the gradient is 355 MB and not 438.
    let config = BertConfig::new(tokenizer.vocab_size());
    let model = Model::init(&gpu, config, tokenizer, 1)?;
    // Lines of twelve tokens, two of them masked.
    let batches: Vec<PackedBatch> = (0..lines as u32)
        .map(|line| {
            let mut batch = PackedBatch::default();
            let ids: Vec<u32> = (0..12).map(|token| 100 + (line * 37 + token * 101) % 3000).collect();
            batch.push_masked(&ids, &[(3, 200), (8, 300)]);
            batch
        })
        .collect();
    for lora in [None, Some(LoraConfig { r: 8, lora_alpha: 16.0, ..Default::default() })] {
        for devices in [1, 2, 4] {
            let others = (1..devices).map(|_| self::gpu()).collect::<Result<Vec<_>>>()?;
            let arguments = TrainingArguments { lora: lora.clone(), dropout: false, ..Default::default() };
            let mut trainer = Trainer::with_devices(&model, &others, arguments)?;
            // Each device's lines as one batch.
            let own: Vec<PackedBatch> =
                (0..devices).map(|rank| joined(batches.iter().skip(rank).step_by(devices))).collect();
            trainer.train_step_accumulated(&own, 1e-5)?;
            let (mut seconds, mut between) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                let began = Instant::now();
                trainer.train_step_accumulated(&own, 1e-5)?;
                seconds.push(began.elapsed().as_secs_f64());
                between.push(bench::communication(&trainer));
            }
            let numbers = bench::trained_numbers(&trainer);
            // In pieces of about a layer, as they travel.
            let piece = numbers.min(1 << 23);
            let staging = median(bench::staging(&gpu, piece, 5)?) * numbers as f64 / piece as f64;
            let entry = json!({
                "step": if lora.is_some() { "low-rank" } else { "whole" }, "devices": devices, "adapter": gpu.to_string(),
                "lines": lines, "tokens": 12 * lines, "bytes": 4 * numbers, "seconds": median(seconds),
                "between_devices": median(between), "staging": staging,
            });
            println!("{entry}");
        }
    }
    Ok(())
}

fn joined<'b>(batches: impl Iterator<Item = &'b PackedBatch>) -> PackedBatch {
    let mut all = PackedBatch::default();
    for batch in batches {
        let labels: Vec<(u32, u32)> = batch.masked_rows.iter().copied().zip(batch.labels.iter().copied()).collect();
        all.push_masked(&batch.input_ids, &labels);
    }
    all
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("sums") => sums(),
        Some("steps") => steps(arguments.get(1).and_then(|lines| lines.parse().ok()).unwrap_or(16)),
        _ => {
            eprintln!("usage: scaling sums | scaling steps [LINES]");
            std::process::exit(2);
        }
    }
}
