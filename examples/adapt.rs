//! Adapts the small model to song lyrics, and shows what it answers before and after.
//!
//! `cargo run --release --example adapt [-- LYRICS OUTPUT]`, from the repository's root

use std::collections::HashSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use retto::{Gpu, Model, TrainEvent, Trainer, TrainingArguments};

const BLANKS: [&str; 4] = [
    "lipstick stains on the [MASK]",
    "i miss you every [MASK]",
    "meet me down by the [MASK]",
    "oh my [MASK] is breaking",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let lyrics = arguments.next().unwrap_or("data/lyrics/original.txt".into());
    let output = arguments.next().unwrap_or("output/adapted".into());

    let gpu = Gpu::open_default()?;
    println!("{gpu}");
    let base = Model::open(&gpu, "models/retto-tiny")?;
    let lines = retto::read_lines(&[lyrics])?;
    // One line in twenty is held out, to see whether the model reads lyrics better and not only these. A line that comes
    // again in a chorus is held out every time.
    let held_out: HashSet<&String> = lines.iter().step_by(20).collect();
    let (held_out, training): (Vec<&String>, Vec<&String>) = lines.iter().partition(|line| held_out.contains(line));
    println!("adapting on {} lines, {} held out", training.len(), held_out.len());

    let arguments = TrainingArguments {
        num_train_epochs: 8.0,
        learning_rate: 1e-3,
        warmup_ratio: 0.1,
        weight_decay: 0.01,
        per_device_train_batch_size: 32,
        ..Default::default()
    };
    let mut trainer = Trainer::new(&base, arguments)?;
    trainer.train(&training, &[], |event| {
        if let TrainEvent::Step(step) = event {
            draw_bar(step);
        }
        ControlFlow::Continue(())
    })?;
    eprintln!();
    let adapted = trainer.into_model();
    adapted.save(&output)?;
    println!("saved to {}\n", output.display());

    for blank in BLANKS {
        let (before, after) = (base.fill_mask(blank, 10)?.remove(0), adapted.fill_mask(blank, 10)?.remove(0));
        println!("{blank}\n  {:<26}adapted", "base");
        for (before, after) in before.iter().zip(&after) {
            let cell = |fill: &retto::Fill| format!("{:.4}  {}", fill.score, fill.token_str);
            println!("  {:<26}{}", cell(before), cell(after));
        }
        println!();
    }
    let measure = |model: &Model| model.evaluate(&held_out, &Default::default());
    let (before, after) = (measure(&base)?, measure(&adapted)?);
    println!("held-out lines        base  adapted");
    println!("  loss              {:>6.3}   {:>6.3}", before.loss, after.loss);
    println!("  top-1 accuracy    {:>6.3}   {:>6.3}", before.top1_accuracy, after.top1_accuracy);
    println!("  top-10 accuracy   {:>6.3}   {:>6.3}", before.top10_accuracy, after.top10_accuracy);
    Ok(())
}

/// `[######......]  12/38  loss 5.123  2100 tokens/s  14 s left`, over itself.
fn draw_bar(step: &retto::StepReport) {
    const WIDTH: u64 = 30;
    let done = (step.step * WIDTH / step.max_steps.max(1)) as usize;
    let bar = format!("{}{}", "#".repeat(done), ".".repeat(WIDTH as usize - done));
    let seconds_left = step.seconds_left.round();
    eprint!(
        "\r[{bar}] {:>4}/{}  loss {:.3}  {:.0} tokens/s  {seconds_left} s left   ",
        step.step, step.max_steps, step.loss, step.tokens_per_second
    );
    let _ = std::io::stderr().flush();
}
