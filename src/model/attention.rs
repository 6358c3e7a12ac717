//! Self-attention, its output projection, and the LayerNorm over both with the residual.

use super::config::BertConfig;
use super::device_batch::{DeviceBatch, Site, Wanted};
use super::layers::{LayerNorm, Linear};
use super::parameters::{Builder, Gradients, Parameter};
use crate::error::Result;
use crate::gpu::{Pass, Tensor};
use crate::ops::{attention, layer_norm};

#[derive(Debug)]
pub(crate) struct Attention {
    /// Query, key and value as one layer.
    pub(crate) qkv: Linear,
    pub(crate) output: Linear,
    norm: LayerNorm,
    heads: usize,
    /// Of the probabilities, and of the output.
    dropouts: [Site; 2],
}

/// What the backward pass needs.
pub(crate) struct Saved {
    qkv: Tensor,
    context: Tensor,
    /// Of the context, what is wanted.
    picked: Tensor,
    attention: attention::Saved,
    norm: layer_norm::Saved,
}

impl Attention {
    pub(crate) fn new(builder: &mut Builder, config: &BertConfig, layer: &str, first_site: u32) -> Result<Self> {
        let hidden = config.hidden_size;
        let parts = ["query", "key", "value"].map(|part| format!("{layer}.attention.self.{part}"));
        Ok(Self {
            qkv: Linear::stacked(builder, &parts, hidden, hidden)?,
            output: Linear::new(builder, &format!("{layer}.attention.output.dense"), hidden, hidden)?,
            norm: LayerNorm::new(
                builder,
                &format!("{layer}.attention.output.LayerNorm"),
                hidden,
                config.layer_norm_eps,
            )?,
            heads: config.num_attention_heads,
            dropouts: [
                Site { number: first_site, probability: config.attention_probs_dropout_prob },
                Site { number: first_site + 1, probability: config.hidden_dropout_prob },
            ],
        })
    }

    /// hidden_states\[tokens, hidden\] to the same shape, or to the wanted rows of it.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass,
        batch: &DeviceBatch,
        hidden_states: &Tensor,
        wanted: Option<&Wanted>,
    ) -> Result<(Tensor, Saved)> {
        let qkv = self.qkv.forward(pass, hidden_states)?;
        let [of_probs, of_output] = self.dropouts;
        let dropout = batch.dropout.at(of_probs);
        let arrays = attention::Attention { blocks: &batch.blocks, qkv: &qkv, heads: self.heads, dropout };
        let (context, attention) = attention::forward(pass, arrays)?;
        let [picked, residual] = match wanted {
            Some(wanted) => wanted.pick(pass, [&context, hidden_states])?,
            None => [context.clone(), hidden_states.clone()],
        };
        let projected = self.output.forward(pass, &picked)?;
        let dropout = batch.dropout_of(wanted).at(of_output);
        let (output, norm) = self.norm.forward(pass, &projected, Some(&residual), dropout)?;
        Ok((output, Saved { qkv, context, picked, attention, norm }))
    }

    /// Gradients of the parameters `+=`. Returns the gradient of hidden_states.
    #[expect(clippy::too_many_arguments, reason = "what it reads, and nothing it could be grouped with")]
    pub(crate) fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        batch: &DeviceBatch,
        wanted: Option<&Wanted>,
        hidden_states: &Tensor,
        saved: &Saved,
        doutput: &Tensor,
    ) -> Result<Tensor> {
        let Saved { qkv, context, picked, attention, norm } = saved;
        let [of_probs, of_output] = self.dropouts;
        let dropout = batch.dropout_of(wanted).at(of_output);
        let layer_norm::Gradients { dx: dprojected, mut dresidual } =
            self.norm.backward(pass, gradients, norm, doutput, dropout)?;
        let mut dcontext = self.output.backward(pass, gradients, picked, &dprojected, None)?;
        drop(dprojected);
        if let Some(wanted) = wanted {
            dcontext = wanted.put_back(pass, &dcontext, hidden_states.rows())?;
            dresidual = wanted.put_back(pass, &dresidual, hidden_states.rows())?;
        }
        let dropout = batch.dropout.at(of_probs);
        let arrays = attention::Attention { blocks: &batch.blocks, qkv, heads: self.heads, dropout };
        let dqkv = attention::backward(pass, arrays, context, attention, &dcontext)?;
        // What comes through the projections is added to the residual's.
        self.qkv.backward(pass, gradients, hidden_states, &dqkv, Some(&dresidual))
    }

    pub(crate) fn parameters(&self) -> Vec<&Parameter> {
        [self.qkv.parameters(), self.output.parameters(), self.norm.parameters()].concat()
    }
}
