//! What a run tells while it trains, and what it came to, as C reads them.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;

use super::input::{Versioned, versioned};
use crate::train::{TrainEvent, TrainOutput};

/// What is being told: a step is done; logging_steps are done, and `loss` is the mean since the last log; the validation lines
/// were evaluated; a checkpoint was written, or with load_best_model_at_end the best model so far.
pub const RETTO_PROGRESS_STEP: u32 = 0;
pub const RETTO_PROGRESS_LOG: u32 = 1;
pub const RETTO_PROGRESS_EVALUATED: u32 = 2;
pub const RETTO_PROGRESS_SAVED: u32 = 3;
/// Told by retto_trainer_run alone, so that a bar can move and the callback can cancel: the validation lines are being evaluated, `done` of
/// `total` batches; nothing has begun yet, and lines are made tokens of or steps counted. Later versions may tell of other kinds: pass over those
/// you do not know.
pub const RETTO_PROGRESS_EVALUATING: u32 = 4;
pub const RETTO_PROGRESS_PREPARING: u32 = 5;

/// Where a run stands. What does not belong to its kind is 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_progress {
    /// For retto_trainer_step, set it to sizeof(retto_progress). In a callback: the library's own size; read no field beyond.
    pub struct_size: u32,
    /// RETTO_PROGRESS_STEP and so on.
    pub kind: u32,
    /// Steps done, and of the whole run.
    pub step: u64,
    pub max_steps: u64,
    /// Passes over the training lines so far, with the fraction of the present one.
    pub epoch: f64,
    /// Mean cross entropy of the step's masked tokens before the step, in nats.
    pub loss: f64,
    /// 2-norm of all gradients before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    /// Tokens of the step, and how many of them were masked.
    pub tokens: u64,
    pub masked_tokens: u64,
    /// Tokens a second since the run began or was taken up, evaluation and callbacks left out.
    pub tokens_per_second: f64,
    /// Seconds the remaining steps will take at the pace of the latest ones.
    pub seconds_left: f64,
    /// What an evaluation found, as in retto_evaluation. eval_masked_tokens is 0 where there was none.
    pub eval_loss: f64,
    pub eval_top1_accuracy: f64,
    pub eval_top10_accuracy: f64,
    pub eval_masked_tokens: u64,
    /// The checkpoint's folder, UTF-8 that ends in NUL, valid until the callback returns; else NULL.
    pub path: *const c_char,
    /// Whether no step is left. That evaluations end a run early is known only when it has ended.
    pub is_over: u32,
    pub reserved: u32,
    /// Of RETTO_PROGRESS_EVALUATING: batches so far, and in all; of several devices, the first one's.
    pub done: u64,
    pub total: u64,
}
versioned!(retto_progress, |zero| zero);

/// Is told where a run stands, on the thread that called retto_trainer_run. Anything but 0 cancels the run when the present step, or batch of an
/// evaluation, is done. Must not throw or longjmp. Of this trainer it may call retto_trainer_cancel only; of others, and of models, anything.
pub type retto_progress_callback =
    Option<unsafe extern "C" fn(progress: *const retto_progress, user_data: *mut c_void) -> i32>;

/// Is told between passes how many lines, batches or texts are done, of how many, on the thread that called; none is while they are made
/// tokens of. Anything but 0 ends the call with RETTO_CANCELLED, and without a result. Must not throw or longjmp; it may call
/// anything.
pub type retto_count_callback = Option<unsafe extern "C" fn(done: u64, total: u64, user_data: *mut c_void) -> i32>;

/// A callback, as what is observed calls it.
pub(super) fn counting(
    callback: retto_count_callback,
    user_data: *mut c_void,
) -> impl FnMut(usize, usize) -> ControlFlow<()> {
    move |done, total| match callback {
        // SAFETY: the program gave the two together.
        Some(callback) if unsafe { callback(done as u64, total as u64, user_data) } != 0 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// What a run came to, parts before it was resumed included. Set struct_size to sizeof(retto_train_output) before it is filled.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_train_output {
    pub struct_size: u32,
    /// Whether it was cancelled before it was over.
    pub cancelled: u32,
    /// Whether it ended because evaluations stopped improving.
    pub stopped_early: u32,
    pub reserved: u32,
    /// Optimizer steps.
    pub steps: u64,
    /// Passes over the lines.
    pub epoch: f64,
    /// Mean loss over the masked tokens of all steps.
    pub train_loss: f64,
    /// Lines and tokens trained on, counted as often as they came.
    pub samples: u64,
    pub tokens: u64,
    /// Lines that were cut to max_seq_length.
    pub truncated: u64,
    /// Seconds in this trainer's calls, evaluation included.
    pub runtime: f64,
    /// The lowest loss of all evaluations, and the step it was found at; best_step is 0 where there was none.
    pub best_loss: f64,
    pub best_step: u64,
}
versioned!(retto_train_output, |zero| zero);

/// An event as C reads it; the path is the caller's to keep.
pub(super) fn of_event(event: &TrainEvent, path: *const c_char) -> retto_progress {
    let mut progress =
        retto_progress { struct_size: size_of::<retto_progress>() as u32, path, ..Versioned::defaults() };
    match event {
        TrainEvent::Step(report) | TrainEvent::Log { report, .. } => {
            progress.kind = RETTO_PROGRESS_STEP;
            (progress.step, progress.max_steps, progress.epoch) = (report.step, report.max_steps, report.epoch);
            progress.loss = report.loss.into();
            progress.grad_norm = report.grad_norm.into();
            progress.learning_rate = report.learning_rate;
            progress.tokens = report.tokens as u64;
            progress.masked_tokens = report.masked_tokens as u64;
            progress.tokens_per_second = report.tokens_per_second;
            progress.seconds_left = report.seconds_left;
            if let TrainEvent::Log { loss, .. } = event {
                (progress.kind, progress.loss) = (RETTO_PROGRESS_LOG, *loss);
            }
        }
        TrainEvent::Evaluated { evaluation, epoch, step, .. } => {
            progress.kind = RETTO_PROGRESS_EVALUATED;
            (progress.step, progress.epoch) = (*step, *epoch);
            progress.eval_loss = evaluation.loss;
            progress.eval_top1_accuracy = evaluation.top1_accuracy;
            progress.eval_top10_accuracy = evaluation.top10_accuracy;
            progress.eval_masked_tokens = evaluation.masked_tokens as u64;
        }
        TrainEvent::Evaluating { done, total, step } => {
            (progress.kind, progress.step) = (RETTO_PROGRESS_EVALUATING, *step);
            (progress.done, progress.total) = (*done as u64, *total as u64);
        }
        TrainEvent::Preparing => progress.kind = RETTO_PROGRESS_PREPARING,
        // Embeddings are not trained through this interface.
        TrainEvent::EvaluatedTriplets { .. } => {}
        TrainEvent::Saved { step, .. } => (progress.kind, progress.step) = (RETTO_PROGRESS_SAVED, *step),
    }
    progress
}

/// What was told of a step so far, and then this: its evaluation comes before it, where it was put off, or after it.
pub(super) fn followed(told: &retto_progress, event: &TrainEvent) -> retto_progress {
    let of_event = of_event(event, std::ptr::null());
    let (step, evaluation) = match event {
        TrainEvent::Step(_) => (&of_event, told),
        TrainEvent::Evaluated { .. } => (told, &of_event),
        _ => (told, told),
    };
    retto_progress {
        eval_loss: evaluation.eval_loss,
        eval_top1_accuracy: evaluation.eval_top1_accuracy,
        eval_top10_accuracy: evaluation.eval_top10_accuracy,
        eval_masked_tokens: evaluation.eval_masked_tokens,
        ..*step
    }
}

pub(super) fn of_output(output: &TrainOutput) -> retto_train_output {
    retto_train_output {
        cancelled: output.cancelled.into(),
        stopped_early: output.stopped_early.into(),
        steps: output.steps,
        epoch: output.epoch,
        train_loss: output.train_loss,
        samples: output.samples as u64,
        tokens: output.tokens as u64,
        truncated: output.truncated as u64,
        runtime: output.runtime.as_secs_f64(),
        best_loss: output.best.map_or(0.0, |(loss, _)| loss),
        best_step: output.best.map_or(0, |(_, step)| step),
        ..Versioned::defaults()
    }
}
