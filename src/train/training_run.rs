//! A run that a program advances itself, step by step.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::data::Data;
use super::events::{TrainEvent, TrainOutput};
use super::run_state::Run;
use super::trainer::Trainer;
use crate::error::Result;
use crate::text::{Dataset, Triplets};

/// A run of a [`Trainer`], for programs that do something between its steps: wait, show what the model answers by now, write a
/// checkpoint when asked to. [`Trainer::train_dataset`] is the same in one call.
///
/// ```no_run
/// # fn main() -> retto::Result<()> {
/// # let gpu = retto::Gpu::open_default()?;
/// use std::ops::ControlFlow;
/// let model = retto::Model::open(&gpu, "models/retto-tiny")?;
/// let songs = retto::Dataset::from_lines(model.tokenizer(), &["take me back to the road where we began"], 64)?;
/// let mut trainer = retto::Trainer::new(&model, retto::TrainingArguments::default())?;
/// let mut run = trainer.begin(&songs, None, |_| ControlFlow::Continue(()))?;
/// while run.advance(|_| ControlFlow::Continue(()))?.is_continue() {
///     if run.output().steps == 10 {
///         println!("{:?}", run.trainer().snapshot()?.fill_mask("take me [MASK]", 5)?);
///     }
/// }
/// println!("loss {:.3}", run.finish()?.train_loss);
/// trainer.into_model().save("adapted")?;
/// # Ok(())
/// # }
/// ```
pub struct TrainingRun<'a> {
    trainer: &'a mut Trainer,
    run: Run,
    train: Data<'a>,
    validation: Option<Data<'a>>,
}

impl Trainer {
    /// Begins the run that [`Trainer::train_dataset`] is, or goes on with the one that [`Trainer::resume_from_checkpoint`] took up. No step
    /// is made yet; `observe` is told of [`TrainEvent::Preparing`] alone.
    ///
    /// # Errors
    /// As [`Trainer::train_dataset`]; nothing has then begun. [`Error::InvalidArgument`](crate::Error::InvalidArgument) also where
    /// `output_dir` holds checkpoints and none was taken up, whatever `save_steps` says: [`TrainingRun::checkpoint`] writes there.
    pub fn begin<'a>(
        &'a mut self,
        train: &'a Dataset,
        validation: Option<&'a Dataset>,
        observe: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainingRun<'a>> {
        self.refuse_unless_taken_up()?;
        self.begin_on(train.into(), validation.map(Data::from), observe)
    }

    /// Begins the run that [`Trainer::train_triplets`] is.
    ///
    /// # Errors
    /// As [`Trainer::train_triplets`] and [`Trainer::begin`]; nothing has then begun.
    pub fn begin_triplets<'a>(
        &'a mut self,
        train: &'a Triplets,
        validation: Option<&'a Triplets>,
        observe: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainingRun<'a>> {
        self.refuse_unless_taken_up()?;
        let arguments = self.arguments.clone();
        let data = |triplets| Data::triplets(triplets, &arguments);
        self.begin_on(data(train), validation.map(data), observe)
    }

    pub(super) fn begin_on<'a>(
        &'a mut self,
        train: Data<'a>,
        validation: Option<Data<'a>>,
        mut observe: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainingRun<'a>> {
        let is_alone = self.is_alone();
        let run = self.begin_run(train, validation, &mut || prepares(is_alone, &mut observe))?;
        Ok(TrainingRun { trainer: self, run, train, validation })
    }
}

/// Whether to go on before a run has begun. Of several processes none may end there while others begin: they ask again at the first step.
pub(super) fn prepares(is_alone: bool, observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>) -> ControlFlow<()> {
    match observe(&TrainEvent::Preparing) {
        ControlFlow::Break(()) if is_alone => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

impl TrainingRun<'_> {
    /// One optimizer step, and what is due after it: a log, an evaluation, a checkpoint. Breaks where the run is over
    /// ([`TrainingRun::is_over`]), or was ended by `observe`: then it may be advanced again, and goes on as if it had not been.
    ///
    /// # Errors
    /// As [`Trainer::train_dataset`]. After [`Error::Diverged`](crate::Error::Diverged) the weights are those before the step; where an
    /// evaluation or a checkpoint failed, that is due still. Nothing is kept by itself: [`TrainingRun::checkpoint`].
    pub fn advance(&mut self, mut observe: impl FnMut(&TrainEvent) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        self.trainer.advance(&mut self.run, self.train, self.validation, &mut observe)
    }

    /// Advances it to its end. What was trained before an error is kept in a checkpoint, as far as that can be had, where there are
    /// `save_steps`.
    pub(super) fn complete(mut self, mut observe: impl FnMut(&TrainEvent) -> ControlFlow<()>) -> Result<TrainOutput> {
        loop {
            match self.trainer.advance(&mut self.run, self.train, self.validation, &mut observe) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(error) => {
                    self.trainer.keep_after(&error, &self.run, &mut observe);
                    return Err(error);
                }
            }
        }
        self.trainer.finish(&self.run).inspect_err(|_| self.trainer.keep(&self.run, &mut observe))
    }

    /// Writes the run to `checkpoint-N` in `output_dir`, and returns that folder: [`Trainer::resume_from_checkpoint`] takes it up, also
    /// in another process. It needs no `save_steps`. Of several processes all have to call it, and the first one writes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) without an `output_dir`; [`Error::OtherRun`](crate::Error::OtherRun) where
    /// the folder holds another run's; [`Error::FolderInUse`](crate::Error::FolderInUse); [`Error::Io`](crate::Error::Io); GPU errors.
    pub fn checkpoint(&mut self) -> Result<PathBuf> {
        // Devices that round differently have weights of their own between two steps.
        self.trainer.align_all()?;
        self.trainer.checkpoint_by_first(&self.run)
    }

    /// The trainer, whose [`Trainer::model`] and [`Trainer::snapshot`] are what was trained so far.
    pub fn trainer(&self) -> &Trainer {
        self.trainer
    }

    /// What the run has come to so far.
    pub fn output(&self) -> TrainOutput {
        TrainOutput { cancelled: !self.is_over(), ..self.run.output() }
    }

    /// Whether nothing is left: no step, and no evaluation that was put off.
    pub fn is_over(&self) -> bool {
        self.run.is_over() && !self.run.state.owes_evaluation
    }

    /// What the run came to. If it is over, the trainer then has the weights of the best evaluation, where `load_best_model_at_end`
    /// asks for them; if it is not, those of the last step. Where that fails, what was trained is kept in a checkpoint if there are
    /// `save_steps`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::BadCheckpoint`](crate::Error::BadCheckpoint) where the best model cannot be read;
    /// GPU errors.
    pub fn finish(mut self) -> Result<TrainOutput> {
        self.run.cancelled = !self.is_over();
        let finished = self.trainer.finish(&self.run);
        finished.inspect_err(|_| self.trainer.keep(&self.run, &mut |_| ControlFlow::Continue(())))
    }
}
