//! The whole network: embeddings, layers, head.

use super::attention::{self, Attention};
use super::config::BertConfig;
use super::embeddings::{DeviceBatch, Embeddings};
use super::feed_forward::{self, FeedForward};
use super::mlm_head::MlmHead;
use super::parameters::{Builder, CopySource, Gradients, Parameter, Source};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pass, Tensor};
use crate::text::PackedBatch;

#[derive(Debug)]
pub(crate) struct Bert {
    pub(crate) config: BertConfig,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    head: MlmHead,
}

#[derive(Debug)]
struct Layer {
    attention: Attention,
    feed_forward: FeedForward,
}

/// What the backward pass needs of one layer.
struct SavedLayer {
    input: Tensor,
    attention: attention::Saved,
    attention_output: Tensor,
    feed_forward: feed_forward::Saved,
}

impl Layer {
    fn new(builder: &mut Builder, config: &BertConfig, index: usize) -> Result<Self> {
        let name = format!("bert.encoder.layer.{index}");
        Ok(Self {
            attention: Attention::new(builder, config, &name)?,
            feed_forward: FeedForward::new(builder, config, &name)?,
        })
    }

    fn forward(&self, pass: &mut Pass, batch: &DeviceBatch, hidden_states: Tensor) -> Result<(Tensor, SavedLayer)> {
        let (attention_output, attention) = self.attention.forward(pass, batch, &hidden_states)?;
        let (output, feed_forward) = self.feed_forward.forward(pass, &attention_output)?;
        Ok((output, SavedLayer { input: hidden_states, attention, attention_output, feed_forward }))
    }

    fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        batch: &DeviceBatch,
        saved: &SavedLayer,
        doutput: &Tensor,
    ) -> Result<Tensor> {
        let SavedLayer { input, attention, attention_output, feed_forward } = saved;
        let dattention = self.feed_forward.backward(pass, gradients, attention_output, feed_forward, doutput)?;
        self.attention.backward(pass, gradients, batch, input, attention, &dattention)
    }
}

impl Bert {
    /// Builds the network with values from `source`. The order of parameters is fixed by the config.
    pub(crate) fn new(gpu: &Gpu, config: BertConfig, source: &mut dyn Source) -> Result<Self> {
        config.validate()?;
        let mut builder = Builder { gpu, source, next: 0 };
        let embeddings = Embeddings::new(&mut builder, &config)?;
        let layers = (0..config.num_hidden_layers).map(|i| Layer::new(&mut builder, &config, i));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let head = MlmHead::new(&mut builder, &config)?;
        Ok(Self { config, embeddings, layers, head })
    }

    /// A copy with buffers of its own, on the same GPU.
    pub(crate) fn duplicate(&self, gpu: &Gpu) -> Result<Self> {
        Self::new(gpu, self.config.clone(), &mut CopySource(self.parameters()))
    }

    /// All parameters, in the order of their indices.
    pub(crate) fn parameters(&self) -> Vec<&Parameter> {
        let mut parameters = self.embeddings.parameters();
        for layer in &self.layers {
            parameters.extend(layer.attention.parameters());
            parameters.extend(layer.feed_forward.parameters());
        }
        parameters.extend(self.head.parameters());
        debug_assert!(parameters.iter().enumerate().all(|(i, parameter)| parameter.index == i));
        parameters
    }

    /// Refuses ids and positions outside the tables: the shaders do not check them.
    pub(crate) fn check(&self, batch: &PackedBatch) -> Result<()> {
        if let Some(reason) = batch.inconsistency() {
            return Err(Error::InvalidArgument(reason.into()));
        }
        let config = &self.config;
        let longest = batch.cu_seqlens.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        if longest > config.max_position_embeddings {
            return Err(Error::TooLong { tokens: longest, max: config.max_position_embeddings });
        }
        for (what, ids, size) in [
            ("input_ids", &batch.input_ids, config.vocab_size),
            ("position_ids", &batch.position_ids, config.max_position_embeddings),
            ("token_type_ids", &batch.token_type_ids, config.type_vocab_size),
            ("labels", &batch.labels, config.vocab_size),
            ("masked_rows", &batch.masked_rows, batch.input_ids.len()),
        ] {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
                return Err(Error::InvalidArgument(format!("{what} holds {id}, but there are {size}")));
            }
        }
        Ok(())
    }

    /// As [`Bert::check`], for what needs a label for every masked row.
    pub(crate) fn check_labels(&self, batch: &PackedBatch) -> Result<()> {
        if batch.labels.len() != batch.masked_rows.len() {
            return Err(Error::InvalidArgument("labels have to be as many as masked_rows".into()));
        }
        self.check(batch)
    }

    /// The encoder's output, \[tokens, hidden\].
    pub(crate) fn encode(&self, pass: &mut Pass, batch: &PackedBatch) -> Result<Tensor> {
        self.check(batch)?;
        let batch = DeviceBatch::new(pass, batch)?;
        let (mut hidden_states, _) = self.embeddings.forward(pass, &batch)?;
        for layer in &self.layers {
            (hidden_states, _) = layer.forward(pass, &batch, hidden_states)?;
        }
        Ok(hidden_states)
    }

    /// Logits of the batch's masked rows, chunk by chunk: `each(pass, first row, logits[rows, vocabulary])`.
    pub(crate) fn logits(
        &self,
        pass: &mut Pass,
        batch: &PackedBatch,
        each: impl FnMut(&mut Pass, usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let hidden_states = self.encode(pass, batch)?;
        self.head.logits(pass, &self.embeddings.word, &hidden_states, &batch.masked_rows, each)
    }

    /// Loss and rank of each label, \[labels, 2\] of [`RowStats`](super::RowStats).
    pub(crate) fn score(&self, pass: &mut Pass, batch: &PackedBatch) -> Result<Tensor> {
        self.check_labels(batch)?;
        let hidden_states = self.encode(pass, batch)?;
        self.head.score(pass, &self.embeddings.word, &hidden_states, &batch.masked_rows, &batch.labels)
    }

    /// Forward and backward of the sum of losses over `labels`: the mean, where that is the number of the batch's labels, or
    /// the batch's part in the mean of several batches with so many labels in all. Gradients `+=`; returns loss and rank of
    /// each label.
    pub(crate) fn train(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        batch: &PackedBatch,
        labels: usize,
    ) -> Result<Tensor> {
        self.check_labels(batch)?;
        let device = DeviceBatch::new(pass, batch)?;
        debug_assert_eq!(device.tokens, batch.input_ids.len());
        let (mut hidden_states, saved_embeddings) = self.embeddings.forward(pass, &device)?;
        let mut saved_layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let saved;
            (hidden_states, saved) = layer.forward(pass, &device, hidden_states)?;
            saved_layers.push(saved);
        }
        let word_embeddings = &self.embeddings.word;
        let PackedBatch { masked_rows, labels: of_rows, .. } = batch;
        let scale = (1.0 / labels.max(1) as f64) as f32;
        let (stats, mut dhidden_states) =
            self.head.train(pass, gradients, word_embeddings, &hidden_states, masked_rows, of_rows, scale)?;
        drop(hidden_states);
        for (layer, saved) in self.layers.iter().zip(saved_layers).rev() {
            dhidden_states = layer.backward(pass, gradients, &device, &saved, &dhidden_states)?;
        }
        self.embeddings.backward(pass, gradients, batch, &saved_embeddings, &dhidden_states)?;
        Ok(stats)
    }
}
