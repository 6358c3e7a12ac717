//! A checkpoint folder written whole or not at all.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, View};

use super::adapter::ADAPTER;
use super::checkpoint::{INDEX_FILE, WEIGHTS_FILE};
use super::config::CONFIG_FILE;
use super::open::Model;
use super::parameters::Parameter;
use crate::error::{Error, Result};
use crate::files::{remove_old, rename, sync_folder, usual_permissions};
use crate::gpu::{Gpu, Pass, Tensor};
use crate::text::TOKENIZER_FILES;

const STAGING_PREFIX: &str = ".retto-save-";
/// The complete files of a save that is being put in place, inside the folder they are for.
const COMMITTED: &str = ".retto-commit";

impl Model {
    /// Writes a folder that transformers loads: `config.json`, `model.safetensors` (f32) and the tokenizer's files.
    ///
    /// Everything is written to a temporary folder first and put in place by renaming, so that an interruption leaves the
    /// old model or the new one whole; what was cut off in between, [`Model::open`] finishes. Files of other names in the
    /// folder are kept. An encoder whose head was never trained is saved without it, as `BertModel`. A
    /// low-rank adapter is added to the weights; [`Model::save_adapter`] writes it alone.
    ///
    /// # Errors
    /// [`Error::Io`] naming what could not be written; [`Error::Unsupported`] for weights in float16 or int8; [`Error::NotFinite`] for
    /// weights that are not; GPU errors.
    pub fn save(&self, folder: impl Into<PathBuf>) -> Result<()> {
        self.require_float32("saving a model")?;
        match self.lora {
            Some(_) => save(&self.merge()?, &folder.into()),
            None => save(self, &folder.into()),
        }
    }
}

/// One tensor of the file, fetched from the GPU when its turn comes: the whole model is never in host memory.
struct Lazy<'m> {
    gpu: &'m Gpu,
    tensor: &'m Tensor,
    name: String,
    /// Which of the equal parts of `tensor` along its first dimension.
    part: usize,
    shape: Vec<usize>,
    /// The first error: the trait has no place for one.
    failed: &'m RefCell<Option<Error>>,
}

impl Lazy<'_> {
    fn read(&self) -> Result<Vec<u8>> {
        let mut pass = Pass::new(self.gpu);
        let download = pass.download(self.tensor)?;
        pass.submit()?;
        let values: Vec<f32> = download.wait(self.gpu)?;
        let len: usize = self.shape.iter().product();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::not_finite(format!("what would be saved as {}", self.name)));
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
    let is_saved = |parameter: &&Parameter| model.has_mlm_head || !parameter.keys[0].starts_with("cls.");
    let parameters = model.bert.parameters().into_iter().filter(is_saved);
    write_tensors(&model.gpu, parameters.map(|parameter| (parameter, &parameter.value, String::new())), path)
}

/// Writes tensors shaped as their parameters are, split as checkpoints have them, each under its key with a prefix.
pub(crate) fn write_tensors<'m>(
    gpu: &'m Gpu,
    entries: impl Iterator<Item = (&'m Parameter, &'m Tensor, String)>,
    path: &Path,
) -> Result<()> {
    let failed = RefCell::new(None);
    let mut tensors = Vec::new();
    for (parameter, tensor, prefix) in entries {
        for (part, (key, shape)) in parameter.parts().into_iter().enumerate() {
            let view =
                |name: &str| Lazy { gpu, tensor, name: name.into(), part, shape: shape.clone(), failed: &failed };
            // A decoder of its own has a bias of its own in transformers; the other name is expected beside it.
            if key == "cls.predictions.decoder.bias" {
                let name = format!("{prefix}cls.predictions.bias");
                let view = view(&name);
                tensors.push((name, view));
            }
            let name = prefix.clone() + &key;
            let view = view(&name);
            tensors.push((name, view));
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let written = safetensors::serialize_to_file(tensors, Some(metadata), path);
    if let Some(error) = failed.take() {
        return Err(error);
    }
    written.map_err(|error| {
        let source = match error {
            safetensors::SafeTensorError::IoError(error) => error,
            other => std::io::Error::other(other),
        };
        Error::Io { path: path.to_owned(), source }
    })
}

/// See [`Model::save`].
fn save(model: &Model, folder: &Path) -> Result<()> {
    // A folder given as `a/..` has no name to put another one beside; its real path does.
    let folder = &std::path::absolute(folder).map_err(Error::io(folder))?;
    let folder = &fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
    if folder.is_dir() {
        let staging = staging_in(folder)?;
        write_files(model, staging.path())?;
        return commit(staging.path(), folder);
    }
    if folder.exists() {
        let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "is a file, and should be a folder");
        return Err(Error::Io { path: folder.clone(), source });
    }
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    // Beside the target, so that renaming does not cross file systems; removed again if anything fails.
    let staging = staging_in(parent)?;
    write_files(model, staging.path())?;
    usual_folder_permissions(staging.path())?;
    match rename(staging.path(), folder) {
        Ok(()) => {
            let _ = staging.keep();
            sync_folder(parent);
            Ok(())
        }
        // Someone else made the folder meanwhile.
        Err(_) if folder.is_dir() => {
            let inside = staging_in(folder)?;
            for file in entries(staging.path())? {
                let name = file.file_name().unwrap_or_default();
                rename(&file, &inside.path().join(name)).map_err(Error::io(&file))?;
            }
            commit(inside.path(), folder)
        }
        Err(error) => Err(Error::io(folder)(error)),
    }
}

/// Every file of the model, complete and on disk.
fn write_files(model: &Model, staging: &Path) -> Result<()> {
    write_weights(model, &staging.join(WEIGHTS_FILE))?;
    let architecture = if model.has_mlm_head { "BertForMaskedLM" } else { "BertModel" };
    let config = serde_json::to_string_pretty(&model.bert.config.to_json(architecture)).map_err(std::io::Error::from);
    let config_path = staging.join(CONFIG_FILE);
    let config = config.map_err(Error::io(&config_path))? + "\n";
    fs::write(&config_path, config).map_err(Error::io(&config_path))?;
    for (name, bytes) in model.tokenizer.files() {
        let path = staging.join(name);
        fs::write(&path, bytes).map_err(Error::io(&path))?;
    }
    seal(staging, &MODEL)
}

/// Gives staged files their permissions, and waits until they are on disk.
pub(crate) fn seal(staging: &Path, layout: &Layout) -> Result<()> {
    usual_permissions(&staging.join(layout.weights), &staging.join(layout.config))?;
    for entry in entries(staging)? {
        let file = fs::OpenOptions::new().write(true).open(&entry).map_err(Error::io(&entry))?;
        file.sync_all().map_err(Error::io(&entry))?;
    }
    sync_folder(staging);
    Ok(())
}

/// A temporary folder, and what killed processes left of such is removed.
pub(crate) fn staging_in(folder: &Path) -> Result<tempfile::TempDir> {
    remove_old(folder, STAGING_PREFIX);
    tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(folder).map_err(Error::io(folder))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).map_err(Error::io(folder))?;
    list.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(folder))).collect()
}

/// As [`usual_permissions`] for a temporary folder, which is entered by those who may read it.
fn usual_folder_permissions(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let config = folder.join(CONFIG_FILE);
        let mode = fs::metadata(&config).map_err(Error::io(&config))?.permissions().mode();
        let mode = mode | ((mode & 0o444) >> 2);
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).map_err(Error::io(folder))?;
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// What is saved as one whole, by the names of its files.
pub(crate) struct Layout {
    pub(crate) weights: &'static str,
    pub(crate) config: &'static str,
    /// What a save replaces. Everything else in the folder stays.
    pub(crate) owns: fn(&str) -> bool,
}

const MODEL: Layout = Layout { weights: WEIGHTS_FILE, config: CONFIG_FILE, owns: is_model_file };

impl Layout {
    /// That of staged files, of which some may have been put in place already.
    fn of(staged: &[String]) -> &'static Self {
        let is_adapter = staged.iter().any(|name| (ADAPTER.owns)(name));
        if is_adapter { &ADAPTER } else { &MODEL }
    }
}

fn is_model_file(name: &str) -> bool {
    let five_digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let shard = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    name == WEIGHTS_FILE
        || name == INDEX_FILE
        || name == CONFIG_FILE
        || TOKENIZER_FILES.contains(&name)
        || shard.and_then(|part| part.split_once("-of-")).is_some_and(|(a, b)| five_digits(a) && five_digits(b))
}

/// Keeps other processes' saves out of a folder, or readers from a save in progress, until it is dropped. Where the
/// system cannot lock it there is no lock: two programs saving to one folder at once are then the user's to avoid.
pub(crate) struct FolderLock {
    _locked: Option<fs::File>,
}

/// What is locked for a folder: itself.
#[cfg(not(windows))]
fn to_be_locked(folder: &Path) -> Option<fs::File> {
    fs::File::open(folder).ok()
}

/// What is locked for a folder: Windows locks files alone, so one of its own, empty, where all of this user's programs look for it. In the
/// folder it would be in the way, and could not be made where one may only read.
#[cfg(windows)]
fn to_be_locked(folder: &Path) -> Option<fs::File> {
    let name = fs::canonicalize(folder).ok()?;
    let locks = std::env::temp_dir().join("retto-locks");
    fs::create_dir_all(&locks).ok()?;
    let file = locks.join(format!("{:016x}", crate::gpu::hash(name.as_os_str().as_encoded_bytes())));
    fs::File::options().create(true).truncate(false).write(true).open(file).ok()
}

impl FolderLock {
    fn exclusive(folder: &Path) -> Self {
        Self { _locked: to_be_locked(folder).filter(|file| file.lock().is_ok()) }
    }

    /// For reading: a save that was interrupted is finished first.
    pub(crate) fn shared(folder: &Path) -> Result<Self> {
        loop {
            let lock = Self { _locked: to_be_locked(folder).filter(|file| file.lock_shared().is_ok()) };
            if !folder.join(COMMITTED).is_dir() {
                return Ok(lock);
            }
            drop(lock);
            let _exclusive = Self::exclusive(folder);
            finish(folder)?;
        }
    }
}

/// Whether a folder holds a file, or will when a save that was cut off is finished.
pub(crate) fn holds(folder: &Path, name: &str) -> bool {
    folder.join(name).is_file() || folder.join(COMMITTED).join(name).is_file()
}

/// Puts staged files, which lie in a folder inside `folder`, in the place of its model or adapter.
///
/// Renaming the staged folder to [`COMMITTED`] decides: before it the old one is whole, after it the new one is, since
/// whoever opens or saves next finishes what was begun.
pub(crate) fn commit(staging: &Path, folder: &Path) -> Result<()> {
    let _lock = FolderLock::exclusive(folder);
    finish(folder)?;
    let layout = Layout::of(&names(staging)?);
    if only_weights_differ(staging, folder, layout)? {
        // The usual case of saving again: one rename.
        rename(&staging.join(layout.weights), &folder.join(layout.weights)).map_err(Error::io(folder))?;
    } else {
        let committed = folder.join(COMMITTED);
        rename(staging, &committed).map_err(Error::io(&committed))?;
        sync_folder(folder);
        finish(folder)?;
    }
    sync_folder(folder);
    Ok(())
}

/// Carries a committed save to its end, from wherever it was interrupted; the caller holds the lock.
fn finish(folder: &Path) -> Result<()> {
    let committed = folder.join(COMMITTED);
    if !committed.is_dir() {
        return Ok(());
    }
    // Where folders cannot be locked, another process may be about the same: what is gone it has moved.
    let unless_gone = |done: std::io::Result<()>, path: &Path| match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(Error::io(path)),
    };
    let move_out = |name: &str| {
        let target = folder.join(name);
        unless_gone(rename(&committed.join(name), &target), &target)
    };
    let staged = names(&committed)?;
    let layout = Layout::of(&staged);
    // The weights leave first: as long as they are here, every file of it in the folder is an old one.
    if staged.iter().any(|name| name == layout.weights) {
        // The config goes first and comes last, so that other programs see nothing rather than half of each.
        let mut old: Vec<String> = names(folder)?.into_iter().filter(|name| (layout.owns)(name)).collect();
        old.sort_by_key(|name| name != layout.config);
        for path in old.iter().map(|name| folder.join(name)) {
            unless_gone(fs::remove_file(&path), &path)?;
        }
        move_out(layout.weights)?;
    }
    for name in staged.iter().filter(|name| *name != layout.weights && *name != layout.config) {
        move_out(name)?;
    }
    if staged.iter().any(|name| name == layout.config) {
        move_out(layout.config)?;
    }
    unless_gone(fs::remove_dir(&committed), &committed)
}

pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(entries(folder)?.into_iter().map(name).collect())
}

/// Whether the target holds the same files but for the weights, and nothing that would hide them.
fn only_weights_differ(staging: &Path, folder: &Path, layout: &Layout) -> Result<bool> {
    let staged = names(staging)?;
    for name in staged.iter().filter(|name| *name != layout.weights) {
        if fs::read(staging.join(name)).ok() != fs::read(folder.join(name)).ok() {
            return Ok(false);
        }
    }
    Ok(names(folder)?.iter().all(|name| !(layout.owns)(name) || staged.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 3] = [WEIGHTS_FILE, "tokenizer.json", CONFIG_FILE];

    fn write(folder: &Path, names: &[&str], text: &str) {
        fs::create_dir_all(folder).unwrap();
        for name in names {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    /// A folder whose save was cut off after `moved` of the new files had been put in place.
    fn interrupted(removed: usize, moved: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let old = [CONFIG_FILE, WEIGHTS_FILE, "vocab.txt", "model-00001-of-00002.safetensors"];
        write(folder.path(), &old[removed..], "old");
        write(folder.path(), &["notes.md", "model-mine.safetensors"], "mine");
        write(folder.path(), &FILES[..moved], "new");
        write(&folder.path().join(COMMITTED), &FILES[moved..], "new");
        folder
    }

    #[test]
    fn an_interrupted_save_is_finished_from_wherever_it_was() {
        for (removed, moved) in [(0, 0), (1, 0), (3, 0), (4, 0), (4, 1), (4, 2), (4, 3)] {
            let folder = interrupted(removed, moved);
            drop(FolderLock::shared(folder.path()).unwrap());
            let mut names = names(folder.path()).unwrap();
            names.sort();
            assert_eq!(
                names,
                ["config.json", "model-mine.safetensors", "model.safetensors", "notes.md", "tokenizer.json"]
            );
            for name in FILES {
                assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), "new", "{name} {removed} {moved}");
            }
            assert_eq!(fs::read_to_string(folder.path().join("notes.md")).unwrap(), "mine");
        }
    }

    #[test]
    fn an_interrupted_save_of_an_adapter_is_finished_and_leaves_a_model_alone() {
        let files = [ADAPTER.weights, ADAPTER.config];
        for moved in 0..=2 {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &FILES, "model");
            write(folder.path(), &files, "old");
            write(folder.path(), &files[..moved], "new");
            write(&folder.path().join(COMMITTED), &files[moved..], "new");
            assert!(holds(folder.path(), ADAPTER.config));
            drop(FolderLock::shared(folder.path()).unwrap());
            let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(files.iter().all(|name| read(name) == "new") && FILES.iter().all(|name| read(name) == "model"));
            assert!(!folder.path().join(COMMITTED).exists());
        }
    }

    #[test]
    fn a_save_into_a_folder_of_modules_is_found_where_it_was_cut_off() {
        let folder = interrupted(4, 0);
        let modules = r#"[{"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"}]"#;
        fs::write(folder.path().join("modules.json"), modules).unwrap();
        write(&folder.path().join("0_Transformer"), &FILES, "another");
        let found = super::super::modules::transformer_folder(folder.path()).unwrap();
        assert_eq!(found, folder.path());
    }

    #[test]
    fn a_new_save_comes_after_the_interrupted_one() {
        let folder = interrupted(2, 0);
        let staging = staging_in(folder.path()).unwrap();
        write(staging.path(), &FILES, "newer");
        commit(staging.path(), folder.path()).unwrap();
        for name in FILES {
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), "newer");
        }
        assert!(!folder.path().join(COMMITTED).exists());
    }

    #[test]
    fn what_belongs_to_a_model() {
        for name in ["model.safetensors", "vocab.txt", "model-00001-of-00002.safetensors"] {
            assert!(is_model_file(name), "{name}");
        }
        for name in ["model-backup.safetensors", "model-1-of-2.safetensors", "metrics.jsonl", "README.md"] {
            assert!(!is_model_file(name), "{name}");
        }
    }
}
