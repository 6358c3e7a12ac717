//! A trainer on several devices.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::arguments::{CommHook, Objective, TrainingArguments};
use super::data::{Batch, Data};
use super::parallel::{Communicator, Threads};
use super::run_state::Run;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::gpu::{Download, Gpu, Pass};
use crate::model::{Gradients, Model, Parameter};

/// What threads of other devices are called.
const DEVICE_THREAD: &str = "retto-device";

impl Trainer {
    /// As [`Trainer::new`], on the model's own device and these others together: each computes its share of every step's examples,
    /// gradients are summed, and every device makes the same step. What a run does, its examples, masks and order, does not depend on
    /// how many there are, nor do its losses, but for rounding; a run may be resumed on another number of devices.
    ///
    /// A step is as large as on one device: `per_device_train_batch_size` times `gradient_accumulation_steps`; a device has at most
    /// `per_device_train_batch_size` examples in memory at a time. Several devices on one adapter are allowed. Devices of one kind and
    /// driver give the same bits again; what unlike ones round differently is made alike at a run's evaluations, checkpoints and ends of
    /// epochs, but not between steps that are made one by one with [`Trainer::train_step`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an embedding objective whose texts are each other's negatives; as [`Trainer::new`], of any device.
    pub fn with_devices(model: &Model, others: &[Gpu], arguments: TrainingArguments) -> Result<Self> {
        if !others.is_empty() {
            Self::check_divisible(&arguments)?;
        }
        let patience = Duration::from_secs(arguments.ddp_timeout);
        let mut first = Self::new(model, arguments.clone())?;
        for gpu in others {
            first.patience.limit(gpu, patience);
            let mut peer = Self::new(&model.on(gpu)?, arguments.clone())?;
            peer.kernels.clone_from(&first.kernels);
            first.peers.push(peer);
        }
        if !others.is_empty() {
            first.patience.limit(&model.gpu, patience);
            let mut group = Threads::group(1 + others.len(), patience)
                .into_iter()
                .map(|rank| Box::new(rank) as Box<dyn Communicator>);
            first.ranks = group.next();
            first.peers.iter_mut().zip(group).for_each(|(peer, rank)| peer.ranks = Some(rank));
        }
        Ok(first)
    }

    /// Refuses what is not the same in parts.
    pub(super) fn check_divisible(arguments: &TrainingArguments) -> Result<()> {
        if let Objective::Embedding(objective) = &arguments.objective
            && !objective.loss.wants_negatives()
        {
            let reason = "texts that are each other's negatives on several devices, which would be in several batches";
            return Err(Error::Unsupported(reason.into()));
        }
        Ok(())
    }

    /// Refuses to begin where the ranks are not about to do the same.
    pub(super) fn agree_on(&self, run: &Run, validation: Option<Data>) -> Result<()> {
        let Some(ranks) = &self.ranks else { return Ok(()) };
        let mut own = vec![
            ("retto's version", env!("CARGO_PKG_VERSION").to_owned()),
            ("the tokenizer", self.model.tokenizer.hash().to_owned()),
            ("the step", run.state.global_step.to_string()),
            ("the model to start from", self.base.clone()),
            // These decide about what ranks say to each other, and when.
            ("the validation data", validation.map_or("none".into(), Data::fingerprint)),
            ("eval_steps", format!("{:?}", self.arguments.eval_steps)),
            ("per_device_eval_batch_size", self.arguments.per_device_eval_batch_size.to_string()),
            ("logging_steps", self.arguments.logging_steps.to_string()),
            ("save_steps", format!("{:?}", self.arguments.save_steps)),
            ("balance_devices", self.arguments.balance_devices.to_string()),
            ("ddp_comm_hook", format!("{:?}", self.arguments.ddp_comm_hook)),
        ];
        let apart = ["the model to start from", "the kernels for f16"];
        let recorded = run.state.run.iter().filter(|(name, _)| !apart.contains(&name.as_str()));
        own.extend(recorded.map(|(name, value)| (name.as_str(), value.clone())));
        refuse_differing(&**ranks, own)
    }

    /// What the benchmark asks for.
    #[cfg(feature = "bench")]
    pub(crate) fn trained_numbers(&self) -> usize {
        self.model.bert.trained_parameters().iter().map(|parameter| parameter.value.len()).sum()
    }

    /// Likewise: time of the latest step that went into the other devices.
    #[cfg(feature = "bench")]
    pub(crate) fn communication(&self) -> Duration {
        self.communicating
    }

    /// Refuses to go on after a step that some devices may have made and others not.
    pub(super) fn check_sure(&self) -> Result<()> {
        match self.unsure.load(Ordering::Relaxed) {
            true => Err(Error::RankFailed(
                "an earlier step, or the reading of a checkpoint, ended half done: resume from a checkpoint, or begin anew".into(),
            )),
            false => Ok(()),
        }
    }

    /// Notes how fast this one is: what it does first is left out, as kernels are compiled then; steps without a loss tell nothing.
    pub(super) fn measure(&mut self, batches: &[Batch], computing: Duration) {
        let tokens =
            batches.iter().filter(|batch| batch.losses() > 0).map(|batch| batch.packed().tokens()).sum::<usize>();
        let now = tokens as f64 / computing.as_secs_f64().max(1e-9);
        if self.step > 1 && tokens > 0 {
            self.speed = if self.speed > 0.0 { 0.7 * self.speed + 0.3 * now } else { now };
        } else if tokens == 0 {
            // Of one that got nothing it is not known any more: so it will get something again.
            self.speed *= 1.1;
        }
    }

    /// How many devices train together.
    pub fn devices(&self) -> usize {
        self.place().1
    }

    /// Which rank this is, and of how many.
    pub(super) fn place(&self) -> (usize, usize) {
        self.ranks.as_ref().map_or((0, 1), |ranks| (ranks.rank(), ranks.size()))
    }

    /// Whether all that trains together is of this process.
    pub(super) fn is_alone(&self) -> bool {
        self.ranks.is_none() || !self.peers.is_empty()
    }

    /// Whether it is this one that tells, logs and saves.
    pub(super) fn is_first(&self) -> bool {
        self.place().0 == 0
    }

    /// Whether the run goes on: where none of the ranks has been told to end it.
    pub(super) fn agree(&self, flow: ControlFlow<()>) -> Result<ControlFlow<()>> {
        let Some(ranks) = &self.ranks else { return Ok(flow) };
        let said = ranks.gather(vec![u8::from(flow.is_break())])?;
        Ok(if said.iter().any(|said| *said == [1]) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// A loss, as the first rank has it.
    pub(super) fn loss_of_first(&self, loss: f64) -> Result<f64> {
        let Some(ranks) = &self.ranks else { return Ok(loss) };
        let said = ranks.broadcast(loss.to_le_bytes().to_vec())?;
        Ok(said.try_into().map_or(f64::NAN, f64::from_le_bytes))
    }

    /// Losses and tokens of a step on all ranks, from those of this one. Refuses to go on where they do not stand at one step.
    pub(super) fn counted(&mut self, (losses, tokens): (usize, usize)) -> Result<(usize, usize)> {
        let Some(ranks) = &self.ranks else { return Ok((losses, tokens)) };
        let began = Instant::now();
        let own = [losses as f64, tokens as f64, self.step as f64, self.speed];
        let said = ranks.gather_f64(&own)?;
        self.communicating += began.elapsed();
        if said.iter().any(|other| other[2] != own[2]) {
            return Err(Error::RankFailed(
                "the devices do not stand at the same step: resume from a checkpoint".into(),
            ));
        }
        if self.arguments.balance_devices && said.iter().all(|other| other[3] > 0.0) {
            self.speeds = said.iter().map(|other| other[3]).collect();
        }
        let sum = |of: usize| said.iter().map(|other| other[of]).sum::<f64>() as usize;
        Ok((sum(0), sum(1)))
    }

    /// Which part of a step each rank takes, of any sum.
    pub(super) fn proportions(&self) -> Vec<f64> {
        if self.speeds.is_empty() {
            return vec![1.0; self.place().1];
        }
        let fastest = self.speeds.iter().copied().fold(0.0, f64::max);
        self.speeds.iter().map(|speed| speed.max(fastest / 20.0)).collect()
    }

    /// Runs one part of the work on every rank of this process, the first on this thread. An error of one ends the waiting of the others,
    /// and is the one that is told.
    pub(super) fn on_ranks<S: Send, T>(
        &mut self,
        of_peers: &mut [S],
        first: impl FnOnce(&mut Self) -> Result<T>,
        other: impl Fn(&mut Self, &mut S) -> Result<()> + Sync,
    ) -> Result<T> {
        if self.peers.is_empty() {
            return first(self);
        }
        let mut peers = std::mem::take(&mut self.peers);
        let own = std::thread::scope(|threads| {
            let spawn = |(peer, state)| {
                let other = &other;
                let name = std::thread::Builder::new().name(DEVICE_THREAD.into());
                name.spawn_scoped(threads, move || guarded(peer, |peer: &mut Self| other(peer, state)))
            };
            let spawned: Vec<_> = peers.iter_mut().zip(of_peers.iter_mut()).map(spawn).collect();
            let lacking = spawned.iter().find_map(|handle| handle.as_ref().err().map(std::string::ToString::to_string));
            let own = guarded(self, |trainer: &mut Self| match lacking {
                Some(error) => Err(Error::RankFailed(format!("a thread could not be started: {error}"))),
                None => first(trainer),
            });
            let mut others = Vec::new();
            for handle in spawned.into_iter().flatten() {
                others.push(handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            (own, others)
        });
        self.peers = peers;
        let (own, others) = own;
        let mut errors = Vec::new();
        let own = own.map_err(|error| errors.push(error)).ok();
        errors.extend(others.into_iter().filter_map(Result::err));
        if errors.is_empty() {
            return own.ok_or_else(|| Error::RankFailed("the first device has no result".into()));
        }
        // All have ended: what comes next may meet again.
        if let Some(ranks) = &self.ranks {
            ranks.recover();
        }
        // Where one has made a step and another has not, no step may follow.
        let all = self.peers.iter().chain([&*self]);
        if all.clone().any(|trainer| trainer.unsure.load(Ordering::Relaxed)) {
            all.for_each(|trainer| trainer.unsure.store(true, Ordering::Relaxed));
        }
        // The cause, not that the others heard of it.
        let cause = errors.iter().position(|error| !matches!(error, Error::RankFailed(_))).unwrap_or(0);
        Err(errors.swap_remove(cause))
    }
}

/// Tells the other ranks where this one fails or panics.
fn guarded<T>(trainer: &mut Trainer, work: impl FnOnce(&mut Trainer) -> Result<T>) -> Result<T> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(trainer)));
    let reason = match &outcome {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("another device's thread panicked".to_owned()),
    };
    if let (Some(reason), Some(ranks)) = (reason, &trainer.ranks) {
        ranks.abort(&reason);
    }
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Gradients on their way to the other ranks.
#[derive(Default)]
pub(super) struct Leaving {
    /// By the parameter's index.
    downloads: HashMap<usize, Download>,
    /// Time in which they were summed, or others waited for.
    pub(super) took: Duration,
}

impl Leaving {
    /// Lets the gradients go that have not gone yet, and the device begin with what is recorded so far.
    pub(super) fn start(&mut self, pass: &mut Pass, gradients: &Gradients, parameters: &[&Parameter]) -> Result<()> {
        for parameter in parameters {
            if let (Some(gradient), false) = (gradients.of(parameter), self.downloads.contains_key(&parameter.index)) {
                self.downloads.insert(parameter.index, pass.download(gradient)?);
            }
        }
        pass.part()
    }

    /// Puts their sums over all ranks in the gradients' place, layer by layer as backward comes to them.
    pub(super) fn sum(
        &mut self,
        ranks: &dyn Communicator,
        hook: CommHook,
        model: &Model,
        gradients: &Gradients,
    ) -> Result<()> {
        let (gpu, bert) = (&model.gpu, &model.bert);
        let mut layers = bert.layer_parameters();
        layers.reverse();
        layers.push(bert.trained_parameters());
        for layer in layers {
            let mut values = Vec::new();
            let mut places = Vec::new();
            for parameter in layer {
                let (Some(gradient), Some(download)) =
                    (gradients.of(parameter), self.downloads.remove(&parameter.index))
                else {
                    continue;
                };
                let own: Vec<f32> = download.wait(gpu)?;
                places.push((gradient, values.len()..values.len() + own.len()));
                values.extend(own);
            }
            if places.is_empty() {
                continue;
            }
            let began = Instant::now();
            let sums = ranks.sum(values, hook)?;
            self.took += began.elapsed();
            places.into_iter().try_for_each(|(gradient, range)| gradient.write(gpu, 0, &sums[range]))?;
        }
        Ok(())
    }
}

/// Refuses to begin where the ranks say different things of what they are about to do.
pub(super) fn refuse_differing(ranks: &dyn Communicator, own: Vec<(&str, String)>) -> Result<()> {
    let lines: Vec<String> = own.into_iter().map(|(name, value)| format!("{name} is {value}")).collect();
    let said = ranks.gather(lines.join("\n").into_bytes())?;
    let of = |rank: usize| String::from_utf8_lossy(&said[rank]).into_owned();
    let first = of(0);
    for rank in 1..said.len() {
        let other = of(rank);
        // With an end, so that one who says more is heard.
        let end = ["nothing more is said"];
        let (one, two) = (first.lines().chain(end), other.lines().chain(end));
        if let Some((one, two)) = one.zip(two).find(|(one, two)| one != two) {
            let reason = format!("the ranks are not about to do the same: on rank 0 {one}, on rank {rank} {two}");
            return Err(Error::InvalidArgument(reason));
        }
    }
    Ok(())
}
