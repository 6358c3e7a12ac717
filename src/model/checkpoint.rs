//! safetensors files as Hugging Face has them: one, or several with an index; under any of the names BERT's tensors go by.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Metadata, SafeTensors};
use safetensors::{Dtype, SafeTensorError};

use super::config::BertConfig;
use super::parameters::{Init, InitialSource, Parameter, Spec};
use super::preload::Store;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Tensor, Upload};
use crate::mapped;

pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// All tensors of a checkpoint, not yet read.
pub(crate) struct Checkpoint {
    files: Vec<WeightsFile>,
    /// Tensor name to file.
    places: HashMap<String, usize>,
    folder: PathBuf,
}

struct WeightsFile {
    path: PathBuf,
    bytes: Bytes,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    data: usize,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }

    /// Of a mapped file, what was read of it and counts as this process's memory until it is given back.
    fn release(&self, part: &[u8]) {
        if let Self::Mapped(map) = self {
            mapped::release(map, part);
        }
    }
}

/// One tensor as it lies in its file.
struct Stored<'c> {
    key: String,
    path: &'c Path,
    dtype: Dtype,
    shape: &'c [usize],
    bytes: &'c [u8],
    file: &'c Bytes,
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Maps `model.safetensors`, or the shards its index names.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join(WEIGHTS_FILE), folder.join(INDEX_FILE));
        if single.is_file() {
            return Self::from_files(folder, vec![WeightsFile::map(single)?], None);
        }
        if !index.is_file() {
            let hint = match folder.join("pytorch_model.bin").is_file() {
                true => {
                    "only pytorch_model.bin; save it again with transformers' save_pretrained, which writes safetensors"
                }
                false => "no model.safetensors and no model.safetensors.index.json",
            };
            return Err(Error::checkpoint(folder, hint));
        }
        let text = std::fs::read(&index).map_err(Error::io(&index))?;
        let Index { weight_map } =
            serde_json::from_slice(&text).map_err(|e| Error::checkpoint(&index, format!("not an index: {e}")))?;
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort();
        names.dedup();
        let mut files = Vec::new();
        for name in names {
            // A shard lies beside its index: a name with a path in it is a mistake or an attack.
            if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
                return Err(Error::checkpoint(&index, format!("'{name}' is not the name of a file beside the index")));
            }
            files.push(WeightsFile::map(folder.join(name))?);
        }
        Self::from_files(folder, files, Some((&index, &weight_map)))
    }

    /// Maps one file of tensors that go by checkpoint keys.
    pub(crate) fn open_file(path: PathBuf) -> Result<Self> {
        let folder = path.parent().unwrap_or(&path).to_owned();
        Self::from_files(&folder, vec![WeightsFile::map(path)?], None)
    }

    /// Uploads what is stored for a parameter, each of its keys with `prefix` before it, into a tensor of its shape.
    pub(crate) fn load_into(&self, gpu: &Gpu, target: &Tensor, parameter: &Parameter, prefix: &str) -> Result<()> {
        let keys = parameter.keys.iter().map(|key| prefix.to_owned() + key).collect();
        let spec = Spec { keys, shape: target.shape().to_vec(), init: Init::Zeros };
        self.read(&spec, || Ok(Upload::into(gpu, target.clone()))).map(|_| ())
    }

    /// The same for a parameter that is yet to be made.
    pub(crate) fn load_as(&self, gpu: &Gpu, spec: &Spec, prefix: &str) -> Result<Tensor> {
        let keys = spec.keys.iter().map(|key| prefix.to_owned() + key).collect();
        let spec = Spec { keys, shape: spec.shape.clone(), init: spec.init };
        self.read(&spec, || Tensor::upload(gpu, &spec.shape, &spec.keys[0]))
    }

    /// Uploads what is stored by these keys, and asks where to only when every part is known to fit.
    fn read(&self, spec: &Spec, target: impl FnOnce() -> Result<Upload>) -> Result<Tensor> {
        let mut shape = spec.shape.clone();
        shape[0] /= spec.keys.len();
        let len: usize = shape.iter().product();
        let mut parts = Vec::new();
        for key in &spec.keys {
            let stored = self.find(key).ok_or_else(|| {
                let what = if spec.init == Init::Ones { " (or .gamma)" } else { "" };
                Error::checkpoint(&self.folder, format!("{key}{what} is missing from the weights"))
            })?;
            if stored.shape != shape {
                let reason = format!("{} has shape {:?}, but config.json makes it {shape:?}", stored.key, stored.shape);
                return Err(Error::checkpoint(stored.path, reason));
            }
            parts.push(stored);
        }
        let mut upload = target()?;
        for (i, stored) in parts.iter().enumerate() {
            stored.upload(&mut upload, i * len)?;
        }
        upload.finish()
    }

    /// Whether there is a tensor by this canonical key, of this shape.
    pub(crate) fn has(&self, key: &str, shape: &[usize]) -> bool {
        self.find(key).is_some_and(|stored| stored.shape == shape)
    }

    /// The tensors' names in the files.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Reads a file compiled into the program.
    #[cfg_attr(not(feature = "default-model"), allow(dead_code, reason = "only the bundled model is read from memory"))]
    pub(crate) fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let file = WeightsFile::new(PathBuf::from(name), Bytes::Static(bytes))?;
        Self::from_files(Path::new(name), vec![file], None)
    }

    fn from_files(
        folder: &Path,
        files: Vec<WeightsFile>,
        index: Option<(&Path, &BTreeMap<String, String>)>,
    ) -> Result<Self> {
        let mut places = HashMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                if places.insert(name.clone(), i).is_some() {
                    return Err(Error::checkpoint(&file.path, format!("{name} is in another shard too")));
                }
            }
        }
        for (name, shard) in index.iter().flat_map(|(_, map)| map.iter()) {
            if places.get(name).is_none_or(|&i| files[i].path.file_name().is_none_or(|file| file != shard.as_str())) {
                let index = index.map_or(folder, |(path, _)| path);
                return Err(Error::checkpoint(index, format!("{name} is not in {shard}, where the index puts it")));
            }
        }
        Ok(Self { files, places, folder: folder.to_owned() })
    }

    fn stored(&self, key: &str) -> Option<Stored<'_>> {
        let file = &self.files[*self.places.get(key)?];
        let info = file.metadata.info(key)?;
        let (start, end) = info.data_offsets;
        let bytes = &file.bytes.get()[file.data + start..file.data + end];
        Some(Stored {
            key: key.to_owned(),
            path: &file.path,
            dtype: info.dtype,
            shape: &info.shape,
            bytes,
            file: &file.bytes,
        })
    }

    /// The tensor that goes by this canonical key, under whichever of its names the file has.
    fn find(&self, key: &str) -> Option<Stored<'_>> {
        aliases(key).iter().find_map(|name| self.stored(name))
    }

    /// Whether there is a masked-language-model head: all of it, or nothing of it.
    pub(crate) fn has_mlm_head(&self) -> bool {
        self.places.keys().any(|key| key.starts_with("cls.predictions."))
    }

    /// Whether the decoder is a matrix of its own: one that is stored and differs from the word embeddings, or that the
    /// config asks for. transformers reads it so, too.
    pub(crate) fn is_untied(&self, config: &BertConfig) -> bool {
        match (self.find("cls.predictions.decoder.weight"), self.find("bert.embeddings.word_embeddings.weight")) {
            (Some(decoder), Some(word)) => {
                let differ = !config.tie_word_embeddings || decoder.bytes != word.bytes;
                [decoder, word].iter().for_each(|stored| stored.file.release(stored.bytes));
                differ
            }
            _ => false,
        }
    }

    /// Refuses weights of more layers than the config has: they belong to another model.
    pub(crate) fn check_layers(&self, config: &BertConfig) -> Result<()> {
        for key in self.places.keys() {
            let Some((_, rest)) = key.split_once("encoder.layer.") else { continue };
            let layer: Option<usize> = rest.split('.').next().and_then(|n| n.parse().ok());
            if layer.is_none_or(|layer| layer >= config.num_hidden_layers) {
                let layers = config.num_hidden_layers;
                return Err(Error::checkpoint(
                    &self.folder,
                    format!("the weights hold {key}, but config.json says num_hidden_layers {layers}"),
                ));
            }
        }
        Ok(())
    }
}

/// Every name a tensor goes by in the checkpoints of the last years, the usual one first.
fn aliases(key: &str) -> Vec<String> {
    // Where both biases are stored, transformers adds the decoder's.
    let mut names = match key {
        "cls.predictions.bias" | "cls.predictions.decoder.bias" => {
            vec!["cls.predictions.decoder.bias".to_owned(), "cls.predictions.bias".to_owned()]
        }
        _ => vec![key.to_owned()],
    };
    if let Some(bare) = key.strip_prefix("bert.") {
        names.push(bare.to_owned());
    }
    // Checkpoints converted from TensorFlow.
    for i in 0..names.len() {
        if let Some(base) = names[i].strip_suffix("LayerNorm.weight") {
            names.push(format!("{base}LayerNorm.gamma"));
        } else if let Some(base) = names[i].strip_suffix("LayerNorm.bias") {
            names.push(format!("{base}LayerNorm.beta"));
        }
    }
    names
}

impl WeightsFile {
    fn map(path: PathBuf) -> Result<Self> {
        let map = mapped::map(&path)?;
        Self::new(path, Bytes::Mapped(map))
    }

    fn new(path: PathBuf, bytes: Bytes) -> Result<Self> {
        // Checks offsets against shapes, each other and the file's length.
        let read = SafeTensors::read_metadata(bytes.get());
        let (header, metadata) = read.map_err(|error| Error::checkpoint(&path, explain(&error)))?;
        Ok(Self { path, bytes, metadata, data: header + 8 })
    }
}

/// What is wrong with a file, for someone who has it before them.
fn explain(error: &SafeTensorError) -> String {
    let hint = match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => {
            "truncated, or not a safetensors file: download or copy it again"
        }
        _ => "not a valid safetensors file",
    };
    format!("{hint} ({error})")
}

impl Stored<'_> {
    /// Uploads into `target` from element `offset` on, converting to f32.
    fn upload(&self, target: &mut Upload, offset: usize) -> Result<()> {
        let size = match self.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => {
                let reason = format!("{} is {other:?}; this crate reads F32, F16 and BF16", self.key);
                return Err(Error::checkpoint(self.path, reason));
            }
        };
        // Pieces, so that neither converted values nor the driver's staging memory hold a second copy of the whole.
        const PIECE: usize = if cfg!(test) { 7 } else { 1 << 20 };
        let mut values = Vec::new();
        for (i, bytes) in self.bytes.chunks(PIECE * size).enumerate() {
            // As they lie in the file, where they are f32 already.
            let as_stored = if cfg!(target_endian = "little") { bytemuck::try_cast_slice(bytes).ok() } else { None };
            let piece = match (self.dtype, as_stored) {
                (Dtype::F32, Some(stored)) => stored,
                (dtype, _) => {
                    values.clear();
                    match dtype {
                        Dtype::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
                        Dtype::F16 => {
                            values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()))
                        }
                        _ => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
                    }
                    &values[..]
                }
            };
            // Without an early end, which would keep the loop from being a vector's.
            if !piece.iter().fold(true, |finite, value| finite & value.is_finite()) {
                let bad = piece.iter().find(|value| !value.is_finite()).copied().unwrap_or(f32::NAN);
                let reason = format!("{} holds {bad}: these weights are damaged", self.key);
                return Err(Error::checkpoint(self.path, reason));
            }
            target.write(offset + i * PIECE, piece)?;
            self.file.release(bytes);
        }
        Ok(())
    }
}

/// Values from a checkpoint; the head's from a random state where there is none.
pub(crate) struct CheckpointStore<'c> {
    pub(crate) gpu: &'c Gpu,
    pub(crate) checkpoint: &'c Checkpoint,
    /// For a checkpoint without a head.
    pub(crate) fresh_head: Option<InitialSource>,
    /// What matrices become.
    pub(crate) dtype: super::Dtype,
}

impl CheckpointStore<'_> {
    fn fresh(&self, spec: &Spec) -> Option<&InitialSource> {
        self.fresh_head.as_ref().filter(|_| spec.keys[0].starts_with("cls."))
    }
}

impl Store for CheckpointStore<'_> {
    fn has(&self, spec: &Spec) -> bool {
        self.fresh(spec).is_some() || spec.keys.iter().all(|key| self.checkpoint.find(key).is_some())
    }

    fn read(&self, spec: &Spec, index: usize) -> Result<Tensor> {
        let value = match self.fresh(spec) {
            Some(fresh) => fresh.draw(self.gpu, spec, index)?,
            None => self.checkpoint.read(spec, || Tensor::upload(self.gpu, &spec.shape, &spec.keys[0]))?,
        };
        self.dtype.convert(self.gpu, value, &spec.keys[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_cover_the_quirks() {
        let has = |key: &str, alias: &str| aliases(key).iter().any(|name| name == alias);
        assert!(has("bert.embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma"));
        assert!(has("bert.embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.beta"));
        assert!(has("bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"));
        assert!(has("cls.predictions.bias", "cls.predictions.decoder.bias"));
        assert!(has("cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.gamma"));
    }
}
