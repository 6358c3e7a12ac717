//! A checkpoint folder written whole or not at all.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, View};

use super::checkpoint::{INDEX_FILE, WEIGHTS_FILE};
use super::config::CONFIG_FILE;
use super::open::Model;
use super::parameters::Parameter;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pass};
use crate::text::TOKENIZER_FILES;

impl Model {
    /// Writes a folder that transformers loads: `config.json`, `model.safetensors` (f32) and the tokenizer's files.
    ///
    /// Everything is written beside the folder first and put in place by renaming, so that an interruption leaves the old
    /// contents or the new ones whole. Files of other names in the folder are kept.
    ///
    /// # Errors
    /// [`Error::Io`] naming what could not be written; GPU errors.
    pub fn save(&self, folder: impl Into<PathBuf>) -> Result<()> {
        save(self, &folder.into())
    }
}

/// One tensor of the file, fetched from the GPU when its turn comes: the whole model is never in host memory.
struct Lazy<'m> {
    gpu: &'m Gpu,
    parameter: &'m Parameter,
    part: usize,
    shape: Vec<usize>,
    /// The first error: the trait has no place for one.
    failed: &'m RefCell<Option<Error>>,
}

impl Lazy<'_> {
    fn read(&self) -> Result<Vec<u8>> {
        let mut pass = Pass::new(self.gpu);
        let download = pass.download(&self.parameter.value)?;
        pass.submit()?;
        let values: Vec<f32> = download.wait(self.gpu)?;
        let len: usize = self.shape.iter().product();
        if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
            let reason = format!("{} holds {bad}, so the model is not saved", self.parameter.keys[self.part]);
            return Err(Error::InvalidArgument(reason));
        }
        let part = &values[self.part * len..(self.part + 1) * len];
        Ok(part.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = if self.failed.borrow().is_some() { Ok(Vec::new()) } else { self.read() };
        Cow::Owned(bytes.unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            Vec::new()
        }))
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * 4
    }
}

fn write_weights(model: &Model, path: &Path) -> Result<()> {
    let failed = RefCell::new(None);
    let mut tensors = Vec::new();
    for parameter in model.bert.parameters() {
        for (part, (key, shape)) in parameter.parts().into_iter().enumerate() {
            let view = |shape| Lazy { gpu: &model.gpu, parameter, part, shape, failed: &failed };
            // A decoder of its own has a bias of its own in transformers; the other name is expected beside it.
            if key == "cls.predictions.decoder.bias" {
                tensors.push(("cls.predictions.bias".to_owned(), view(shape.clone())));
            }
            tensors.push((key, view(shape)));
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let written = safetensors::serialize_to_file(tensors, Some(metadata), path);
    if let Some(error) = failed.take() {
        return Err(error);
    }
    written.map_err(|error| Error::Io { path: path.to_owned(), source: std::io::Error::other(error) })
}

/// See [`Model::save`].
fn save(model: &Model, folder: &Path) -> Result<()> {
    // A folder given as `.` or `a/..` has no name to put another one beside; its real path does.
    let folder = &std::path::absolute(folder).map_err(Error::io(folder))?;
    let folder = &fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
    if folder.exists() && !folder.is_dir() {
        let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "is a file, and should be a folder");
        return Err(Error::Io { path: folder.clone(), source });
    }
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    // Beside the target, so that renaming does not cross file systems; removed again if anything fails.
    let staging = tempfile::Builder::new().prefix(".retto-save-").tempdir_in(parent).map_err(Error::io(parent))?;

    write_weights(model, &staging.path().join(WEIGHTS_FILE))?;
    let config = serde_json::to_string_pretty(&model.bert.config.to_json()).map_err(std::io::Error::from);
    let config = config.map_err(Error::io(folder.join(CONFIG_FILE)))? + "\n";
    let config_path = staging.path().join(CONFIG_FILE);
    fs::write(&config_path, config).map_err(Error::io(&config_path))?;
    for (name, bytes) in model.tokenizer.files() {
        let path = staging.path().join(name);
        fs::write(&path, bytes).map_err(Error::io(&path))?;
    }
    for entry in entries(staging.path())? {
        let file = fs::OpenOptions::new().write(true).open(&entry).map_err(Error::io(&entry))?;
        file.sync_all().map_err(Error::io(&entry))?;
    }
    usual_permissions(staging.path())?;
    replace(staging, folder)?;
    sync_folder(parent);
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).map_err(Error::io(folder))?;
    list.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(folder))).collect()
}

/// Temporary folders, and what the safetensors library writes, are readable by their owner alone; a model is as readable as
/// any file this process makes, `config.json` for one.
fn usual_permissions(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let config = folder.join(CONFIG_FILE);
        let mode = fs::metadata(&config).map_err(Error::io(&config))?.permissions().mode();
        let weights = folder.join(WEIGHTS_FILE);
        fs::set_permissions(&weights, fs::Permissions::from_mode(mode)).map_err(Error::io(&weights))?;
        // A folder is entered by those who may read it.
        let mode = mode | ((mode & 0o444) >> 2);
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).map_err(Error::io(folder))?;
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Makes the renames last through a power failure, where the system lets a folder be synced.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = fs::File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Files that belong to a model: what a save replaces. Everything else in the folder stays.
fn is_model_file(name: &str) -> bool {
    name == WEIGHTS_FILE
        || name == INDEX_FILE
        || name == CONFIG_FILE
        || TOKENIZER_FILES.contains(&name)
        || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

/// Puts the staged folder in the place of `folder`.
fn replace(staging: tempfile::TempDir, folder: &Path) -> Result<()> {
    if !folder.exists() {
        fs::rename(staging.path(), folder).map_err(Error::io(folder))?;
        let _ = staging.keep();
        return Ok(());
    }
    if only_weights_differ(staging.path(), folder)? {
        // The usual case of saving again: one rename, which is atomic everywhere.
        return rename_into(staging.path(), folder, WEIGHTS_FILE);
    }
    if exchange(staging.path(), folder) || swap_by_renames(staging.path(), folder) {
        // The new model is in place; the old folder, now under the staging name, gives back what is not a model's.
        for old in entries(staging.path())? {
            let Some(name) = old.file_name() else { continue };
            if !is_model_file(&name.to_string_lossy()) && !folder.join(name).exists() {
                fs::rename(&old, folder.join(name)).map_err(Error::io(&old))?;
            }
        }
        return Ok(());
    }
    // A folder that cannot be renamed (a mount point): file by file, the weights last. An interruption in between leaves a
    // mixture, which the check of shapes and vocabulary refuses to open unless the two models are of one shape.
    for file in entries(staging.path())? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != WEIGHTS_FILE {
            rename_into(staging.path(), folder, &name)?;
        }
    }
    rename_into(staging.path(), folder, WEIGHTS_FILE)?;
    let _ = fs::remove_file(folder.join(INDEX_FILE));
    Ok(())
}

fn rename_into(from: &Path, to: &Path, name: &str) -> Result<()> {
    fs::rename(from.join(name), to.join(name)).map_err(Error::io(to.join(name)))
}

/// Whether the target holds the same model files but for the weights, and nothing that would hide them.
fn only_weights_differ(staging: &Path, folder: &Path) -> Result<bool> {
    let mut names = Vec::new();
    for path in entries(staging)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != WEIGHTS_FILE && fs::read(&path).ok() != fs::read(folder.join(&name)).ok() {
            return Ok(false);
        }
        names.push(name);
    }
    let present = entries(folder)?;
    let present = present.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
    Ok(present.into_iter().all(|name| !is_model_file(&name) || names.iter().any(|staged| *staged == name)))
}

/// Swaps two folders by three renames, for systems without an exchange (Windows). Interrupted, the old model is whole
/// under a name beginning with `.retto-old-`.
fn swap_by_renames(staging: &Path, folder: &Path) -> bool {
    let name = staging.file_name().unwrap_or_default().to_string_lossy().replace("save", "old");
    let aside = staging.with_file_name(name);
    if fs::rename(folder, &aside).is_err() {
        return false;
    }
    if fs::rename(staging, folder).is_err() {
        let _ = fs::rename(&aside, folder);
        return false;
    }
    let _ = fs::rename(&aside, staging);
    true
}

/// Swaps two folders in one step; false where the system or the file system cannot.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}
