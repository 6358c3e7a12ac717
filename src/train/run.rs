//! The training loop.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::arguments::{TrainingArguments, longest};
use super::batches::Plan;
use super::data::{Batch, Data, Drawn};
use super::events::{TrainEvent, TrainOutput};
use super::parallel::Pause;
use super::resume::{self, MeanLoss, State};
use super::run_state::Run;
use super::trainer::Trainer;
use super::training_run::prepares;
use crate::error::{Error, Result};
use crate::text::random::Stream;
use crate::text::{Dataset, Masking, PackedBatch, Purpose, Triplets};

impl Trainer {
    /// Trains on lines, each an example: [`Trainer::train_dataset`] for text.
    ///
    /// # Errors
    /// [`Error::EmptyCorpus`] where no line holds a token; [`Error::BadTokenizer`] where the tokenizer cannot represent a line at all;
    /// otherwise as [`Trainer::train_dataset`].
    pub fn train<S: AsRef<str>>(
        &mut self,
        train: &[S],
        validation: &[S],
        mut observe: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainOutput> {
        let length = self.longest()?;
        let tokenizer = self.model.tokenizer.clone();
        let is_alone = self.is_alone();
        let mut ask = || prepares(is_alone, &mut observe);
        let train = Dataset::from_lines_with(&tokenizer, train, length, &mut ask)?;
        let held_out = Dataset::from_lines_with(&tokenizer, validation, length, &mut ask)?;
        // Lines of which no token is left are an error, not the absence of a validation.
        let validation = (!validation.is_empty()).then_some(&held_out);
        self.train_dataset(&train, validation, observe)
    }

    /// Trains on tokenized examples, in a new order and with new masks every epoch; evaluates `validation`, where there is
    /// any, every `eval_steps` or after every epoch. `observe` is told of everything on the calling thread, and ends the run
    /// by breaking: then the trainer has the weights of the last step, whatever `load_best_model_at_end` says, and what was trained is in
    /// a checkpoint if there are `save_steps`. A run that is over, or was ended, is not gone on with by another call, which begins one
    /// of its own with the weights there are: for runs with pauses there is [`Trainer::begin`]. Blocks for the whole run.
    ///
    /// # Errors
    /// [`Error::EmptyCorpus`] for a dataset without an example; [`Error::InvalidArgument`] where no token of the validation
    /// data is masked, where an example is longer than the longest allowed or than a batch, where data were made with another tokenizer
    /// than the model's, or where checkpoints are to be saved beside those of a run that was not resumed; [`Error::OtherRun`] where a
    /// resumed run began with other data or arguments; [`Error::WouldNotFit`]; [`Error::FolderInUse`]; [`Error::Io`] for a checkpoint that
    /// cannot be written; [`Error::NotFinite`] of an evaluation; [`Error::RankFailed`] of several devices; [`Error::Cancelled`] where
    /// `observe` ended it at [`TrainEvent::Preparing`], before it began; as [`Trainer::train_step`].
    pub fn train_dataset(
        &mut self,
        train: &Dataset,
        validation: Option<&Dataset>,
        observe: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainOutput> {
        self.train_on(train.into(), validation.map(Data::from), observe)
    }

    /// Trains embeddings on triplets, in a new order every epoch, with [`Objective::Embedding`](crate::Objective::Embedding); otherwise as
    /// [`Trainer::train_dataset`]. An example is a triplet. Where the loss has texts of a batch be each other's negatives, batches that
    /// are accumulated to a step are not as one larger batch.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with another objective, for pairs where the loss takes negatives, and for fewer songs than a batch has
    /// triplets, where its texts are each other's negatives; otherwise as [`Trainer::train_dataset`].
    pub fn train_triplets(
        &mut self,
        train: &Triplets,
        validation: Option<&Triplets>,
        observe: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainOutput> {
        let arguments = self.arguments.clone();
        let data = |triplets| Data::triplets(triplets, &arguments);
        self.train_on(data(train), validation.map(data), observe)
    }

    fn train_on(
        &mut self,
        train: Data,
        validation: Option<Data>,
        mut observe: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainOutput> {
        self.begin_on(train, validation, &mut observe)?.complete(observe)
    }

    /// The longest sequence of a run, in tokens.
    pub(crate) fn longest(&self) -> Result<usize> {
        longest(self.arguments.max_seq_length, self.model.config().max_position_embeddings)
    }

    /// Checks everything that can be checked beforehand, and says where the run begins or goes on. Asks before what may take long whether to
    /// go on: where not, [`Error::Cancelled`], and nothing has begun.
    pub(crate) fn begin_run(
        &mut self,
        train: Data,
        validation: Option<Data>,
        ask: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Run> {
        self.begin_of(train, validation, &mut |arguments| Plan::total_steps(train, arguments, ask))
    }

    /// `count`: the steps of the run, which are the same on each of several devices, and counted once.
    fn begin_of(
        &mut self,
        train: Data,
        validation: Option<Data>,
        count: &mut dyn FnMut(&TrainingArguments) -> Result<u64>,
    ) -> Result<Run> {
        let began = Instant::now();
        let arguments = self.arguments.clone();
        self.check_sure()?;
        // All of them before any is changed: refused, the trainer still stands where it was resumed.
        for trainer in self.peers.iter().chain([&*self]) {
            trainer.check_data(train, validation)?;
            trainer.check_memory(train)?;
        }
        self.check_judged(validation)?;
        let depends_on = resume::run_of(&arguments, self.model.config(), &self.base, &self.kernels, train, validation);
        if let Some(state) = &self.resumed {
            resume::check_same_run(&state.run, &depends_on)?;
            self.check_best(state)?;
        }
        let total = count(&arguments)?;
        if let (Some(folder), Some(_), true) = (&arguments.output_dir, arguments.save_steps, self.is_first()) {
            resume::refuse_others(folder, total)?;
        }
        let start = match self.resumed.take() {
            Some(state) => state,
            None => {
                if arguments.save_steps.is_some() {
                    self.refuse_earlier_run()?;
                }
                State { optimizer_step: self.step, loss_scale: self.loss_scale, ..State::default() }
            }
        };
        let begun = |peer: &mut Self| peer.begin_of(train, validation, &mut |_| Ok(total));
        let peers = self.peers.iter_mut().map(begun).collect::<Result<Vec<_>>>()?;
        Ok(Run {
            total,
            masking: arguments.masking(Purpose::Train),
            truncated: train.truncated(),
            state: State { run: depends_on, ..start.clone() },
            arguments,
            start,
            plan: None,
            cancelled: false,
            preparing: began.elapsed(),
            running: Duration::ZERO,
            evaluating: Duration::ZERO,
            stepping: Duration::ZERO,
            latest: VecDeque::new(),
            since: Instant::now(),
            communicating: Duration::ZERO,
            agreed: false,
            owes_checkpoint: false,
            closing: None,
            lock: None,
            peers,
        })
    }

    /// One step of a run and what is due after it, with the data it was begun with. Breaks where the run is over, or was
    /// cancelled by the observer: then [`Run::cancelled`] is set, and it may be advanced again.
    pub(crate) fn advance(
        &mut self,
        run: &mut Run,
        train: Data,
        validation: Option<Data>,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut runs = std::mem::take(&mut run.peers);
        let own = &mut *run;
        let paused = self.ranks.as_ref().and_then(|ranks| ranks.paused());
        let mut observe = |event: &TrainEvent| {
            let _pause = Pause::begin(paused.as_ref());
            observe(event)
        };
        let flow = self.on_ranks(
            &mut runs,
            |first| first.advance_rank(own, train, validation, &mut observe),
            |peer, run| peer.advance_rank(run, train, validation, &mut |_| ControlFlow::Continue(())).map(|_| ()),
        );
        run.peers = runs;
        flow
    }

    fn advance_rank(
        &mut self,
        run: &mut Run,
        train: Data,
        validation: Option<Data>,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        run.since = Instant::now();
        run.cancelled = false;
        if !run.agreed {
            self.agree_on(run, validation)?;
            run.agreed = true;
        }
        if run.lock.is_none() && run.arguments.writes_meanwhile() {
            let lock = self.new_lock()?;
            self.restore_best(run)?;
            run.lock = lock;
        }
        let flow = self.advance_untimed(run, train, validation, observe);
        run.running += run.since.elapsed();
        if !matches!(flow, Ok(ControlFlow::Continue(()))) {
            run.lock = None;
        }
        flow
    }

    fn advance_untimed(
        &mut self,
        run: &mut Run,
        train: Data,
        validation: Option<Data>,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        // Before it goes on: the best model and the end of the run may depend on it.
        let mut flow = ControlFlow::Continue(());
        if run.state.owes_evaluation || run.owes_checkpoint {
            run.communicating += self.align()?;
            flow = self.evaluate_owed(run, validation, flow, observe)?;
            run.owes_checkpoint |= flow.is_break() && run.saves(flow);
            flow = self.save_owed(run, flow, observe)?;
        }
        flow = run.concluded(flow);
        if flow.is_break() {
            return Ok(flow);
        }
        let began = Instant::now();
        // The position is that of the next step; an epoch that is done is left behind here.
        let (epoch, index) = (run.state.epoch, run.state.step_of_epoch as usize);
        let plan = match run.plan.take() {
            Some((of, plan)) if of == epoch => plan,
            _ => Plan::new(train, &run.arguments, epoch),
        };
        let steps_per_epoch = plan.steps();
        if index >= steps_per_epoch {
            let reason = format!("the checkpoint stands at step {index} of an epoch of {steps_per_epoch}");
            return Err(Error::InvalidArgument(reason));
        }
        let share = plan.share(train, &run.arguments, index, self.place().0, &self.proportions());
        let batches: Vec<_> =
            share.iter().map(|part| self.batch(train, part, &run.masking, &run.arguments, epoch)).collect();
        let examples = plan.step(index).map(<[usize]>::len).sum();
        run.plan = Some((epoch, plan));
        let learning_rate = run.arguments.learning_rate_at(run.state.global_step, run.total);
        let report = self.step(&batches, learning_rate).map_err(|error| match error {
            // Counted in this run, as everything else here is; a trainer may have been used before.
            Error::Diverged { loss, grad_norm, .. } => {
                Error::Diverged { step: run.state.global_step + 1, loss, grad_norm }
            }
            other => other,
        })?;
        let epoch_ends = index + 1 == steps_per_epoch;
        run.state.step_of_epoch = index as u64 + 1;
        run.communicating += self.communicating;
        let report = run.count(report, began.elapsed(), examples, steps_per_epoch);
        if epoch_ends {
            (run.state.epoch, run.state.step_of_epoch) = (epoch + 1, 0);
        }
        (run.state.optimizer_step, run.state.loss_scale) = (self.step, self.loss_scale);

        // Said before anything that may fail: what is due then is due still.
        let last = run.state.global_step == run.total;
        let due = run.is_multiple_of(Some(run.arguments.logging_steps));
        let evaluated = match run.arguments.eval_steps {
            Some(steps) => run.is_multiple_of(Some(steps)),
            None => epoch_ends,
        };
        run.state.owes_evaluation = validation.is_some() && (evaluated || last);
        run.owes_checkpoint = run.saves(ControlFlow::Continue(()));
        run.closing = (!last && !due).then(|| report.clone());
        flow = observe(&TrainEvent::Step(report.clone()));
        if last || due || flow.is_break() {
            let loss = run.state.since_log.mean();
            flow = join(flow, observe(&TrainEvent::Log { report, loss }));
            run.closing = None;
        }
        flow = self.agree(flow)?;
        if due {
            // Not for the entry that closes a cancelled run: resumed, it logs what an uninterrupted one does.
            run.state.since_log = MeanLoss::default();
        }
        if epoch_ends || last || run.saves(flow) || evaluated && validation.is_some() {
            run.communicating += self.align()?;
        }
        flow = self.evaluate_owed(run, validation, flow, observe)?;
        // Observers may have ended the run.
        run.owes_checkpoint = run.saves(flow);
        flow = self.save_owed(run, flow, observe)?;
        Ok(run.concluded(flow))
    }

    /// Evaluates, where that is due. If it fails, it is due still when the run goes on; so it is for whoever cancels, and does not wait
    /// for it.
    fn evaluate_owed(
        &mut self,
        run: &mut Run,
        validation: Option<Data>,
        mut flow: ControlFlow<()>,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        if let (Some(validation), true, true) = (validation, run.state.owes_evaluation, flow.is_continue()) {
            flow = self.evaluate_run(run, validation, observe)?;
            if run.state.owes_evaluation
                && let Some(report) = run.closing.take()
            {
                // Broken off: what may be the run's last step is told now, as where the break comes at a step.
                let loss = run.state.since_log.mean();
                flow = join(flow, observe(&TrainEvent::Log { report, loss }));
            }
            if run.exhausted() {
                if let Some(report) = run.closing.take() {
                    let loss = run.state.since_log.mean();
                    flow = join(flow, observe(&TrainEvent::Log { report, loss }));
                }
                // Also where this rank has told of the step before, as the first has that was cancelled there: the others have not.
                flow = self.agree(flow)?;
            }
        }
        Ok(flow)
    }

    /// Writes a checkpoint, where that is due; likewise.
    fn save_owed(
        &mut self,
        run: &mut Run,
        mut flow: ControlFlow<()>,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        if run.owes_checkpoint {
            // One rank writes, the others wait until it has.
            if self.is_first() {
                let path = self.checkpoint(run)?;
                flow = join(flow, observe(&TrainEvent::Saved { path, step: run.state.global_step }));
            }
            flow = self.agree(flow)?;
            run.owes_checkpoint = false;
        }
        Ok(flow)
    }

    /// What the run came to. The trainer then has the run's best weights, where they were asked for.
    pub(crate) fn finish(&mut self, run: &Run) -> Result<TrainOutput> {
        if !run.cancelled {
            // The first one last: until then it has the weights of the last step, should any fail.
            for (peer, run) in self.peers.iter_mut().zip(&run.peers) {
                peer.take_best(run)?;
            }
            self.take_best(run)?;
        }
        Ok(run.output())
    }

    pub(super) fn batch(
        &self,
        data: Data,
        examples: &[usize],
        masking: &Masking,
        arguments: &TrainingArguments,
        epoch: u64,
    ) -> Batch<'static> {
        let data = match data {
            Data::Examples(data) => data,
            Data::Triplets(triplets, Drawn { seed, negatives, .. }) => {
                return Batch::Triplets(triplets.batch(examples, seed, epoch, negatives));
            }
        };
        let mut batch = PackedBatch::default();
        for &example in examples {
            let stored = if arguments.static_mask { data.static_mask(example) } else { None };
            let (ids, labels) =
                stored.unwrap_or_else(|| masking.apply(&self.model.tokenizer, data.get(example), epoch, example));
            batch.push_masked(&ids, &labels);
            let seed = Stream::new(Purpose::Dropout, arguments.seed, epoch, example as u64).number();
            batch.dropout_seeds.push(seed);
        }
        Batch::Masked(std::borrow::Cow::Owned(batch))
    }
}

pub(super) fn join(a: ControlFlow<()>, b: ControlFlow<()>) -> ControlFlow<()> {
    if a.is_break() { a } else { b }
}
