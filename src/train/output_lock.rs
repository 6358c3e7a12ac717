//! One run at a time in an output folder.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const NAME: &str = ".retto-run.lock";

/// Keeps other runs out of a folder until it is dropped; a process that ends in whatever way leaves no lock behind.
pub(super) struct OutputLock {
    path: PathBuf,
    _locked: File,
}

impl OutputLock {
    /// `None` where the file system has no locks: two runs in one folder are then the user's to avoid.
    pub(super) fn take(folder: &Path) -> Result<Option<Self>> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(NAME);
        loop {
            let file =
                File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Some(Self { path, _locked: file })),
                // Who had it removed it since it was opened.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let folder = folder.display();
                    let reason = format!("{folder}: another run writes its checkpoints there: give another folder");
                    return Err(Error::InvalidArgument(reason));
                }
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }
}

/// Whether a path still leads to an open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let place = |metadata: std::io::Result<std::fs::Metadata>| metadata.map(|it| (it.dev(), it.ino())).ok();
    place(file.metadata()) == place(std::fs::metadata(path))
}

/// A file that is open keeps its name until it is closed there.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // Left behind it does no harm: it is the lock that counts.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// Whoever gets it, there is one, though all of them remove it when they are done.
    #[test]
    fn of_many_that_take_it_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..500 {
                        let Ok(lock) = OutputLock::take(folder.path()) else { continue };
                        assert!(lock.is_some());
                        assert_eq!(inside.fetch_add(1, SeqCst), 0);
                        taken.fetch_add(1, SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, SeqCst);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0 && !folder.path().join(NAME).exists());
    }
}
