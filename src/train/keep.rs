//! Checkpoints of a run, when it is time for one and when it fails.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::events::TrainEvent;
use super::resume;
use super::run_state::Run;
use super::trainer::Trainer;
use crate::error::{Error, Result};

impl Trainer {
    /// The latest checkpoint of a run in this folder, which a trainer would take up there; `None` where there is none, or no folder.
    ///
    /// # Errors
    /// [`Error::Io`] for a folder that cannot be listed.
    pub fn latest_checkpoint(folder: &Path) -> Result<Option<PathBuf>> {
        Ok(resume::checkpoints(folder)?.pop().map(|(_, path)| path))
    }

    /// Writes `checkpoint-N` to the run's output, and returns its folder.
    pub(crate) fn checkpoint(&self, run: &Run) -> Result<PathBuf> {
        let Some(folder) = &run.arguments.output_dir else {
            return Err(Error::InvalidArgument("a checkpoint takes an output_dir to be written to".into()));
        };
        self.check_sure()?;
        // A run that writes by itself has it while it goes on.
        let _lock = if run.lock.is_none() { self.new_lock()? } else { None };
        if let Some((latest, path)) = resume::checkpoints(folder)?.pop() {
            // Another run's are refused before it begins; but while this one was not going on there may have been one.
            resume::check_same_run(&resume::read_state(&path)?.run, &run.state.run)?;
            if latest == run.state.global_step {
                return Ok(path);
            }
        }
        resume::save(folder, &self.model, &self.moments, &run.state, run.arguments.save_total_limit)
    }

    /// Steps and epochs that were done where a run goes on that was taken up, and has not begun.
    #[cfg(feature = "capi")]
    pub(crate) fn taken_up(&self) -> (u64, f64) {
        self.resumed.as_ref().map_or((0, 0.0), |state| (state.global_step, f64::from_bits(state.passes)))
    }

    /// Whether checkpoints have a place.
    #[cfg(feature = "capi")]
    pub(crate) fn has_output_dir(&self) -> bool {
        self.arguments.output_dir.is_some()
    }

    /// [`Trainer::checkpoint`], of several processes by the first one; the others wait until it has.
    pub(super) fn checkpoint_by_first(&self, run: &Run) -> Result<PathBuf> {
        let path = match (self.is_first(), &run.arguments.output_dir) {
            (false, Some(folder)) => Ok(resume::folder_of(folder, run.state.global_step)),
            _ => self.checkpoint(run),
        };
        if !self.is_alone() {
            // Also where it failed.
            let _ = self.agree(ControlFlow::Continue(()))?;
        }
        path
    }

    /// Refuses to begin where checkpoints of an earlier run lie in `output_dir`, and none was taken up: a run that writes checkpoints does so
    /// itself, and this is for who writes other files of the run there before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the latest of these checkpoints; [`Error::Io`] for a folder that cannot be listed.
    pub fn refuse_unless_taken_up(&self) -> Result<()> {
        if self.resumed.is_none() { self.refuse_earlier_run() } else { Ok(()) }
    }

    /// What [`Trainer::keep`] does, where an error leaves something to be kept: what diverged would diverge again; and of several processes
    /// the others do not wait for this one to have written.
    pub(super) fn keep_after(
        &self,
        error: &Error,
        run: &Run,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) {
        if self.is_alone() && !matches!(error, Error::Diverged { .. }) {
            self.keep(run, observe);
        }
    }

    /// A run that failed can be taken up at its last step, as far as that can be had.
    pub(super) fn keep(&self, run: &Run, observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>) {
        if run.arguments.save_steps.is_none() || !self.is_first() || run.state.global_step == run.start.global_step {
            return;
        }
        match self.checkpoint(run) {
            Ok(path) => {
                log::warn!("what was trained is kept in {}", path.display());
                // It has failed: nothing is left to be ended.
                let _ = observe(&TrainEvent::Saved { path, step: run.state.global_step });
            }
            Err(error) => log::warn!("what was trained could not be kept: {error}"),
        }
    }
}
