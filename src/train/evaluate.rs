//! How well a model fills blanks in lines it was not trained on.

use std::ops::ControlFlow;

use super::arguments::longest;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::text::{Dataset, Masked, Masking, PackedBatch, Purpose};

/// Options of [`Model::evaluate`].
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationOptions {
    /// The share of tokens that are masked.
    pub mlm_probability: f64,
    /// Of the masked tokens, how many become the mask token.
    pub mask_replace_prob: f64,
    /// Of the masked tokens, how many become a random one; the rest stay.
    pub random_replace_prob: f64,
    /// Words are masked whole.
    pub whole_word_mask: bool,
    /// The masks stored with the data are used; the four options above and the seed then have no effect.
    pub static_mask: bool,
    /// Lines in a step.
    pub per_device_eval_batch_size: usize,
    /// Longer lines are cut to this many tokens; by default to the model's longest.
    pub max_seq_length: Option<usize>,
    /// Seed of the masks: the same seed gives every model with the same tokenizer the same blanks.
    pub seed: u64,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self {
            mlm_probability: 0.15,
            mask_replace_prob: 0.8,
            random_replace_prob: 0.1,
            whole_word_mask: false,
            static_mask: false,
            per_device_eval_batch_size: 32,
            max_seq_length: None,
            seed: 42,
        }
    }
}

/// What [`Model::evaluate`] found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Mean cross entropy of the masked tokens, in nats.
    pub loss: f64,
    /// exp(loss)
    pub perplexity: f64,
    /// The share of masked tokens that the model thought likeliest.
    pub top1_accuracy: f64,
    /// The share of masked tokens among the ten the model thought likeliest.
    pub top10_accuracy: f64,
    /// Masked tokens.
    pub masked_tokens: usize,
}

impl Evaluation {
    /// From the sums of [`Model::evaluate_part`].
    pub(super) fn new(&[loss, top1, top10, masked_tokens]: &[f64; 4]) -> Result<Self> {
        if masked_tokens == 0.0 {
            return Err(nothing_masked());
        }
        let loss = loss / masked_tokens;
        Ok(Self {
            loss,
            perplexity: loss.exp(),
            top1_accuracy: top1 / masked_tokens,
            top10_accuracy: top10 / masked_tokens,
            masked_tokens: masked_tokens as usize,
        })
    }
}

impl Model {
    /// Masks held-out lines, always in the same way, and measures how they are filled.
    ///
    /// # Errors
    /// As [`Model::evaluate_dataset`].
    pub fn evaluate<S: AsRef<str>>(&self, lines: &[S], options: &EvaluationOptions) -> Result<Evaluation> {
        self.evaluate_with(lines, options, |_, _| ControlFlow::Continue(()))
    }

    /// [`Model::evaluate`], telling between batches how many are done, of how many, and ended by breaking; none is while lines are made
    /// tokens of, and fewer are to come where some of them have none.
    ///
    /// # Errors
    /// As [`Model::evaluate_dataset`]; [`Error::Cancelled`].
    pub fn evaluate_with<S: AsRef<str>>(
        &self,
        lines: &[S],
        options: &EvaluationOptions,
        mut observe: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Evaluation> {
        let length = longest(options.max_seq_length, self.config().max_position_embeddings)?;
        let batches = lines.len().div_ceil(options.per_device_eval_batch_size.max(1));
        // Also while lines are made tokens of.
        let data = Dataset::from_lines_with(&self.tokenizer, lines, length, &mut || observe(0, batches))?;
        self.evaluate_dataset_with(&data, options, observe)
    }

    /// [`Model::evaluate`] for examples that are tokenized.
    ///
    /// # Errors
    /// [`Error::NoMlmHead`]; [`Error::InvalidArgument`] for an option out of range, examples that are too long or made with another
    /// tokenizer than the model's, or so few that no token was masked; [`Error::NotFinite`] for a loss; GPU errors.
    pub fn evaluate_dataset(&self, data: &Dataset, options: &EvaluationOptions) -> Result<Evaluation> {
        self.evaluate_dataset_with(data, options, |_, _| ControlFlow::Continue(()))
    }

    /// [`Model::evaluate_dataset`], telling between batches how many are done, of how many, and ended by breaking.
    ///
    /// # Errors
    /// As [`Model::evaluate_dataset`]; [`Error::Cancelled`].
    pub fn evaluate_dataset_with(
        &self,
        data: &Dataset,
        options: &EvaluationOptions,
        mut observe: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Evaluation> {
        let sums = self.evaluate_part(data, options, (0, 1), &mut observe)?.ok_or(Error::Cancelled)?;
        Evaluation::new(&sums)
    }

    /// Of every so-many-th batch: the sum of losses, how many are first and among the first ten, and how many there are. `told` hears
    /// after each batch but the last how many are done, of how many; nothing comes of it where that breaks.
    pub(super) fn evaluate_part(
        &self,
        data: &Dataset,
        options: &EvaluationOptions,
        (part, parts): (usize, usize),
        told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<[f64; 4]>> {
        self.require_mlm_head()?;
        let masking = self.evaluation_masking(data, options)?;
        let (mut loss, mut top1, mut top10, mut masked_tokens) = (0.0, 0usize, 0usize, 0usize);
        let indices: Vec<usize> = (0..data.len()).collect();
        let chunks = indices.chunks(options.per_device_eval_batch_size).skip(part).step_by(parts);
        let total = chunks.len();
        for (index, chunk) in chunks.enumerate() {
            if index > 0 && told(index, total).is_break() {
                return Ok(None);
            }
            let mut batch = PackedBatch::default();
            for &index in chunk {
                let (ids, labels) = self.blanks(data, index, options, &masking);
                batch.push_masked(&ids, &labels);
            }
            for row in self.score(&batch)? {
                loss += f64::from(row.loss);
                top1 += usize::from(row.rank < 1.0);
                top10 += usize::from(row.rank < 10.0);
                masked_tokens += 1;
            }
        }
        Ok(Some([loss, top1 as f64, top10 as f64, masked_tokens as f64]))
    }

    fn evaluation_masking(&self, data: &Dataset, options: &EvaluationOptions) -> Result<Masking> {
        if options.per_device_eval_batch_size == 0 {
            return Err(Error::InvalidArgument("per_device_eval_batch_size is 0; it must be at least 1".into()));
        }
        data.check(&self.tokenizer, longest(options.max_seq_length, self.config().max_position_embeddings)?)?;
        if options.static_mask {
            data.require_static_masks()?;
        }
        let masking = Masking {
            probability: options.mlm_probability,
            mask_replace_prob: options.mask_replace_prob,
            random_replace_prob: options.random_replace_prob,
            whole_word_mask: options.whole_word_mask,
            seed: options.seed,
            purpose: Purpose::Evaluate,
        };
        masking.check(&self.tokenizer)?;
        Ok(masking)
    }

    /// An example with its blanks, and what belongs there.
    fn blanks(&self, data: &Dataset, index: usize, options: &EvaluationOptions, masking: &Masking) -> Masked {
        let stored = if options.static_mask { data.static_mask(index) } else { None };
        stored.unwrap_or_else(|| masking.apply(&self.tokenizer, data.get(index), 0, index))
    }

    /// Refuses data of which nothing will be masked: found out before training, not after an epoch of it.
    pub(crate) fn check_masked(&self, data: &Dataset, options: &EvaluationOptions) -> Result<()> {
        let masking = self.evaluation_masking(data, options)?;
        let any = |i| !self.blanks(data, i, options, &masking).1.is_empty();
        if (0..data.len()).any(any) { Ok(()) } else { Err(nothing_masked()) }
    }
}

fn nothing_masked() -> Error {
    let reason = "no token of the held-out lines is masked: give more or longer lines, or a higher mlm_probability";
    Error::InvalidArgument(reason.into())
}
