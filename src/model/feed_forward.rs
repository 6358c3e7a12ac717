//! The feed-forward half of a layer: widen, activate, narrow, and LayerNorm with the residual.

use super::config::BertConfig;
use super::device_batch::{DropoutKeys, Site};
use super::layers::{LayerNorm, Linear};
use super::parameters::{Builder, Gradients, Parameter};
use crate::error::Result;
use crate::gpu::{Pass, Tensor};
use crate::ops::activation::{self, Activation};
use crate::ops::layer_norm;

#[derive(Debug)]
pub(crate) struct FeedForward {
    pub(crate) intermediate: Linear,
    pub(crate) output: Linear,
    norm: LayerNorm,
    activation: Activation,
    dropout: Site,
}

/// What the backward pass needs.
pub(crate) struct Saved {
    /// Before the activation, \[rows, intermediate\]
    widened: Tensor,
    /// After it
    activated: Tensor,
    norm: layer_norm::Saved,
}

impl FeedForward {
    pub(crate) fn new(builder: &mut Builder, config: &BertConfig, layer: &str, site: u32) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            intermediate: Linear::new(builder, &format!("{layer}.intermediate.dense"), hidden, intermediate)?,
            output: Linear::new(builder, &format!("{layer}.output.dense"), intermediate, hidden)?,
            norm: LayerNorm::new(builder, &format!("{layer}.output.LayerNorm"), hidden, config.layer_norm_eps)?,
            activation: config.hidden_act.op(),
            dropout: Site { number: site, probability: config.hidden_dropout_prob },
        })
    }

    /// hidden_states\[rows, hidden\] to the same shape.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass,
        dropout: &DropoutKeys,
        hidden_states: &Tensor,
    ) -> Result<(Tensor, Saved)> {
        let widened = self.intermediate.forward(pass, hidden_states)?;
        let activated = activation::forward(pass, self.activation, &widened)?;
        let narrowed = self.output.forward(pass, &activated)?;
        let dropout = dropout.at(self.dropout);
        let (output, norm) = self.norm.forward(pass, &narrowed, Some(hidden_states), dropout)?;
        Ok((output, Saved { widened, activated, norm }))
    }

    /// [`FeedForward::forward`] without what a backward pass needs, and without dropout.
    pub(crate) fn infer(&self, pass: &mut Pass, hidden_states: &Tensor) -> Result<Tensor> {
        let activated = self.intermediate.forward_activated(pass, hidden_states, Some(self.activation))?;
        let narrowed = self.output.forward(pass, &activated)?;
        Ok(self.norm.forward(pass, &narrowed, Some(hidden_states), None)?.0)
    }

    /// Gradients of the parameters `+=`. Returns the gradient of hidden_states.
    pub(crate) fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        dropout: &DropoutKeys,
        hidden_states: &Tensor,
        saved: &Saved,
        doutput: &Tensor,
    ) -> Result<Tensor> {
        let Saved { widened, activated, norm } = saved;
        let dropout = dropout.at(self.dropout);
        let layer_norm::Gradients { dx: dnarrowed, dresidual } =
            self.norm.backward(pass, gradients, norm, doutput, dropout)?;
        let dactivated = self.output.backward(pass, gradients, activated, &dnarrowed, None)?;
        drop(dnarrowed);
        let dwidened = activation::backward(pass, self.activation, widened, &dactivated)?;
        drop(dactivated);
        // What comes through the two layers is added to the residual's.
        self.intermediate.backward(pass, gradients, hidden_states, &dwidened, Some(&dresidual))
    }

    pub(crate) fn parameters(&self) -> Vec<&Parameter> {
        [self.intermediate.parameters(), self.output.parameters(), self.norm.parameters()].concat()
    }
}
