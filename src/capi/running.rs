//! What stands behind a trainer's handle: the run that its functions begin, and where it stands.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::{Failure, Result};
use super::input::Versioned;
use super::progress::{self, retto_train_output};
use super::status::retto_status;
use crate::error::Error;
use crate::text::Dataset;
use crate::train::{Data, Run, TrainEvent, TrainOutput, Trainer};

pub(super) struct Inner {
    pub(super) trainer: Trainer,
    /// The name of the model it was made of.
    pub(super) name: String,
    /// Training and validation lines, until the run begins.
    pub(super) lines: [Vec<String>; 2],
    /// Whether a checkpoint was taken up.
    pub(super) resumed: bool,
    pub(super) run: Option<Box<Running>>,
    /// Set when the handle was freed while another thread was about to use it.
    pub(super) freed: bool,
}

pub(super) struct Running {
    pub(super) run: Run,
    pub(super) train: Dataset,
    pub(super) validation: Option<Dataset>,
    /// What it came to, once it is over.
    pub(super) output: Option<TrainOutput>,
}

impl Inner {
    pub(super) fn refuse_if_over(&self) -> Result<()> {
        match &self.run {
            Some(running) if running.output.is_some() => {
                Err(wrong_state("the run is over: save the model, or make another trainer of it"))
            }
            _ => Ok(()),
        }
    }

    /// What a run that is not let go on has come to.
    pub(super) fn standing(&self) -> retto_train_output {
        let mut output = match &self.run {
            Some(running) => progress::of_output(&running.run.output()),
            None => {
                let (steps, epoch) = self.trainer.taken_up();
                retto_train_output { steps, epoch, ..Versioned::defaults() }
            }
        };
        output.cancelled = 1;
        output
    }

    /// Begins the run at the first call; [`Error::Cancelled`] where `cancel` is set, or `ask` breaks while that takes.
    pub(super) fn begin(&mut self, cancel: &AtomicBool, mut ask: &mut dyn FnMut() -> ControlFlow<()>) -> Result<()> {
        let is_cancelled = || cancel.load(Ordering::Relaxed);
        if is_cancelled() {
            return Err(Error::Cancelled.into());
        }
        if self.run.is_none() {
            let length = self.trainer.longest()?;
            let tokenizer = self.trainer.model().tokenizer().clone();
            let [train, validation] = &self.lines;
            let train = Dataset::from_lines_with(&tokenizer, train, length, &mut ask)?;
            let validation = match &validation[..] {
                [] => None,
                lines => Some(Dataset::from_lines_with(&tokenizer, lines, length, &mut ask)?),
            };
            if !self.resumed {
                self.trainer.refuse_earlier_run()?;
            }
            let run = self.trainer.begin_run((&train).into(), validation.as_ref().map(Data::from), &mut ask)?;
            self.lines = Default::default();
            self.run = Some(Box::new(Running { run, train, validation, output: None }));
        }
        if is_cancelled() { Err(Error::Cancelled.into()) } else { Ok(()) }
    }

    /// The run that was begun.
    pub(super) fn running(&mut self) -> Result<(&mut Trainer, &mut Running)> {
        let running = self.run.as_deref_mut().ok_or_else(|| wrong_state("there is no run"))?;
        Ok((&mut self.trainer, running))
    }
}

impl Running {
    pub(super) fn advance(
        &mut self,
        trainer: &mut Trainer,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let flow =
            trainer.advance(&mut self.run, (&self.train).into(), self.validation.as_ref().map(Data::from), observe)?;
        if flow.is_break() && !self.run.cancelled {
            self.output = Some(trainer.finish(&self.run)?);
        }
        Ok(flow)
    }
}

pub(super) fn wrong_state(reason: &str) -> Failure {
    Failure::new(retto_status::RETTO_WRONG_STATE, reason)
}
