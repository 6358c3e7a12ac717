//! Files people have their songs in, read as lines, sections and songs.
//!
//! A file is read twice: once to see whether it is sound and how it is encoded, so that a bad one is left out whole; then
//! for its lines. Nothing is held but the line (or, where times have to be sorted, the song) being read.

mod chordpro;
mod encoding;
mod heading;
mod lrc;
mod plain;
mod records;

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub(crate) use encoding::Encoding;
#[cfg(feature = "capi")]
pub(crate) use records::NAMES_ANOTHER;
pub(crate) use records::TripletSink;

use crate::error::{Error, Result};
use crate::text::is_of_a_model;

/// What a reader finds, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A line of words, trimmed, not empty.
    Line(String),
    /// What a section is called, which nobody sings: `[Chorus]`, `Verse 2:`. The section before it ends.
    Heading,
    /// A verse or chorus ends. May come several times.
    SectionEnd,
    /// A song ends, and with it its last section. May come several times.
    SongEnd,
}

/// Where pieces go; an error ends the reading.
pub(crate) type Sink<'s> = dyn FnMut(Piece) -> Result<()> + 's;

/// A line of text may be so long; what is longer is not lines of text, and would not fit in memory for long.
const LONGEST_LINE: usize = 1 << 20;
/// The same for a record, which holds a whole song, or a document.
const LONGEST_RECORD: usize = 1 << 26;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Lrc,
    ChordPro,
    JsonLines,
    Csv { delimiter: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a file's name says of it. `None` where it says nothing known.
fn kind(path: &Path) -> (Option<Format>, Compression) {
    let extension = |path: &Path| path.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
    let compression = match extension(path).as_deref() {
        Some("gz" | "gzip") => Compression::Gzip,
        Some("zst" | "zstd") => Compression::Zstd,
        _ => Compression::None,
    };
    let inner = if compression == Compression::None { path.to_owned() } else { path.with_extension("") };
    let format = match extension(&inner).as_deref() {
        Some("txt" | "text") => Some(Format::Plain),
        Some("lrc") => Some(Format::Lrc),
        Some("cho" | "crd" | "pro" | "chopro" | "chordpro") => Some(Format::ChordPro),
        Some("jsonl" | "ndjson" | "json") => Some(Format::JsonLines),
        Some("csv") => Some(Format::Csv { delimiter: b',' }),
        Some("tsv") => Some(Format::Csv { delimiter: b'\t' }),
        _ => None,
    };
    (format, compression)
}

/// Whether a name found in a folder is hidden. A song may be called `...Baby One More Time`.
fn is_hidden(name: &str) -> bool {
    name.strip_prefix('.').is_some_and(|rest| !rest.starts_with('.'))
}

/// The files meant by these paths: files as they are, folders as all files of known formats within, however deep, sorted
/// by name; hidden ones are left out, and so is `.json`, which beside songs is rarely songs, and what belongs to a model. Each file
/// comes once, though links or several paths lead to it: a copy might be held out of what it is trained on.
pub(crate) fn corpus_files(paths: &[PathBuf]) -> Result<Found> {
    fn is_new(path: &Path, seen: &mut HashSet<PathBuf>) -> Result<bool> {
        Ok(seen.insert(path.canonicalize().map_err(Error::io(path))?))
    }
    fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
        let paths = entries.map(|entry| Ok(entry.map_err(Error::io(folder))?.path()));
        let mut paths = paths.collect::<Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }
    fn walk(folder: &Path, is_named: bool, seen: &mut HashSet<PathBuf>, found: &mut Found) -> Result<()> {
        // A link may lead back up.
        if !is_new(folder, seen)? {
            return Ok(());
        }
        let entries = match entries(folder) {
            Err(error) if !is_named => {
                found.unlisted.push((folder.to_owned(), error));
                return Ok(());
            }
            entries => entries?,
        };
        for path in entries {
            if path.file_name().is_some_and(|name| is_hidden(&name.to_string_lossy())) {
                continue;
            }
            if path.is_dir() {
                walk(&path, false, seen, found)?;
            } else if is_of_a_model(&path) || !path.is_file() {
                // None of anybody's songs.
            } else if kind(&path).0.is_none() || is_json(&path) {
                found.passed_over += 1;
            } else if is_new(&path, seen)? {
                found.files.push(path);
            }
        }
        Ok(())
    }
    let (mut found, mut seen) = (Found::default(), HashSet::new());
    for path in paths {
        let there = std::fs::metadata(path).map_err(Error::io(path))?;
        if there.is_dir() {
            walk(path, true, &mut seen, &mut found)?;
        } else if !there.is_file() {
            // A pipe's words would be gone after the first reading.
            let reason = "is not a file that can be read twice: write what it gives to a file, and name that".into();
            return Err(Error::BadData { path: path.clone(), reason });
        } else if is_new(path, &mut seen)? {
            found.files.push(path.clone());
        }
    }
    Ok(found)
}

/// What [`corpus_files`] found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: Vec<PathBuf>,
    /// Folders within those that were named which cannot be listed.
    pub(crate) unlisted: Vec<(PathBuf, Error)>,
    /// Files in folders that are of no format known, or `.json`.
    pub(crate) passed_over: usize,
}

/// Whether a file is called `.json`: read as JSON Lines where it is named.
fn is_json(path: &Path) -> bool {
    let (_, compression) = kind(path);
    let inner = if compression == Compression::None { path.to_owned() } else { path.with_extension("") };
    inner.extension().is_some_and(|it| it.eq_ignore_ascii_case("json"))
}

/// A file of songs, found sound by [`check`].
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    format: Format,
    compression: Compression,
    pub(crate) encoding: Encoding,
}

/// Reads a file to its end to see whether it can be read: `Err` says what is wrong with it.
pub(crate) fn check(path: &Path, text_field: &str) -> Result<Source> {
    let (format, compression) = kind(path);
    // Of an unknown kind, but asked for by name: text.
    let format = format.unwrap_or(Format::Plain);
    let bad = |reason: String| Error::BadData { path: path.to_owned(), reason };
    if path.extension().is_some_and(|it| it.eq_ignore_ascii_case("safetensors")) {
        return Err(bad("is a token cache, or a model's weights: no text".into()));
    }
    let read = Rc::default();
    // The others are not read by lines, or say so themselves.
    let longest = match format {
        Format::Plain | Format::Lrc | Format::ChordPro => LONGEST_LINE,
        Format::JsonLines | Format::Csv { .. } => usize::MAX,
    };
    let encoding = encoding::detect(&mut open(path, compression, &read)?, path, longest)?;
    let source = Source { path: path.to_owned(), format, compression, encoding };
    match format {
        Format::JsonLines if encoding != Encoding::Utf8 => {
            Err(bad("JSON Lines have to be UTF-8, and this file is not".into()))
        }
        // Only these can be wrong in themselves.
        Format::JsonLines | Format::Csv { .. } => {
            source.read(text_field, &read, &mut |_| Ok(()))?;
            Ok(source)
        }
        _ => Ok(source),
    }
}

impl Source {
    /// Hands the file's pieces to `sink`. `bytes_read` counts the file's own bytes, compressed ones where it is.
    pub(crate) fn read(&self, text_field: &str, bytes_read: &Rc<Cell<u64>>, sink: &mut Sink) -> Result<()> {
        let mut lines = Lines::open(&self.path, self.compression, self.encoding, bytes_read)?;
        match self.format {
            Format::Plain => plain::read(&mut lines, sink)?,
            Format::Lrc => lrc::read(&mut lines, sink)?,
            Format::ChordPro => chordpro::read(&mut lines, sink)?,
            Format::JsonLines => records::read_json(&mut lines, text_field, sink)?,
            Format::Csv { delimiter } => {
                records::read_csv(lines.reader, &self.path, self.encoding, delimiter, text_field, sink)?;
            }
        }
        sink(Piece::SongEnd)
    }
}

/// Whether a file is JSON Lines of texts that belong together, by its first record. One that cannot be read is not: whoever reads
/// it says what is wrong.
pub(crate) fn is_triplets(path: &Path) -> bool {
    let (Some(Format::JsonLines), compression) = kind(path) else { return false };
    let Ok(mut lines) = Lines::open(path, compression, Encoding::Utf8, &Rc::default()) else { return false };
    while let Ok(Some(line)) = lines.next(LONGEST_RECORD) {
        if !line.trim().is_empty() {
            return serde_json::from_str(&line).is_ok_and(|record| records::is_triplet(&record));
        }
    }
    false
}

/// The triplets of a file of them.
pub(crate) fn read_triplets(path: &Path, sink: &mut TripletSink) -> Result<()> {
    let (_, compression) = kind(path);
    records::read_triplets(&mut Lines::open(path, compression, Encoding::Utf8, &Rc::default())?, sink)
}

/// A file's lines, decoded.
struct Lines<'p> {
    reader: Box<dyn BufRead>,
    path: &'p Path,
    encoding: Encoding,
    number: usize,
    bytes: Vec<u8>,
}

impl<'p> Lines<'p> {
    fn open(path: &'p Path, compression: Compression, encoding: Encoding, bytes_read: &Rc<Cell<u64>>) -> Result<Self> {
        let reader = open(path, compression, bytes_read)?;
        Ok(Self { reader, path, encoding, number: 0, bytes: Vec::new() })
    }

    /// The next line without its end, or `None` after the last; an old Macintosh's line ends are left in it.
    fn next(&mut self, longest: usize) -> Result<Option<String>> {
        self.bytes.clear();
        self.number += 1;
        let mut limited = (&mut self.reader).take(longest as u64 + 2);
        limited.read_until(b'\n', &mut self.bytes).map_err(Error::io(self.path))?;
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let mut line = self.bytes.as_slice();
        line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.strip_suffix(b"\r").unwrap_or(line).len() > longest {
            return Err(self.bad(&format!("is longer than {longest} bytes")));
        }
        if self.number == 1 {
            line = line.strip_prefix(encoding::MARK).unwrap_or(line);
        }
        match self.encoding.decode(line) {
            Some(text) => Ok(Some(text.into_owned())),
            None => Err(self.bad("is not valid UTF-8")),
        }
    }

    fn bad(&self, reason: &str) -> Error {
        Error::BadData { path: self.path.to_owned(), reason: format!("line {} {reason}", self.number) }
    }
}

fn open(path: &Path, compression: Compression, bytes_read: &Rc<Cell<u64>>) -> Result<Box<dyn BufRead>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let counted = BufReader::with_capacity(1 << 16, Counted { file, read: Rc::clone(bytes_read) });
    Ok(match compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => Box::new(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(counted))),
        Compression::Zstd => Box::new(BufReader::with_capacity(1 << 16, Frames { compressed: counted, frame: None })),
    })
}

/// The frames of a zstd file, one after another.
struct Frames<R: BufRead> {
    compressed: R,
    frame: Option<Box<ruzstd::decoding::FrameDecoder>>,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBytes;
        let bad =
            |error: &dyn std::fmt::Display| std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string());
        loop {
            let Some(frame) = &mut self.frame else {
                if self.compressed.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                let mut frame = Box::new(ruzstd::decoding::FrameDecoder::new());
                use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
                match frame.reset(&mut self.compressed) {
                    Ok(()) => self.frame = Some(frame),
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length, ..
                    })) => {
                        let skipped =
                            std::io::copy(&mut (&mut self.compressed).take(u64::from(length)), &mut std::io::sink())?;
                        if skipped < u64::from(length) {
                            return Err(bad(&"the file is cut off"));
                        }
                    }
                    Err(error) => return Err(bad(&error)),
                }
                continue;
            };
            if frame.can_collect() == 0 && !frame.is_finished() {
                frame
                    .decode_blocks(&mut self.compressed, UptoBytes(buffer.len().max(1 << 16)))
                    .map_err(|error| bad(&error))?;
                continue;
            }
            let count = frame.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            if !frame.is_finished() {
                continue;
            }
            if frame.get_checksum_from_data().is_some_and(|sum| frame.get_calculated_checksum() != Some(sum)) {
                return Err(bad(&"the checksum does not fit: the file is damaged"));
            }
            self.frame = None;
        }
    }
}

/// Counts what is read of a file, for progress.
struct Counted {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// The text of a song in one piece: its lines, with blank ones between sections.
fn song(text: &str, sink: &mut Sink) -> Result<()> {
    section_lines(text, sink)?;
    sink(Piece::SongEnd)
}

/// Lines of a song.
fn section_lines(text: &str, sink: &mut Sink) -> Result<()> {
    lines_of(text).try_for_each(|line| match trimmed(line) {
        "" => sink(Piece::SectionEnd),
        line => sink(words_or_heading(line)),
    })
}

fn words_or_heading(line: &str) -> Piece {
    if heading::is_heading(line) { Piece::Heading } else { Piece::Line(line.to_owned()) }
}

/// Lines, whoever wrote them: `\n`, `\r\n`, an old Macintosh's `\r`, and what was made for Windows twice, `\r\r\n`; and the ends of lines and
/// paragraphs that Unicode has for itself.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.trim_end_matches('\r').split(['\r', '\u{2028}', '\u{2029}']))
}

/// Without blanks around it, nor characters that take no room, as web pages leave them.
fn trimmed(line: &str) -> &str {
    line.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'))
}

#[cfg(test)]
mod tests;
