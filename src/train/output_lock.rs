//! One run at a time in an output folder.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

const NAME: &str = ".retto-run.lock";
/// For one that was ended, and is not gone yet, where it is started again at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keeps other runs out of a folder until it is dropped; a process that ends in whatever way leaves no lock behind.
pub(super) struct OutputLock {
    path: PathBuf,
    /// Taken when it is dropped.
    locked: Option<File>,
}

#[cfg(not(windows))]
fn open(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

/// Such that nobody can remove it while anybody has it open; who is just removing it is waited for.
#[cfg(windows)]
fn open(path: &Path) -> std::io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;

    const FILE_SHARE_READ_AND_WRITE: u32 = 3;
    // Of a file that another is removing, and of one that is removed when that has closed it.
    const BUSY: [i32; 2] = [32, 5];
    let mut tries = 0;
    loop {
        let mut options = File::options();
        options.create(true).truncate(false).write(true).share_mode(FILE_SHARE_READ_AND_WRITE);
        match options.open(path) {
            Err(error) if error.raw_os_error().is_some_and(|code| BUSY.contains(&code)) && tries < 100 => tries += 1,
            other => return other,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl OutputLock {
    /// `None` where the file system has no locks: two runs in one folder are then the user's to avoid.
    pub(super) fn take(folder: &Path) -> Result<Option<Self>> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(NAME);
        let began = Instant::now();
        loop {
            let file = open(&path).map_err(Error::io(&path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Some(Self { path, locked: Some(file) })),
                // Who had it removed it since it was opened.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::FolderInUse { folder: folder.to_owned() });
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

/// A file that is open so keeps its name until it is closed there.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // While it is open nobody can remove it there, this process included.
        if cfg!(windows) {
            self.locked = None;
        }
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
