//! How well a model fills blanks in lines it was not trained on.

use super::arguments::{check_mlm_probability, longest};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::text::{Examples, Masking, PackedBatch, Purpose};

/// Options of [`Model::evaluate`].
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationOptions {
    /// The share of tokens that are masked.
    pub mlm_probability: f64,
    /// Lines in a step.
    pub per_device_eval_batch_size: usize,
    /// Longer lines are cut to this many tokens; by default to the model's longest.
    pub max_seq_length: Option<usize>,
    /// Seed of the masks: the same seed gives every model with the same tokenizer the same blanks.
    pub seed: u64,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self { mlm_probability: 0.15, per_device_eval_batch_size: 32, max_seq_length: None, seed: 42 }
    }
}

/// What [`Model::evaluate`] found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
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

impl Model {
    /// Masks held-out lines, always in the same way, and measures how they are filled.
    ///
    /// # Errors
    /// [`Error::NoMlmHead`]; [`Error::InvalidArgument`] for an option out of range, or lines so few that no token was masked;
    /// GPU errors.
    pub fn evaluate<S: AsRef<str>>(&self, lines: &[S], options: &EvaluationOptions) -> Result<Evaluation> {
        self.require_mlm_head()?;
        check_mlm_probability(options.mlm_probability)?;
        if options.per_device_eval_batch_size == 0 {
            return Err(Error::InvalidArgument("per_device_eval_batch_size is 0; it must be at least 1".into()));
        }
        let length = longest(options.max_seq_length, self.config().max_position_embeddings)?;
        let examples = Examples::tokenize(&self.tokenizer, lines, length)?;
        self.evaluate_examples(&examples, options)
    }

    fn evaluation_masking(&self, options: &EvaluationOptions) -> Result<Masking> {
        Ok(Masking {
            probability: options.mlm_probability,
            mask_token_id: self.tokenizer.require_mask_token()?,
            vocab_size: self.tokenizer.vocab_size(),
            seed: options.seed,
            purpose: Purpose::Evaluate,
        })
    }

    /// Refuses examples of which nothing will be masked: found out before training, not after an epoch of it.
    pub(crate) fn check_examples(&self, examples: &Examples, options: &EvaluationOptions) -> Result<()> {
        let masking = self.evaluation_masking(options)?;
        let any = |i| !masking.apply(&self.tokenizer, examples.get(i), 0, i).1.is_empty();
        if (0..examples.len()).any(any) { Ok(()) } else { Err(nothing_masked()) }
    }

    pub(crate) fn evaluate_examples(&self, examples: &Examples, options: &EvaluationOptions) -> Result<Evaluation> {
        let masking = self.evaluation_masking(options)?;
        let (mut loss, mut top1, mut top10, mut masked_tokens) = (0.0, 0usize, 0usize, 0usize);
        let indices: Vec<usize> = (0..examples.len()).collect();
        for chunk in indices.chunks(options.per_device_eval_batch_size) {
            let mut batch = PackedBatch::default();
            for &index in chunk {
                let (ids, labels) = masking.apply(&self.tokenizer, examples.get(index), 0, index);
                batch.push_masked(&ids, &labels);
            }
            for row in self.score(&batch)? {
                loss += f64::from(row.loss);
                top1 += usize::from(row.rank < 1.0);
                top10 += usize::from(row.rank < 10.0);
                masked_tokens += 1;
            }
        }
        if masked_tokens == 0 {
            return Err(nothing_masked());
        }
        let share = |n: usize| n as f64 / masked_tokens as f64;
        let loss = loss / masked_tokens as f64;
        Ok(Evaluation {
            loss,
            perplexity: loss.exp(),
            top1_accuracy: share(top1),
            top10_accuracy: share(top10),
            masked_tokens,
        })
    }
}

fn nothing_masked() -> Error {
    let reason = "no token of the held-out lines is masked: give more or longer lines, or a higher mlm_probability";
    Error::InvalidArgument(reason.into())
}
