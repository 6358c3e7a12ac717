//! The training loop.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::arguments::{TrainingArguments, longest};
use super::evaluate::{Evaluation, EvaluationOptions};
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
    /// First and second moment of each parameter's gradient.
    moments: Vec<(Tensor, Tensor)>,
    /// Optimizer steps done.
    step: u64,
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
}

/// The end of [`Trainer::train`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainOutput {
    /// Optimizer steps of this call.
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
    /// Time spent, evaluation included.
    pub runtime: Duration,
    /// Whether the observer ended the run early.
    pub cancelled: bool,
}

/// Mean loss weighted by masked tokens.
#[derive(Default)]
struct MeanLoss {
    sum: f64,
    tokens: usize,
}

impl MeanLoss {
    fn add(&mut self, report: &StepReport) {
        self.sum += f64::from(report.loss) * report.masked_tokens as f64;
        self.tokens += report.masked_tokens;
    }

    fn mean(&self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }
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
        Ok(Self { model, arguments, gradients, moments, step: 0 })
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
    /// token of them is masked; as [`Trainer::train_step`].
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
        let mut output = TrainOutput {
            steps: 0,
            epoch: 0.0,
            train_loss: 0.0,
            samples: 0,
            tokens: 0,
            truncated: examples.truncated,
            runtime: Duration::ZERO,
            cancelled: false,
        };
        let (mut all, mut since_log) = (MeanLoss::default(), MeanLoss::default());
        let mut evaluating = Duration::ZERO;
        let prepared = Instant::now();

        'run: for epoch in 0u64.. {
            let order = shuffled(examples.len(), arguments.seed, epoch);
            for (index, chunk) in order.chunks(arguments.examples_per_step()).enumerate() {
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
                report.tokens_per_second = output.tokens as f64 / seconds.max(1e-9);
                report.seconds_left = (total - output.steps) as f64 * seconds / output.steps as f64;
                all.add(&report);
                since_log.add(&report);

                let mut flow = observe(&TrainEvent::Step(report.clone()));
                let last = output.steps == total || flow.is_break();
                if last || output.steps.is_multiple_of(arguments.logging_steps) {
                    let loss = std::mem::take(&mut since_log).mean();
                    flow = join(flow, observe(&TrainEvent::Log { report, loss }));
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
                if flow.is_break() {
                    output.cancelled = output.steps < total;
                    break 'run;
                }
            }
        }
        output.train_loss = all.mean();
        output.runtime = began.elapsed();
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
