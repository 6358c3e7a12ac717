//! What the commands that train have in common: their options, the loop, and what is left beside a model.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use retto::{
    CommHook, Dataset, Gpu, METRICS_FILE, MetricsFile, SchedulerType, TrainEvent, TrainOutput, Trainer,
    TrainingArguments,
};

use crate::data::{ReadArgs, UnitArgs};
use crate::files::{Failed, remove, whole, write_whole};
use crate::progress::Progress;
use crate::ranks::Ranks;
use crate::{Result, TRAINING_ARGUMENTS_FILE, curve, output, provenance};

/// How a training goes about it.
#[derive(clap::Args)]
pub(crate) struct OptimizerArgs {
    /// Passes over the training text; may be a fraction
    #[arg(long, default_value_t = 3.0, value_name = "N")]
    num_train_epochs: f64,
    /// Optimizer steps, instead of epochs
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Highest learning rate of the schedule
    #[arg(long, default_value_t = 5e-5, value_name = "RATE")]
    learning_rate: f64,
    /// How the learning rate goes on after the warm-up
    #[arg(long, value_enum, default_value_t = Scheduler::Linear, value_name = "NAME")]
    lr_scheduler_type: Scheduler,
    /// Share of the steps in which the learning rate rises from 0
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    warmup_ratio: f64,
    /// AdamW's weight decay; not for biases and LayerNorms
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    weight_decay: f64,
    /// Gradients are clipped to this norm; 0 for no clipping
    #[arg(long, default_value_t = 1.0, value_name = "NORM")]
    max_grad_norm: f64,
    /// Examples in a batch
    #[arg(long, default_value_t = 8, value_name = "N")]
    per_device_train_batch_size: usize,
    /// Batches in an optimizer step: a larger step in the memory of a smaller one
    #[arg(long, default_value_t = 1, value_name = "N")]
    gradient_accumulation_steps: usize,
    /// Examples evaluated at a time
    #[arg(long, default_value_t = 8, value_name = "N")]
    per_device_eval_batch_size: usize,
    /// Longest example in tokens; longer lines are cut [default: the model's longest]
    #[arg(long, value_name = "N")]
    pub(crate) max_seq_length: Option<usize>,
    /// Layers that are not trained, separated by commas: numbers from 0, or ranges like 0-5
    #[arg(long, value_delimiter = ',', value_parser = layers, value_name = "LAYERS")]
    freeze_layers: Vec<std::ops::RangeInclusive<usize>>,
    /// Do not train the embeddings, nor a decoder that is tied to them
    #[arg(long)]
    freeze_embeddings: bool,
    /// Compute activations twice instead of keeping them: less memory, more time, the same result
    #[arg(long)]
    gradient_checkpointing: bool,
    /// What linear layers multiply in; sums, weights and everything else are f32
    #[arg(long, value_enum, default_value_t = Precision::F32, value_name = "PRECISION")]
    precision: Precision,
    /// Train without the dropout that the model's config asks for
    #[arg(long)]
    no_dropout: bool,
    /// Seed of all that is drawn: masks, triplets, order, and which songs --validation-split holds out
    #[arg(long, default_value_t = 42, value_name = "N")]
    pub(crate) seed: u64,
}

/// A training run and what comes of it.
#[derive(clap::Args)]
pub(crate) struct TrainArgs {
    /// The model to start from [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Train on several devices together, of any make: indices or parts of names, separated by commas, or all of the best kind. Instead of --device; a step is
    /// as large as on one
    #[arg(long, value_delimiter = ',', value_name = "DEVICES|all")]
    pub(crate) devices: Vec<String>,
    /// Give a device up when it has not answered another for this many seconds
    #[arg(long, default_value_t = 1800, value_name = "SECONDS")]
    ddp_timeout: u64,
    /// Give the faster of several devices more of each step; the run does not repeat to the bit then
    #[arg(long)]
    balance_devices: bool,
    /// The number format in which gradients travel between devices
    #[arg(long, value_enum, default_value_t = Hook::No, value_name = "NAME")]
    ddp_comm_hook: Hook,
    /// Where the trained model and metrics.jsonl are written
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Held-out data, evaluated after every epoch or every --eval-steps
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub(crate) validation: Vec<PathBuf>,
    /// Instead: hold out this share of the songs of the training data
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", conflicts_with = "validation")]
    pub(crate) validation_split: f64,
    #[command(flatten)]
    pub(crate) optimizer: OptimizerArgs,
    /// Steps between two evaluations [default: after every epoch]
    #[arg(long, value_name = "N")]
    eval_steps: Option<u64>,
    /// End early when so many evaluations in a row brought no better loss
    #[arg(long, value_name = "N")]
    early_stopping_patience: Option<u64>,
    /// How much lower a loss has to be to count as better for that
    #[arg(long, default_value_t = 0.0, value_name = "LOSS", requires = "early_stopping_patience")]
    early_stopping_threshold: f64,
    /// Write the model of the best evaluation, not of the last step
    #[arg(long)]
    load_best_model_at_end: bool,
    /// Steps between two lines of metrics.jsonl
    #[arg(long, default_value_t = 50, value_name = "N")]
    logging_steps: u64,
    /// Steps between two checkpoints, written to checkpoint-N in the output; Ctrl-C writes one in any case
    #[arg(long, value_name = "N")]
    save_steps: Option<u64>,
    /// Keep only so many of the latest checkpoints
    #[arg(long, value_name = "N")]
    save_total_limit: Option<usize>,
    /// Go on from the latest checkpoint in the output, with its weights instead of --model's; start where there is none
    #[arg(long)]
    resume: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Precision {
    F32,
    /// With the loss scaled so that gradients fit; not on every adapter
    F16,
}

/// accelerate's names.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Hook {
    /// f32
    No,
    /// Half the bytes; what is tiny is lost
    Fp16,
    /// Half the bytes, fewer digits
    Bf16,
}

/// transformers' names.
#[derive(Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Scheduler {
    /// Falls linearly to 0
    Linear,
    /// Falls to 0 as half a cosine does
    Cosine,
    /// The same in every step, without warm-up
    Constant,
    /// Stays at its highest
    ConstantWithWarmup,
}

/// `3` or `0-5`
fn layers(text: &str) -> std::result::Result<std::ops::RangeInclusive<usize>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse::<usize>().map_err(|error| format!("'{text}': {error}"));
    let range = number(first)?..=number(last)?;
    if range.is_empty() || *range.end() > 10_000 { Err(format!("{text} is no range of layers")) } else { Ok(range) }
}

impl OptimizerArgs {
    /// These options; `TrainingArguments`' own defaults for others.
    pub(crate) fn arguments(&self) -> TrainingArguments {
        TrainingArguments {
            num_train_epochs: self.num_train_epochs,
            max_steps: self.max_steps,
            learning_rate: self.learning_rate,
            lr_scheduler_type: match self.lr_scheduler_type {
                Scheduler::Linear => SchedulerType::Linear,
                Scheduler::Cosine => SchedulerType::Cosine,
                Scheduler::Constant => SchedulerType::Constant,
                Scheduler::ConstantWithWarmup => SchedulerType::ConstantWithWarmup,
            },
            warmup_ratio: self.warmup_ratio,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            freeze_layers: self.freeze_layers.iter().flat_map(Clone::clone).collect(),
            freeze_embeddings: self.freeze_embeddings,
            gradient_checkpointing: self.gradient_checkpointing,
            dropout: !self.no_dropout,
            fp16: matches!(self.precision, Precision::F16),
            per_device_train_batch_size: self.per_device_train_batch_size,
            gradient_accumulation_steps: self.gradient_accumulation_steps,
            per_device_eval_batch_size: self.per_device_eval_batch_size,
            max_seq_length: self.max_seq_length,
            seed: self.seed,
            ..TrainingArguments::default()
        }
    }
}

impl TrainArgs {
    /// The options of every run; `TrainingArguments`' own defaults for others.
    pub(crate) fn arguments(&self) -> TrainingArguments {
        TrainingArguments {
            eval_steps: self.eval_steps,
            early_stopping_patience: self.early_stopping_patience,
            early_stopping_threshold: self.early_stopping_threshold,
            load_best_model_at_end: self.load_best_model_at_end,
            logging_steps: self.logging_steps,
            ddp_timeout: self.ddp_timeout,
            balance_devices: self.balance_devices,
            ddp_comm_hook: match self.ddp_comm_hook {
                Hook::No => CommHook::No,
                Hook::Fp16 => CommHook::Fp16,
                Hook::Bf16 => CommHook::Bf16,
            },
            output_dir: Some(self.output.clone()),
            // Without any, an interruption still saves one.
            save_steps: self.save_steps.or(Some(u64::MAX)),
            save_total_limit: self.save_total_limit,
            ..self.optimizer.arguments()
        }
    }

    /// The model's name, for those who read what was made of it.
    pub(crate) fn base_name(&self) -> String {
        self.model.as_ref().map_or("retto-tiny".into(), |model| model.display().to_string())
    }

    /// Takes up an interrupted run where that is asked for, and its log, which the first process writes.
    pub(crate) fn begin(&self, trainer: &mut Trainer, ranks: &Ranks) -> Result<Option<MetricsFile>> {
        let takes = [
            ("--eval-steps", self.eval_steps.is_some()),
            ("--early-stopping-patience", self.early_stopping_patience.is_some()),
            ("--load-best-model-at-end", self.load_best_model_at_end),
        ];
        let asked = takes.iter().find(|(_, is_asked)| *is_asked);
        if let (Some((option, _)), true, true) = (asked, self.validation.is_empty(), self.validation_split == 0.0) {
            return Err(format!("{option} takes held-out text: give --validation or --validation-split").into());
        }
        trainer.lock_output_dir()?;
        let resumed = if self.resume { trainer.resume_from_checkpoint()? } else { None };
        // Before a log begins there.
        trainer.refuse_unless_taken_up()?;
        if !ranks.is_first() {
            return Ok(None);
        }
        if resumed.is_none() {
            self.put_best_aside()?;
        }
        let metrics = match resumed {
            Some(step) => MetricsFile::resume(&self.output, step)?,
            None => MetricsFile::create(&self.output)?,
        };
        if let Some(step) = resumed {
            output::note(format!("resuming at step {step}"));
        }
        Ok(Some(metrics))
    }

    /// A run that was killed may have left its best model, and no checkpoint to go on from. It would be written over.
    fn put_best_aside(&self) -> Result<()> {
        let best = self.output.join(provenance::BEST);
        let is_left = best.exists() && MetricsFile::is_unfinished(&self.output);
        if !is_left || Trainer::latest_checkpoint(&self.output)?.is_some() {
            return Ok(());
        }
        let free =
            (1..).map(|number| self.output.join(format!("checkpoint-best-{number}"))).find(|path| !path.exists());
        let aside = free.unwrap_or_else(|| best.clone());
        std::fs::rename(&best, &aside).map_err(|error| format!("{}: {error}", best.display()))?;
        output::note(format!("note: the best model of an earlier run is kept in {}", aside.display()));
        Ok(())
    }

    /// Trains by `train`, which is handed the observer: progress and the log. Ctrl-C ends the run after its step. Checkpoints get the
    /// options, too, as those of the folder that they are in may be of a run before, and what `beside` writes.
    pub(crate) fn run(
        &self,
        metrics: &mut Option<MetricsFile>,
        options: &[u8],
        beside: impl Fn(&Path) -> Result<()>,
        train: impl FnOnce(&mut dyn FnMut(&TrainEvent) -> ControlFlow<()>) -> retto::Result<TrainOutput>,
    ) -> std::result::Result<TrainOutput, Failed> {
        let interrupted = interruption()?;
        let mut progress = Progress::new();
        let mut failed = None;
        // Steps of this run, and the latest checkpoint with its step.
        let (mut step, mut saved) = (0, None);
        let trained = train(&mut |event| {
            progress.show(event);
            match event {
                TrainEvent::Step(report) => step = report.step,
                TrainEvent::Saved { path, step, .. } => saved = Some((*step, path.clone())),
                _ => {}
            }
            let written = match event {
                TrainEvent::Saved { path, .. } if metrics.is_some() => {
                    write_whole(&path.join(TRAINING_ARGUMENTS_FILE), options).and_then(|()| beside(path))
                }
                _ => Ok(()),
            };
            if let Err(error) = written {
                let reason = "the checkpoint does not say what it was trained on, or how it embeds texts";
                output::note(format!("note: {error}; {reason}"));
            }
            match metrics.as_mut().map_or(Ok(()), |metrics| metrics.event(event)) {
                Ok(()) if interrupted.load(Ordering::Relaxed) => ControlFlow::Break(()),
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        progress.bar.finish_and_clear();
        if let Some(error) = failed {
            let reason = match &trained {
                Ok(trained) => {
                    format!("{error}; saved at step {}: the same command with --resume goes on", trained.steps)
                }
                Err(_) => error.to_string(),
            };
            return Err(Failed {
                reason: reason.into(),
                step: trained.is_err().then_some(step).filter(|step| *step > 0),
            });
        }
        let trained = trained.map_err(|error| match saved {
            Some((at, path)) if at == step => {
                let reason = format!("{error}; what was trained is kept in {}", path.display());
                Failed { reason: reason.into(), step: None }
            }
            _ => Failed { reason: error.into(), step: Some(step).filter(|step| *step > 0) },
        })?;
        if trained.cancelled {
            let step = trained.steps;
            let reason = format!("interrupted at step {step} and saved: the same command with --resume goes on");
            return Err(reason.into());
        }
        Ok(trained)
    }

    /// What a run is: its options, what it is trained on, and by what, as JSON.
    pub(crate) fn options(
        &self,
        gpu: &Gpu,
        arguments: &TrainingArguments,
        train: &[PathBuf],
        (read, unit, data): (&ReadArgs, Option<&UnitArgs>, &Dataset),
    ) -> Result<Vec<u8>> {
        let mut values = serde_json::to_value(arguments)?;
        values["model"] = self.model.as_deref().map_or(self.base_name(), whole).into();
        let list = |paths: &[PathBuf]| paths.iter().map(|path| whole(path)).collect::<Vec<_>>();
        values["train"] = list(train).into();
        values["validation"] = list(&self.validation).into();
        values["validation_split"] = self.validation_split.into();
        values["text_field"] = read.text_field.clone().into();
        values["strict"] = read.strict.into();
        if let Some(unit) = unit {
            // Of a token cache, what that was made with.
            let made_with = |name: &str| data.metadata().get(name).cloned();
            values["unit"] = made_with("unit").unwrap_or_else(|| unit.unit.name()).into();
            values["dedup"] = made_with("dedup").map_or(unit.dedup, |dedup| dedup == "true").into();
        }
        values["corpus"] = provenance::corpus(data).into();
        values["adapter"] = gpu.to_string().into();
        if self.save_steps.is_none() {
            values["save_steps"] = serde_json::Value::Null;
        }
        Ok(format!("{values:#}\n").into_bytes())
    }

    /// Beside the model: the rest of the log, the options of the run, and its losses as a picture. Then the run in a line.
    pub(crate) fn finish(&self, metrics: Option<MetricsFile>, trained: &TrainOutput, options: &[u8]) -> Result<()> {
        if let Some(metrics) = metrics {
            metrics.finish(trained)?;
        }
        // Whole as well, and with its name where it cannot be written.
        write_whole(&self.output.join(TRAINING_ARGUMENTS_FILE), options)?;
        match curve::draw(&self.output.join(METRICS_FILE))? {
            Some(svg) => write_whole(&self.output.join(curve::FILE), svg.as_bytes())?,
            // Of a run before.
            None => remove(&self.output.join(curve::FILE))?,
        }
        if trained.stopped_early {
            output::note(format!("note: evaluations stopped improving, so the run ended at step {}", trained.steps));
        }
        if let (true, Some((loss, step))) = (self.load_best_model_at_end, trained.best) {
            let best =
                format!("the best evaluation was at step {step}, with a loss of {loss:.4}: its model is written");
            output::note(best);
        }
        output::line(format!(
            "{}: {} steps, {} tokens, mean loss {:.4}, {:.0} s",
            self.output.display(),
            trained.steps,
            trained.tokens,
            trained.train_loss,
            trained.runtime.as_secs_f64()
        ))
    }
}

/// Set by the first Ctrl-C. The second does not wait.
pub(crate) fn interruption() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    Ok(interrupted)
}
