//! Training steps: forward, backward, optimizer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::arguments::{Objective, TrainingArguments, check_learning_rate};
use super::data::Batch;
use super::events::StepReport;
use super::output_lock::OutputLock;
use super::parallel::Communicator;
use super::ranks::Leaving;
use super::resume::{self, LossScale, Moments, State};
use crate::error::{Error, Result};
use crate::gpu::{Pass, Patience, Tensor};
use crate::model::{Done, Gradients, Model, Parameter, TrainOptions, in_memory_order, stats_of};
use crate::ops::adamw::{self, AdamW};
use crate::ops::fingerprint::fingerprint;
use crate::ops::tuning::{in_use, tune};
use crate::text::{PackedBatch, Purpose};

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
    pub(super) model: Model,
    pub(super) arguments: TrainingArguments,
    gradients: Gradients,
    pub(super) moments: Moments,
    /// Optimizer steps done.
    pub(super) step: u64,
    pub(super) loss_scale: LossScale,
    /// Where [`Trainer::train`] goes on.
    pub(super) resumed: Option<State>,
    /// The weights it began with: their hash, in words.
    pub(super) base: String,
    /// The names of its kernels for f16.
    pub(super) kernels: String,
    /// Where several devices train together: how this one talks to the others.
    pub(super) ranks: Option<Box<dyn Communicator>>,
    /// The trainers of the other devices, on the first one's.
    pub(super) peers: Vec<Trainer>,
    /// How often weights had to be sent, as those of ranks had come apart.
    pub(super) aligned: u64,
    /// What the latest step spent on the others.
    pub(super) communicating: Duration,
    /// Tokens a second of each rank, as all know them: empty until they were measured.
    pub(super) speeds: Vec<f64>,
    /// This one's in the latest steps.
    pub(super) speed: f64,
    /// Whether a step ended before all devices were known to have made it.
    pub(super) unsure: AtomicBool,
    /// Of the output, where [`Trainer::lock_output_dir`] was asked for it; a run that writes takes its own otherwise.
    pub(super) lock: Option<OutputLock>,
    /// With devices that others wait for.
    pub(super) patience: Patience,
}

impl Trainer {
    /// Copies what will be trained, and makes room for its gradients and optimizer state: about four times its memory. What
    /// stays as it is shares the model's memory. Where the `Gpu` was given a cache folder, measures once which kernels are the
    /// fastest on its adapter.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an option out of range; [`Error::BadTokenizer`] for a vocabulary without a mask token;
    /// [`Error::NoMlmHead`] for a low-rank adaptation of an encoder without a head; [`Error::Unsupported`] for a model in float16 or int8, for
    /// `fp16` on an adapter without it, and for a low-rank adaptation of embeddings; [`Error::OutOfMemory`].
    pub fn new(model: &Model, arguments: TrainingArguments) -> Result<Self> {
        model.require_float32("training")?;
        arguments.validate(model.config())?;
        if arguments.objective == Objective::MaskedLm {
            arguments.masking(Purpose::Train).check(&model.tokenizer)?;
        }
        if arguments.fp16 && !model.gpu.has_f16() {
            let reason = format!("fp16 on {}, which has no f16 in shaders: train in f32", model.gpu);
            return Err(Error::Unsupported(reason));
        }
        tune(&model.gpu, arguments.fp16)?;
        let model = match &arguments.lora {
            Some(lora) => {
                // The fresh head would stay as random as it is.
                model.require_mlm_head()?;
                model.with_fresh_lora(lora, arguments.seed)?
            }
            None => model.duplicate(&|key| arguments.is_trainable(key))?,
        };
        if model.bert.trained_parameters().is_empty() {
            return Err(Error::InvalidArgument("everything is frozen: there is nothing left to train".into()));
        }
        let gradients = Gradients::new(&model.gpu, &model.bert.all_parameters())?;
        let moments = resume::fresh_moments(&model)?;
        let kernels = in_use(&model.gpu);
        let weights: Vec<&Tensor> = model.bert.parameters().into_iter().map(|parameter| &parameter.value).collect();
        let base = format!("of weights with the hash {:016x}", fingerprint(&model.gpu, &weights)?);
        let model = Model { live: true, ..model };
        Ok(Self {
            model,
            arguments,
            gradients,
            moments,
            step: 0,
            loss_scale: LossScale::default(),
            resumed: None,
            base,
            kernels,
            ranks: None,
            peers: Vec::new(),
            aligned: 0,
            communicating: Duration::ZERO,
            speeds: Vec::new(),
            speed: 0.0,
            unsure: AtomicBool::new(false),
            lock: None,
            patience: Patience::default(),
        })
    }

    /// Keeps other runs out of `output_dir` until this trainer is dropped. A run that writes checkpoints does so itself while it goes on:
    /// this is for who writes other files of the run there before or after.
    ///
    /// # Errors
    /// [`Error::FolderInUse`] where another run is going on there; [`Error::Io`] for a folder that cannot be made.
    pub fn lock_output_dir(&mut self) -> Result<()> {
        if self.lock.is_none() {
            self.lock = self.new_lock()?;
        }
        Ok(())
    }

    /// Of the output, where this trainer does not have it already.
    pub(super) fn new_lock(&self) -> Result<Option<OutputLock>> {
        match (&self.lock, self.is_first(), &self.arguments.output_dir) {
            (None, true, Some(folder)) => OutputLock::take(folder),
            _ => Ok(None),
        }
    }

    /// Takes up the latest checkpoint in `output_dir`: the next [`Trainer::train`], given the same lines and arguments, goes
    /// on from there, and ends with the same bits as a run that was never interrupted. Returns the step it
    /// stands at, or `None` where there is no checkpoint and training starts from the model this trainer was made of.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without an `output_dir`; [`Error::Io`] and [`Error::BadCheckpoint`] for a checkpoint that
    /// cannot be read; [`Error::OtherRun`] for one of another model; [`Error::OutOfMemory`].
    pub fn resume_from_checkpoint(&mut self) -> Result<Option<u64>> {
        let Some(folder) = &self.arguments.output_dir else {
            return Err(Error::InvalidArgument("resuming takes an output_dir with checkpoints".into()));
        };
        let Some((_, latest)) = resume::checkpoints(folder)?.pop() else { return Ok(None) };
        // Whatever was half done before is replaced as well.
        let state = resume::load(&latest, &mut self.model, &mut self.moments, &self.arguments, &self.unsure)?;
        let step = state.global_step;
        (self.step, self.loss_scale) = (state.optimizer_step, state.loss_scale);
        self.resumed = Some(state);
        for peer in &mut self.peers {
            peer.resume_from_checkpoint()?;
        }
        Ok(Some(step))
    }

    /// Forward, backward, clip and AdamW, which changes nothing where the norm is not finite. Returns loss and norm.
    fn attempt(&self, batches: &[Batch], losses: usize, learning_rate: f64) -> Result<Attempt> {
        let gpu = self.model.gpu.clone();
        let new_pass = || {
            let mut pass = Pass::new(&gpu);
            pass.half = self.arguments.fp16;
            pass
        };
        let mut pass = new_pass();
        self.gradients.clear(&mut pass);
        let began = Instant::now();
        let mut stats = Vec::new();
        let mut leaving = Leaving::default();
        let batches: Vec<&Batch> = batches.iter().filter(|batch| batch.losses() > 0).collect();
        for (index, batch) in batches.iter().enumerate() {
            if !stats.is_empty() {
                // Activations of one batch at a time: a submitted pass leaves its workspaces to the next.
                std::mem::replace(&mut pass, new_pass()).submit()?;
            }
            // Nothing is added to the gradients of the last batch any more: they leave while backward still runs.
            let leaves = self.ranks.is_some() && index + 1 == batches.len();
            let mut done = |pass: &mut Pass, parameters: &[&Parameter]| match leaves {
                true => leaving.start(pass, &self.gradients, parameters),
                false => Ok(()),
            };
            let of_batch = self.forward_backward(&mut pass, batch, losses, &mut done)?;
            stats.push(pass.download(&of_batch)?);
        }
        if let Some(ranks) = &self.ranks {
            leaving.start(&mut pass, &self.gradients, &self.model.bert.trained_parameters())?;
            pass = new_pass();
            leaving.sum(&**ranks, self.arguments.ddp_comm_hook, &self.model, &self.gradients)?;
        }
        let computing = began.elapsed().saturating_sub(leaving.took);
        let TrainingArguments { weight_decay, adam_beta1, adam_beta2, adam_epsilon, max_grad_norm, .. } =
            self.arguments;
        let clip = adamw::clip(&mut pass, self.gradients.runs(), max_grad_norm as f32, self.scale())?;
        let step =
            adamw::Step { step: self.step + 1, learning_rate, beta1: adam_beta1, beta2: adam_beta2, eps: adam_epsilon };
        adamw::adamw(&mut pass, &clip, &self.optimized(weight_decay), step)?;
        let clip = pass.download(&clip)?;
        // From here on until all ranks are known to have made it.
        self.unsure.store(self.ranks.is_some(), Ordering::Relaxed);
        pass.submit()?;
        let mut rows = Vec::with_capacity(2 * losses);
        for stats in stats {
            rows.extend(stats.wait::<f32>(&gpu)?);
        }
        let norm = clip.wait::<f32>(&gpu)?[0];
        let mut sum = stats_of(&rows).iter().map(|row| f64::from(row.loss)).sum::<f64>();
        if let Some(ranks) = &self.ranks {
            let began = Instant::now();
            // A norm that is not finite has left the parameters as they were: everywhere, or the ranks are no longer the same.
            let sums = ranks.sum_f64(&[sum, f64::from(u8::from(!norm.is_finite()))])?;
            if sums[1] > 0.0 && sums[1] < ranks.size() as f64 {
                let reason = "the gradient's norm is finite on some devices, and not on others";
                return Err(Error::RankFailed(reason.into()));
            }
            sum = sums[0];
            leaving.took += began.elapsed();
            self.unsure.store(false, Ordering::Relaxed);
        }
        Ok(Attempt { loss: (sum / losses.max(1) as f64) as f32, norm, communicating: leaving.took, computing })
    }

    /// What the optimizer changes, as it lies in memory.
    fn optimized(&self, weight_decay: f64) -> Vec<AdamW<'_>> {
        let trained = self.model.bert.trained_parameters();
        let moments: HashMap<usize, _> = trained.iter().map(|parameter| parameter.index).zip(&self.moments).collect();
        let mut optimized = Vec::new();
        for parameter in in_memory_order(trained) {
            let Some(gradient) = self.gradients.of(parameter) else { continue };
            let (m, v) = moments[&parameter.index];
            let weight_decay = if parameter.decay { weight_decay } else { 0.0 };
            optimized.push(AdamW { gradient, value: &parameter.value, m, v, weight_decay });
        }
        optimized
    }

    fn scale(&self) -> f32 {
        if self.arguments.fp16 { self.loss_scale.value() } else { 1.0 }
    }

    /// Gradients `+=`, of the sum of the batch's losses over `losses`; returns loss and rank of each label or triplet.
    fn forward_backward(&self, pass: &mut Pass, batch: &Batch, losses: usize, done: Done) -> Result<Tensor> {
        let config = self.model.config();
        let dropout = config.hidden_dropout_prob > 0.0 || config.attention_probs_dropout_prob > 0.0;
        let keys = (self.arguments.dropout && dropout).then(|| batch.packed().dropout_keys());
        let gradient_checkpointing = self.arguments.gradient_checkpointing;
        let loss_scale = self.scale();
        let options = TrainOptions { gradient_checkpointing, dropout_keys: keys.as_deref(), loss_scale };
        match (batch, &self.arguments.objective) {
            (Batch::Masked(batch), _) => self.model.bert.train(pass, &self.gradients, batch, losses, options, done),
            (Batch::Triplets(batch), Objective::Embedding(objective)) => {
                self.model.bert.train_embeddings(pass, &self.gradients, batch, objective, losses, options, done)
            }
            // Refused with the data.
            (Batch::Triplets(_), Objective::MaskedLm) => Err(Error::InvalidArgument("triplets have no masks".into())),
        }
    }

    /// Computes a batch without a step, and waits for it.
    pub(super) fn try_batch(&self, batch: &Batch) -> Result<()> {
        if batch.losses() == 0 {
            return Ok(());
        }
        let mut pass = Pass::new(&self.model.gpu);
        pass.half = self.arguments.fp16;
        self.gradients.clear(&mut pass);
        let stats = self.forward_backward(&mut pass, batch, batch.losses(), &mut |_, _| Ok(()))?;
        let stats = pass.download(&stats)?;
        pass.submit()?;
        stats.wait::<f32>(&self.model.gpu).map(|_| ())
    }

    /// Takes the weights of a folder, and leaves the optimizer as it is.
    pub(super) fn load_weights(&mut self, folder: &Path) -> Result<()> {
        let saved = resume::open_model(folder, &self.model, &self.arguments)?;
        self.unsure.store(true, Ordering::Relaxed);
        saved.load_into(&mut self.model)?;
        self.unsure.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The model as trained so far; later steps change it. What is made of it, by [`Model::merge`] say, stays as it is.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model as trained so far, in memory of its own: later steps leave it alone. What is not trained shares the
    /// trainer's memory; a low-rank adapter has become part of the weights.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and other GPU errors.
    pub fn snapshot(&self) -> Result<Model> {
        match self.model.lora {
            Some(_) => self.model.merge(),
            None => self.model.duplicate(&|key| self.arguments.is_trainable(key)),
        }
    }

    /// The trained model, giving back the memory of gradients and optimizer state.
    pub fn into_model(self) -> Model {
        Model { live: false, ..self.model }
    }

    /// One optimizer step on a batch with labels, at this learning rate: forward, backward, clip, AdamW.
    ///
    /// # Errors
    /// [`Error::Diverged`] where loss or gradients are not finite: the parameters are then unchanged. [`Error::TooLong`] and
    /// [`Error::InvalidArgument`] for a batch that does not fit, or a rate that is not from 0 to 1000; GPU errors.
    pub fn train_step(&mut self, batch: &PackedBatch, learning_rate: f64) -> Result<StepReport> {
        self.train_step_accumulated(std::slice::from_ref(batch), learning_rate)
    }

    /// [`Trainer::train_step`] on several batches, one after another in the memory of one; of several devices each takes every
    /// so-many-th. The loss is the mean over the masked tokens of all, as if they were one batch.
    ///
    /// # Errors
    /// As [`Trainer::train_step`].
    pub fn train_step_accumulated(&mut self, batches: &[PackedBatch], learning_rate: f64) -> Result<StepReport> {
        // A rate that is no number makes all weights none.
        check_learning_rate(learning_rate)?;
        if self.arguments.objective != Objective::MaskedLm {
            return Err(Error::InvalidArgument("this trainer's objective is embeddings: train_triplets".into()));
        }
        // Of several devices each takes some of the batches.
        let step = |trainer: &mut Self| {
            let (rank, ranks) = trainer.place();
            let own = batches.iter().skip(rank).step_by(ranks);
            let own: Vec<Batch> = own.map(|batch| Batch::Masked(Cow::Borrowed(batch))).collect();
            trainer.step(&own, learning_rate)
        };
        let mut of_peers = vec![(); self.peers.len()];
        self.on_ranks(&mut of_peers, step, |peer, ()| step(peer).map(|_| ()))
    }

    /// A step of either objective, on this rank's batches.
    pub(super) fn step(&mut self, batches: &[Batch], learning_rate: f64) -> Result<StepReport> {
        self.communicating = Duration::ZERO;
        self.check_sure()?;
        let own = batches.iter().map(|batch| (batch.losses(), batch.packed().tokens()));
        let own = own.fold((0, 0), |(losses, tokens), of| (losses + of.0, tokens + of.1));
        batches.iter().try_for_each(|batch| self.model.bert.check_labels(batch.packed()))?;
        let (losses, tokens) = self.counted(own)?;
        let mut report = StepReport {
            step: self.step + 1,
            max_steps: 0,
            epoch: 0.0,
            loss: 0.0,
            grad_norm: 0.0,
            learning_rate,
            tokens,
            masked_tokens: losses,
            tokens_per_second: 0.0,
            seconds_left: 0.0,
            communication_share: 0.0,
        };
        if losses == 0 {
            return Ok(report);
        }
        loop {
            let attempt = match self.attempt(batches, losses, learning_rate) {
                // Workspaces made for longer batches may serve as this one's, and be larger than they need be. Nothing was changed.
                Err(Error::OutOfMemory { .. }) if self.ranks.is_none() => {
                    self.model.gpu.trim();
                    self.attempt(batches, losses, learning_rate)?
                }
                attempt => attempt?,
            };
            (report.loss, report.grad_norm) = (attempt.loss, attempt.norm);
            self.communicating += attempt.communicating;
            self.measure(batches, attempt.computing);
            if report.grad_norm.is_finite() || !report.loss.is_finite() || !self.arguments.fp16 {
                break;
            }
            // Nothing was changed. With half the scale the same batches may fit.
            if !self.loss_scale.halve() {
                break;
            }
        }
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            let StepReport { step, loss, grad_norm, .. } = report;
            return Err(Error::Diverged { step, loss, grad_norm });
        }
        self.loss_scale.fitted();
        self.step += 1;
        // An encoder that was trained for embeddings has left its head behind.
        self.model.has_mlm_head = self.arguments.objective == Objective::MaskedLm;
        Ok(report)
    }
}

/// What an attempt at a step came to.
struct Attempt {
    loss: f32,
    norm: f32,
    communicating: Duration,
    /// Time until all gradients were there, others not waited for.
    computing: Duration,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("arguments", &self.arguments).field("step", &self.step).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gradients that do not fit are computed again with a smaller scale, and the step is the same then.
    #[test]
    fn a_loss_scale_that_is_too_large_is_halved_within_the_step() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/fillmask");
        let gpu = crate::gpu::test_gpu();
        if !gpu.has_f16() {
            return;
        }
        let model = Model::open(&gpu, folder).unwrap();
        let mut batch = PackedBatch::default();
        batch.push_masked(&[2, 7, 4, 9, 11, 3], &[(2, 8), (4, 11)]);
        let step = |exponent: i32| {
            let arguments = TrainingArguments { fp16: true, ..Default::default() };
            let mut trainer = Trainer::new(&model, arguments).unwrap();
            trainer.loss_scale = LossScale::of(exponent);
            let report = trainer.train_step(&batch, 1e-3).unwrap();
            let key = "bert.encoder.layer.0.intermediate.dense.weight";
            (report, trainer.model().parameter(key).unwrap(), trainer.loss_scale.value())
        };
        let (report, values, scale) = step(10);
        assert_eq!(scale, 1024.0);
        let (halved, same, lower) = step(32);
        assert!((1.0..2f32.powi(31)).contains(&lower), "{lower}");
        assert!((halved.grad_norm / report.grad_norm - 1.0).abs() < 1e-2, "{halved:?} {report:?}");
        assert_eq!(halved.step, 1);
        let far =
            values.iter().zip(&same).map(|(a, b)| (a - b).abs()).fold(0.0, |far, x| if x <= far { far } else { x });
        assert!(far < 1e-4, "{far}");
    }

    /// A buffer is asked for twice before there is said to be no memory, and a step is begun twice. Wherever in a step of two batches.
    #[test]
    fn a_step_that_finds_no_memory_is_tried_once_more_and_changes_nothing_before() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/fillmask");
        let gpu = crate::gpu::test_gpu();
        let model = Model::open(&gpu, folder).unwrap();
        let batches = [&[2, 7, 4, 9, 11, 3][..], &[2, 8, 3]].map(|ids| {
            let mut batch = PackedBatch::default();
            batch.push_masked(ids, &[(1, 8)]);
            batch
        });
        // Steps, during the second of which these attempts to make a buffer fail. Whether all were made, and the outcome.
        let run = |failing: std::ops::Range<usize>| {
            let mut trainer = Trainer::new(&model, TrainingArguments::default()).unwrap();
            trainer.train_step_accumulated(&batches, 1e-3).unwrap();
            gpu.trim();
            gpu.be_scarce(failing);
            let step = trainer.train_step_accumulated(&batches, 1e-3);
            let made = gpu.was_scarce();
            gpu.be_scarce(0..0);
            let fails = matches!(step, Err(Error::OutOfMemory { .. }));
            let report = if fails { trainer.train_step_accumulated(&batches, 1e-3) } else { step }.unwrap();
            let key = "bert.encoder.layer.0.intermediate.dense.weight";
            (made, (fails, report.step, report.loss, trainer.model().parameter(key).unwrap()))
        };
        let (_, want) = run(0..0);
        assert_eq!((want.0, want.1), (false, 2));
        for attempts in 1..4 {
            assert!(run(0..attempts) == (true, want.clone()), "{attempts}");
        }
        // The first buffer of both attempts at the step: it fails, and comes out the same when it is made after all.
        assert!(run(0..4) == (true, (true, want.1, want.2, want.3.clone())));
        let mut at = 1;
        loop {
            let (made, got) = run(at..at + 2);
            assert!(got == want, "{at}");
            if !made {
                break;
            }
            // Not one after another, which would take three times as long and find the same.
            at += 3;
        }
        assert!(at > 40, "{at}");
    }
}
