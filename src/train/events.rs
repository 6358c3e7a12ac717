//! What a run tells of itself.

use std::path::PathBuf;
use std::time::Duration;

use super::evaluate::Evaluation;
use super::evaluate_triplets::TripletEvaluation;

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
    /// Mean cross entropy of the masked tokens, in nats, before the step; of embeddings the mean loss of the triplets.
    pub loss: f32,
    /// 2-norm of all gradients before clipping.
    pub grad_norm: f32,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// Tokens of the step.
    pub tokens: usize,
    /// Masked tokens of the step. A step without any changes nothing, and reports a loss of 0. Of embeddings the triplets.
    pub masked_tokens: usize,
    /// Tokens a second of the steps since the run began or was taken up: evaluation, checkpoints and observers left out.
    pub tokens_per_second: f64,
    /// Seconds the remaining steps will take at the pace of the latest ones, evaluation left out.
    pub seconds_left: f64,
    /// The share of the time since the run began, evaluation left out, in which gradients went from device to device or
    /// another device was waited for; 0 for one alone.
    pub communication_share: f64,
}

/// What [`Trainer::train`](crate::Trainer::train) tells while it runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TrainEvent {
    /// Nothing has begun yet: lines are made tokens of, or steps are counted, which may take a while. Breaking ends it with
    /// [`Error::Cancelled`](crate::Error::Cancelled); of several processes it does nothing yet, as the others begin.
    Preparing,
    /// A step is done.
    Step(StepReport),
    /// `logging_steps` are done, or the run is: the latest step, and the mean loss since the last log.
    #[non_exhaustive]
    Log {
        /// The latest step.
        report: StepReport,
        /// Mean over the masked tokens since the last log.
        loss: f64,
    },
    /// A batch of the validation data was evaluated, and there are more. Breaking puts the evaluation off until the run goes on; of
    /// several devices it is done first.
    #[non_exhaustive]
    Evaluating {
        /// Batches so far; of several devices, the first one's. Of triplets, their texts.
        done: usize,
        /// How many there are in all.
        total: usize,
        /// Steps so far.
        step: u64,
    },
    /// The validation data were evaluated.
    #[non_exhaustive]
    Evaluated {
        /// The figures.
        evaluation: Evaluation,
        /// Passes over the training data so far.
        epoch: f64,
        /// Steps so far.
        step: u64,
        /// How long it took.
        runtime: Duration,
    },
    /// The same of triplets.
    #[non_exhaustive]
    EvaluatedTriplets {
        /// The figures, retrieval left out.
        evaluation: TripletEvaluation,
        /// Passes over the training data so far.
        epoch: f64,
        /// Steps so far.
        step: u64,
        /// How long it took.
        runtime: Duration,
    },
    /// A checkpoint was written, or with `load_best_model_at_end` the best model so far.
    #[non_exhaustive]
    Saved {
        /// Its folder: `checkpoint-` and the step, or `checkpoint-best`.
        path: PathBuf,
        /// Steps so far.
        step: u64,
    },
}

/// The end of [`Trainer::train`](crate::Trainer::train).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainOutput {
    /// Optimizer steps of the run, those before it was resumed included; as is all that is counted here but `runtime`.
    pub steps: u64,
    /// Passes over the data.
    pub epoch: f64,
    /// Mean loss over the masked tokens of all steps.
    pub train_loss: f64,
    /// Examples trained on, counted as often as they came.
    pub samples: usize,
    /// Tokens trained on, likewise.
    pub tokens: usize,
    /// Examples that were cut to `max_seq_length`.
    pub truncated: usize,
    /// Steps a second of this call, as transformers counts them: evaluation included.
    pub steps_per_second: f64,
    /// Examples a second, likewise.
    pub samples_per_second: f64,
    /// Tokens a second, likewise.
    pub tokens_per_second: f64,
    /// Time this call took, evaluation included.
    pub runtime: Duration,
    /// Whether the observer ended the run early.
    pub cancelled: bool,
    /// Whether the run ended because evaluations stopped improving.
    pub stopped_early: bool,
    /// The lowest loss of all evaluations, and the step it was found at.
    pub best: Option<(f64, u64)>,
}
