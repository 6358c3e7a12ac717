//! `metrics.jsonl`: one JSON object a line, under the names transformers' Trainer logs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::events::{TrainEvent, TrainOutput};
use crate::error::{Error, Result};
use crate::files::rename;

/// The file's name in a training run's output.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Writes a run's log as it happens. Each line is complete before the next begins, so that an interrupted run's log reads.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    /// Where it is this run's: anything was written yet, or a checkpoint refers to it.
    file: Option<File>,
    /// What it begins with: what an earlier run said up to where this one goes on.
    kept: String,
    /// The name it gets when the run is complete.
    finished: PathBuf,
    /// Whether there was no such file.
    is_new: bool,
    /// The step that it goes on from, where its log has an evaluation of that: one that a run owes when it is taken up may have been told of
    /// before it was cut off.
    evaluated: Option<u64>,
}

/// What the log is called until the run is complete.
const PART_FILE: &str = "metrics.jsonl.part";

/// What it is written as until it takes the place of an earlier run's.
const BESIDE: &str = ".metrics.jsonl.next";

impl MetricsFile {
    /// Starts the log in `folder`, which is created if need be. It is called `metrics.jsonl.part` until
    /// [`MetricsFile::finish`], so that a run which fails leaves an earlier run's log as it was.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder or file cannot be written: found out before training, not after.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(PART_FILE);
        // An earlier run's log stays until there is something to write: this run may yet be refused.
        let is_new = !path.exists();
        File::options().write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        let finished = folder.join(METRICS_FILE);
        Ok(Self { path, file: None, kept: String::new(), finished, is_new, evaluated: None })
    }

    /// Whether a run began in this folder, or is going on, that has not come to its end.
    pub fn is_unfinished(folder: &Path) -> bool {
        folder.join(PART_FILE).exists()
    }

    /// Goes on with the log of a run that was taken up again at `step`: what it says of later steps is dropped, since it
    /// will be said again.
    ///
    /// # Errors
    /// As [`MetricsFile::create`].
    pub fn resume(folder: &Path, step: u64) -> Result<Self> {
        let mut earlier = Vec::new();
        for name in [PART_FILE, METRICS_FILE] {
            match fs::read(folder.join(name)) {
                Ok(log) => {
                    earlier = log;
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(folder.join(name))(error)),
            }
        }
        let earlier = String::from_utf8_lossy(&earlier);
        let (mut kept, mut evaluated) = (String::new(), false);
        for line in earlier.lines() {
            // A line cut off by the interruption does not parse.
            let entry = serde_json::from_str::<serde_json::Value>(line).unwrap_or_default();
            let Some(at) = entry["step"].as_u64().filter(|at| *at <= step) else { continue };
            if entry.get("train_runtime").is_none() {
                kept += &format!("{line}\n");
                evaluated |= at == step && entry.get("eval_loss").is_some();
            }
        }
        // Here, too, nothing is written yet; and a log that is empty would say that nothing was ever said.
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let (path, beside) = (folder.join(PART_FILE), folder.join(BESIDE));
        File::create(&beside).map_err(Error::io(&beside))?;
        let _ = fs::remove_file(&beside);
        let evaluated = evaluated.then_some(step);
        Ok(Self { path, file: None, kept, finished: folder.join(METRICS_FILE), is_new: false, evaluated })
    }

    /// Writes what an event has to say: `loss`, `grad_norm`, `learning_rate`, or the `eval_` figures.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn event(&mut self, event: &TrainEvent) -> Result<()> {
        match event {
            TrainEvent::Preparing | TrainEvent::Step(_) | TrainEvent::Evaluating { .. } => Ok(()),
            TrainEvent::Evaluated { step, .. } | TrainEvent::EvaluatedTriplets { step, .. }
                if self.evaluated == Some(*step) =>
            {
                Ok(())
            }
            // From here on a resumed run looks here for what was said up to this checkpoint.
            TrainEvent::Saved { .. } => self.begin().map(drop),
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
            TrainEvent::EvaluatedTriplets { evaluation, epoch, step, runtime } => self.line(json!({
                "eval_loss": evaluation.loss,
                "eval_accuracy": evaluation.accuracy,
                "eval_triplets": evaluation.triplets,
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
        rename(&self.path, &self.finished).map_err(Error::io(&self.finished))
    }

    fn line(&mut self, value: serde_json::Value) -> Result<()> {
        self.text(&value.to_string())
    }

    fn begin(&mut self) -> Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            // Who reads along goes on reading.
            None if self.kept.is_empty() => File::create(&self.path).map_err(Error::io(&self.path))?,
            None => {
                // Beside the log and then in its place, so that this run, cut off here, has not lost what the earlier one said.
                let beside = self.path.with_file_name(BESIDE);
                let mut file = File::create(&beside).map_err(Error::io(&beside))?;
                file.write_all(self.kept.as_bytes()).map_err(Error::io(&beside))?;
                rename(&beside, &self.path).map_err(Error::io(&self.path))?;
                file
            }
        };
        Ok(self.file.insert(file))
    }

    fn text(&mut self, line: &str) -> Result<()> {
        let written = self.begin()?.write_all(format!("{line}\n").as_bytes());
        written.map_err(Error::io(&self.path))
    }
}

impl Drop for MetricsFile {
    fn drop(&mut self) {
        // Of a run that was refused: a log that is there says that a run has begun.
        if self.is_new && self.file.is_none() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_taken_up_again_is_never_shorter_than_what_it_goes_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let (part, whole) = (folder.path().join(PART_FILE), folder.path().join(METRICS_FILE));
        let line = |step: u64| format!("{{\"loss\":1.5,\"step\":{step}}}\n");
        let earlier = [line(1), line(2), line(3), "{\"loss\":1".into()].concat();
        fs::write(&part, &earlier).unwrap();
        // Cut off at once, or refused, as often as may be.
        for _ in 0..2 {
            drop(MetricsFile::resume(folder.path(), 2).unwrap());
            assert_eq!(fs::read_to_string(&part).unwrap(), earlier);
        }
        // Taken up, but with nothing to say yet.
        let mut log = MetricsFile::resume(folder.path(), 2).unwrap();
        log.event(&TrainEvent::Saved { path: folder.path().into(), step: 2 }).unwrap();
        drop(log);
        assert_eq!(fs::read_to_string(&part).unwrap(), line(1) + &line(2));
        let mut log = MetricsFile::resume(folder.path(), 2).unwrap();
        log.line(json!({ "loss": 1.5, "step": 3 })).unwrap();
        assert_eq!(fs::read_to_string(&part).unwrap(), [line(1), line(2), line(3)].concat());
        // A run that was refused leaves the log of a finished one to be gone on from.
        drop(log);
        fs::rename(&part, &whole).unwrap();
        drop(MetricsFile::create(folder.path()).unwrap());
        drop(MetricsFile::resume(folder.path(), 1).unwrap());
        assert!(!MetricsFile::is_unfinished(folder.path()));
        let mut log = MetricsFile::resume(folder.path(), 1).unwrap();
        log.line(json!({ "loss": 1.5, "step": 2 })).unwrap();
        assert_eq!(fs::read_to_string(&part).unwrap(), line(1) + &line(2));
        drop(log);
        // A run that has saved has left the earlier one behind, whether it has said anything or not.
        let mut log = MetricsFile::create(folder.path()).unwrap();
        log.event(&TrainEvent::Saved { path: folder.path().into(), step: 1 }).unwrap();
        drop(log);
        drop(MetricsFile::resume(folder.path(), 9).unwrap());
        assert_eq!(fs::read_to_string(&part).unwrap(), "");
    }
}
