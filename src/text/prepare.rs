//! From files of songs to token caches.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::assemble::{Assembler, Corpus};
use super::cache::{Replaced, WrittenCache};
use super::dataset::{Dataset, SHORTEST};
use super::masking::Masking;
use super::random::Purpose;
use super::readers::{self, Encoding, Found, Piece};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// What an example is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// A line.
    #[default]
    Line,
    /// A verse or chorus, its lines joined by the separator token. One that is too long goes on in a further example,
    /// which begins with a line.
    Section,
    /// Lines joined by the separator token until the longest sequence is full, across sections and songs.
    Window,
}

/// Options of [`prepare`].
#[derive(Clone, Debug, PartialEq)]
pub struct PrepareOptions {
    /// What an example is.
    pub unit: Unit,
    /// Longest example in tokens, special tokens included.
    pub max_seq_length: usize,
    /// The field of JSON Lines, or the column of CSV, that holds the words.
    pub text_field: String,
    /// A bad file is an error, instead of being left out.
    pub strict: bool,
    /// Leaves out examples (lines, for windows) that came before, anywhere.
    pub dedup: bool,
    /// Share of the songs that is held out, up to a half.
    pub validation_split: f64,
    /// Stores a second version of each example, masked once, in this way.
    pub static_mask: Option<StaticMask>,
    /// Seed of the split and of static masks.
    pub seed: u64,
}

/// How examples are masked once and for all. Names and defaults are those of transformers'
/// `DataCollatorForLanguageModeling`.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticMask {
    /// The share of tokens that are masked.
    pub mlm_probability: f64,
    /// Of the masked tokens, how many become the mask token.
    pub mask_replace_prob: f64,
    /// Of the masked tokens, how many become a random one; the rest stay.
    pub random_replace_prob: f64,
    /// Words are masked whole.
    pub whole_word_mask: bool,
}

impl Default for StaticMask {
    fn default() -> Self {
        Self { mlm_probability: 0.15, mask_replace_prob: 0.8, random_replace_prob: 0.1, whole_word_mask: false }
    }
}

impl PrepareOptions {
    /// Lines of up to `max_seq_length` tokens from fields called `text`, nothing held out.
    pub fn new(max_seq_length: usize) -> Self {
        Self {
            unit: Unit::Line,
            max_seq_length,
            text_field: "text".into(),
            strict: false,
            dedup: false,
            validation_split: 0.0,
            static_mask: None,
            seed: 42,
        }
    }
}

/// What [`prepare`] tells while it runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum PrepareEvent<'e> {
    /// Files found, before the first is read.
    #[non_exhaustive]
    Found {
        /// How many.
        files: usize,
        /// Their size.
        bytes: u64,
    },
    /// So many bytes are done.
    #[non_exhaustive]
    Progress {
        /// Bytes of the files done so far.
        bytes: u64,
    },
    /// A file is not UTF-8, and was read as Latin-1.
    #[non_exhaustive]
    Latin1 {
        /// The file.
        path: &'e Path,
    },
    /// A file is left out.
    #[non_exhaustive]
    Skipped {
        /// The file.
        path: &'e Path,
        /// What is wrong with it.
        error: &'e Error,
    },
}

/// What [`prepare`] wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Prepared {
    /// Files read.
    pub files: usize,
    /// Files left out.
    pub skipped_files: usize,
    /// Of the files read, those that were Latin-1.
    pub latin1_files: usize,
    /// Of the training cache.
    pub train: Counts,
    /// Of the validation cache.
    pub validation: Counts,
    /// Examples (or, for windows, lines) that came before and were left out.
    pub duplicates: u64,
    /// Lines left out because the vocabulary knows nothing in them, of which nothing can be learnt.
    pub unknown: u64,
    /// Lines left out that say what a section is called, as `[Chorus]` or `Verse 2:`: they end a section.
    pub headings: u64,
    /// Files found in folders and passed over, as their names are of no format known, or end in `.json`.
    pub passed_over: usize,
}

/// What is in a token cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Songs.
    pub songs: u64,
    /// Verses and choruses.
    pub sections: u64,
    /// Examples.
    pub examples: u64,
    /// Tokens, special ones included.
    pub tokens: u64,
    /// Lines that were cut because they alone are longer than the longest example.
    pub truncated: u64,
}

/// Reads songs from files and folders, and writes token caches: `train`, and `validation` where songs are held out.
///
/// Formats go by the file's extension: plain text (`txt text`, and any other that is named and not found in a folder), `lrc`,
/// ChordPro (`cho crd pro chopro chordpro`), JSON Lines (`jsonl ndjson`, and `json` where it is named), `csv`, `tsv`; each of them also as
/// `gz`, `gzip`, `zst` or `zstd`. Lines that are nothing but words in square brackets, as `[Chorus]`, or the name of a section, as
/// `Verse 2:`, end a section and are left out. A song that comes twice is held out twice, or not at all.
/// Memory stays flat however large the corpus, but for a split, which takes some two dozen bytes for every song, and for `dedup`, which takes
/// about a dozen for every example. `observe` ends it by breaking.
///
/// # Errors
/// [`Error::InvalidArgument`] for an option out of range, where no song would be held out, or where the vocabulary knows nothing in any
/// line; [`Error::EmptyCorpus`];
/// [`Error::BadData`], [`Error::NotUtf8`] and [`Error::Io`] for a bad file with `strict`; [`Error::Io`] for one that was
/// named and does not exist, and for a cache that cannot be written, as on Windows over one that a [`Dataset`](crate::Dataset) has open;
/// [`Error::Cancelled`]. Caches are then as they were.
pub fn prepare(
    tokenizer: &Tokenizer,
    paths: &[PathBuf],
    train: &Path,
    validation: Option<&Path>,
    options: &PrepareOptions,
    mut observe: impl FnMut(PrepareEvent) -> ControlFlow<()>,
) -> Result<Prepared> {
    let template = tokenizer.template()?;
    let share = options.validation_split;
    if !(0.0..=0.5).contains(&share) {
        let reason = format!("validation_split is {share}; it must be from 0 to 0.5");
        return Err(Error::InvalidArgument(reason));
    }
    if (share > 0.0) != validation.is_some() {
        return Err(Error::InvalidArgument(
            "a validation cache takes a validation_split, and the other way round".into(),
        ));
    }
    let around = template.around();
    if options.max_seq_length < SHORTEST.max(around + 1) {
        let reason =
            format!("max_seq_length is {}; it must be at least {}", options.max_seq_length, SHORTEST.max(around + 1));
        return Err(Error::InvalidArgument(reason));
    }
    if options.unit != Unit::Line && template.separator.is_none() {
        return Err(Error::Unsupported("sections and windows with a tokenizer that has no separator token".into()));
    }
    let masking = options.static_mask.as_ref().map(|mask| Masking {
        probability: mask.mlm_probability,
        mask_replace_prob: mask.mask_replace_prob,
        random_replace_prob: mask.random_replace_prob,
        whole_word_mask: mask.whole_word_mask,
        seed: options.seed,
        purpose: Purpose::Static,
    });
    if let Some(masking) = &masking {
        masking.check(tokenizer)?;
    }

    let found = readers::corpus_files(paths)?;
    let open = |path| Assembler::new(path, tokenizer, &template, masking.as_ref(), options);
    let splits = match validation {
        Some(validation) => vec![open(train)?, open(validation)?],
        None => vec![open(train)?],
    };
    let mut corpus = Corpus::new(tokenizer, splits, options);
    let mut prepared = Prepared::default();
    let read = read_files(&found, &options.text_field, options.strict, &mut observe, &mut prepared, &mut |piece| {
        corpus.piece(piece)
    });
    let sources = read?;
    corpus.flush()?;
    corpus.end()?;

    let unknown = corpus.splits.iter().map(|split| split.unknown).sum();
    if corpus.splits.iter().all(|split| split.writer.examples() == 0) {
        if unknown > 0 {
            let reason = format!("{unknown} lines were read, and the vocabulary of this model knows nothing in them");
            return Err(Error::InvalidArgument(reason));
        }
        return Err(Error::EmptyCorpus { paths: shown(paths, &found) });
    }
    let songs = corpus.sides.songs;
    for (split, what) in corpus.splits.iter().zip(["trained on", "held out"]) {
        if split.writer.examples() == 0 {
            let reason = format!(
                "of {songs} different songs none would be {what}: change validation_split or the seed, or give more songs (a file is a \
                 song, or several with two blank lines between them)"
            );
            return Err(Error::InvalidArgument(reason));
        }
    }
    prepared.unknown = unknown;
    prepared.headings = corpus.headings;
    prepared.passed_over = found.passed_over;
    prepared.duplicates = corpus.splits.iter().map(|split| split.duplicates).sum();
    let counts: Vec<Counts> = corpus.splits.iter().map(Assembler::counts).collect();
    prepared.train = counts[0].clone();
    prepared.validation = counts.get(1).cloned().unwrap_or_default();
    let mut written = Vec::new();
    for (split, name) in corpus.splits.into_iter().zip(["train", "validation"]) {
        let metadata = split.metadata(tokenizer, options, (&sources, &corpus.hash), name);
        written.push(split.writer.finish(metadata)?);
    }
    // Both or none: beside another split's songs those that are held out would be trained on.
    let mut written = written.into_iter();
    let (train, validation) = (written.next(), written.next());
    let before = validation.map(WrittenCache::replace).transpose()?;
    if let Some(Err(error)) = train.map(WrittenCache::persist) {
        before.into_iter().try_for_each(Replaced::restore)?;
        return Err(error);
    }
    Ok(prepared)
}

/// What [`prepare`] makes of songs, for this process alone: the examples, and those of the songs held out where there is a
/// `validation_split`. They lie in the system's folder for temporary files, mapped, and are gone with the datasets (on Windows when that folder is
/// cleaned).
///
/// ```no_run
/// # fn main() -> retto::Result<()> {
/// # let gpu = retto::Gpu::open_default()?;
/// # let model = retto::Model::open(&gpu, "models/retto-tiny")?;
/// use retto::{PrepareOptions, Triplets, Unit, load_corpus};
/// let options = PrepareOptions { unit: Unit::Section, validation_split: 0.1, ..PrepareOptions::new(64) };
/// let songs = ["songs".into()];
/// let (train, held_out, prepared) = load_corpus(model.tokenizer(), &songs, &options, |_| std::ops::ControlFlow::Continue(()))?;
/// println!("{} examples, of {} songs", train.len(), prepared.train.songs);
/// // To adapt to them: `Trainer::train_dataset`. Or to have what belongs together near each other, `Trainer::train_triplets`:
/// let train = Triplets::from_sections(train)?;
/// let held_out = held_out.map(|data| Triplets::from_held_out_sections(data, &train)).transpose()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`prepare`]; [`Error::Io`] where nothing can be written there.
pub fn load_corpus(
    tokenizer: &Tokenizer,
    paths: &[PathBuf],
    options: &PrepareOptions,
    observe: impl FnMut(PrepareEvent) -> ControlFlow<()>,
) -> Result<(Dataset, Option<Dataset>, Prepared)> {
    let folder = temporary()?;
    let (train, validation) = (folder.path().join("train"), folder.path().join("validation"));
    let held_out = (options.validation_split > 0.0).then_some(validation.as_path());
    let prepared = prepare(tokenizer, paths, &train, held_out, options, observe)?;
    let train = Dataset::open(&train, tokenizer)?;
    let validation = held_out.map(|path| Dataset::open(path, tokenizer)).transpose()?;
    // A mapped file outlives its name, but not on Windows; there the folder is left to the system's own cleaning.
    if cfg!(not(unix)) {
        let _ = folder.keep();
    }
    Ok((train, validation, prepared))
}

/// Of a folder's name, so that what a killed process left can be told from everything else.
const TEMPORARY: &str = "retto-prepared-";

/// A folder for what text is prepared into. What killed processes left is removed when it is a day old: it is as large as their data.
fn temporary() -> Result<tempfile::TempDir> {
    let (parent, day) = (std::env::temp_dir(), std::time::Duration::from_secs(86_400));
    for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
        let modified = entry.metadata().ok().filter(|it| it.is_dir()).and_then(|it| it.modified().ok());
        let is_old = modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > day);
        if is_old && entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            // Another user's stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new().prefix(TEMPORARY).tempdir().map_err(Error::io(&parent))
}

/// The lines of songs in files and folders, in order: what [`prepare`] reads, as text. Each is trimmed and not empty.
///
/// # Errors
/// As [`prepare`].
pub fn read_corpus(
    paths: &[PathBuf],
    text_field: &str,
    strict: bool,
    mut observe: impl FnMut(PrepareEvent) -> ControlFlow<()>,
) -> Result<Vec<String>> {
    let found = readers::corpus_files(paths)?;
    let mut lines = Vec::new();
    read_files(&found, text_field, strict, &mut observe, &mut Prepared::default(), &mut |piece| {
        if let Piece::Line(line) = piece {
            lines.push(line);
        }
        Ok(())
    })?;
    if lines.is_empty() { Err(Error::EmptyCorpus { paths: shown(paths, &found) }) } else { Ok(lines) }
}

/// Paths, and what is in them that was not read.
fn shown(paths: &[PathBuf], found: &Found) -> String {
    let mut shown = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    if found.passed_over > 0 {
        let count = found.passed_over;
        shown += &format!(" ({count} files there are of other kinds, which are read where they are named)");
    }
    shown
}

/// Hands the pieces of all sound files to `sink`, and returns their names.
fn read_files(
    found: &Found,
    text_field: &str,
    strict: bool,
    observe: &mut dyn FnMut(PrepareEvent) -> ControlFlow<()>,
    prepared: &mut Prepared,
    sink: &mut readers::Sink,
) -> Result<Vec<String>> {
    let files = &found.files;
    let size = |file: &PathBuf| Ok(std::fs::metadata(file).map_err(Error::io(file))?.len());
    let bytes = files.iter().map(size).sum::<Result<u64>>()?;
    let mut observe = |event: PrepareEvent| match observe(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    };
    observe(PrepareEvent::Found { files: files.len(), bytes })?;
    for (folder, error) in &found.unlisted {
        if strict {
            let reason = format!("cannot be listed: {error}");
            return Err(Error::BadData { path: folder.clone(), reason });
        }
        prepared.skipped_files += 1;
        observe(PrepareEvent::Skipped { path: folder, error })?;
    }
    let (mut sources, mut done, mut shown) = (Vec::new(), 0, 0);
    for file in files {
        match readers::check(file, text_field) {
            Ok(source) => {
                if source.encoding == Encoding::Latin1 {
                    prepared.latin1_files += 1;
                    observe(PrepareEvent::Latin1 { path: file })?;
                }
                let read = Rc::new(Cell::new(0));
                source.read(text_field, &read, &mut |piece| {
                    sink(piece)?;
                    // Not for every line.
                    if done + read.get() >= shown + PROGRESS_BYTES {
                        shown = done + read.get();
                        observe(PrepareEvent::Progress { bytes: shown })?;
                    }
                    Ok(())
                })?;
                prepared.files += 1;
                sources.push(file.display().to_string());
            }
            Err(error) if strict => return Err(error),
            Err(error) => {
                prepared.skipped_files += 1;
                observe(PrepareEvent::Skipped { path: file, error: &error })?;
            }
        }
        done += size(file)?;
    }
    observe(PrepareEvent::Progress { bytes })?;
    Ok(sources)
}

/// Bytes between two reports of progress.
const PROGRESS_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests;
