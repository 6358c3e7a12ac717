//! Word, position and token type embeddings, summed and normalised.

use super::config::BertConfig;
use super::device_batch::{DeviceBatch, Site};
use super::layers::LayerNorm;
use super::parameters::{Builder, Gradients, Init, Parameter};
use crate::error::Result;
use crate::gpu::{Pass, Tensor};
use crate::ops::embedding::{self, Occurrences};
use crate::ops::layer_norm;
use crate::text::PackedBatch;

#[derive(Debug)]
pub(crate) struct Embeddings {
    pub(crate) word: Parameter,
    position: Parameter,
    token_type: Parameter,
    norm: LayerNorm,
    pad_token_id: Option<u32>,
    dropout: Site,
}

/// Of the embeddings; the layers' are counted from 1.
const DROPOUT_SITE: u32 = 0;

impl Embeddings {
    pub(crate) fn new(builder: &mut Builder, config: &BertConfig) -> Result<Self> {
        let name = |part: &str| format!("bert.embeddings.{part}");
        let hidden = config.hidden_size;
        // As torch's Embedding with padding_idx: a fresh padding row is zero.
        let init = Init::Normal { zero_row: config.pad_token_id.map(|id| id as usize) };
        Ok(Self {
            word: builder.parameter(vec![name("word_embeddings.weight")], &[config.vocab_size, hidden], init)?,
            position: builder.normal(&name("position_embeddings.weight"), &[config.max_position_embeddings, hidden])?,
            token_type: builder.normal(&name("token_type_embeddings.weight"), &[config.type_vocab_size, hidden])?,
            norm: LayerNorm::new(builder, &name("LayerNorm"), hidden, config.layer_norm_eps)?,
            pad_token_id: config.pad_token_id,
            dropout: Site { number: DROPOUT_SITE, probability: config.hidden_dropout_prob },
        })
    }

    /// Returns \[tokens, hidden\].
    pub(crate) fn forward(&self, pass: &mut Pass, batch: &DeviceBatch) -> Result<(Tensor, layer_norm::Saved)> {
        let sum = embedding::forward(pass, self.arrays(batch))?;
        let (hidden_states, saved) = self.norm.forward(pass, &sum, None, None)?;
        Ok((batch.dropout.drop_some(pass, self.dropout, hidden_states)?, saved))
    }

    /// [`Embeddings::forward`] without what a backward pass needs, and without dropout.
    pub(crate) fn infer(&self, pass: &mut Pass, batch: &DeviceBatch) -> Result<Tensor> {
        embedding::forward_normalized(pass, self.arrays(batch), self.norm.of_embeddings())
    }

    fn arrays<'t>(&'t self, batch: &'t DeviceBatch) -> embedding::Forward<'t> {
        let Self { word, position, token_type, .. } = self;
        embedding::Forward {
            ids: &batch.ids,
            word: &word.value,
            position: &position.value,
            token_type: &token_type.value,
        }
    }

    /// Gradients of the tables `+=`. Lookups of the padding token train nothing, as with torch's `padding_idx`.
    pub(crate) fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        batch: &PackedBatch,
        device: &DeviceBatch,
        saved: &layer_norm::Saved,
        dhidden_states: Tensor,
    ) -> Result<()> {
        let dnormalized = device.dropout.drop_some(pass, self.dropout, dhidden_states)?;
        let dsum = self.norm.backward(pass, gradients, saved, &dnormalized, None)?.dx;
        for (table, ids, ignored) in [
            (&self.word, &batch.input_ids, self.pad_token_id),
            (&self.position, &batch.position_ids, None),
            (&self.token_type, &batch.token_type_ids, None),
        ] {
            if let Some(gradient) = gradients.of(table) {
                embedding::backward(pass, &dsum, &Occurrences::new(ids, ignored), gradient)?;
            }
        }
        Ok(())
    }

    pub(crate) fn parameters(&self) -> Vec<&Parameter> {
        [&self.word, &self.position, &self.token_type].into_iter().chain(self.norm.parameters()).collect()
    }
}
