//! A model of BertForMaskedLM's shape, from burn's modules. Its weights are random: timings do not depend on them.

use std::path::Path;

use burn::module::{Initializer, ModuleVisitor, Param};
use burn::nn::attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig};
use burn::nn::{
    Dropout, DropoutConfig, Embedding, EmbeddingConfig, Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::prelude::*;
use serde::Deserialize;

/// What this reads of a Hugging Face folder's config.json.
#[derive(Clone, Deserialize)]
pub struct BertConfig {
    pub vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    pub max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    initializer_range: f64,
    hidden_act: String,
}

impl BertConfig {
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("config.json");
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let config: Self = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if config.hidden_act != "gelu" {
            return Err(format!("hidden_act {}: only gelu is built here", config.hidden_act));
        }
        Ok(config)
    }

    pub fn init(&self, device: &Device) -> Bert {
        let width = self.hidden_size;
        let initializer = Initializer::Normal { mean: 0.0, std: self.initializer_range };
        let embedding = |rows| EmbeddingConfig::new(rows, width).with_initializer(initializer.clone()).init(device);
        let linear = |from, to| LinearConfig::new(from, to).with_initializer(initializer.clone()).init(device);
        let norm = || LayerNormConfig::new(width).with_epsilon(self.layer_norm_eps).init(device);
        let dropout = || DropoutConfig::new(self.hidden_dropout_prob).init();
        let layer = |_| Layer {
            attention: MultiHeadAttentionConfig::new(width, self.num_attention_heads)
                .with_dropout(self.attention_probs_dropout_prob)
                .with_initializer(initializer.clone())
                .init(device),
            attention_norm: norm(),
            up: linear(width, self.intermediate_size),
            gelu: Gelu::new(),
            down: linear(self.intermediate_size, width),
            output_norm: norm(),
            dropout: dropout(),
        };
        let bert = Bert {
            words: embedding(self.vocab_size),
            positions: embedding(self.max_position_embeddings),
            token_types: embedding(self.type_vocab_size),
            norm: norm(),
            dropout: dropout(),
            layers: (0..self.num_hidden_layers).map(layer).collect(),
            head: linear(width, width),
            gelu: Gelu::new(),
            head_norm: norm(),
            bias: Initializer::Zeros.init([self.vocab_size], device),
        };
        // burn makes a weight when it is first used, which must not be in the first call's time.
        bert.visit(&mut Materialize);
        bert
    }
}

struct Materialize;

impl ModuleVisitor for Materialize {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        param.val();
    }
}

#[derive(Module, Debug)]
struct Layer {
    attention: MultiHeadAttention,
    attention_norm: LayerNorm,
    up: Linear,
    gelu: Gelu,
    down: Linear,
    output_norm: LayerNorm,
    dropout: Dropout,
}

impl Layer {
    // burn's own TransformerEncoder has a dropout between the two dense layers; BERT has none there.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let context = self.attention.forward(MhaInput::self_attn(x.clone())).context;
        let x = self.attention_norm.forward(x + self.dropout.forward(context));
        let out = self.down.forward(self.gelu.forward(self.up.forward(x.clone())));
        self.output_norm.forward(x + self.dropout.forward(out))
    }
}

#[derive(Module, Debug)]
pub struct Bert {
    words: Embedding,
    positions: Embedding,
    token_types: Embedding,
    norm: LayerNorm,
    dropout: Dropout,
    layers: Vec<Layer>,
    head: Linear,
    gelu: Gelu,
    head_norm: LayerNorm,
    bias: Param<Tensor<1>>,
}

impl Bert {
    /// The logits `[rows, vocabulary]` of those of the batch's tokens that `rows` counts, row after row. No token is
    /// padding, so attention has no mask.
    pub fn forward(&self, ids: Tensor<2, Int>, rows: Tensor<1, Int>) -> Tensor<2> {
        let device = ids.device();
        let length = ids.dims()[1];
        let positions = Tensor::arange(0..length as i64, &device).unsqueeze();
        let token_types = Tensor::zeros([1, 1], &device);
        let x = self.words.forward(ids) + self.positions.forward(positions) + self.token_types.forward(token_types);
        let x = self.dropout.forward(self.norm.forward(x));
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x));
        let x: Tensor<2> = x.flatten(0, 1).select(0, rows);
        let x = self.head_norm.forward(self.gelu.forward(self.head.forward(x)));
        // The projection is the word embeddings, as in BERT.
        x.matmul(self.words.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}
