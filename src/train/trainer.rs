//! The training loop.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::arguments::{TrainingArguments, longest};
use super::evaluate::{Evaluation, EvaluationOptions};
use super::resume::{self, MeanLoss, Moments, State};
use crate::error::{Error, Result};
use crate::gpu::{Pass, Tensor};
use crate::model::{Gradients, Model, mean_loss, stats_of};
use crate::ops::adamw::{self, AdamW};
use crate::text::{Examples, Masking, PackedBatch, Purpose, shuffled};

/// Trains a copy of a model; the model itself stays as it is and can be queried meanwhile.
///
/// ```no_run
/// # fn main() -> retto::Result<()> {
/// # let gpu = retto::Gpu::open_default()?;
/// # let model = retto::Model::open(&gpu, "models/retto-tiny")?;
/// let arguments = retto::TrainingArguments { learning_rate: 5e-4, ..Default::default() };
/// let mut trainer = retto::Trainer::new(&model, arguments)?;
/// let lines = retto::read_lines(&["lyrics.txt".into()])?;
/// trainer.train(&lines, &[], |_| std::ops::ControlFlow::Continue(()))?;
/// trainer.into_model().save("adapted")?;
/// # Ok(())
/// # }
/// ```
pub struct Trainer {
    model: Model,
    arguments: TrainingArguments,
    gradients: Gradients,
    moments: Moments,
    /// Optimizer steps done.
    step: u64,
    /// Where [`Trainer::train`] goes on.
    resumed: Option<State>,
}

/// What one optimizer step did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Counted from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
    /// Passes over the data so far, with the fraction of the present one.
    pub epoch: f64,
    /// Mean cross entropy of the masked tokens, in nats, before the step.
    pub loss: f32,
    /// 2-norm of all gradients before clipping.
    pub grad_norm: f32,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// Tokens of the step.
    pub tokens: usize,
    /// Masked tokens of the step. A step without any changes nothing, and reports a loss of 0.
    pub masked_tokens: usize,
    /// Tokens a second since the run began, evaluation left out.
    pub tokens_per_second: f64,
    /// Seconds the remaining steps will take at the pace so far, evaluation left out.
    pub seconds_left: f64,
}

/// What [`Trainer::train`] tells while it runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TrainEvent {
    /// A step is done.
    Step(StepReport),
    /// `logging_steps` are done, or the run is: the latest step, and the mean loss since the last log.
    Log {
        /// The latest step.
        report: StepReport,
        /// Mean over the masked tokens since the last log.
        loss: f64,
    },
    /// The validation lines were evaluated, after an epoch or the last step.
    Evaluated {
        /// The figures.
        evaluation: Evaluation,
        /// Passes over the training lines so far.
        epoch: f64,
        /// Steps so far.
        step: u64,
        /// How long it took.
        runtime: Duration,
    },
    /// A checkpoint was written.
    Saved {
        /// Its folder.
        path: PathBuf,
        /// Steps so far.
        step: u64,
    },
}

/// The end of [`Trainer::train`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainOutput {
    /// Optimizer steps of the run, those before it was resumed included; as is all that is counted here but `runtime`.
    pub steps: u64,
    /// Passes over the data.
    pub epoch: f64,
    /// Mean loss over the masked tokens of all steps.
    pub train_loss: f64,
    /// Lines trained on, counted as often as they came.
    pub samples: usize,
    /// Tokens trained on, likewise.
    pub tokens: usize,
    /// Lines that were cut to `max_seq_length`.
    pub truncated: usize,
    /// Steps a second of this call, as transformers counts them: evaluation included.
    pub steps_per_second: f64,
    /// Lines a second, likewise.
    pub samples_per_second: f64,
    /// Tokens a second, likewise.
    pub tokens_per_second: f64,
    /// Time this call took, evaluation included.
    pub runtime: Duration,
    /// Whether the observer ended the run early.
    pub cancelled: bool,
}

impl Trainer {
    /// Copies the model and makes room for gradients and optimizer state: about four times the parameters' memory in all.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an option out of range; [`Error::BadTokenizer`] for a vocabulary without a mask token;
    /// [`Error::OutOfMemory`].
    pub fn new(model: &Model, arguments: TrainingArguments) -> Result<Self> {
        arguments.validate(model.config().max_position_embeddings)?;
        model.tokenizer.require_mask_token()?;
        let model = model.duplicate()?;
        let parameters = model.bert.parameters();
        let gradients = Gradients::new(&model.gpu, &parameters)?;
        // Fresh buffers are zero, which is where the moments begin.
        let moment = |what: &str| {
            let each = |p: &&crate::model::Parameter| {
                Tensor::persistent(&model.gpu, p.value.shape(), &format!("the {what} of {}", p.keys[0]))
            };
            parameters.iter().map(each).collect::<Result<Vec<_>>>()
        };
        let moments = moment("first moment")?.into_iter().zip(moment("second moment")?).collect();
        Ok(Self { model, arguments, gradients, moments, step: 0, resumed: None })
    }

    /// Takes up the latest checkpoint in `output_dir`: the next [`Trainer::train`], given the same lines and arguments, goes
    /// on from there, and ends with the same bits as a run that was never interrupted. The weights are the checkpoint's,
    /// whatever model of this shape the trainer was made of. Returns the step it stands at, or
    /// `None` where there is no checkpoint and training starts from the model this trainer was made of.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without an `output_dir`; [`Error::Io`] and [`Error::BadCheckpoint`] for a checkpoint that
    /// cannot be read or is one of another model; [`Error::OutOfMemory`].
    pub fn resume_from_checkpoint(&mut self) -> Result<Option<u64>> {
        let Some(folder) = &self.arguments.output_dir else {
            return Err(Error::InvalidArgument("resuming takes an output_dir with checkpoints".into()));
        };
        let Some((_, latest)) = resume::checkpoints(folder)?.pop() else { return Ok(None) };
        let (model, moments, state) = resume::load(&latest, &self.model)?;
        let step = state.global_step;
        (self.model, self.moments, self.step) = (model, moments, state.optimizer_step);
        self.resumed = Some(state);
        Ok(Some(step))
    }

    /// The model as trained so far.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The trained model, giving back the memory of gradients and optimizer state.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// One optimizer step on a batch with labels, at this learning rate: forward, backward, clip, AdamW, in one submission.
    ///
    /// # Errors
    /// [`Error::Diverged`] where loss or gradients are not finite: the parameters are then unchanged. [`Error::TooLong`] and
    /// [`Error::InvalidArgument`] for a batch that does not fit; GPU errors.
    pub fn train_step(&mut self, batch: &PackedBatch, learning_rate: f64) -> Result<StepReport> {
        self.train_step_accumulated(std::slice::from_ref(batch), learning_rate)
    }

    /// [`Trainer::train_step`] on several batches, one after another in the memory of one. The loss is the mean over the
    /// masked tokens of all, as if they were one batch.
    ///
    /// # Errors
    /// As [`Trainer::train_step`].
    pub fn train_step_accumulated(&mut self, batches: &[PackedBatch], learning_rate: f64) -> Result<StepReport> {
        let labels = batches.iter().map(|batch| batch.labels.len()).sum();
        let mut report = StepReport {
            step: self.step + 1,
            max_steps: 0,
            epoch: 0.0,
            loss: 0.0,
            grad_norm: 0.0,
            learning_rate,
            tokens: batches.iter().map(PackedBatch::tokens).sum(),
            masked_tokens: labels,
            tokens_per_second: 0.0,
            seconds_left: 0.0,
        };
        batches.iter().try_for_each(|batch| self.model.bert.check_labels(batch))?;
        if labels == 0 {
            return Ok(report);
        }
        let gpu = self.model.gpu.clone();
        let mut pass = Pass::new(&gpu);
        self.gradients.clear(&mut pass);
        let mut stats = Vec::new();
        for batch in batches.iter().filter(|batch| !batch.labels.is_empty()) {
            if !stats.is_empty() {
                // Activations of one batch at a time: a submitted pass leaves its workspaces to the next.
                std::mem::replace(&mut pass, Pass::new(&gpu)).submit()?;
            }
            let of_batch = self.model.bert.train(&mut pass, &self.gradients, batch, labels)?;
            stats.push(pass.download(&of_batch)?);
        }
        let clip = adamw::clip(&mut pass, &self.gradients.0, self.arguments.max_grad_norm as f32)?;
        for (parameter, (m, v)) in self.model.bert.parameters().into_iter().zip(&self.moments) {
            let TrainingArguments { weight_decay, adam_beta1, adam_beta2, adam_epsilon, .. } = self.arguments;
            let step = adamw::Step {
                step: self.step + 1,
                learning_rate,
                weight_decay: if parameter.decay { weight_decay } else { 0.0 },
                beta1: adam_beta1,
                beta2: adam_beta2,
                eps: adam_epsilon,
            };
            let gradient = self.gradients.of(parameter);
            adamw::adamw(&mut pass, AdamW { gradient, clip: &clip, value: &parameter.value, m, v }, step)?;
        }
        let clip = pass.download(&clip)?;
        pass.submit()?;
        let mut rows = Vec::with_capacity(2 * labels);
        for stats in stats {
            rows.extend(stats.wait::<f32>(&gpu)?);
        }
        report.loss = mean_loss(stats_of(&rows));
        report.grad_norm = clip.wait::<f32>(&gpu)?[0];
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            let StepReport { step, loss, grad_norm, .. } = report;
            return Err(Error::Diverged { step, loss, grad_norm });
        }
        self.step += 1;
        self.model.has_mlm_head = true;
        Ok(report)
    }

    /// Trains on lines, each an example, in a new order and with new masks every epoch; evaluates `validation`, where there
    /// is any, after every epoch. `observe` is told of everything on the calling thread, and ends the run by breaking.
    ///
    /// # Errors
    /// [`Error::EmptyCorpus`] where no line holds a token; [`Error::InvalidArgument`] where there are validation lines but no
    /// token of them is masked, where a resumed run began with other lines or arguments, or where checkpoints are to be
    /// saved beside those of a run that was not resumed; [`Error::Io`] for a checkpoint that cannot be written; as
    /// [`Trainer::train_step`].
    pub fn train<S: AsRef<str>>(
        &mut self,
        train: &[S],
        validation: &[S],
        mut observe: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainOutput> {
        let began = Instant::now();
        let arguments = self.arguments.clone();
        let length = longest(arguments.max_seq_length, self.model.config().max_position_embeddings)?;
        let tokenizer = self.model.tokenizer.clone();
        let examples = Examples::tokenize(&tokenizer, train, length)?;
        if examples.len() == 0 {
            return Err(Error::EmptyCorpus { paths: "the training lines".into() });
        }
        let held_out = Examples::tokenize(&tokenizer, validation, length)?;
        if !validation.is_empty() {
            self.model.check_examples(&held_out, &self.evaluation_options())?;
        }
        let validation = held_out;
        let masking = Masking {
            probability: arguments.mlm_probability,
            mask_token_id: tokenizer.require_mask_token()?,
            vocab_size: tokenizer.vocab_size(),
            seed: arguments.seed,
            purpose: Purpose::Train,
        };
        let total = arguments.total_steps(examples.len());
        let steps_per_epoch = examples.len().div_ceil(arguments.examples_per_step());
        let run = resume::run_of(&arguments, &examples);
        // Before it is taken: refused, the trainer still stands where it was resumed.
        if let Some(state) = &self.resumed {
            resume::check_same_run(&state.run, &run)?;
        }
        let start = match self.resumed.take() {
            Some(state) => state,
            None => {
                // Those of two runs in one folder could not be told apart.
                let folder = arguments.output_dir.as_deref().filter(|_| arguments.save_steps.is_some());
                let earlier = folder.map(resume::checkpoints).transpose()?;
                if let Some((_, latest)) = earlier.and_then(|mut found| found.pop()) {
                    let latest = latest.display();
                    let reason = format!("{latest} is of an earlier run: resume that run, or remove its checkpoints");
                    return Err(Error::InvalidArgument(reason));
                }
                let (all, since_log) = Default::default();
                State {
                    global_step: 0,
                    optimizer_step: self.step,
                    samples: 0,
                    tokens: 0,
                    all,
                    since_log,
                    run: run.clone(),
                }
            }
        };
        let mut output = TrainOutput {
            steps: start.global_step,
            epoch: start.global_step as f64 / steps_per_epoch as f64,
            train_loss: 0.0,
            samples: start.samples,
            tokens: start.tokens,
            truncated: examples.truncated,
            steps_per_second: 0.0,
            samples_per_second: 0.0,
            tokens_per_second: 0.0,
            runtime: Duration::ZERO,
            cancelled: false,
        };
        let (mut all, mut since_log) = (start.all, start.since_log);
        let mut evaluating = Duration::ZERO;
        let prepared = Instant::now();

        let first_epoch = start.global_step / steps_per_epoch as u64;
        'run: for epoch in first_epoch.. {
            let done = if epoch == first_epoch { (start.global_step % steps_per_epoch as u64) as usize } else { 0 };
            let order = shuffled(examples.len(), arguments.seed, epoch);
            for (index, chunk) in order.chunks(arguments.examples_per_step()).enumerate().skip(done) {
                if output.steps == total {
                    break 'run;
                }
                let batch = |part: &[usize]| {
                    let mut batch = PackedBatch::default();
                    for &example in part {
                        let (ids, labels) = masking.apply(&tokenizer, examples.get(example), epoch, example);
                        batch.push_masked(&ids, &labels);
                    }
                    batch
                };
                let batches: Vec<_> = chunk.chunks(arguments.per_device_train_batch_size).map(batch).collect();
                let learning_rate = arguments.learning_rate_at(output.steps, total);
                let mut report = self.train_step_accumulated(&batches, learning_rate).map_err(|error| match error {
                    // Counted in this run, as everything else here is; a trainer may have been used before.
                    Error::Diverged { loss, grad_norm, .. } => {
                        Error::Diverged { step: output.steps + 1, loss, grad_norm }
                    }
                    other => other,
                })?;
                output.steps += 1;
                output.samples += chunk.len();
                output.tokens += report.tokens;
                output.epoch = epoch as f64 + (index + 1) as f64 / steps_per_epoch as f64;
                let seconds = prepared.elapsed().saturating_sub(evaluating).as_secs_f64();
                report.step = output.steps;
                report.max_steps = total;
                report.epoch = output.epoch;
                report.tokens_per_second = (output.tokens - start.tokens) as f64 / seconds.max(1e-9);
                report.seconds_left =
                    (total - output.steps) as f64 * seconds / (output.steps - start.global_step) as f64;
                all.add(report.loss, report.masked_tokens);
                since_log.add(report.loss, report.masked_tokens);

                let mut flow = observe(&TrainEvent::Step(report.clone()));
                let last = output.steps == total || flow.is_break();
                let due = output.steps.is_multiple_of(arguments.logging_steps);
                if last || due {
                    let loss = since_log.mean();
                    flow = join(flow, observe(&TrainEvent::Log { report, loss }));
                }
                if due {
                    // Not for the entry that closes a cancelled run: resumed, it logs what an uninterrupted one does.
                    since_log = MeanLoss::default();
                }
                let due = output.steps == total || index + 1 == steps_per_epoch;
                if due && flow.is_continue() && validation.len() > 0 {
                    let started = Instant::now();
                    let evaluation = self.model.evaluate_examples(&validation, &self.evaluation_options())?;
                    let runtime = started.elapsed();
                    evaluating += runtime;
                    let (epoch, step) = (output.epoch, output.steps);
                    flow = observe(&TrainEvent::Evaluated { evaluation, epoch, step, runtime });
                }
                if let (Some(folder), Some(every)) = (&arguments.output_dir, arguments.save_steps)
                    && (output.steps.is_multiple_of(every) || flow.is_break())
                {
                    let state = State {
                        global_step: output.steps,
                        optimizer_step: self.step,
                        samples: output.samples,
                        tokens: output.tokens,
                        all: all.clone(),
                        since_log: since_log.clone(),
                        run: run.clone(),
                    };
                    let limit = arguments.save_total_limit;
                    let path = resume::save(folder, &self.model, &self.moments, &state, limit)?;
                    flow = join(flow, observe(&TrainEvent::Saved { path, step: output.steps }));
                }
                if flow.is_break() {
                    output.cancelled = output.steps < total;
                    break 'run;
                }
            }
        }
        output.train_loss = all.mean();
        output.runtime = began.elapsed();
        let seconds = output.runtime.as_secs_f64().max(1e-9);
        output.steps_per_second = (output.steps - start.global_step) as f64 / seconds;
        output.samples_per_second = (output.samples - start.samples) as f64 / seconds;
        output.tokens_per_second = (output.tokens - start.tokens) as f64 / seconds;
        Ok(output)
    }

    fn evaluation_options(&self) -> EvaluationOptions {
        EvaluationOptions {
            mlm_probability: self.arguments.mlm_probability,
            per_device_eval_batch_size: self.arguments.per_device_eval_batch_size,
            max_seq_length: self.arguments.max_seq_length,
            seed: self.arguments.seed,
        }
    }
}

fn join(a: ControlFlow<()>, b: ControlFlow<()>) -> ControlFlow<()> {
    if a.is_break() { a } else { b }
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("arguments", &self.arguments).field("step", &self.step).finish_non_exhaustive()
    }
}
