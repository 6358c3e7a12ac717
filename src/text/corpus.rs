//! Lines of text files.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The files meant by these paths: files as they are, folders as the `.txt` files in them, sorted by name, but for a model's vocabulary.
///
/// # Errors
/// [`Error::Io`] for what does not exist or cannot be listed.
pub fn text_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
            let file = entry.map_err(Error::io(path))?.path();
            let is_text = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
            if is_text && !is_of_a_model(&file) && file.is_file() {
                inside.push(file);
            }
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// Whether a file that was found in a folder belongs to a model that was saved there, or to the run that made it: its vocabulary, its log.
/// Whoever has a run write into the folder that it learns from does not want these learnt.
pub(crate) fn is_of_a_model(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default();
    let configs = ["config.json", "adapter_config.json", "tokenizer_config.json"];
    (name == "vocab.txt" || name == "metrics.jsonl")
        && configs.iter().any(|config| file.with_file_name(config).exists())
}

/// The lines of these files and folders that hold more than white space, in order. A byte order mark is dropped.
///
/// # Errors
/// [`Error::Io`], [`Error::NotUtf8`] with the line, [`Error::EmptyCorpus`] where nothing is left.
pub fn read_lines(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for file in text_files(paths)? {
        let bytes = std::fs::read(&file).map_err(Error::io(&file))?;
        let text = decode(&bytes, &file)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        lines.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if lines.is_empty() {
        let paths = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::EmptyCorpus { paths });
    }
    Ok(lines)
}

fn decode<'b>(bytes: &'b [u8], file: &Path) -> Result<&'b str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::NotUtf8 { path: file.to_owned(), line }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_trimmed_and_blank_ones_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        write("b.txt", b"two\r\n\r\n  three \n");
        write("a.txt", "\u{feff}one\n \t\n".as_bytes());
        write("ignored.md", b"not text");
        assert_eq!(read_lines(&[folder.path().to_owned()]).unwrap(), ["one", "two", "three"]);
    }

    #[test]
    fn what_belongs_to_a_model_is_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("vocab.txt", "a song of that name");
        write("song.txt", "one");
        let lines = || read_lines(&[folder.path().to_owned()]).unwrap();
        assert_eq!(lines(), ["one", "a song of that name"]);
        write("config.json", "{}");
        assert_eq!(lines(), ["one"]);
        // Named, it is what was meant.
        assert_eq!(read_lines(&[folder.path().join("vocab.txt")]).unwrap(), ["a song of that name"]);
    }

    #[test]
    fn bad_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("latin1.txt");
        std::fs::write(&file, b"one\ntwo\ncaf\xe9\n").unwrap();
        let error = read_lines(std::slice::from_ref(&file)).unwrap_err();
        assert!(matches!(&error, Error::NotUtf8 { path, line: 3 } if *path == file), "{error}");
        std::fs::write(&file, b" \n\n").unwrap();
        assert!(matches!(read_lines(&[file]).unwrap_err(), Error::EmptyCorpus { .. }));
        let missing = folder.path().join("missing.txt");
        assert!(matches!(read_lines(&[missing]).unwrap_err(), Error::Io { .. }));
    }
}
