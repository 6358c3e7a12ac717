//! Low-rank adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::checkpoint::Checkpoint;
use super::lora::LoraConfig;
use super::open::Model;
use super::parameters::{InitialSource, Source, Spec};
use super::save::{FolderLock, Layout, commit, holds, seal, staging_in, write_tensors};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Tensor};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
pub(super) const ADAPTER: Layout =
    Layout { weights: WEIGHTS_FILE, config: CONFIG_FILE, owns: |name| name == WEIGHTS_FILE || name == CONFIG_FILE };
/// What PEFT puts before a module's name.
const PREFIX: &str = "base_model.model.";

impl Model {
    /// Opens a model's folder and adds a low-rank adapter of PEFT's format to its weights.
    ///
    /// # Errors
    /// As [`Model::open`]; [`Error::BadCheckpoint`] for an adapter that is malformed or does not fit the model;
    /// [`Error::Unsupported`] for one that is more than a plain LoRA of linear layers.
    pub fn open_with_adapter(gpu: &Gpu, folder: impl AsRef<Path>, adapter: impl AsRef<Path>) -> Result<Self> {
        Self::open(gpu, folder)?.with_adapter(adapter)
    }

    /// This model with a low-rank adapter of PEFT's format added to its weights. What the adapter leaves as it is shares its
    /// memory with this model's.
    ///
    /// # Errors
    /// As [`Model::open_with_adapter`], for the adapter.
    pub fn with_adapter(&self, adapter: impl AsRef<Path>) -> Result<Self> {
        self.with_unmerged_adapter(adapter.as_ref())?.merge()
    }

    /// Whether a folder holds an adapter rather than a model.
    pub fn is_adapter(folder: impl AsRef<Path>) -> bool {
        holds(folder.as_ref(), CONFIG_FILE)
    }

    /// This model with its low-rank adapter, if [`Trainer`](crate::Trainer) gave it one, added to its weights.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and other GPU errors.
    pub fn merge(&self) -> Result<Self> {
        Ok(self.with_network(self.bert.merged(&self.gpu, self.live)?, None))
    }

    /// Writes the low-rank adapter that this model was trained with as PEFT reads it. `base_model_name_or_path` is noted for
    /// PEFT. The folder is created; its other files are kept. An interruption leaves the old adapter or the new one whole.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a model that was not trained with [`TrainingArguments::lora`](crate::TrainingArguments);
    /// [`Error::Io`]; GPU errors.
    pub fn save_adapter(&self, folder: impl AsRef<Path>, base_model_name_or_path: &str) -> Result<()> {
        let folder = folder.as_ref();
        let Some(lora) = &self.lora else {
            return Err(Error::InvalidArgument(
                "this model was not trained as a low-rank adapter: save it whole".into(),
            ));
        };
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let staging = staging_in(folder)?;
        let (config, weights) = (staging.path().join(CONFIG_FILE), staging.path().join(WEIGHTS_FILE));
        let text = format!("{:#}\n", to_json(lora, base_model_name_or_path));
        std::fs::write(&config, text).map_err(Error::io(&config))?;
        let parameters = self.bert.lora_parameters().into_iter();
        write_tensors(&self.gpu, parameters.map(|parameter| (parameter, &parameter.value, PREFIX.into())), &weights)?;
        seal(staging.path(), &ADAPTER)?;
        commit(staging.path(), folder)
    }

    /// This model with the factors of an adapter beside its weights, where training can go on with them.
    pub(crate) fn with_unmerged_adapter(&self, adapter: &Path) -> Result<Self> {
        let _unchanged = FolderLock::shared(adapter)?;
        let path = adapter.join(CONFIG_FILE);
        let config = std::fs::read(&path).map_err(Error::io(&path))?;
        let lora = parse(&config, &path)?;
        let checkpoint = Checkpoint::open_file(adapter.join(WEIGHTS_FILE))?;
        let source = AdapterSource { checkpoint: &checkpoint, folder: adapter };
        let bad = |error| match error {
            Error::InvalidArgument(reason) => Error::checkpoint(&path, reason),
            other => other,
        };
        let model = self.with_lora(&lora, source).map_err(bad)?;
        // A tensor that is not read would be an update that is silently left out.
        let read: Vec<String> = model.bert.lora_parameters().iter().map(|p| PREFIX.to_owned() + &p.keys[0]).collect();
        if let Some(other) = checkpoint.names().find(|name| !read.iter().any(|read| read == name)) {
            let reason = format!("{other} has no place in this model, or is not part of a plain LoRA");
            return Err(Error::checkpoint(adapter.join(WEIGHTS_FILE), reason));
        }
        Ok(model)
    }

    /// This model without its factors; the weights are shared.
    pub(crate) fn without_lora(&self) -> Result<Self> {
        Ok(self.with_network(self.bert.duplicate(&self.gpu, &|_| false, self.live)?, None))
    }

    /// This model with fresh factors: A random, B zero.
    pub(crate) fn with_fresh_lora(&self, lora: &LoraConfig, seed: u64) -> Result<Self> {
        let source = InitialSource { seed, range: self.config().initializer_range };
        self.with_lora(lora, source)
    }

    fn with_lora(&self, lora: &LoraConfig, mut source: impl Source) -> Result<Self> {
        self.require_float32("adding a low-rank adapter")?;
        let mut model = self.duplicate(&|_| false)?;
        model.bert.add_lora(&self.gpu, lora, &mut source)?;
        model.lora = Some(lora.clone());
        Ok(model)
    }
}

/// PEFT 0.17's fields that it needs to load a LoRA.
fn to_json(lora: &LoraConfig, base: &str) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": null,
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "r": lora.r,
        "target_modules": lora.target_modules,
        "use_dora": false,
        "use_rslora": false,
    })
}

/// Refuses every option that changes what the weights mean.
fn parse(bytes: &[u8], path: &PathBuf) -> Result<LoraConfig> {
    let bad = |reason: String| Error::checkpoint(path, reason);
    let config: Value = serde_json::from_slice(bytes).map_err(|error| bad(format!("not JSON: {error}")))?;
    let kind = config["peft_type"].as_str().unwrap_or_default();
    if kind != "LORA" {
        return Err(Error::Unsupported(format!("peft_type '{kind}': this crate reads LORA adapters")));
    }
    let is_set = |key: &str| match &config[key] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => text != "none",
        _ => true,
    };
    let keys = [
        "use_rslora",
        "use_dora",
        "bias",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "fan_in_fan_out",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "exclude_modules",
        "lora_bias",
        "alora_invocation_tokens",
        "use_qalora",
        "arrow_config",
    ];
    if let Some(key) = keys.into_iter().find(|key| is_set(key)) {
        return Err(Error::Unsupported(format!("{key} {}: this crate reads plain LoRA adapters", config[key])));
    }
    // PiSSA, OLoRA, CorDA and LoftQ change the base's weights too, and the adapter is right beside the changed ones alone.
    if let Value::String(kind) = &config["init_lora_weights"]
        && !["gaussian", "eva", "orthogonal"].contains(&kind.as_str())
    {
        return Err(Error::Unsupported(format!("init_lora_weights '{kind}': it changes the base model's weights")));
    }
    let r = config["r"].as_u64().and_then(|r| usize::try_from(r).ok()).ok_or_else(|| bad("r is missing".into()))?;
    let lora_alpha = config["lora_alpha"].as_f64().ok_or_else(|| bad("lora_alpha is missing".into()))?;
    let names = match &config["target_modules"] {
        Value::Array(names) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>(),
        _ => None,
    };
    let target_modules = names.ok_or_else(|| {
        Error::Unsupported(format!("target_modules {}: this crate reads a list of names", config["target_modules"]))
    })?;
    Ok(LoraConfig { r, lora_alpha, target_modules })
}

struct AdapterSource<'c> {
    checkpoint: &'c Checkpoint,
    folder: &'c Path,
}

impl Source for AdapterSource<'_> {
    fn load(&mut self, gpu: &Gpu, spec: &Spec, _index: usize) -> Result<Tensor> {
        self.checkpoint.load_as(gpu, spec, PREFIX).map_err(|error| match error {
            Error::BadCheckpoint { reason, .. } => {
                Error::checkpoint(self.folder, reason.replace("config.json", CONFIG_FILE))
            }
            other => other,
        })
    }
}
