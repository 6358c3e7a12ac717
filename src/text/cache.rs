//! Writing token caches.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::dataset::{FORMAT, Hash, IGNORED};
use super::masking::Masked;
use crate::error::{Error, Result};
use crate::files::{folder_of, patiently, remove_old, rename};

/// A tensor that grows on disk until its size is known.
struct Part {
    name: &'static str,
    dtype: &'static str,
    size: usize,
    len: usize,
    file: BufWriter<File>,
}

/// Writes a token cache example by example. Memory stays flat: what grows is in temporary files beside the cache, which
/// gets its name when it is whole.
pub(super) struct CacheWriter {
    path: PathBuf,
    folder: PathBuf,
    ids: Part,
    starts: Part,
    sections: Part,
    songs: Part,
    /// Masked ids and labels.
    masks: Option<[Part; 2]>,
    examples: u64,
    hash: Hash,
}

impl Part {
    fn new(folder: &Path, name: &'static str, dtype: &'static str) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io(folder))?;
        let size = if dtype == "I64" { 8 } else { 4 };
        Ok(Self { name, dtype, size, len: 0, file: BufWriter::with_capacity(1 << 18, file) })
    }

    fn push(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.len += bytes.len() / self.size;
        self.file.write_all(bytes)
    }
}

impl CacheWriter {
    pub(super) fn new(path: &Path, static_masks: bool) -> Result<Self> {
        let folder = folder_of(path).to_owned();
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let part = |name, dtype| Part::new(&folder, name, dtype);
        let mut writer = Self {
            ids: part("input_ids", "I32")?,
            starts: part("cu_seqlens", "I64")?,
            sections: part("section_boundaries", "I64")?,
            songs: part("song_boundaries", "I64")?,
            masks: match static_masks {
                true => Some([part("masked_input_ids", "I32")?, part("labels", "I32")?]),
                false => None,
            },
            examples: 0,
            hash: Hash::default(),
            path: path.to_owned(),
            folder,
        };
        let begun = writer.starts.push(&0u64.to_le_bytes());
        begun.map_err(Error::io(&writer.folder))?;
        Ok(writer)
    }

    /// Examples so far.
    pub(super) fn examples(&self) -> u64 {
        self.examples
    }

    /// Tokens so far.
    pub(super) fn tokens(&self) -> usize {
        self.ids.len
    }

    pub(super) fn push(&mut self, ids: &[u32], masked: Option<Masked>) -> Result<()> {
        self.hash.example(ids);
        self.examples += 1;
        let written = self.ids.push(bytemuck::cast_slice(ids));
        let written = written.and_then(|()| self.starts.push(&(self.ids.len as u64).to_le_bytes()));
        let written = written.and_then(|()| {
            let (Some([masked_ids, labels]), Some((of_masked, chosen))) = (&mut self.masks, masked) else {
                return Ok(());
            };
            masked_ids.push(bytemuck::cast_slice(&of_masked))?;
            let mut row = vec![IGNORED; ids.len()];
            for (index, label) in chosen {
                row[index as usize] = label as i32;
            }
            labels.push(bytemuck::cast_slice(&row))
        });
        written.map_err(Error::io(&self.folder))
    }

    /// A section, or a song, begins in the example that comes next.
    pub(super) fn boundary(&mut self, song: bool) -> Result<()> {
        let part = if song { &mut self.songs } else { &mut self.sections };
        part.push(&self.examples.to_le_bytes()).map_err(Error::io(&self.folder))
    }

    /// Writes the file, which then only has to be put in its place.
    pub(super) fn finish(mut self, mut metadata: BTreeMap<String, String>) -> Result<WrittenCache> {
        let (sections, songs) = (self.sections.len, self.songs.len);
        self.boundary(false)?;
        self.boundary(true)?;
        let counts = [
            ("retto_token_cache", FORMAT.to_owned()),
            ("content_hash", format!("{:016x}", self.hash.0)),
            ("examples", self.examples.to_string()),
            ("tokens", self.ids.len.to_string()),
            ("sections", sections.to_string()),
            ("songs", songs.to_string()),
        ];
        metadata.extend(counts.map(|(key, value)| (key.to_owned(), value)));
        // Eight-byte elements first, so that all of them are aligned.
        let mut parts: Vec<Part> = vec![self.starts, self.sections, self.songs, self.ids];
        parts.extend(self.masks.into_iter().flatten());
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), serde_json::json!(metadata));
        let mut end = 0;
        for part in &parts {
            let begin = end;
            end += part.len * part.size;
            let info = serde_json::json!({"dtype": part.dtype, "shape": [part.len], "data_offsets": [begin, end]});
            header.insert(part.name.into(), info);
        }
        let mut header = serde_json::Value::Object(header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let write = |target: &mut File| -> std::io::Result<()> {
            let mut target = BufWriter::with_capacity(1 << 18, target);
            target.write_all(&(header.len() as u64).to_le_bytes())?;
            target.write_all(header.as_bytes())?;
            for part in parts {
                let mut file = part.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
                file.rewind()?;
                std::io::copy(&mut BufReader::with_capacity(1 << 18, file), &mut target)?;
            }
            target.flush()?;
            drop(target);
            Ok(())
        };
        remove_old(&self.folder, STAGED);
        let mut builder = tempfile::Builder::new();
        builder.prefix(STAGED);
        #[cfg(unix)]
        {
            // As readable as any file; what the process' umask takes away is taken away.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut target = builder.tempfile_in(&self.folder).map_err(Error::io(&self.folder))?;
        write(target.as_file_mut()).map_err(Error::io(&self.path))?;
        target.as_file().sync_all().map_err(Error::io(&self.path))?;
        Ok(WrittenCache { target, path: self.path })
    }
}

/// What a cache is called while it is written.
const STAGED: &str = ".retto-cache-";

/// A cache that is whole, and has not its name yet.
pub(super) struct WrittenCache {
    target: tempfile::NamedTempFile,
    path: PathBuf,
}

/// What a cache took the place of, until it is forgotten.
pub(super) struct Replaced {
    path: PathBuf,
    /// Removed with this.
    aside: Option<tempfile::TempPath>,
}

impl Replaced {
    pub(super) fn restore(self) -> Result<()> {
        match self.aside {
            Some(aside) => rename(&aside, &self.path).map_err(Error::io(&self.path)),
            None => std::fs::remove_file(&self.path).map_err(Error::io(&self.path)),
        }
    }
}

impl WrittenCache {
    /// [`WrittenCache::persist`], as long as it is not taken back.
    pub(super) fn replace(self) -> Result<Replaced> {
        let path = self.path.clone();
        let aside = match path.is_file() {
            true => {
                let folder = folder_of(&path);
                let aside = tempfile::Builder::new().prefix(".retto-before-").tempfile_in(folder);
                let aside = aside.map_err(Error::io(folder))?.into_temp_path();
                rename(&path, &aside).map_err(Error::io(&path))?;
                Some(aside)
            }
            false => None,
        };
        let replaced = Replaced { path, aside };
        match self.persist() {
            Ok(()) => Ok(replaced),
            Err(error) => {
                if replaced.aside.is_some() {
                    replaced.restore()?;
                }
                Err(error)
            }
        }
    }

    pub(super) fn persist(self) -> Result<()> {
        let mut target = Some(self.target);
        // What is temporary is marked as such on Windows, until it is put in its place.
        let persist = || {
            let Some(file) = target.take() else { return Ok(()) };
            file.persist(&self.path).map(drop).map_err(|failed| {
                target = Some(failed.file);
                failed.error
            })
        };
        patiently(persist).map_err(Error::io(&self.path))
    }
}
