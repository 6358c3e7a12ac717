//! Which of several ways was measured to be the fastest on this adapter, kept on disk between runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::adapter::Adapter;
use super::cache;
use super::device::lock;

/// Names by what they were chosen for.
type Names = BTreeMap<String, String>;

/// What was chosen, and the file it is kept in.
///
/// The file is only ever a saving of time: one that is damaged, of another adapter, driver or version of this crate is not read
/// but made again, and one that cannot be written is not.
pub(super) struct Choices {
    file: PathBuf,
    made_for: String,
    names: Mutex<Names>,
}

/// What the kernels' hash is kept under.
const KERNELS: &str = "kernels";

/// Before the name of what is not to be chosen: why.
const REFUSED: &str = "refused: ";

#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    made_for: String,
    names: Names,
}

impl Choices {
    pub(super) fn open(adapter: &Adapter, folder: &Path) -> Self {
        let made_for =
            format!("retto {}, {} {} {}", env!("CARGO_PKG_VERSION"), adapter.backend, adapter.name, adapter.driver);
        // One file an adapter, so that machines with two do not measure at every change; the hash keeps its name short.
        let file = folder.join(format!("choices-{:016x}.json", cache::hash(made_for.as_bytes())));
        let choices = Self { file, made_for, names: Mutex::default() };
        *lock(&choices.names) = choices.on_disk();
        choices
    }

    fn on_disk(&self) -> Names {
        let kept = std::fs::read(&self.file).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        kept.filter(|kept| kept.made_for == self.made_for).map(|kept| kept.names).unwrap_or_default()
    }

    /// Takes over what another device or process has kept since, where it chose among the same kernels: two measurements differ, and a run of
    /// several devices goes by the first one's.
    pub(super) fn refresh(&self) {
        merge(&mut lock(&self.names), self.on_disk());
    }

    pub(super) fn get(&self, what: &str) -> Option<String> {
        lock(&self.names).get(what).cloned()
    }

    pub(super) fn keep(&self, what: &str, name: &str) {
        let mut names = lock(&self.names);
        let is_known = names.contains_key(what);
        merge(&mut names, self.on_disk());
        // What another has found meanwhile stays.
        if is_known || !names.contains_key(what) {
            names.insert(what.to_owned(), name.to_owned());
        }
        // Nothing is lost but time where this fails.
        let _ = self.write(&names);
    }

    /// Begins anew where what is kept was chosen among others than these kernels, whose sources and names have this hash.
    pub(super) fn of_kernels(&self, hash: u64) {
        let hash = format!("{hash:016x}");
        let mut names = lock(&self.names);
        if names.get(KERNELS) != Some(&hash) {
            names.clear();
            names.insert(KERNELS.to_owned(), hash);
        }
    }

    /// Names that are not to be chosen, whatever for.
    pub(super) fn refused(&self) -> Vec<String> {
        lock(&self.names).keys().filter_map(|what| what.strip_prefix(REFUSED)).map(str::to_owned).collect()
    }

    pub(super) fn refuse(&self, name: &str, why: &str) {
        self.keep(&format!("{REFUSED}{name}"), why);
    }

    fn write(&self, names: &Names) -> std::io::Result<()> {
        let kept = Kept { made_for: self.made_for.clone(), names: names.clone() };
        cache::write(&self.file, &[serde_json::to_string_pretty(&kept)?.as_bytes()])
    }
}

fn merge(names: &mut Names, others: Names) {
    if names.get(KERNELS) == others.get(KERNELS) {
        names.extend(others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_kept_a_choice_decides() {
        let folder = tempfile::tempdir().unwrap();
        let adapter = crate::gpu::test_gpu().adapter().clone();
        let [first, second] = [(); 2].map(|()| {
            let choices = Choices::open(&adapter, folder.path());
            choices.of_kernels(1);
            choices
        });
        first.keep("few", "a");
        first.refuse("c", "it differs");
        second.keep("few", "b");
        second.keep("many", "b");
        assert_eq!((second.get("few").unwrap(), second.get("many").unwrap()), ("a".into(), "b".into()));
        assert_eq!(first.get("many"), None);
        first.refresh();
        let third = Choices::open(&adapter, folder.path());
        for choices in [&first, &second, &third] {
            assert_eq!((choices.get("few").as_deref(), choices.get("many").as_deref()), (Some("a"), Some("b")));
            assert_eq!(choices.refused(), ["c"]);
        }
        // Of other kernels, what was chosen among these is nothing.
        third.of_kernels(2);
        third.refresh();
        assert_eq!(third.get("few"), None);
        third.keep("few", "d");
        assert_eq!(Choices::open(&adapter, folder.path()).get("few").as_deref(), Some("d"));
    }
}
