//! Files that are there whole or not at all, and what processes that were killed left of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};

/// What a file is written to, or a folder, before it is put in its place.
pub(crate) const STAGED: &str = ".retto-staged-";

/// Writes beside a file and then in its place, so that one that was there is not lost to a full disk.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = folder_of(path);
    remove_old(folder, STAGED);
    let staged = tempfile::Builder::new().prefix(STAGED).tempdir_in(folder).map_err(Error::io(folder))?;
    let beside = staged.path().join("file");
    fs::write(&beside, bytes).map_err(Error::io(path))?;
    rename(&beside, path).map_err(Error::io(path))
}

/// The folder that a file is in, the present one included.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Renames, [`patiently`].
pub(crate) fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    patiently(|| fs::rename(from, to))
}

/// Tries again for some seconds where Windows says that something is in use, as scanners have files that were just written.
pub(crate) fn patiently(mut attempt: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    const SHARING_VIOLATION: i32 = 32;
    let mut pause = Duration::from_millis(10);
    loop {
        match attempt() {
            Err(error)
                if cfg!(windows)
                    && pause < Duration::from_secs(3)
                    && (error.kind() == std::io::ErrorKind::PermissionDenied
                        || error.raw_os_error() == Some(SHARING_VIOLATION)) =>
            {
                std::thread::sleep(pause);
                pause *= 2;
            }
            done => return done,
        }
    }
}

/// Makes the renames last through a power failure, where the system lets a folder be synced.
pub(crate) fn sync_folder(folder: &Path) {
    if let Ok(folder) = fs::File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// What the safetensors library writes is readable by its owner alone; it is to be as readable as any file this process
/// makes, `like` for one.
pub(crate) fn usual_permissions(path: &Path, like: &Path) -> Result<()> {
    let permissions = fs::metadata(like).map_err(Error::io(like))?.permissions();
    fs::set_permissions(path, permissions).map_err(Error::io(path))
}

/// What is written takes less, or is younger: it is written to until it is done.
const OLD: Duration = Duration::from_secs(3600);

/// Removes what lies in a folder under names that begin so, as far as it is old.
pub(crate) fn remove_old(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        if entry.file_name().to_string_lossy().starts_with(prefix) && age > OLD {
            // It may be another user's, which is no reason to fail.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_is_young_or_called_otherwise_stays() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, hours: u64| {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            let time = SystemTime::now() - Duration::from_secs(3600 * hours + 60);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            path
        };
        let [old, young, other] = [make(".retto-a-1", 1), make(".retto-a-2", 0), make("retto-a-3", 1)];
        remove_old(folder.path(), ".retto-a-");
        assert!(!old.exists() && young.exists() && other.exists());
        remove_old(&folder.path().join("none"), ".retto-a-");
    }
}
