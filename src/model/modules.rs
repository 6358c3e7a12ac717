//! The layout of sentence-transformers: a list of parts, of which the encoder is one.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::{INDEX_FILE, WEIGHTS_FILE};
use super::config::CONFIG_FILE;
use super::save::holds;
use crate::error::{Error, Result};

/// The list of a sentence-transformers model's parts.
pub(crate) const MODULES_FILE: &str = "modules.json";

/// A part.
pub(crate) struct Module {
    /// `Transformer`, `Pooling` and so on.
    pub(crate) name: String,
    /// The same as it is written, with its package.
    pub(crate) kind: String,
    /// Where its files are.
    pub(crate) folder: PathBuf,
}

impl Module {
    /// `None` for a folder of another layout.
    pub(crate) fn list(folder: &Path) -> Result<Option<Vec<Self>>> {
        let path = folder.join(MODULES_FILE);
        let Some(list) = read_json(&path)? else { return Ok(None) };
        let list = list.as_array().ok_or_else(|| Error::checkpoint(&path, "not a list of modules"))?;
        let module = |module: &Value| {
            let kind = module["type"].as_str().unwrap_or_default();
            Self {
                // Modules are classes, and have moved between packages; their names have stayed.
                name: kind.rsplit('.').next().unwrap_or_default().to_owned(),
                kind: kind.to_owned(),
                folder: folder.join(module["path"].as_str().unwrap_or_default()),
            }
        };
        Ok(Some(list.iter().map(module).collect()))
    }
}

/// Where the encoder of a sentence-transformers model lies; the folder itself for any other model.
pub(super) fn transformer_folder(folder: &Path) -> Result<PathBuf> {
    // A model that was saved into such a folder is not passed over for what is in its parts.
    let has = |name: &str| holds(folder, name);
    if has(CONFIG_FILE) && (has(WEIGHTS_FILE) || has(INDEX_FILE)) {
        return Ok(folder.to_owned());
    }
    let modules = Module::list(folder)?.unwrap_or_default();
    let transformer = modules.into_iter().find(|module| module.name == "Transformer");
    Ok(transformer.map_or_else(|| folder.to_owned(), |module| module.folder))
}

/// `None` where there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::checkpoint(path, format!("not JSON: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path)(error)),
    }
}
