//! The whole network: embeddings, layers, head.

use super::config::BertConfig;
use super::device_batch::{DeviceBatch, Wanted};
use super::embedding_loss::EmbeddingObjective;
use super::embeddings::Embeddings;
use super::encoder_layer::{EncoderLayer, SavedLayer};
use super::layers::Linear;
use super::lora::{self, Lora, LoraConfig};
use super::mlm_head::MlmHead;
use super::parameters::{Builder, CopySource, Gradients, Parameter, Source, zeros_like};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pass, Tensor};
use crate::ops::layer_norm;
use crate::text::{PackedBatch, TripletBatch};

#[derive(Debug)]
pub(crate) struct Bert {
    pub(crate) config: BertConfig,
    embeddings: Embeddings,
    layers: Vec<EncoderLayer>,
    head: MlmHead,
}

impl Bert {
    /// Builds the network with values from `source`. The order of parameters is fixed by the config.
    pub(crate) fn new(gpu: &Gpu, config: BertConfig, source: &mut dyn Source) -> Result<Self> {
        config.validate()?;
        let mut builder = Builder { gpu, source, next: 0 };
        let embeddings = Embeddings::new(&mut builder, &config)?;
        let layers = (0..config.num_hidden_layers).map(|i| EncoderLayer::new(&mut builder, &config, i));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let head = MlmHead::new(&mut builder, &config)?;
        Ok(Self { config, embeddings, layers, head })
    }

    /// A copy on the same GPU: with buffers of its own for what will be trained, and if this one is live for what it trains itself, sharing the
    /// others. Without low-rank factors.
    pub(crate) fn duplicate(&self, gpu: &Gpu, is_trainable: &dyn Fn(&str) -> bool, live: bool) -> Result<Self> {
        Self::new(gpu, self.config.clone(), &mut CopySource::new(gpu, self.parameters(), is_trainable, live)?)
    }

    /// Puts low-rank factors beside the weights that the config targets.
    pub(crate) fn add_lora(&mut self, gpu: &Gpu, config: &LoraConfig, source: &mut dyn Source) -> Result<()> {
        config.validate()?;
        let mut builder = Builder { gpu, source, next: self.parameters().len() };
        let mut modules: Vec<String> = Vec::new();
        for linear in self.linears_mut() {
            modules.extend(linear.add_lora(&mut builder, config)?);
        }
        for target in &config.target_modules {
            let only = LoraConfig { target_modules: vec![target.clone()], ..config.clone() };
            if !modules.iter().any(|module| only.targets(module)) {
                let reason = format!(
                    "target_modules has '{target}', which is none of this model's linear layers: they are query, key, value and dense"
                );
                return Err(Error::InvalidArgument(reason));
            }
        }
        // Few and large arrays for the optimizer.
        let joined = zeros_like(gpu, &self.lora_parameters(), "")?;
        let mut pass = Pass::new(gpu);
        let loras = self.linears_mut().into_iter().flat_map(|linear| &mut linear.loras);
        for (factor, joined) in loras.flat_map(Lora::parameters_mut).zip(joined) {
            pass.copy(&factor.value, &joined);
            factor.value = joined;
        }
        pass.submit_kept()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = Vec::new();
        for EncoderLayer { attention, feed_forward } in &mut self.layers {
            linears.extend([&mut attention.qkv, &mut attention.output]);
            linears.extend([&mut feed_forward.intermediate, &mut feed_forward.output]);
        }
        linears.push(&mut self.head.transform);
        linears
    }

    fn linears(&self) -> Vec<&Linear> {
        let mut linears = Vec::new();
        for EncoderLayer { attention, feed_forward } in &self.layers {
            linears.extend([&attention.qkv, &attention.output, &feed_forward.intermediate, &feed_forward.output]);
        }
        linears.push(&self.head.transform);
        linears
    }

    /// Low-rank factors, in the order of their indices.
    pub(crate) fn lora_parameters(&self) -> Vec<&Parameter> {
        self.linears().into_iter().flat_map(|linear| &linear.loras).flat_map(Lora::parameters).collect()
    }

    /// All parameters and low-rank factors of each layer.
    pub(crate) fn layer_parameters(&self) -> Vec<Vec<&Parameter>> {
        self.layers.iter().map(EncoderLayer::all_parameters).collect()
    }

    /// All parameters and low-rank factors, in the order of their indices.
    pub(crate) fn all_parameters(&self) -> Vec<&Parameter> {
        [self.parameters(), self.lora_parameters()].concat()
    }

    /// What training changes.
    pub(crate) fn trained_parameters(&self) -> Vec<&Parameter> {
        self.all_parameters().into_iter().filter(|parameter| parameter.trainable).collect()
    }

    /// A copy whose weights have the low-rank updates added, sharing what has none.
    pub(crate) fn merged(&self, gpu: &Gpu, live: bool) -> Result<Self> {
        let updated: Vec<&String> =
            self.linears().into_iter().filter(|linear| !linear.loras.is_empty()).flat_map(|l| &l.weight.keys).collect();
        let merged = self.duplicate(gpu, &|key| updated.iter().any(|updated| *updated == key), live)?;
        for (from, to) in self.linears().into_iter().zip(merged.linears()) {
            if !from.loras.is_empty() {
                let mut pass = Pass::new(gpu);
                let weight = lora::effective(&mut pass, &from.weight.value, &from.loras)?;
                pass.copy(&weight, &to.weight.value);
                pass.submit_kept()?;
            }
        }
        Ok(merged)
    }

    /// All parameters but low-rank factors, in the order of their indices.
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

    /// The encoder's output, \[tokens, hidden\]; or, of `wanted` rows, ascending, each once, only these.
    pub(crate) fn encode(&self, pass: &mut Pass, batch: &PackedBatch, wanted: Option<&[u32]>) -> Result<Tensor> {
        self.check(batch)?;
        let batch = DeviceBatch::new(pass, self.config.head_size(), batch, None, wanted)?;
        let mut hidden_states = self.embeddings.infer(pass, &batch)?;
        for (index, layer) in self.layers.iter().enumerate() {
            hidden_states = layer.infer(pass, &batch, &hidden_states, self.wanted(&batch, index))?;
        }
        Ok(hidden_states)
    }

    /// What is wanted of this layer: all but of the last one, as the others' tokens are what it attends to.
    fn wanted<'b>(&self, batch: &'b DeviceBatch, layer: usize) -> Option<&'b Wanted> {
        batch.wanted.as_ref().filter(|_| layer + 1 == self.layers.len())
    }

    /// Logits of the batch's masked rows, chunk by chunk: `each(pass, first row, logits[rows, vocabulary])`.
    pub(crate) fn logits(
        &self,
        pass: &mut Pass,
        batch: &PackedBatch,
        each: impl FnMut(&mut Pass, usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let hidden_states = self.encode(pass, batch, Some(&batch.masked_rows))?;
        self.head.logits(pass, &self.embeddings.word, &hidden_states, batch.masked_rows.len(), each)
    }

    /// Loss and rank of each label, \[labels, 2\] of [`RowStats`](super::RowStats).
    pub(crate) fn score(&self, pass: &mut Pass, batch: &PackedBatch) -> Result<Tensor> {
        self.check_labels(batch)?;
        let hidden_states = self.encode(pass, batch, Some(&batch.masked_rows))?;
        self.head.score(pass, &self.embeddings.word, &hidden_states, &batch.labels)
    }

    /// Forward and backward of the sum of losses over `labels`: the mean, where that is the number of the batch's labels, or
    /// the batch's part in the mean of several batches with so many labels in all. Gradients `+=`, and `done` is told of those
    /// that are recorded; returns loss and rank of each label.
    pub(crate) fn train(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        batch: &PackedBatch,
        labels: usize,
        options: TrainOptions,
        done: Done,
    ) -> Result<Tensor> {
        self.check_labels(batch)?;
        let (hidden_states, kept) = self.forward_kept(pass, batch, Some(&batch.masked_rows), options)?;
        let (word_embeddings, scale) = (&self.embeddings.word, options.scale(labels));
        let (stats, dhidden_states) =
            self.head.train(pass, gradients, word_embeddings, &hidden_states, &batch.labels, scale)?;
        drop(hidden_states);
        self.backward(pass, gradients, batch, kept, dhidden_states, done)?;
        Ok(stats)
    }

    /// [`Bert::train`] for the sum of losses over `triplets`, of the vectors that the encoder's output is pooled to.
    #[expect(clippy::too_many_arguments, reason = "what it reads, and nothing it could be grouped with")]
    pub(crate) fn train_embeddings(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        batch: &TripletBatch,
        objective: &EmbeddingObjective,
        triplets: usize,
        options: TrainOptions,
        done: Done,
    ) -> Result<Tensor> {
        self.check(&batch.packed)?;
        let wanted = objective.pooling.wanted(&batch.packed.cu_seqlens);
        let (hidden_states, kept) = self.forward_kept(pass, &batch.packed, wanted, options)?;
        let (stats, dhidden_states) = objective.train(pass, &hidden_states, batch, options.scale(triplets))?;
        drop(hidden_states);
        self.backward(pass, gradients, &batch.packed, kept, dhidden_states, done)?;
        Ok(stats)
    }

    /// The encoder's output, as [`Bert::encode`] gives it, and what its backward pass needs.
    fn forward_kept(
        &self,
        pass: &mut Pass,
        batch: &PackedBatch,
        wanted: Option<&[u32]>,
        options: TrainOptions,
    ) -> Result<(Tensor, Kept)> {
        let device = DeviceBatch::new(pass, self.config.head_size(), batch, options.dropout_keys, wanted)?;
        let (mut hidden_states, embeddings) = self.embeddings.forward(pass, &device)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let input = hidden_states.clone();
            let saved;
            (hidden_states, saved) = layer.forward(pass, &device, hidden_states, self.wanted(&device, index))?;
            layers.push(if options.gradient_checkpointing {
                KeptLayer::Input(input)
            } else {
                KeptLayer::All(Box::new(saved))
            });
        }
        Ok((hidden_states, Kept { device, embeddings, layers }))
    }

    /// From the gradient by the encoder's output to those of the parameters, `+=`.
    fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        batch: &PackedBatch,
        kept: Kept,
        mut dhidden_states: Tensor,
        done: Done,
    ) -> Result<()> {
        let Kept { device, embeddings, layers } = kept;
        // Below the lowest layer with something to train no gradient is wanted.
        let trained =
            |parameters: Vec<&Parameter>| parameters.iter().any(|parameter| gradients.of(parameter).is_some());
        let embeddings_trained = trained(self.embeddings.parameters());
        let lowest = match embeddings_trained {
            true => 0,
            false => self.layers.iter().position(|layer| trained(layer.all_parameters())).unwrap_or(self.layers.len()),
        };
        for (index, (layer, kept)) in self.layers.iter().zip(layers).enumerate().skip(lowest).rev() {
            let wanted = self.wanted(&device, index);
            let saved = match kept {
                KeptLayer::All(saved) => *saved,
                KeptLayer::Input(input) => layer.forward(pass, &device, input, wanted)?.1,
            };
            dhidden_states = layer.backward(pass, gradients, &device, wanted, &saved, &dhidden_states)?;
            done(pass, &layer.all_parameters())?;
        }
        if embeddings_trained {
            self.embeddings.backward(pass, gradients, batch, &device, &embeddings, dhidden_states)?;
        }
        Ok(())
    }
}

/// Told of parameters whose gradients this batch adds nothing more to, while the rest of the backward pass is not yet recorded.
pub(crate) type Done<'d> = &'d mut dyn FnMut(&mut Pass, &[&Parameter]) -> Result<()>;

/// How [`Bert::train`] goes about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrainOptions<'k> {
    /// Computes a layer's activations again for its backward pass, instead of keeping those of all layers.
    pub(crate) gradient_checkpointing: bool,
    /// A random number for each token, where dropout is to be applied.
    pub(crate) dropout_keys: Option<&'k [u32]>,
    /// Gradients are those of the loss times this: a power of two that lifts them into the range of f16.
    pub(crate) loss_scale: f32,
}

impl Default for TrainOptions<'_> {
    fn default() -> Self {
        Self { gradient_checkpointing: false, dropout_keys: None, loss_scale: 1.0 }
    }
}

impl TrainOptions<'_> {
    /// What a sum of losses is multiplied with before it is differentiated, for their mean over so many.
    fn scale(&self, losses: usize) -> f32 {
        (1.0 / losses.max(1) as f64) as f32 * self.loss_scale
    }
}

/// What is kept of a forward pass.
struct Kept {
    device: DeviceBatch,
    embeddings: layer_norm::Saved,
    layers: Vec<KeptLayer>,
}

/// What is kept of a layer's.
enum KeptLayer {
    All(Box<SavedLayer>),
    Input(Tensor),
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Model, NamedValues};
    use crate::ops::check::assert_close;

    /// A small random model with weights large enough that everything matters.
    pub(crate) fn random_model(adjust: impl FnOnce(&mut BertConfig)) -> Model {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/fillmask");
        let gpu = crate::gpu::test_gpu();
        let tokenizer = crate::text::Tokenizer::open(folder).unwrap();
        let mut config = BertConfig::new(tokenizer.vocab_size());
        (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) = (24, 2, 3);
        (config.intermediate_size, config.max_position_embeddings, config.initializer_range) = (40, 64, 0.2);
        adjust(&mut config);
        Model::init(&gpu, config, tokenizer, 7).unwrap()
    }

    #[test]
    fn biases_and_layer_norms_do_not_decay() {
        for tied in [true, false] {
            let model = random_model(|config| config.tie_word_embeddings = tied);
            for parameter in model.bert.parameters() {
                let spared = parameter.keys.iter().all(|key| key.ends_with("bias") || key.contains("LayerNorm"));
                assert_eq!(parameter.decay, !spared, "{:?}", parameter.keys);
            }
        }
    }

    /// Along its gradient a loss rises as fast as the gradient is long. Returns the loss and the gradient's square.
    pub(crate) fn assert_rises_along_gradient(
        model: &Model,
        loss: &dyn Fn(&Model) -> (f32, NamedValues),
    ) -> (f32, f64) {
        let (at, gradient) = loss(model);
        let square: f64 = gradient.iter().flat_map(|(_, g)| g).map(|&g| f64::from(g).powi(2)).sum();
        // A change of the loss by about two thousandths on either side: small beside kinks, large beside rounding.
        let h = 0.002 / square;
        let moved = |by: f64| {
            let moved = model.duplicate(&|_| true).unwrap();
            let mut values = gradient.iter();
            for parameter in moved.bert.parameters() {
                let mut all = Vec::new();
                for key in &parameter.keys {
                    let (name, g) = values.next().unwrap();
                    assert_eq!(name, key);
                    let value = model.parameter(key).unwrap();
                    all.extend(value.iter().zip(g).map(|(&w, &g)| (f64::from(w) + by * f64::from(g)) as f32));
                }
                parameter.value.write(&model.gpu, 0, &all).unwrap();
            }
            f64::from(loss(&moved).0)
        };
        let rise = (moved(h) - moved(-h)) / (2.0 * h);
        assert!((rise / square - 1.0).abs() < 1e-2, "{rise} {square}");
        (at, square)
    }

    /// With dropout the loss is another function of the weights, and the gradient is its. (The gradient without dropout is
    /// compared with transformers'.)
    #[test]
    fn the_gradient_is_that_of_the_network_with_dropout() {
        let model = random_model(|config| {
            (config.hidden_dropout_prob, config.attention_probs_dropout_prob) = (0.1, 0.2);
        });
        let mut batch = PackedBatch::default();
        batch.push_masked(&[2, 7, 4, 9, 11, 20, 3], &[(2, 8), (4, 11)]);
        batch.push_masked(&[2, 30, 31, 4, 3], &[(1, 30), (3, 40)]);
        batch.dropout_seeds = vec![11, 12];
        let keys = batch.dropout_keys();
        let options = TrainOptions { dropout_keys: Some(&keys), ..Default::default() };
        let loss = |model: &Model| model.loss_and_gradients_with(&batch, options).unwrap();
        let (at, _) = assert_rises_along_gradient(&model, &loss);
        let without = model.loss_and_gradients(&batch).unwrap().0;
        assert!((at - without).abs() > 1e-3, "dropout matters: {at} {without}");
    }

    /// The last layer computes what is wanted of it: the same as of all, whatever else is wanted, also with dropout.
    #[test]
    fn what_is_wanted_of_the_last_layer_is_what_it_gives_of_all() {
        let model = random_model(|config| config.hidden_dropout_prob = 0.3);
        let mut batch = PackedBatch::default();
        batch.push(&[2, 7, 4, 9, 11, 20, 3]);
        batch.push(&[2, 30, 31, 4, 3]);
        let encoded = |wanted: Option<&[u32]>| {
            let mut pass = Pass::new(&model.gpu);
            let encoded = model.bert.encode(&mut pass, &batch, wanted).unwrap();
            let download = pass.download(&encoded).unwrap();
            pass.submit().unwrap();
            download.wait::<f32>(&model.gpu).unwrap()
        };
        let all: Vec<f64> = encoded(None).into_iter().map(f64::from).collect();
        for rows in [vec![0], vec![11], vec![3, 4, 9], (0..12).collect::<Vec<u32>>()] {
            let of_rows = rows.iter().flat_map(|&row| &all[row as usize * 24..][..24]).copied().collect::<Vec<_>>();
            assert_close(&format!("{rows:?}"), &encoded(Some(&rows)), &of_rows, 1e-6);
        }
        let keys = batch.dropout_keys();
        let losses = |rows: &[u32]| {
            let options = TrainOptions { dropout_keys: Some(&keys), ..Default::default() };
            let labels = rows.iter().map(|row| row + 5).collect();
            let batch = PackedBatch { masked_rows: rows.to_vec(), labels, ..batch.clone() };
            let (mean, gradient) = model.loss_and_gradients_with(&batch, options).unwrap();
            let times = |value: f32| f64::from(value) * rows.len() as f64;
            let gradient = gradient.into_iter().flat_map(|(_, values)| values).map(times);
            std::iter::once(times(mean)).chain(gradient).collect::<Vec<_>>()
        };
        let together = losses(&(0..12).collect::<Vec<_>>()).into_iter().map(|value| value as f32).collect::<Vec<_>>();
        let apart = [losses(&[0, 7]), losses(&[1]), losses(&(2..7).collect::<Vec<_>>()), losses(&[8, 9, 10, 11])];
        let sums = (0..together.len()).map(|i| apart.iter().map(|of| of[i]).sum::<f64>()).collect::<Vec<_>>();
        assert_close("losses and gradients", &together, &sums, 1e-5);
    }
}
