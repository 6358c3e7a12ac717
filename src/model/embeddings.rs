//! Word, position and token type embeddings, summed and normalised.

use super::config::BertConfig;
use super::layers::LayerNorm;
use super::parameters::{Builder, Gradients, Init, Parameter};
use crate::error::Result;
use crate::gpu::{Pass, Tensor};
use crate::ops::dropout::{self, Dropout};
use crate::ops::embedding::{self, Occurrences};
use crate::ops::{attention, layer_norm};
use crate::text::PackedBatch;

#[derive(Debug)]
pub(crate) struct Embeddings {
    pub(crate) word: Parameter,
    position: Parameter,
    token_type: Parameter,
    norm: LayerNorm,
    pad_token_id: Option<u32>,
    dropout: f64,
}

/// Of the embeddings; the layers' are counted from 1.
const DROPOUT_SITE: u32 = 0;

/// A batch's ids on the GPU.
pub(crate) struct DeviceBatch {
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor,
    /// The attention's work list.
    pub(crate) blocks: attention::Blocks,
    /// u32 \[tokens\]: what dropout draws from.
    dropout_keys: Option<Tensor>,
}

impl DeviceBatch {
    /// For heads of this size.
    pub(crate) fn new(
        pass: &mut Pass,
        head_size: usize,
        batch: &PackedBatch,
        dropout_keys: Option<&[u32]>,
    ) -> Result<Self> {
        let tokens = batch.input_ids.len();
        let way = attention::Way::of(pass.gpu(), head_size);
        Ok(Self {
            input_ids: pass.upload(&[tokens], &batch.input_ids)?,
            position_ids: pass.upload(&[tokens], &batch.position_ids)?,
            token_type_ids: pass.upload(&[tokens], &batch.token_type_ids)?,
            blocks: attention::Blocks::upload(pass, way, &batch.cu_seqlens)?,
            dropout_keys: dropout_keys.map(|keys| pass.upload(&[tokens], keys)).transpose()?,
        })
    }

    /// One of the network's dropouts, where there is any.
    pub(crate) fn dropout(&self, site: u32, probability: f64) -> Option<Dropout<'_>> {
        let keys = self.dropout_keys.as_ref().filter(|_| probability > 0.0)?;
        Some(Dropout { keys, site, probability })
    }
}

/// x, with some of it dropped where there is dropout; of a gradient, that of what was dropped from.
pub(crate) fn drop_some(pass: &mut Pass, dropout: Option<Dropout>, x: Tensor) -> Result<Tensor> {
    dropout.map_or(Ok(x.clone()), |dropout| dropout::apply(pass, dropout, &x))
}

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
            dropout: config.hidden_dropout_prob,
        })
    }

    /// Returns \[tokens, hidden\].
    pub(crate) fn forward(&self, pass: &mut Pass, batch: &DeviceBatch) -> Result<(Tensor, layer_norm::Saved)> {
        let arrays = embedding::Forward {
            input_ids: &batch.input_ids,
            position_ids: &batch.position_ids,
            token_type_ids: &batch.token_type_ids,
            word: &self.word.value,
            position: &self.position.value,
            token_type: &self.token_type.value,
        };
        let sum = embedding::forward(pass, arrays)?;
        let (hidden_states, saved) = self.norm.forward(pass, &sum, None)?;
        Ok((drop_some(pass, batch.dropout(DROPOUT_SITE, self.dropout), hidden_states)?, saved))
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
        let dnormalized = drop_some(pass, device.dropout(DROPOUT_SITE, self.dropout), dhidden_states)?;
        let dsum = self.norm.backward(pass, gradients, saved, &dnormalized)?;
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
