//! What processes that were killed left behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

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
