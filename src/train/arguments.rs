//! Training options, with the names and defaults of transformers' TrainingArguments and run_mlm.py, and the schedule.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::model::{BertConfig, EmbeddingObjective, LoraConfig};
use crate::text::{Masking, Purpose, SHORTEST};

/// Options of a training run. Names are those of transformers' `TrainingArguments` and `run_mlm.py`, where these have such an option, and so
/// are defaults; but checkpoints are written where `save_steps` asks for them, held-out data are evaluated after each epoch where
/// `eval_steps` says nothing else, and `max_seq_length` is the model's longest.
///
/// ```
/// let arguments = retto::TrainingArguments { learning_rate: 3e-4, ..Default::default() };
/// assert_eq!(arguments.num_train_epochs, 3.0);
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TrainingArguments {
    /// What is learnt: to fill blanks, or embeddings.
    pub objective: Objective,
    /// Passes over the training lines; may be a fraction.
    pub num_train_epochs: f64,
    /// Optimizer steps, instead of epochs where given.
    pub max_steps: Option<u64>,
    /// The highest learning rate of the schedule. The default is transformers', for models of BERT-base's size; small ones, such as the bundled
    /// one, learn little with it, and take 1e-3.
    pub learning_rate: f64,
    /// How the learning rate goes on after the warm-up.
    pub lr_scheduler_type: SchedulerType,
    /// The share of all steps in which the learning rate rises linearly from 0 ([`SchedulerType::Constant`] has none).
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay, for all parameters but biases and LayerNorms.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment.
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this 2-norm, all together; 0 turns that off.
    pub max_grad_norm: f64,
    /// The share of tokens that are masked.
    pub mlm_probability: f64,
    /// Of the masked tokens, how many become the mask token.
    pub mask_replace_prob: f64,
    /// Of the masked tokens, how many become a random one; the rest stay.
    pub random_replace_prob: f64,
    /// Words are masked whole, as BERT's authors did: a token with the pieces that go on from it, and the two shares above as for
    /// tokens. Refused where the tokenizer's tokens do not say where words begin.
    pub whole_word_mask: bool,
    /// The masks stored with the data are used, in every epoch; the four options above then have no effect.
    pub static_mask: bool,
    /// Examples (lines, or triplets) in a batch; of several devices, what one has in memory at a time.
    pub per_device_train_batch_size: usize,
    /// Instead of `per_device_train_batch_size`: as many examples in a batch as have this many tokens together.
    pub batch_tokens: Option<usize>,
    /// Batches are made of examples of about the same length. The largest is an epoch's first: where memory does not suffice, that shows at
    /// once.
    pub group_by_length: bool,
    /// Batches in an optimizer step: as one batch of them all, but for rounding, in the memory of one. (Not where the texts of a batch
    /// are each other's negatives.) Several devices share the step.
    pub gradient_accumulation_steps: usize,
    /// Lines in an evaluation step.
    pub per_device_eval_batch_size: usize,
    /// Longer lines are cut to this many tokens, special tokens included; by default to the model's longest.
    pub max_seq_length: Option<usize>,
    /// Layers that are not trained, counted from 0.
    pub freeze_layers: Vec<usize>,
    /// Whether the embeddings are not trained; nor is then a decoder that is tied to them.
    pub freeze_embeddings: bool,
    /// Trains low-rank factors beside the weights, and nothing else.
    pub lora: Option<LoraConfig>,
    /// Computes activations twice instead of keeping those of all layers: less memory for about a third more time. The
    /// results are the same, bit for bit.
    pub gradient_checkpointing: bool,
    /// Whether the config's `hidden_dropout_prob` and `attention_probs_dropout_prob` are applied. What is dropped is a
    /// function of seed, epoch and example.
    pub dropout: bool,
    /// Mixed precision: linear layers multiply in f16 and add in f32, everything else is f32, as are the weights that are
    /// trained; the loss is scaled so that gradients fit. Refused where the adapter has no f16.
    pub fp16: bool,
    /// Steps between two evaluations of the validation data; without, they are evaluated after every epoch. The last step
    /// is evaluated in any case.
    pub eval_steps: Option<u64>,
    /// Evaluations that may go by without a better loss before the run ends early.
    pub early_stopping_patience: Option<u64>,
    /// How much lower a loss has to be to count as better for that.
    pub early_stopping_threshold: f64,
    /// Ends with the weights of the evaluation with the lowest loss, which are kept in `checkpoint-best` in `output_dir`; a run that the observer
    /// ends before it is over has those of its last step.
    pub load_best_model_at_end: bool,
    /// Steps between two log entries.
    pub logging_steps: u64,
    /// Seed of all that is drawn: masks, triplets, order, dropout.
    pub seed: u64,
    /// Seconds after which a device that another one does not answer gives up; for training on several. Of processes, what the first one's
    /// observer takes counts as well.
    pub ddp_timeout: u64,
    /// What gradients travel as between several devices.
    pub ddp_comm_hook: CommHook,
    /// Whether of several devices the faster ones get more of a step, by what was measured in the step before. What a step is made of
    /// stays the same, but sums are then rounded in ways that depend on time: a run does not repeat to the bit.
    pub balance_devices: bool,
    /// Where checkpoints of the run are written and looked for.
    pub output_dir: Option<PathBuf>,
    /// Steps between two checkpoints, `checkpoint-N` in `output_dir`; a run that is cancelled writes one, too. None without.
    pub save_steps: Option<u64>,
    /// Only so many of the latest checkpoints are kept.
    pub save_total_limit: Option<usize>,
}

/// What a run learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Objective {
    /// To fill blanks, with [`Trainer::train_dataset`](crate::Trainer::train_dataset).
    #[default]
    MaskedLm,
    /// Embeddings that tell what belongs together, with [`Trainer::train_triplets`](crate::Trainer::train_triplets). The options about
    /// masks have no effect, and the masked-language-model head is left out: it would not fit the encoder any more.
    Embedding(EmbeddingObjective),
}

/// What gradients travel as, by the names of accelerate's `DDPCommunicationHookType`. Sums are taken in f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CommHook {
    /// f32.
    #[default]
    No,
    /// f16: half the bytes, ten bits of the fraction; what is below 6e-8 is lost.
    Fp16,
    /// bf16: half the bytes, seven bits of the fraction, the range of f32.
    Bf16,
}

impl CommHook {
    /// A number as it travels in 16 bits; `None` where it travels as it is.
    pub(crate) fn bits(self, value: f32) -> Option<u16> {
        match self {
            Self::No => None,
            Self::Fp16 => Some(half::f16::from_f32(value).to_bits()),
            Self::Bf16 => Some(half::bf16::from_f32(value).to_bits()),
        }
    }

    /// And as it arrives.
    pub(crate) fn value(self, bits: u16) -> f32 {
        match self {
            Self::Bf16 => half::bf16::from_bits(bits).to_f32(),
            _ => half::f16::from_bits(bits).to_f32(),
        }
    }

    /// What is left of numbers on their way.
    pub(crate) fn round(self, values: &mut [f32]) {
        for value in values {
            if let Some(bits) = self.bits(*value) {
                *value = self.value(bits);
            }
        }
    }
}

/// The learning rate's course, as transformers' schedulers of these names have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerType {
    /// Falls linearly to 0 after the last step.
    #[default]
    Linear,
    /// Falls to 0 as half a cosine does.
    Cosine,
    /// Is the same in every step; there is no warm-up.
    Constant,
    /// Stays at its highest after the warm-up.
    ConstantWithWarmup,
}

impl Default for TrainingArguments {
    fn default() -> Self {
        Self {
            objective: Objective::MaskedLm,
            num_train_epochs: 3.0,
            max_steps: None,
            learning_rate: 5e-5,
            lr_scheduler_type: SchedulerType::Linear,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            mlm_probability: 0.15,
            mask_replace_prob: 0.8,
            random_replace_prob: 0.1,
            whole_word_mask: false,
            static_mask: false,
            per_device_train_batch_size: 8,
            batch_tokens: None,
            group_by_length: false,
            gradient_accumulation_steps: 1,
            per_device_eval_batch_size: 8,
            max_seq_length: None,
            freeze_layers: Vec::new(),
            freeze_embeddings: false,
            lora: None,
            gradient_checkpointing: false,
            dropout: true,
            fp16: false,
            eval_steps: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            load_best_model_at_end: false,
            logging_steps: 500,
            seed: 42,
            ddp_timeout: 1800,
            ddp_comm_hook: CommHook::No,
            balance_devices: false,
            output_dir: None,
            save_steps: None,
            save_total_limit: None,
        }
    }
}

fn within(name: &str, value: f64, low: f64, high: f64) -> Result<()> {
    match value >= low && value <= high {
        true => Ok(()),
        false => Err(Error::InvalidArgument(format!("{name} is {value}; it must be from {low} to {high}"))),
    }
}

/// Refuses what no learning rate is.
pub(crate) fn check_learning_rate(rate: f64) -> Result<()> {
    within("learning_rate", rate, 0.0, 1e3)
}

impl TrainingArguments {
    /// How examples are masked for one purpose: its draws are independent of those for others.
    pub(super) fn masking(&self, purpose: Purpose) -> Masking {
        Masking {
            probability: self.mlm_probability,
            mask_replace_prob: self.mask_replace_prob,
            random_replace_prob: self.random_replace_prob,
            whole_word_mask: self.whole_word_mask,
            seed: self.seed,
            purpose,
        }
    }

    pub(crate) fn validate(&self, config: &BertConfig) -> Result<()> {
        within("num_train_epochs", self.num_train_epochs, 0.0, 1e6)?;
        check_learning_rate(self.learning_rate)?;
        within("warmup_ratio", self.warmup_ratio, 0.0, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        within("adam_beta1", self.adam_beta1, 0.0, 1.0 - f64::EPSILON)?;
        within("adam_beta2", self.adam_beta2, 0.0, 1.0 - f64::EPSILON)?;
        within("adam_epsilon", self.adam_epsilon, f64::from(f32::MIN_POSITIVE), 1.0)?;
        within("max_grad_norm", self.max_grad_norm, 0.0, f64::MAX)?;
        within("early_stopping_threshold", self.early_stopping_threshold, 0.0, f64::MAX)?;
        for (name, size) in [
            ("per_device_train_batch_size", self.per_device_train_batch_size as u64),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps as u64),
            ("per_device_eval_batch_size", self.per_device_eval_batch_size as u64),
            ("logging_steps", self.logging_steps),
            ("batch_tokens", self.batch_tokens.unwrap_or(1) as u64),
            ("eval_steps", self.eval_steps.unwrap_or(1)),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1)),
            ("save_steps", self.save_steps.unwrap_or(1)),
            ("save_total_limit", self.save_total_limit.unwrap_or(1) as u64),
        ] {
            if size == 0 {
                return Err(Error::InvalidArgument(format!("{name} is 0; it must be at least 1")));
            }
        }
        if !(1..=1_000_000_000).contains(&self.ddp_timeout) {
            let reason = format!("ddp_timeout is {} s; it must be from 1 to 1000000000", self.ddp_timeout);
            return Err(Error::InvalidArgument(reason));
        }
        if self.save_steps.is_some() && self.output_dir.is_none() {
            return Err(Error::InvalidArgument("save_steps is given, but no output_dir to save to".into()));
        }
        if self.load_best_model_at_end && self.output_dir.is_none() {
            return Err(Error::InvalidArgument(
                "load_best_model_at_end needs an output_dir to keep the best in".into(),
            ));
        }
        if let Some(layer) = self.freeze_layers.iter().find(|&&layer| layer >= config.num_hidden_layers) {
            let layers = config.num_hidden_layers;
            let reason = format!("freeze_layers names layer {layer}, but the model has layers 0 to {}", layers - 1);
            return Err(Error::InvalidArgument(reason));
        }
        if let Objective::Embedding(EmbeddingObjective { loss, .. }) = &self.objective {
            loss.validate()?;
            if self.lora.is_some() {
                return Err(Error::Unsupported("embeddings by a low-rank adaptation: train the weights".into()));
            }
            if self.batch_tokens.is_some() {
                let reason = "batch_tokens counts masked examples: give per_device_train_batch_size, in triplets";
                return Err(Error::InvalidArgument(reason.into()));
            }
        }
        if let Some(lora) = &self.lora {
            lora.validate()?;
            if self.freeze_embeddings || !self.freeze_layers.is_empty() {
                let reason = "a low-rank adaptation trains none of the weights: freezing some of them changes nothing";
                return Err(Error::InvalidArgument(reason.into()));
            }
        }
        longest(self.max_seq_length, config.max_position_embeddings).map(|_| ())
    }

    /// Whether training changes what goes by this checkpoint key.
    pub(crate) fn is_trainable(&self, key: &str) -> bool {
        let layer = key.strip_prefix("bert.encoder.layer.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let frozen = match layer {
            Some(layer) => self.freeze_layers.contains(&layer),
            None => self.freeze_embeddings && key.starts_with("bert.embeddings."),
        };
        // Embeddings are made without the head.
        let used = self.objective == Objective::MaskedLm || key.starts_with("bert.");
        self.lora.is_none() && !frozen && used
    }

    /// The learning rate of the step after `done` of `total` steps: transformers' `get_linear_schedule_with_warmup` and its
    /// siblings.
    pub(crate) fn learning_rate_at(&self, done: u64, total: u64) -> f64 {
        let warmup = (total as f64 * self.warmup_ratio).ceil() as u64;
        let after = || total.saturating_sub(done) as f64 / total.saturating_sub(warmup).max(1) as f64;
        let factor = match self.lr_scheduler_type {
            SchedulerType::Constant => 1.0,
            _ if done < warmup => done as f64 / warmup.max(1) as f64,
            SchedulerType::ConstantWithWarmup => 1.0,
            SchedulerType::Linear => after(),
            SchedulerType::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - after())).cos()),
        };
        self.learning_rate * factor
    }
}

/// The longest sequence of a run.
pub(crate) fn longest(max_seq_length: Option<usize>, max_position_embeddings: usize) -> Result<usize> {
    let length = max_seq_length.unwrap_or(max_position_embeddings);
    match (SHORTEST..=max_position_embeddings).contains(&length) {
        true => Ok(length),
        false => Err(Error::InvalidArgument(format!(
            "max_seq_length is {length}; it must be from {SHORTEST} to the model's {max_position_embeddings}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_transformers_own() {
        let arguments = TrainingArguments { learning_rate: 1.0, warmup_ratio: 0.2, ..Default::default() };
        let rates: Vec<f64> = (0..=10).map(|done| arguments.learning_rate_at(done, 10)).collect();
        assert_eq!(rates, [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]);
        let without = TrainingArguments { learning_rate: 1.0, ..Default::default() };
        assert_eq!(without.learning_rate_at(0, 4), 1.0);
        let schedule = |lr_scheduler_type| {
            let arguments = TrainingArguments { lr_scheduler_type, ..arguments.clone() };
            [0, 1, 2, 4, 6, 8, 10].map(|done| arguments.learning_rate_at(done, 10))
        };
        assert_eq!(schedule(SchedulerType::Constant), [1.0; 7]);
        assert_eq!(schedule(SchedulerType::ConstantWithWarmup), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
        // get_cosine_schedule_with_warmup(num_warmup_steps=2, num_training_steps=10)
        let cosine = [0.0, 0.5, 1.0, 0.853_553_390_593, 0.5, 0.146_446_609_407, 0.0];
        let got = schedule(SchedulerType::Cosine);
        assert!(got.iter().zip(cosine).all(|(got, want)| (got - want).abs() < 1e-11), "{got:?}");
        // math.ceil(10 * 0.25) steps of warm-up.
        let part = TrainingArguments { learning_rate: 1.0, warmup_ratio: 0.25, ..Default::default() };
        assert_eq!([1, 2, 3, 4].map(|done| part.learning_rate_at(done, 10)), [1.0 / 3.0, 2.0 / 3.0, 1.0, 6.0 / 7.0]);
        let only_warmup = TrainingArguments { learning_rate: 1.0, warmup_ratio: 1.0, ..Default::default() };
        assert_eq!(only_warmup.learning_rate_at(3, 4), 0.75);
    }

    #[test]
    fn options_out_of_range_are_named() {
        type Spoil = fn(&mut TrainingArguments);
        let bad: [(&str, Spoil); 12] = [
            ("freeze_layers", |a| a.freeze_layers = vec![0, 12]),
            ("r is 0", |a| a.lora = Some(LoraConfig { r: 0, ..Default::default() })),
            ("low-rank", |a| (a.lora, a.freeze_embeddings) = (Some(LoraConfig::default()), true)),
            ("gradient_accumulation_steps", |a| a.gradient_accumulation_steps = 0),
            ("learning_rate", |a| a.learning_rate = f64::NAN),
            ("learning_rate", |a| a.learning_rate = -1.0),
            ("warmup_ratio", |a| a.warmup_ratio = 1.1),
            ("eval_steps", |a| a.eval_steps = Some(0)),
            ("per_device_train_batch_size", |a| a.per_device_train_batch_size = 0),
            ("max_seq_length", |a| a.max_seq_length = Some(65)),
            ("max_seq_length", |a| a.max_seq_length = Some(2)),
            ("num_train_epochs", |a| a.num_train_epochs = f64::INFINITY),
        ];
        let mut config = BertConfig::new(100);
        config.max_position_embeddings = 64;
        for (name, spoil) in bad {
            let mut arguments = TrainingArguments::default();
            spoil(&mut arguments);
            let error = arguments.validate(&config).unwrap_err();
            assert!(matches!(&error, Error::InvalidArgument(text) if text.contains(name)), "{error}");
        }
        TrainingArguments::default().validate(&config).unwrap();
    }
}
