//! One of the encoder's layers: attention, then feed-forward.

use super::attention::{self, Attention};
use super::config::BertConfig;
use super::device_batch::{DeviceBatch, Wanted};
use super::feed_forward::{self, FeedForward};
use super::lora::Lora;
use super::parameters::{Builder, Gradients, Parameter};
use crate::error::Result;
use crate::gpu::{Pass, Tensor};

#[derive(Debug)]
pub(crate) struct EncoderLayer {
    pub(crate) attention: Attention,
    pub(crate) feed_forward: FeedForward,
}

/// What the backward pass needs of one layer.
pub(crate) struct SavedLayer {
    input: Tensor,
    attention: attention::Saved,
    attention_output: Tensor,
    feed_forward: feed_forward::Saved,
}

impl EncoderLayer {
    pub(crate) fn new(builder: &mut Builder, config: &BertConfig, index: usize) -> Result<Self> {
        let name = format!("bert.encoder.layer.{index}");
        Ok(Self {
            // 0 is the embeddings' dropout; a layer has three.
            attention: Attention::new(builder, config, &name, 3 * index as u32 + 1)?,
            feed_forward: FeedForward::new(builder, config, &name, 3 * index as u32 + 3)?,
        })
    }

    /// hidden_states\[tokens, hidden\] to the same shape, or to the wanted rows of it.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass,
        batch: &DeviceBatch,
        hidden_states: Tensor,
        wanted: Option<&Wanted>,
    ) -> Result<(Tensor, SavedLayer)> {
        let (attention_output, attention) = self.attention.forward(pass, batch, &hidden_states, wanted)?;
        let (output, feed_forward) = self.feed_forward.forward(pass, batch.dropout_of(wanted), &attention_output)?;
        Ok((output, SavedLayer { input: hidden_states, attention, attention_output, feed_forward }))
    }

    /// [`EncoderLayer::forward`] where no backward pass follows.
    pub(crate) fn infer(
        &self,
        pass: &mut Pass,
        batch: &DeviceBatch,
        hidden_states: &Tensor,
        wanted: Option<&Wanted>,
    ) -> Result<Tensor> {
        let (attention_output, _) = self.attention.forward(pass, batch, hidden_states, wanted)?;
        self.feed_forward.infer(pass, &attention_output)
    }

    pub(crate) fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        batch: &DeviceBatch,
        wanted: Option<&Wanted>,
        saved: &SavedLayer,
        doutput: &Tensor,
    ) -> Result<Tensor> {
        let SavedLayer { input, attention, attention_output, feed_forward } = saved;
        let dropout = batch.dropout_of(wanted);
        let dattention =
            self.feed_forward.backward(pass, gradients, dropout, attention_output, feed_forward, doutput)?;
        self.attention.backward(pass, gradients, batch, wanted, input, attention, &dattention)
    }

    /// With low-rank factors.
    pub(crate) fn all_parameters(&self) -> Vec<&Parameter> {
        let Self { attention, feed_forward } = self;
        let linears = [&attention.qkv, &attention.output, &feed_forward.intermediate, &feed_forward.output];
        let loras = linears.into_iter().flat_map(|linear| &linear.loras).flat_map(Lora::parameters);
        [attention.parameters(), feed_forward.parameters()].concat().into_iter().chain(loras).collect()
    }
}
