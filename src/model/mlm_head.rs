//! The masked-language-model head: transform, LayerNorm, and the decoder over the vocabulary.
//!
//! It is given the masked rows only, and takes them in chunks whose logits fit a binding: logits of all tokens are never made.

use std::ops::Range;

use super::config::BertConfig;
use super::layers::{LayerNorm, Linear};
use super::parameters::{Builder, Gradients, Init, Parameter};
use crate::error::Result;
use crate::gpu::{Gpu, Pass, Tensor};
use crate::ops::activation::{self, Activation};
use crate::ops::cross_entropy::{CrossEntropy, cross_entropy};
use crate::ops::{layer_norm, linear, rows};

#[derive(Debug)]
pub(crate) struct MlmHead {
    pub(crate) transform: Linear,
    norm: LayerNorm,
    /// `None` where the decoder is the word embeddings.
    decoder: Option<Parameter>,
    bias: Parameter,
    activation: Activation,
}

/// Loss and rank of one masked token's label.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct RowStats {
    /// Cross entropy in nats.
    pub(crate) loss: f32,
    /// How many of the vocabulary were thought likelier; 0 is right.
    pub(crate) rank: f32,
}

/// What the GPU wrote as pairs.
pub(crate) fn stats_of(values: &[f32]) -> &[RowStats] {
    bytemuck::cast_slice(&values[..values.len() / 2 * 2])
}

/// The mean of the losses; 0 for none.
pub(crate) fn mean_loss(stats: &[RowStats]) -> f32 {
    (stats.iter().map(|row| f64::from(row.loss)).sum::<f64>() / stats.len().max(1) as f64) as f32
}

struct Saved {
    part: Tensor,
    transformed: Tensor,
    normalized: Tensor,
    norm: layer_norm::Saved,
}

/// Logits of a chunk take at most this much, or the adapter's binding limit if that is less. In unit tests so little that there are several.
const LOGITS_BYTES: u64 = if cfg!(test) { 500 } else { 64 << 20 };

impl MlmHead {
    pub(crate) fn new(builder: &mut Builder, config: &BertConfig) -> Result<Self> {
        let name = |part: &str| format!("cls.predictions.{part}");
        let hidden = config.hidden_size;
        let transform = Linear::new(builder, &name("transform.dense"), hidden, hidden)?;
        let norm = LayerNorm::new(builder, &name("transform.LayerNorm"), hidden, config.layer_norm_eps)?;
        let decoder = match config.tie_word_embeddings {
            true => None,
            false => Some(builder.normal(&name("decoder.weight"), &[config.vocab_size, hidden])?),
        };
        // transformers uses `decoder.bias` where the decoder has a weight of its own.
        let bias = if decoder.is_some() { name("decoder.bias") } else { name("bias") };
        let bias = builder.parameter(vec![bias], &[config.vocab_size], Init::Zeros)?;
        Ok(Self { transform, norm, decoder, bias, activation: config.hidden_act.op() })
    }

    /// So many rows in pieces whose logits fit.
    fn chunks(&self, gpu: &Gpu, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let limit = gpu.adapter().max_storage_buffer_binding_size.min(LOGITS_BYTES);
        let size = (limit / self.bias.value.bytes()).max(1) as usize;
        (0..rows).step_by(size).map(move |first| first..rows.min(first + size))
    }

    fn decoder<'p>(&'p self, word_embeddings: &'p Parameter) -> &'p Parameter {
        self.decoder.as_ref().unwrap_or(word_embeddings)
    }

    fn forward(&self, pass: &mut Pass, word_embeddings: &Parameter, part: Tensor) -> Result<(Tensor, Saved)> {
        let transformed = self.transform.forward(pass, &part)?;
        let activated = activation::forward(pass, self.activation, &transformed)?;
        let (logits, normalized, norm) = self.decode(pass, word_embeddings, &activated)?;
        Ok((logits, Saved { part, transformed, normalized, norm }))
    }

    /// Logits of transformed rows, and what they were multiplied from.
    fn decode(
        &self,
        pass: &mut Pass,
        word_embeddings: &Parameter,
        activated: &Tensor,
    ) -> Result<(Tensor, Tensor, layer_norm::Saved)> {
        let (x, norm) = self.norm.forward(pass, activated, None, None)?;
        let weight = &self.decoder(word_embeddings).value;
        let arrays = linear::Forward { x: &x, weight, bias: &self.bias.value, activation: None };
        Ok((linear::forward(pass, arrays)?, x, norm))
    }

    /// Returns the gradient of the chunk's hidden states.
    fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        word_embeddings: &Parameter,
        saved: &Saved,
        dlogits: &Tensor,
    ) -> Result<Tensor> {
        let decoder = self.decoder(word_embeddings);
        let arrays = linear::Backward {
            dy: dlogits,
            x: &saved.normalized,
            weight: &decoder.value,
            dweight: gradients.of(decoder),
            dbias: gradients.of(&self.bias),
            dx: None,
        };
        let dnormalized = linear::backward(pass, arrays)?;
        let dactivated = self.norm.backward(pass, gradients, &saved.norm, &dnormalized, None)?.dx;
        let dtransformed = activation::backward(pass, self.activation, &saved.transformed, &dactivated)?;
        self.transform.backward(pass, gradients, &saved.part, &dtransformed, None)
    }

    /// Logits\[rows, vocabulary\] of hidden_states\[rows, hidden\], chunk by chunk, handed to `each`.
    pub(crate) fn logits(
        &self,
        pass: &mut Pass,
        word_embeddings: &Parameter,
        hidden_states: &Tensor,
        rows: usize,
        mut each: impl FnMut(&mut Pass, usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        for chunk in self.chunks(pass.gpu(), rows) {
            let first = chunk.start;
            let (part, _) = part(pass, hidden_states, chunk)?;
            let activated = self.transform.forward_activated(pass, &part, Some(self.activation))?;
            let (logits, ..) = self.decode(pass, word_embeddings, &activated)?;
            each(pass, first, &logits)?;
        }
        Ok(())
    }

    /// Loss and rank of each label, \[labels, 2\].
    pub(crate) fn score(
        &self,
        pass: &mut Pass,
        word_embeddings: &Parameter,
        hidden_states: &Tensor,
        labels: &[u32],
    ) -> Result<Tensor> {
        let rows = labels.len();
        let labels = pass.upload(&[rows], labels)?;
        let stats = pass.alloc(&[rows, 2])?;
        self.logits(pass, word_embeddings, hidden_states, rows, |pass, first_row, logits| {
            cross_entropy(pass, CrossEntropy { labels: &labels, first_row, logits, stats: &stats, gradient: None })
        })?;
        Ok(stats)
    }

    /// Loss and rank of each label, one a row, and the gradients of the sum of losses times `scale`: parameters `+=`, hidden_states as
    /// returned.
    pub(crate) fn train(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        word_embeddings: &Parameter,
        hidden_states: &Tensor,
        labels: &[u32],
        scale: f32,
    ) -> Result<(Tensor, Tensor)> {
        let (rows, gradient) = (labels.len(), Some(scale));
        let labels = pass.upload(&[rows], labels)?;
        let stats = pass.alloc(&[rows, 2])?;
        let mut dhidden_states = pass.alloc(hidden_states.shape())?;
        if rows == 0 {
            pass.clear(&dhidden_states);
        }
        for chunk in self.chunks(pass.gpu(), rows) {
            let first_row = chunk.start;
            let (part, indices) = part(pass, hidden_states, chunk)?;
            let (logits, saved) = self.forward(pass, word_embeddings, part)?;
            let arrays = CrossEntropy { labels: &labels, first_row, logits: &logits, stats: &stats, gradient };
            cross_entropy(pass, arrays)?;
            let dpart = self.backward(pass, gradients, word_embeddings, &saved, &logits)?;
            match indices {
                Some(indices) => rows::scatter(pass, &dpart, &indices, &dhidden_states)?,
                None => dhidden_states = dpart,
            }
        }
        Ok((stats, dhidden_states))
    }

    pub(crate) fn parameters(&self) -> Vec<&Parameter> {
        let transform = self.transform.parameters().into_iter().chain(self.norm.parameters());
        transform.chain(self.decoder.as_ref()).chain([&self.bias]).collect()
    }
}

/// Rows of x, and their indices where these are not all.
fn part(pass: &mut Pass, x: &Tensor, rows: Range<usize>) -> Result<(Tensor, Option<Tensor>)> {
    if rows.len() == x.rows() {
        return Ok((x.clone(), None));
    }
    let indices: Vec<u32> = rows.map(|row| row as u32).collect();
    let indices = pass.upload(&[indices.len()], &indices)?;
    Ok((rows::gather(pass, x, &indices)?, Some(indices)))
}
