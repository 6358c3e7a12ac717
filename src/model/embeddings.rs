//! Word, position and token type embeddings, summed and normalised.

use super::config::BertConfig;
use super::layers::LayerNorm;
use super::parameters::{Builder, Gradients, Init, Parameter};
use crate::error::Result;
use crate::gpu::{Pass, Tensor};
use crate::ops::dropout::{self, Dropout};
use crate::ops::embedding::{self, Occurrences};
use crate::ops::{attention, layer_norm, rows};
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

/// One of the network's dropouts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) number: u32,
    pub(crate) probability: f64,
}

/// A batch's ids on the GPU.
pub(crate) struct DeviceBatch {
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor,
    /// The attention's work list.
    pub(crate) blocks: attention::Blocks,
    /// Of all tokens.
    pub(crate) dropout: DropoutKeys,
    /// What the encoder gives, where that is not all of it.
    pub(crate) wanted: Option<Wanted>,
}

/// What dropout draws from, u32 \[rows\]: a random number for each. `None` where nothing is dropped.
pub(crate) struct DropoutKeys(Option<Tensor>);

/// Rows of the encoder's output that are wanted: behind its attention, the last layer computes only these.
pub(crate) struct Wanted {
    /// u32, ascending, each once.
    rows: Tensor,
    /// Of these rows: what is dropped of a token does not depend on what else is wanted.
    pub(crate) dropout: DropoutKeys,
}

impl DeviceBatch {
    /// For heads of this size. Of the encoder's output only `wanted` rows are computed, ascending, each once, where there are any.
    pub(crate) fn new(
        pass: &mut Pass,
        head_size: usize,
        batch: &PackedBatch,
        dropout_keys: Option<&[u32]>,
        wanted: Option<&[u32]>,
    ) -> Result<Self> {
        let tokens = batch.input_ids.len();
        let way = attention::Way::of(pass.gpu(), head_size);
        Ok(Self {
            input_ids: pass.upload(&[tokens], &batch.input_ids)?,
            position_ids: pass.upload(&[tokens], &batch.position_ids)?,
            token_type_ids: pass.upload(&[tokens], &batch.token_type_ids)?,
            blocks: attention::Blocks::upload(pass, way, &batch.cu_seqlens)?,
            dropout: DropoutKeys::upload(pass, dropout_keys)?,
            wanted: match wanted {
                Some(rows) if !rows.is_empty() && rows.len() < tokens => Some(Wanted::new(pass, rows, dropout_keys)?),
                _ => None,
            },
        })
    }
}

impl DropoutKeys {
    fn upload(pass: &mut Pass, keys: Option<&[u32]>) -> Result<Self> {
        Ok(Self(keys.map(|keys| pass.upload(&[keys.len()], keys)).transpose()?))
    }

    /// One of the network's dropouts, where there is any.
    pub(crate) fn at(&self, site: Site) -> Option<Dropout<'_>> {
        let keys = self.0.as_ref().filter(|_| site.probability > 0.0)?;
        Some(Dropout { keys, site: site.number, probability: site.probability })
    }

    /// x, with some of it dropped where there is dropout; of a gradient, that of what was dropped from.
    pub(crate) fn drop_some(&self, pass: &mut Pass, site: Site, x: Tensor) -> Result<Tensor> {
        self.at(site).map_or(Ok(x.clone()), |dropout| dropout::apply(pass, dropout, &x))
    }
}

impl Wanted {
    fn new(pass: &mut Pass, rows: &[u32], dropout_keys: Option<&[u32]>) -> Result<Self> {
        let keys = dropout_keys.map(|keys| rows.iter().map(|&row| keys[row as usize]).collect::<Vec<_>>());
        Ok(Self { rows: pass.upload(&[rows.len()], rows)?, dropout: DropoutKeys::upload(pass, keys.as_deref())? })
    }

    /// Of x\[tokens, columns\] the wanted rows.
    pub(crate) fn pick(&self, pass: &mut Pass, x: &Tensor) -> Result<Tensor> {
        rows::gather(pass, x, &self.rows)
    }

    /// The gradient of what [`Wanted::pick`] was given, so many tokens: zero but for these rows.
    pub(crate) fn put_back(&self, pass: &mut Pass, dpicked: &Tensor, tokens: usize) -> Result<Tensor> {
        let dx = pass.alloc(&[tokens, dpicked.columns()])?;
        pass.clear(&dx);
        rows::scatter(pass, dpicked, &self.rows, &dx)?;
        Ok(dx)
    }
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
            dropout: Site { number: DROPOUT_SITE, probability: config.hidden_dropout_prob },
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
        Ok((batch.dropout.drop_some(pass, self.dropout, hidden_states)?, saved))
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
