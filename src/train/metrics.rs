//! `metrics.jsonl`: one JSON object a line, under the names transformers' Trainer logs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::events::{TrainEvent, TrainOutput};
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
    /// Whether anything was written yet.
    begun: bool,
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
        // An interrupted run's log stays until there is something to write: this run may yet be refused.
        let open = File::options().write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(Error::io(&path))?;
        Ok(Self { path, file, finished: folder.join(METRICS_FILE), begun: false })
    }

    /// Goes on with the log of a run that was taken up again at `step`: what it says of later steps is dropped, since it
    /// will be said again.
    ///
    /// # Errors
    /// As [`MetricsFile::create`].
    pub fn resume(folder: &Path, step: u64) -> Result<Self> {
        let earlier = [PART_FILE, METRICS_FILE].iter().find_map(|name| fs::read_to_string(folder.join(name)).ok());
        let mut metrics = Self::create(folder)?;
        for line in earlier.unwrap_or_default().lines() {
            // A line cut off by the interruption does not parse.
            let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            let before = entry.get("step").and_then(serde_json::Value::as_u64).is_some_and(|at| at <= step);
            if before && entry.get("train_runtime").is_none() {
                metrics.text(line)?;
            }
        }
        Ok(metrics)
    }

    /// Writes what an event has to say: `loss`, `grad_norm`, `learning_rate`, or the `eval_` figures.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn event(&mut self, event: &TrainEvent) -> Result<()> {
        match event {
            TrainEvent::Step(_) | TrainEvent::Saved { .. } => Ok(()),
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
        self.line(json!({
            "train_loss": output.train_loss,
            "train_runtime": output.runtime.as_secs_f64(),
            "train_samples_per_second": output.samples_per_second,
            "train_steps_per_second": output.steps_per_second,
            "train_tokens_per_second": output.tokens_per_second,
            "epoch": output.epoch,
            "step": output.steps,
        }))?;
        drop(self.file);
        fs::rename(&self.path, &self.finished).map_err(Error::io(&self.finished))
    }

    fn line(&mut self, value: serde_json::Value) -> Result<()> {
        self.text(&value.to_string())
    }

    fn text(&mut self, line: &str) -> Result<()> {
        if !self.begun {
            self.file.set_len(0).map_err(Error::io(&self.path))?;
            self.begun = true;
        }
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(Error::io(&self.path))
    }
}
