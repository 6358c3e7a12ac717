//! Files that the command writes.

use std::io::Write;
use std::path::{Path, PathBuf};

use retto::{BertConfig, EmbedOptions, METRICS_FILE, Model, Trainer};

use crate::ranks::Ranks;
use crate::{Result, TRAINING_ARGUMENTS_FILE, curve, output};

/// Files of sentence-transformers' layout that say how a model embeds texts.
const EMBEDDING_FILES: [&str; 3] = ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"];
const PROMPTS: &str = EMBEDDING_FILES[2];

/// Writes beside a model made of another what says how that one embeds texts, where anything does.
pub(crate) fn carry_embedding(base: Option<&Path>, config: &BertConfig, output: &Path) -> Result<()> {
    let carried = match base.filter(|base| base.join("modules.json").exists()) {
        None => false,
        Some(base) => match EmbedOptions::open(base) {
            Ok(options) => {
                options.save(output, config)?;
                carry_prompts(Some(base), output)?;
                true
            }
            Err(error) => {
                output::note(format!("note: how {} embeds texts is not carried over: {error}", base.display()));
                false
            }
        },
    };
    // Those of a model that was there before would be taken for this one's.
    if !carried && base.is_none_or(|base| !is_same(base, output)) {
        EMBEDDING_FILES.iter().try_for_each(|name| remove(&output.join(name)))?;
    }
    Ok(())
}

/// What sentence-transformers puts before texts when asked for it by name, and how it compares vectors: nothing that this program does, but
/// the same for a model made of another.
pub(crate) fn carry_prompts(base: Option<&Path>, output: &Path) -> Result<()> {
    let to = output.join(PROMPTS);
    let Some(from) = base.map(|base| base.join(PROMPTS)).filter(|from| from.is_file()) else { return remove(&to) };
    // Not copied: the two may be one file.
    let text = std::fs::read_to_string(&from).map_err(|error| format!("{}: {error}", from.display()))?;
    write_whole(&to, text.as_bytes())
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Where it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()).into())
        }
        _ => Ok(()),
    }
}

/// Refuses to write a whole model where an adapter is: the folder would be opened as one by some, and as the other by others.
pub(crate) fn check_whole_model(output: &Path) -> Result<()> {
    match Model::is_adapter(output) {
        true => Err(format!("{} holds a low-rank adapter: write the model to another folder", output.display()).into()),
        false => Ok(()),
    }
}

/// Refuses to write a model over that of a run whose checkpoints lie there: it may be in none of them.
pub(crate) fn check_no_run(output: &Path) -> Result<()> {
    match Trainer::latest_checkpoint(output)? {
        Some(checkpoint) => {
            let checkpoint = checkpoint.display();
            Err(format!("{checkpoint} is of a run: write the model to another folder, or remove its checkpoints")
                .into())
        }
        None => Ok(()),
    }
}

/// A path as it is written into files: who reads them may be in another folder.
pub(crate) fn whole(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Removes what an earlier run left beside the model it made, before another one takes its place: it would be taken for this one's.
pub(crate) fn forget_run(output: &Path) -> Result<()> {
    [TRAINING_ARGUMENTS_FILE, METRICS_FILE, curve::FILE].iter().try_for_each(|name| remove(&output.join(name)))
}

/// Writes what was trained to its output, or, where that fails, beside it or into the system's temporary folder: an evening's work is not to
/// be lost to a full disk. That it is not where it was meant to be is still an error.
pub(crate) fn save_trained(output: &Path, save: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let Err(error) = save(output) else { return Ok(()) };
    match keep_elsewhere(output, save) {
        Some(folder) => Err(format!("{error}; what was trained is kept in {}", folder.display()).into()),
        None => Err(error),
    }
}

/// Saves beside an output, or into the system's temporary folder, and says where.
pub(crate) fn keep_elsewhere(output: &Path, save: impl Fn(&Path) -> Result<()>) -> Option<PathBuf> {
    let whole = std::path::absolute(output).unwrap_or_else(|_| output.to_owned());
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let beside = || Some(whole.with_file_name(format!("{name}-kept"))).filter(|it| !it.exists());
    let elsewhere = || tempfile::Builder::new().prefix("retto-kept-").tempdir().ok().map(tempfile::TempDir::keep);
    let places: [&dyn Fn() -> Option<PathBuf>; 2] = [&beside, &elsewhere];
    for folder in places.into_iter().filter_map(|place| place()) {
        if save(&folder).is_ok() {
            return Some(folder);
        }
        let _ = std::fs::remove_dir_all(&folder);
    }
    None
}

/// A run that ended with an error.
pub(crate) struct Failed {
    pub(crate) reason: Box<dyn std::error::Error>,
    /// The last step, where no checkpoint has it.
    pub(crate) step: Option<u64>,
}

impl<E: Into<Box<dyn std::error::Error>>> From<E> for Failed {
    fn from(reason: E) -> Self {
        Self { reason: reason.into(), step: None }
    }
}

impl Failed {
    /// The error, and where the model is that was trained until then: a run that cannot go on is no reason to lose what it came to.
    pub(crate) fn keep(
        self,
        output: &Path,
        ranks: &Ranks,
        save: impl Fn(&Path) -> Result<()>,
    ) -> Box<dyn std::error::Error> {
        let (Some(step), false) = (self.step, ranks.are_several()) else { return self.reason };
        match keep_elsewhere(output, save) {
            Some(folder) => {
                format!("{}; the model as it was after step {step} is kept in {}", self.reason, folder.display()).into()
            }
            None => self.reason,
        }
    }
}

/// Whether a file can be written: found out before the work, not after it. Nothing is left behind.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let is_new = !path.exists();
    let opened = std::fs::File::options().create(true).truncate(false).write(true).open(path);
    opened.map_err(|error| format!("{}: {error}", path.display()))?;
    if is_new {
        // Of a link that led nowhere, what it leads to now.
        std::fs::remove_file(path.canonicalize()?)?;
    }
    if is_replaceable(path) {
        staging_beside(path)?;
    }
    Ok(())
}

/// The same of a folder, which may have to be made.
pub(crate) fn check_folder(path: &Path) -> Result<()> {
    let path = std::path::absolute(path)?;
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(&path);
    staging_beside(&there.join("a file")).map(|_| ())
}

/// Whether a file may be put in its place: not where it is a pipe, a terminal or another device, or leads to one.
fn is_replaceable(path: &Path) -> bool {
    path.symlink_metadata().map_or(true, |there| there.is_file())
}

/// Whether a path leads to where this program's stdout goes.
#[cfg(unix)]
fn is_stdout(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let place = |path: &Path| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    !is_replaceable(path) && place(path).is_some_and(|at| Some(at) == place(Path::new("/dev/stdout")))
}

#[cfg(not(unix))]
fn is_stdout(_: &Path) -> bool {
    false
}

fn staging_beside(path: &Path) -> Result<tempfile::TempDir> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let staged = tempfile::Builder::new().prefix(".retto-").tempdir_in(folder);
    Ok(staged.map_err(|error| format!("{}: {error}", folder.display()))?)
}

/// Writes beside a file and then in its place. What goes to stdout is alone there: what would be printed is told on stderr.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    if is_stdout(path) {
        output::give_away_stdout();
        let mut stdout = std::io::stdout().lock();
        // As such an error, which a reader that has seen enough is none of.
        return Ok(stdout.write_all(bytes).and_then(|()| stdout.flush())?);
    }
    if !is_replaceable(path) {
        return Ok(std::fs::write(path, bytes).map_err(named)?);
    }
    let staged = staging_beside(path)?;
    let beside = staged.path().join("file");
    std::fs::write(&beside, bytes).map_err(named)?;
    Ok(std::fs::rename(&beside, path).map_err(named)?)
}
