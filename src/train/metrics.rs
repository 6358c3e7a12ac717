//! `metrics.jsonl`: one JSON object a line, under the names transformers' Trainer logs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::trainer::{TrainEvent, TrainOutput};
use crate::error::{Error, Result};

/// The file's name in a training run's output.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Writes a run's log as it happens. Each line is complete before the next begins, so that an interrupted run's log reads.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    /// The name it gets when the run is complete.
    finished: PathBuf,
}

/// What the log is called until the run is complete.
const PART_FILE: &str = "metrics.jsonl.part";

impl MetricsFile {
    /// Starts the log in `folder`, which is created if need be. It is called `metrics.jsonl.part` until
    /// [`MetricsFile::finish`], so that a run which fails leaves an earlier run's log as it was.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder or file cannot be written: found out before training, not after.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(PART_FILE);
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file, finished: folder.join(METRICS_FILE) })
    }

    /// Writes what an event has to say: `loss`, `grad_norm`, `learning_rate`, or the `eval_` figures.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn event(&mut self, event: &TrainEvent) -> Result<()> {
        match event {
            TrainEvent::Step(_) => Ok(()),
            TrainEvent::Log { report, loss } => self.line(json!({
                "loss": loss,
                "grad_norm": report.grad_norm,
                "learning_rate": report.learning_rate,
                "epoch": report.epoch,
                "step": report.step,
            })),
            TrainEvent::Evaluated { evaluation, epoch, step, runtime } => self.line(json!({
                "eval_loss": evaluation.loss,
                "eval_perplexity": evaluation.perplexity,
                "eval_top1_accuracy": evaluation.top1_accuracy,
                "eval_top10_accuracy": evaluation.top10_accuracy,
                "eval_masked_tokens": evaluation.masked_tokens,
                "eval_runtime": runtime.as_secs_f64(),
                "epoch": epoch,
                "step": step,
            })),
        }
    }

    /// Writes the closing line, and puts the log in the place of an earlier run's.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn finish(mut self, output: &TrainOutput) -> Result<()> {
        let seconds = output.runtime.as_secs_f64();
        let per_second = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
        self.line(json!({
            "train_loss": output.train_loss,
            "train_runtime": seconds,
            "train_samples_per_second": per_second(output.samples as f64),
            "train_steps_per_second": per_second(output.steps as f64),
            "train_tokens_per_second": per_second(output.tokens as f64),
            "epoch": output.epoch,
            "step": output.steps,
        }))?;
        drop(self.file);
        fs::rename(&self.path, &self.finished).map_err(Error::io(&self.finished))
    }

    fn line(&mut self, value: serde_json::Value) -> Result<()> {
        self.file.write_all(format!("{value}\n").as_bytes()).map_err(Error::io(&self.path))
    }
}
