//! What the integration tests share.
#![allow(dead_code, reason = "each test program uses a part of it")]

#[cfg(feature = "cli")]
pub mod command;
pub mod songs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use retto::{BertConfig, Gpu, Model, Tokenizer};
use safetensors::{Dtype, SafeTensors};

/// The adapter of the tests, which fail without one: `RETTO_DEVICE` names it, else it is the default.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        let gpu = match std::env::var("RETTO_DEVICE") {
            Ok(device) => Gpu::open(&device),
            Err(_) => Gpu::open_default(),
        };
        gpu.unwrap_or_else(|error| panic!("the tests need a GPU adapter: {error}"))
    })
}

/// A fresh model of two layers with dropout, and the fixtures' vocabulary.
pub fn fresh_model() -> Model {
    let tokenizer = Tokenizer::open(fixtures().join("fillmask")).unwrap();
    let mut config = BertConfig::new(tokenizer.vocab_size());
    (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) = (24, 2, 3);
    (config.intermediate_size, config.max_position_embeddings) = (40, 64);
    (config.hidden_dropout_prob, config.attention_probs_dropout_prob) = (0.1, 0.2);
    // Larger than usual, so that few steps and small models show what matters.
    config.initializer_range = 0.2;
    Model::init(gpu(), config, tokenizer, 7).unwrap()
}

/// The encoder of a fixture, with its vocabulary.
pub fn encoder_without_head() -> Model {
    let folder = copy_fixture("base");
    let path = folder.path().join("model.safetensors");
    let mut tensors = Tensors::read(&path);
    tensors.tensors.retain(|name, _| !name.starts_with("cls."));
    tensors.write(&path);
    Model::open(gpu(), folder.path()).unwrap()
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn fixtures() -> PathBuf {
    root().join("tests/reference/fixtures")
}

/// A vocabulary of this many made-up words, for models that have none: `[PAD] [UNK] [CLS] [SEP] [MASK] w5 w6 ...`.
pub fn write_vocabulary(folder: &Path, vocab_size: usize) {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let words = special.into_iter().chain((5..).map(|i| format!("w{i}")));
    let vocabulary: String = words.take(vocab_size).map(|word| word + "\n").collect();
    std::fs::write(folder.join("vocab.txt"), vocabulary).unwrap();
}

/// A copy of a fixture's model in a temporary folder, with a vocabulary.
pub fn copy_fixture(name: &str) -> tempfile::TempDir {
    copy_model(&fixtures().join(name))
}

pub fn copy_model(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
    }
    if !from.join("tokenizer.json").exists() {
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        write_vocabulary(folder.path(), config["vocab_size"].as_u64().unwrap() as usize);
    }
    folder
}

/// A safetensors file in memory: shapes and values by name.
pub struct Tensors {
    pub tensors: HashMap<String, (Vec<usize>, Values)>,
    pub metadata: HashMap<String, String>,
}

#[derive(Clone)]
pub enum Values {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Tensors {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = read.iter().map(|(name, view)| {
            let words = view.data().as_chunks().0.iter();
            let values = match view.dtype() {
                Dtype::F32 => Values::F32(words.map(|word| f32::from_le_bytes(*word)).collect()),
                Dtype::I32 => Values::I32(words.map(|word| i32::from_le_bytes(*word)).collect()),
                other => panic!("{name} is {other:?}"),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        });
        Self { tensors: tensors.collect(), metadata: metadata.metadata().clone().unwrap_or_default() }
    }

    pub fn f32(&self, name: &str) -> &[f32] {
        match self.tensors.get(name) {
            Some((_, Values::F32(values))) => values,
            _ => panic!("no f32 tensor {name}"),
        }
    }

    pub fn i32(&self, name: &str) -> &[i32] {
        match self.tensors.get(name) {
            Some((_, Values::I32(values))) => values,
            _ => panic!("no i32 tensor {name}"),
        }
    }

    pub fn names(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<_> = self.tensors.keys().filter_map(|name| name.strip_prefix(prefix)).collect();
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect()
    }

    /// Writes f32 tensors.
    pub fn write(&self, path: &Path) {
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| match values {
                Values::F32(values) => (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
                Values::I32(_) => panic!("{name} is not f32"),
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (name, safetensors::tensor::TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, Some(self.metadata.clone()), path).unwrap();
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.remove(from).unwrap_or_else(|| panic!("no tensor {from}"));
        self.tensors.insert(to.to_owned(), tensor);
    }
}

/// The larger of two differences, of which one that is no number is the largest.
pub fn worse(worst: f32, next: f32) -> f32 {
    if next.is_nan() { f32::INFINITY } else { worst.max(next) }
}

/// The largest absolute difference, and the largest absolute value of `want`.
pub fn difference(got: &[f32], want: &[f32]) -> (f64, f64) {
    assert_eq!(got.len(), want.len());
    let mut worst = (0.0, 0.0);
    for (&got, &want) in got.iter().zip(want) {
        let error = f64::from((got - want).abs());
        worst.0 = if error.is_nan() { f64::INFINITY } else { error.max(worst.0) };
        worst.1 = f64::from(want.abs()).max(worst.1);
        if worst.0.is_infinite() {
            return worst;
        }
    }
    worst
}
