//! What a run in progress knows, and counts.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::arguments::TrainingArguments;
use super::batches::Plan;
use super::events::{StepReport, TrainOutput};
use super::output_lock::OutputLock;
use super::resume::State;
use crate::text::Masking;

/// Steps whose pace the rest is taken to have: so that a computer that slept in one of them is soon forgotten.
const LATEST: usize = 64;

/// What a run in progress knows.
pub(crate) struct Run {
    pub(super) arguments: TrainingArguments,
    pub(super) masking: Masking,
    /// Where this call took it up.
    pub(super) start: State,
    pub(crate) state: State,
    /// Steps of the whole run.
    pub(crate) total: u64,
    /// Whether the observer ended it before it was over.
    pub(crate) cancelled: bool,
    /// Examples that were cut.
    pub(super) truncated: usize,
    /// The plan of an epoch, kept from step to step.
    pub(super) plan: Option<(u64, Plan)>,
    pub(super) preparing: Duration,
    /// Time in finished calls of [`Trainer::advance`], and the evaluations in it.
    pub(super) running: Duration,
    pub(super) evaluating: Duration,
    /// When the present call of [`Trainer::advance`] began.
    pub(super) since: Instant,
    /// Time in steps alone: without evaluations, checkpoints, and what observers do meanwhile.
    pub(super) stepping: Duration,
    /// Seconds of each of the latest steps.
    pub(super) latest: VecDeque<f64>,
    /// Time spent on what other ranks have to say.
    pub(super) communicating: Duration,
    /// Whether all ranks were found to be about to do the same.
    pub(super) agreed: bool,
    /// Whether a checkpoint is due of the step that the run stands at.
    pub(super) owes_checkpoint: bool,
    /// That step, as far as it is not logged: it is where an evaluation ends the run.
    pub(super) closing: Option<StepReport>,
    /// While it goes on, if it writes anything.
    pub(super) lock: Option<OutputLock>,
    /// Those of the other ranks of this process.
    pub(super) peers: Vec<Run>,
}

impl Run {
    /// Whether no step is left.
    pub(crate) fn is_over(&self) -> bool {
        self.exhausted() || self.state.global_step >= self.total
    }

    /// Breaks where the run is over, too; notes whether the observer ended it before that.
    pub(super) fn concluded(&mut self, flow: ControlFlow<()>) -> ControlFlow<()> {
        self.cancelled =
            flow.is_break() && !self.exhausted() && (self.state.global_step < self.total || self.state.owes_evaluation);
        if self.is_over() { ControlFlow::Break(()) } else { flow }
    }

    /// Whether evaluations have not improved for long enough.
    pub(super) fn exhausted(&self) -> bool {
        self.arguments
            .early_stopping_patience
            .is_some_and(|patience| self.state.evaluations_without_improvement >= patience)
    }

    /// Whether a checkpoint is due after this step: also for whoever ends the run here.
    pub(super) fn saves(&self, flow: ControlFlow<()>) -> bool {
        let every = self.arguments.save_steps;
        every.is_some() && (self.is_multiple_of(every) || flow.is_break())
    }

    pub(super) fn is_multiple_of(&self, every: Option<u64>) -> bool {
        every.is_some_and(|every| self.state.global_step.is_multiple_of(every))
    }

    /// Counts a step that took so long, and completes its report.
    pub(super) fn count(
        &mut self,
        report: StepReport,
        took: Duration,
        examples: usize,
        steps_per_epoch: usize,
    ) -> StepReport {
        let (total, elapsed) = (self.total, self.running + self.since.elapsed());
        self.stepping += took;
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back(took.as_secs_f64());
        let pace = self.latest.iter().sum::<f64>() / self.latest.len() as f64;
        let (state, start) = (&mut self.state, &self.start);
        state.global_step += 1;
        state.samples += examples;
        state.tokens += report.tokens;
        state.all.add(report.loss, report.masked_tokens);
        state.since_log.add(report.loss, report.masked_tokens);
        state.passes = (state.epoch as f64 + state.step_of_epoch as f64 / steps_per_epoch as f64).to_bits();
        let seconds = elapsed.saturating_sub(self.evaluating).as_secs_f64();
        StepReport {
            step: state.global_step,
            max_steps: total,
            epoch: f64::from_bits(state.passes),
            tokens_per_second: (state.tokens - start.tokens) as f64 / self.stepping.as_secs_f64().max(1e-9),
            seconds_left: (total - state.global_step) as f64 * pace,
            communication_share: self.communicating.as_secs_f64() / seconds.max(1e-9),
            ..report
        }
    }

    pub(crate) fn output(&self) -> TrainOutput {
        let runtime = self.preparing + self.running;
        let (state, start) = (&self.state, &self.start);
        let seconds = runtime.as_secs_f64().max(1e-9);
        TrainOutput {
            steps: state.global_step,
            epoch: f64::from_bits(state.passes),
            train_loss: state.all.mean(),
            samples: state.samples,
            tokens: state.tokens,
            truncated: self.truncated,
            steps_per_second: (state.global_step - start.global_step) as f64 / seconds,
            samples_per_second: (state.samples - start.samples) as f64 / seconds,
            tokens_per_second: (state.tokens - start.tokens) as f64 / seconds,
            runtime,
            cancelled: self.cancelled,
            stopped_early: self.exhausted() && state.global_step < self.total,
            best: state.best.as_ref().map(|best| (best.loss(), best.step)),
        }
    }
}
