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
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { path, _locked: file })),
            Err(TryLockError::WouldBlock) => {
                let reason =
                    format!("{}: another run writes its checkpoints there: give another folder", folder.display());
                Err(Error::InvalidArgument(reason))
            }
            Err(TryLockError::Error(_)) => Ok(None),
        }
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // Left behind it does no harm: it is the lock that counts.
        let _ = std::fs::remove_file(&self.path);
    }
}
