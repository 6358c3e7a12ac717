//! `config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::ops::activation::Activation;

/// The file's name in a checkpoint folder.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// The activation of the feed-forward layers and of the head's transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HiddenAct {
    /// `gelu`: x Phi(x) with the error function (Hendrycks and Gimpel, arXiv 1606.08415).
    Gelu,
    /// `gelu_new`: the tanh approximation of the original BERT code.
    GeluNew,
    /// `relu`
    Relu,
}

impl HiddenAct {
    pub(crate) fn op(self) -> Activation {
        match self {
            Self::Gelu => Activation::Gelu,
            Self::GeluNew => Activation::GeluNew,
            Self::Relu => Activation::Relu,
        }
    }

    /// The names transformers has for functions that agree to f32.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "gelu" | "gelu_python" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => Some(Self::GeluNew),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }
}

/// What `config.json` says of a BERT, in transformers' names.
///
/// ```
/// let config = retto::BertConfig::new(30_522);
/// assert_eq!((config.hidden_size, config.num_hidden_layers), (768, 12));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BertConfig {
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Layers of the encoder.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// The activation.
    pub hidden_act: HiddenAct,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Rows of the token type embeddings.
    pub type_vocab_size: usize,
    /// Added to the variance in LayerNorm.
    pub layer_norm_eps: f64,
    /// Share of the hidden states that is dropped in training.
    pub hidden_dropout_prob: f64,
    /// Share of the attention probabilities that is dropped in training.
    pub attention_probs_dropout_prob: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// The id whose embedding is not trained by lookups.
    pub pad_token_id: Option<u32>,
    /// Whether the head's decoder is the word embeddings.
    pub tie_word_embeddings: bool,
    /// The file as it was read: what this crate does not use is kept when the model is saved.
    raw: Map<String, Value>,
}

/// What to do about a folder without a config.
fn missing(folder: &std::path::Path, error: std::io::Error) -> std::io::Error {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_of_a_run = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("checkpoint-");
    let hint = match entries.into_iter().any(is_of_a_run) {
        true => "this is a run that has not ended: go on with it, or name one of its checkpoints",
        false => "a model's folder is wanted; none is downloaded",
    };
    std::io::Error::new(error.kind(), format!("{error}: {hint}"))
}

impl BertConfig {
    /// Reads the `config.json` of a folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadCheckpoint`] and [`Error::Unsupported`] for one that is malformed or not that of a BERT.
    pub fn open(folder: impl AsRef<std::path::Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join(CONFIG_FILE);
        let config = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::io(&path)(missing(folder, error)),
            _ => Error::io(&path)(error),
        })?;
        Self::parse(&config, &path)
    }

    /// The shape of BERT-base with a vocabulary of this size.
    pub fn new(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: HiddenAct::Gelu,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            initializer_range: 0.02,
            pad_token_id: Some(0),
            tie_word_embeddings: true,
            raw: Map::new(),
        }
    }

    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let bad = |reason: String| Error::checkpoint(path, reason);
        let raw: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| bad(format!("not a JSON object: {error}")))?;
        refuse_other_architectures(&raw)?;

        let defaults = Self::new(30_522);
        let size = |name: &str, default: usize| match raw.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .map(|n| n as usize)
                .ok_or_else(|| bad(format!("{name} is {value}, not a number of things"))),
        };
        let number = |name: &str, default: f64| match raw.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|x| x.is_finite() && *x >= 0.0)
                .ok_or_else(|| bad(format!("{name} is {value}, not a number"))),
        };
        let hidden_act = match raw.get("hidden_act") {
            None => HiddenAct::Gelu,
            Some(value) => value.as_str().and_then(HiddenAct::parse).ok_or_else(|| {
                Error::Unsupported(format!("hidden_act {value}: this crate has gelu, gelu_new and relu"))
            })?,
        };
        let config = Self {
            vocab_size: size("vocab_size", defaults.vocab_size)?,
            hidden_size: size("hidden_size", defaults.hidden_size)?,
            num_hidden_layers: size("num_hidden_layers", defaults.num_hidden_layers)?,
            num_attention_heads: size("num_attention_heads", defaults.num_attention_heads)?,
            intermediate_size: size("intermediate_size", defaults.intermediate_size)?,
            hidden_act,
            max_position_embeddings: size("max_position_embeddings", defaults.max_position_embeddings)?,
            type_vocab_size: size("type_vocab_size", defaults.type_vocab_size)?,
            layer_norm_eps: number("layer_norm_eps", defaults.layer_norm_eps)?,
            hidden_dropout_prob: number("hidden_dropout_prob", defaults.hidden_dropout_prob)?,
            attention_probs_dropout_prob: number(
                "attention_probs_dropout_prob",
                defaults.attention_probs_dropout_prob,
            )?,
            initializer_range: number("initializer_range", defaults.initializer_range)?,
            pad_token_id: match raw.get("pad_token_id") {
                None => Some(0),
                Some(value) => value.as_u64().and_then(|id| u32::try_from(id).ok()),
            },
            tie_word_embeddings: raw.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(true),
            raw: raw.clone(),
        };
        config.validate().map_err(|error| bad(error.to_string()))?;
        Ok(config)
    }

    /// Checks that the sizes describe a BERT.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (name, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ] {
            if size == 0 || u32::try_from(size).is_err() {
                return Err(Error::InvalidArgument(format!("{name} is {size}; it must be from 1 to {}", u32::MAX)));
            }
        }
        for (name, share) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ] {
            if !(0.0..1.0).contains(&share) {
                return Err(Error::InvalidArgument(format!("{name} is {share}; it must be from 0 to below 1")));
            }
        }
        let finite = [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)];
        if let Some((name, value)) = finite.into_iter().find(|(_, value)| !(0.0..1e3).contains(value)) {
            return Err(Error::InvalidArgument(format!("{name} is {value}; it must be from 0 to below 1000")));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(Error::InvalidArgument(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden_size, self.num_attention_heads
            )));
        }
        Ok(())
    }

    /// Numbers of a head's queries, keys and values.
    pub(crate) fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The file's contents: what was read, with this crate's fields as they are now.
    pub(crate) fn to_json(&self, architecture: &str) -> Value {
        let mut raw = self.raw.clone();
        let mut set = |name: &str, value: Value| {
            raw.insert(name.to_owned(), value);
        };
        set("architectures", serde_json::json!([architecture]));
        set("model_type", "bert".into());
        set("vocab_size", self.vocab_size.into());
        set("hidden_size", self.hidden_size.into());
        set("num_hidden_layers", self.num_hidden_layers.into());
        set("num_attention_heads", self.num_attention_heads.into());
        set("intermediate_size", self.intermediate_size.into());
        set("max_position_embeddings", self.max_position_embeddings.into());
        set("type_vocab_size", self.type_vocab_size.into());
        set("layer_norm_eps", self.layer_norm_eps.into());
        set("hidden_dropout_prob", self.hidden_dropout_prob.into());
        set("attention_probs_dropout_prob", self.attention_probs_dropout_prob.into());
        set("initializer_range", self.initializer_range.into());
        set("pad_token_id", self.pad_token_id.into());
        set("tie_word_embeddings", self.tie_word_embeddings.into());
        // Weights are saved as f32, whatever they were read from.
        raw.remove("torch_dtype");
        raw.insert("dtype".into(), "float32".into());
        // The name of the function stays as it was read: there are several of one.
        if raw.get("hidden_act").and_then(Value::as_str).and_then(HiddenAct::parse) != Some(self.hidden_act) {
            let name = match self.hidden_act {
                HiddenAct::Gelu => "gelu",
                HiddenAct::GeluNew => "gelu_new",
                HiddenAct::Relu => "relu",
            };
            raw.insert("hidden_act".into(), name.into());
        }
        Value::Object(raw)
    }
}

fn refuse_other_architectures(raw: &Map<String, Value>) -> Result<()> {
    let unsupported = |what: String| Err(Error::Unsupported(what));
    match raw.get("model_type").map(|value| value.as_str().unwrap_or_default()) {
        Some("bert") => {}
        Some(other) => return unsupported(format!("model_type '{other}': this crate runs 'bert'")),
        // The oldest checkpoints name no type; an architecture that is named must be BERT's.
        None => {
            let architectures = raw.get("architectures").and_then(Value::as_array).into_iter().flatten();
            if let Some(other) = architectures.filter_map(Value::as_str).find(|name| !name.starts_with("Bert")) {
                return unsupported(format!("architecture '{other}': this crate runs BERT"));
            }
            if !raw.contains_key("hidden_size") {
                return unsupported("a config.json that names neither model_type nor hidden_size".into());
            }
        }
    }
    if let Some(kind) = raw.get("position_embedding_type").and_then(Value::as_str).filter(|kind| *kind != "absolute") {
        return unsupported(format!("position_embedding_type '{kind}': this crate has 'absolute'"));
    }
    for flag in ["is_decoder", "add_cross_attention"] {
        if raw.get(flag).and_then(Value::as_bool) == Some(true) {
            return unsupported(format!("{flag} true: this crate runs encoders"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<BertConfig> {
        BertConfig::parse(json.as_bytes(), Path::new("config.json"))
    }

    #[test]
    fn reads_names_and_keeps_what_it_does_not_use() {
        let config = parse(r#"{"model_type":"bert","hidden_size":24,"num_attention_heads":3,"my_field":[1]}"#).unwrap();
        assert_eq!((config.hidden_size, config.num_attention_heads, config.vocab_size), (24, 3, 30_522));
        let json = config.to_json("BertForMaskedLM");
        assert_eq!((&json["my_field"][0], &json["hidden_act"]), (&1.into(), &"gelu".into()));
        let again = parse(&json.to_string()).unwrap();
        assert_eq!(again.to_json("BertForMaskedLM"), json);
        // One of several names, until it is another function.
        let mut config = parse(r#"{"model_type":"bert","hidden_act":"gelu_python"}"#).unwrap();
        assert_eq!(config.to_json("BertForMaskedLM")["hidden_act"], "gelu_python");
        config.hidden_act = HiddenAct::Relu;
        assert_eq!(config.to_json("BertForMaskedLM")["hidden_act"], "relu");
    }

    #[test]
    fn refuses_what_it_does_not_run() {
        for (json, words) in [
            (r#"{"model_type":"roberta"}"#, "roberta"),
            (r#"{"architectures":["GPT2LMHeadModel"],"hidden_size":8}"#, "GPT2"),
            (r#"{}"#, "model_type"),
            (r#"{"model_type":"bert","hidden_act":"swish"}"#, "swish"),
            (r#"{"model_type":"bert","position_embedding_type":"relative_key"}"#, "relative_key"),
            (r#"{"model_type":"bert","is_decoder":true}"#, "is_decoder"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(matches!(error, Error::Unsupported(_)) && error.to_string().contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn refuses_nonsense() {
        for json in [
            "",
            "[]",
            r#"{"model_type":"bert","hidden_size":-1}"#,
            r#"{"model_type":"bert","hidden_size":1.5}"#,
            r#"{"model_type":"bert","hidden_size":0}"#,
            r#"{"model_type":"bert","hidden_size":10,"num_attention_heads":3}"#,
            r#"{"model_type":"bert","vocab_size":99999999999}"#,
            r#"{"model_type":"bert","layer_norm_eps":"small"}"#,
        ] {
            let error = parse(json).unwrap_err();
            assert!(matches!(error, Error::BadCheckpoint { .. }), "{json}: {error}");
        }
    }
}
