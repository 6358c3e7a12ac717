//! A saved model is the model, bit for bit; a folder is replaced whole or not at all, and nothing else in it is lost.

mod common;

use std::fs;
use std::path::Path;

use common::{copy_fixture, fixtures, gpu};
use retto::{Error, Model};

fn open(folder: &Path) -> Model {
    Model::open(gpu(), folder).unwrap()
}

fn parameters(model: &Model) -> Vec<(String, Vec<u32>)> {
    let bits = |key: &String| model.parameter(key).unwrap().iter().map(|value| value.to_bits()).collect();
    model.parameter_shapes().iter().map(|(key, _)| (key.clone(), bits(key))).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(entry).collect();
    names.sort();
    names
}

#[test]
fn saving_and_reopening_changes_no_bit() {
    for name in ["base", "odd", "relu_untied", "gelu_new", "fillmask"] {
        let (source, target) = (copy_fixture(name), tempfile::tempdir().unwrap());
        let saved = target.path().join("new/folder");
        let model = open(source.path());
        model.save(&saved).unwrap();
        let again = open(&saved);
        assert_eq!(parameters(&again), parameters(&model), "{name}");
        assert_eq!(again.config().hidden_act, model.config().hidden_act);
        assert_eq!(again.config().tie_word_embeddings, model.config().tie_word_embeddings);
        for file in ["vocab.txt", "tokenizer.json", "tokenizer_config.json"] {
            assert_eq!(fs::read(saved.join(file)).ok(), fs::read(source.path().join(file)).ok(), "{name}/{file}");
        }
        // Saving what was saved gives the same files.
        let second = target.path().join("second");
        again.save(&second).unwrap();
        for file in names(&saved) {
            assert_eq!(fs::read(saved.join(&file)).unwrap(), fs::read(second.join(&file)).unwrap(), "{name}/{file}");
        }
        assert_eq!(names(target.path()), ["new", "second"], "nothing temporary is left");
    }
}

#[test]
fn saving_over_the_folder_it_was_read_from() {
    let folder = copy_fixture("base");
    let model = open(folder.path());
    fs::write(folder.path().join("notes.md"), "mine").unwrap();
    for _ in 0..2 {
        model.save(folder.path()).unwrap();
        assert_eq!(parameters(&open(folder.path())), parameters(&model));
        assert_eq!(fs::read_to_string(folder.path().join("notes.md")).unwrap(), "mine");
    }
}

#[test]
fn saving_over_another_model_replaces_it_and_keeps_other_files() {
    let (old, new) = (copy_fixture("odd"), copy_fixture("fillmask"));
    let model = open(new.path());
    fs::create_dir(old.path().join("runs")).unwrap();
    fs::write(old.path().join("runs/events"), "kept").unwrap();
    fs::write(old.path().join("metrics.jsonl"), "kept").unwrap();
    // Shards of an older save would otherwise be read by whoever looks for an index first.
    fs::write(old.path().join("model.safetensors.index.json"), "{}").unwrap();
    fs::write(old.path().join("model-00001-of-00001.safetensors"), "").unwrap();
    model.save(old.path()).unwrap();
    assert_eq!(parameters(&open(old.path())), parameters(&model));
    assert_eq!(
        names(old.path()),
        ["config.json", "metrics.jsonl", "model.safetensors", "runs", "tokenizer.json", "tokenizer_config.json"]
    );
    assert_eq!(fs::read_to_string(old.path().join("runs/events")).unwrap(), "kept");
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_there_stays_the_same_folder() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (old, new) = (copy_fixture("odd"), copy_fixture("fillmask"));
    fs::set_permissions(old.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let before = fs::metadata(old.path()).unwrap();
    open(new.path()).save(old.path()).unwrap();
    let after = fs::metadata(old.path()).unwrap();
    // So it may be a mount point, a shell's working folder, or in a folder that cannot be written.
    assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
}

#[cfg(unix)]
#[test]
fn saved_files_are_as_readable_as_any() {
    use std::os::unix::fs::PermissionsExt;
    let target = tempfile::tempdir().unwrap();
    let saved = target.path().join("model");
    open(&fixtures().join("fillmask")).save(&saved).unwrap();
    fs::write(target.path().join("plain"), "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let usual = mode(&target.path().join("plain"));
    for name in names(&saved) {
        assert_eq!(mode(&saved.join(&name)), usual, "{name}");
    }
    assert_eq!(mode(&saved) & 0o444, usual & 0o444);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("file");
    fs::write(&file, "a file").unwrap();
    let model = open(&fixtures().join("fillmask"));
    for folder in [file.clone(), file.join("below")] {
        match model.save(&folder) {
            Err(Error::Io { path, .. }) => {
                assert!(path.starts_with(&file) || path.starts_with(file.canonicalize().unwrap()), "{}", path.display())
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "a file");
    assert_eq!(names(target.path()), ["file"]);
}
