//! What a run will take, before its first step.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::arguments::{Objective, TrainingArguments};
use super::batches::Plan;
use super::data::Data;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::model::BertConfig;
use crate::text::{Dataset, Purpose, Triplets};

/// What a run will take.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Forecast {
    /// Optimizer steps to come.
    pub steps: u64,
    /// Bytes of GPU memory for weights, gradients and optimizer: those of the model the trainer was made of included. Of several
    /// devices these are the first adapter's, with all of this process's devices that are on it.
    pub state_bytes: u64,
    /// Bytes for the activations of the largest batch, about. Buffers kept for batches of other lengths come on top, and are
    /// given back where memory runs out.
    pub activation_bytes: u64,
    /// The adapter's memory, where its driver tells.
    pub adapter_bytes: Option<u64>,
    /// How long the steps will take, evaluation left out, by the time one batch took; of several devices as if they were alike,
    /// and without what they have to say to each other. Zero where it is not known: see [`Trainer::forecast`].
    pub duration: Duration,
}

/// Steps among which a typical one is looked for.
const LOOKED_AT: usize = 64;

impl Trainer {
    /// Foresees a run on these data. One batch is computed twice for it, and nothing changed; of a run that would need more memory than its
    /// adapter has, none is, and no time is told.
    ///
    /// # Errors
    /// As [`Trainer::train_dataset`], but for [`Error::WouldNotFit`](crate::Error::WouldNotFit).
    pub fn forecast(&self, train: &Dataset) -> Result<Forecast> {
        self.forecast_on(train.into())
    }

    /// [`Trainer::forecast`] for [`Trainer::train_triplets`]. Triplets of later epochs are taken to be as long as those of the first.
    ///
    /// # Errors
    /// As [`Trainer::forecast`].
    pub fn forecast_triplets(&self, train: &Triplets) -> Result<Forecast> {
        self.forecast_on(Data::triplets(train, &self.arguments))
    }

    fn forecast_on(&self, train: Data) -> Result<Forecast> {
        self.check_data(train, None)?;
        let plan = Plan::new(train, &self.arguments, 0);
        let masking = self.arguments.masking(Purpose::Train);
        let done = self.resumed.as_ref().map_or(0, |state| state.global_step);
        let steps = Plan::total_steps(train, &self.arguments, &mut || ControlFlow::Continue(()))?.saturating_sub(done);
        let mut seconds_per_token = 0.0;
        let has_room = self.check_memory(train).is_ok();
        let tokens_per_step = train.tokens() as f64 / plan.steps().max(1) as f64;
        // Of those that begin the epoch the one that is most like all: where batches are by length, the first is the largest.
        let tokens =
            |step: usize| plan.step(step).flatten().map(|&example| train.length(example)).sum::<usize>() as f64;
        let off = |step: &usize| (tokens(*step) - tokens_per_step).abs();
        let typical = (0..plan.steps().min(LOOKED_AT)).min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(0);
        // The first time compiles the kernels.
        for _ in 0..if steps > 0 && has_room { 2 } else { 0 } {
            let share = plan.share(train, &self.arguments, typical, self.place().0, &self.proportions());
            let Some(examples) = share.first() else { break };
            let batch = self.batch(train, examples, &masking, &self.arguments, 0);
            let began = Instant::now();
            self.try_batch(&batch)?;
            let tokens = batch.packed().tokens().max(1) * self.devices();
            seconds_per_token = began.elapsed().as_secs_f64() / tokens as f64;
        }
        // By tokens, of which batches have more or fewer.
        let seconds = steps as f64 * tokens_per_step * seconds_per_token;
        let adapter = self.model.gpu.adapter();
        let [state_bytes, activation_bytes] = self.bytes_on(adapter.index, train, &self.arguments);
        Ok(Forecast {
            steps,
            state_bytes,
            activation_bytes,
            adapter_bytes: adapter.memory_bytes,
            // Years are as good as any longer time.
            duration: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1 << 32)),
        })
    }

    /// Refuses a run that cannot fit, with what would.
    pub(super) fn check_memory(&self, train: Data) -> Result<()> {
        // Of every adapter in use: several devices may be on one.
        let mut adapters: Vec<_> = self.devices_here().map(|trainer| trainer.model.gpu.adapter()).collect();
        adapters.sort_by_key(|adapter| adapter.index);
        adapters.dedup_by_key(|adapter| adapter.index);
        let short_of = |arguments: &TrainingArguments| {
            adapters.iter().find_map(|adapter| {
                let needed = self.bytes_on(adapter.index, train, arguments).iter().sum();
                adapter.memory_bytes.filter(|&available| needed > available).map(|available| (needed, available))
            })
        };
        let Some((needed, available)) = short_of(&self.arguments) else { return Ok(()) };
        let mut options = Vec::new();
        let mut arguments = self.arguments.clone();
        let mut try_out = |arguments: &TrainingArguments, words: String| {
            let fits = short_of(arguments).is_none();
            if fits {
                options.push(words);
            }
            fits
        };
        if !arguments.gradient_checkpointing {
            arguments.gradient_checkpointing = true;
            try_out(&arguments, "gradient_checkpointing".into());
        }
        while arguments.per_device_train_batch_size > 1 && arguments.batch_tokens.is_none() {
            arguments.per_device_train_batch_size /= 2;
            let words = format!("per_device_train_batch_size {} with it", arguments.per_device_train_batch_size);
            if try_out(&arguments, words) {
                break;
            }
        }
        if self.arguments.lora.is_none() && self.arguments.objective == Objective::MaskedLm {
            options.push("a low-rank adaptation (lora), which needs no gradients and moments of the weights".into());
        }
        options.push("another adapter".into());
        Err(Error::WouldNotFit { needed, available, options: options.join("; ") })
    }

    /// This process's trainers, one a device.
    fn devices_here(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.peers)
    }

    /// Bytes that all of this process's devices on one adapter need together: of state, and of activations.
    fn bytes_on(&self, adapter: usize, train: Data, arguments: &TrainingArguments) -> [u64; 2] {
        let plan = Plan::new(train, arguments, 0);
        let there = self.devices_here().filter(|trainer| trainer.model.gpu.adapter().index == adapter);
        there.fold([0, 0], |[state, activations], trainer| {
            // The base model of a peer was a copy, of which it keeps what is not trained.
            let copied = if std::ptr::eq(trainer, self) { 0 } else { trainer.trained_bytes() };
            let own = trainer.activation_bytes(train, &plan, arguments);
            [state + trainer.state_bytes() - copied, activations + own]
        })
    }

    /// The base model, what is trained of it once more, and gradients and moments of that.
    fn state_bytes(&self) -> u64 {
        bytes(&self.model.bert.parameters()) + 4 * self.trained_bytes()
    }

    fn trained_bytes(&self) -> u64 {
        bytes(&self.model.bert.trained_parameters())
    }

    fn activation_bytes(&self, train: Data, plan: &Plan, arguments: &TrainingArguments) -> u64 {
        let batches =
            (0..plan.steps()).flat_map(|step| plan.share(train, arguments, step, self.place().0, &self.proportions()));
        let tokens = batches.map(|batch| batch.iter().map(|&i| train.length(i)).sum::<usize>()).max().unwrap_or(0);
        activation_bytes(self.model.config(), arguments, tokens)
    }
}

fn bytes(parameters: &[&crate::model::Parameter]) -> u64 {
    parameters.iter().map(|parameter| parameter.value.bytes()).sum()
}

/// Bytes of activations and their gradients for a batch of so many tokens.
fn activation_bytes(config: &BertConfig, arguments: &TrainingArguments, tokens: usize) -> u64 {
    let [hidden, wide, heads, layers] =
        [config.hidden_size, config.intermediate_size, config.num_attention_heads, config.num_hidden_layers]
            .map(|n| n as u64);
    let tokens = tokens as u64;
    // Kept by a layer's forward pass: its input, query, key, value, context, twice what a LayerNorm keeps and gives, and the
    // feed-forward layer before and after its activation.
    let behind_attention = 4 * hidden + 2 * wide + 2;
    let layer = 5 * hidden + heads + behind_attention;
    // At its widest, the backward pass of a layer holds gradients of these beside.
    let gradients = 6 * hidden + 2 * wide;
    let rows = match arguments.objective {
        Objective::MaskedLm => (tokens as f64 * arguments.mlm_probability.min(1.0)).ceil() as u64,
        Objective::Embedding(_) => 0,
    };
    // Behind its attention, the last layer has the masked rows alone: so many on average, and some more in a batch. Beside these it
    // keeps their hidden states and contexts.
    let of_last = match arguments.objective {
        Objective::MaskedLm => tokens.min(rows * 3 / 2),
        Objective::Embedding(_) => tokens,
    };
    let last = tokens * (layer - behind_attention) + of_last * (behind_attention + 2 * hidden);
    let kept = match arguments.gradient_checkpointing {
        true => tokens * (layers * hidden + layer),
        false => tokens * (layers - 1) * layer + last.min(tokens * layer),
    };
    let logits = (rows * config.vocab_size as u64).min(1 << 24);
    let low_rank = if arguments.lora.is_some() { 8 * hidden * hidden } else { 0 };
    let floats = kept + tokens * (gradients + 4 * hidden) + logits + rows * 6 * hidden + low_rank;
    // Buffers are shared by batches of about the same length, an eighth larger at most. Larger ones that earlier batches left are given
    // back where nothing else fits.
    floats * 4 * 17 / 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn devices_on_one_adapter_need_their_memory_together() {
        let gpu = crate::gpu::test_gpu();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/fillmask");
        let model = Model::open(&gpu, folder).unwrap();
        let lines = ["take me back", "down the road", "where we began", "and sing to me"];
        let train = Dataset::from_lines(model.tokenizer(), &lines, 64).unwrap();
        let of = |others: &[crate::Gpu]| {
            let trainer = Trainer::with_devices(&model, others, TrainingArguments::default()).unwrap();
            let [state, activations] = trainer.bytes_on(gpu.adapter().index, (&train).into(), &trainer.arguments);
            assert_eq!(trainer.bytes_on(usize::MAX, (&train).into(), &trainer.arguments), [0, 0]);
            [state, activations]
        };
        let (one, three) = (of(&[]), of(&[crate::gpu::test_gpu(), crate::gpu::test_gpu()]));
        // All of this model's weights are trained: the user's own, and 4 times as much a device.
        assert_eq!(three[0] * 5, one[0] * 13);
        // The batch is divided, not repeated; what each keeps beside its tokens is.
        assert!(three[1] >= one[1] && three[1] < 2 * one[1], "{} {}", one[1], three[1]);
    }
}
