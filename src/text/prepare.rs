//! From files of songs to token caches.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rayon::prelude::*;

use super::cache::CacheWriter;
use super::dataset::{Hash, SHORTEST};
use super::masking::Masking;
use super::random::{Purpose, Stream};
use super::readers::{self, Encoding, Piece};
use super::tokenizer::{Template, Tokenizer};
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
    Found {
        /// How many.
        files: usize,
        /// Their size.
        bytes: u64,
    },
    /// So many bytes are done.
    Progress {
        /// Bytes of the files done so far.
        bytes: u64,
    },
    /// A file is not UTF-8, and was read as Latin-1.
    Latin1 {
        /// The file.
        path: &'e Path,
    },
    /// A file is left out.
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
/// Formats go by the file's extension: plain text (`txt`, and any other that is named and not found in a folder), `lrc`,
/// ChordPro (`cho crd pro chopro chordpro`), JSON Lines (`jsonl ndjson`), `csv`, `tsv`; each of them also as `gz` or `zst`.
/// Memory stays flat however large the corpus, but for `dedup`, which takes about a dozen bytes for every example.
///
/// # Errors
/// [`Error::InvalidArgument`] for an option out of range, or where no song would be held out; [`Error::EmptyCorpus`];
/// [`Error::BadData`], [`Error::NotUtf8`] and [`Error::Io`] for a bad file with `strict`; [`Error::Io`] for one that was
/// named and does not exist, and for a cache that cannot be written. Caches are then as they were.
pub fn prepare(
    tokenizer: &Tokenizer,
    paths: &[PathBuf],
    train: &Path,
    validation: Option<&Path>,
    options: &PrepareOptions,
    mut observe: impl FnMut(PrepareEvent),
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
    let around = template.prefix.len() + template.suffix.len();
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

    let files = readers::corpus_files(paths)?;
    let open = |path| Assembler::new(path, tokenizer, &template, masking.as_ref(), options);
    let splits = match validation {
        Some(validation) => vec![open(train)?, open(validation)?],
        None => vec![open(train)?],
    };
    let mut corpus = Corpus {
        tokenizer,
        pieces: Vec::new(),
        held: 0,
        splits,
        song: 0,
        in_song: None,
        seen: options.dedup.then(HashSet::new),
        share,
        seed: options.seed,
    };
    let mut prepared = Prepared::default();
    let read = read_files(&files, &options.text_field, options.strict, &mut observe, &mut prepared, &mut |piece| {
        corpus.piece(piece)
    });
    let sources = read?;
    corpus.flush()?;
    corpus.splits.iter_mut().try_for_each(Assembler::end)?;

    if corpus.splits.iter().all(|split| split.writer.examples() == 0) {
        return Err(Error::EmptyCorpus { paths: shown(paths) });
    }
    let songs = corpus.song;
    for (split, what) in corpus.splits.iter().zip(["trained on", "held out"]) {
        if split.writer.examples() == 0 {
            let reason = format!(
                "of {songs} songs none would be {what}: change validation_split or the seed, or give more songs (a file is a \
                 song, or several with two blank lines between them)"
            );
            return Err(Error::InvalidArgument(reason));
        }
    }
    prepared.duplicates = corpus.splits.iter().map(|split| split.duplicates).sum();
    let counts: Vec<Counts> = corpus.splits.iter().map(Assembler::counts).collect();
    prepared.train = counts[0].clone();
    prepared.validation = counts.get(1).cloned().unwrap_or_default();
    for (split, name) in corpus.splits.into_iter().zip(["train", "validation"]) {
        let metadata = split.metadata(tokenizer, options, &sources, name);
        split.writer.finish(metadata)?;
    }
    Ok(prepared)
}

/// The lines of songs in files and folders, in order: what [`prepare`] reads, as text. Each is trimmed and not empty.
///
/// # Errors
/// As [`prepare`].
pub fn read_corpus(
    paths: &[PathBuf],
    text_field: &str,
    strict: bool,
    mut observe: impl FnMut(PrepareEvent),
) -> Result<Vec<String>> {
    let files = readers::corpus_files(paths)?;
    let mut lines = Vec::new();
    read_files(&files, text_field, strict, &mut observe, &mut Prepared::default(), &mut |piece| {
        if let Piece::Line(line) = piece {
            lines.push(line);
        }
        Ok(())
    })?;
    if lines.is_empty() { Err(Error::EmptyCorpus { paths: shown(paths) }) } else { Ok(lines) }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Hands the pieces of all sound files to `sink`, and returns their names.
fn read_files(
    files: &[PathBuf],
    text_field: &str,
    strict: bool,
    observe: &mut dyn FnMut(PrepareEvent),
    prepared: &mut Prepared,
    sink: &mut readers::Sink,
) -> Result<Vec<String>> {
    let size = |file: &PathBuf| Ok(std::fs::metadata(file).map_err(Error::io(file))?.len());
    let bytes = files.iter().map(size).sum::<Result<u64>>()?;
    observe(PrepareEvent::Found { files: files.len(), bytes });
    let (mut sources, mut done, mut shown) = (Vec::new(), 0, 0);
    for file in files {
        match readers::check(file, text_field) {
            Ok(source) => {
                if source.encoding == Encoding::Latin1 {
                    prepared.latin1_files += 1;
                    observe(PrepareEvent::Latin1 { path: file });
                }
                let read = Rc::new(Cell::new(0));
                source.read(text_field, &read, &mut |piece| {
                    sink(piece)?;
                    // Not for every line.
                    if done + read.get() >= shown + PROGRESS_BYTES {
                        shown = done + read.get();
                        observe(PrepareEvent::Progress { bytes: shown });
                    }
                    Ok(())
                })?;
                prepared.files += 1;
                sources.push(file.display().to_string());
            }
            Err(error) if strict => return Err(error),
            Err(error) => {
                prepared.skipped_files += 1;
                observe(PrepareEvent::Skipped { path: file, error: &error });
            }
        }
        done += size(file)?;
    }
    observe(PrepareEvent::Progress { bytes });
    Ok(sources)
}

/// Bytes between two reports of progress.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Lines or bytes that are tokenized together, on all cores.
const TOGETHER: usize = 16_384;
const TOGETHER_BYTES: usize = 1 << 20;

/// The songs as they come.
struct Corpus<'t> {
    tokenizer: &'t Tokenizer,
    /// Not yet tokenized.
    pieces: Vec<Piece>,
    /// Their bytes.
    held: usize,
    splits: Vec<Assembler<'t>>,
    /// Songs that have begun.
    song: u64,
    /// Which split the present song belongs to, once a word of it came.
    in_song: Option<usize>,
    seen: Option<HashSet<u64>>,
    share: f64,
    seed: u64,
}

impl Corpus<'_> {
    fn piece(&mut self, piece: Piece) -> Result<()> {
        if let Piece::Line(line) = &piece {
            self.held += line.len();
        }
        self.pieces.push(piece);
        if self.pieces.len() >= TOGETHER || self.held >= TOGETHER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.held = 0;
        let pieces = std::mem::take(&mut self.pieces);
        let tokenized = pieces.into_par_iter().map(|piece| {
            Ok(match piece {
                Piece::Line(line) => (Some(self.tokenizer.encode_body(&line)?), false),
                Piece::SectionEnd => (None, false),
                Piece::SongEnd => (None, true),
            })
        });
        for (line, song_end) in tokenized.collect::<Result<Vec<_>>>()? {
            match line {
                // Characters the vocabulary drops altogether.
                Some(ids) if ids.iter().all(|&id| self.tokenizer.is_special(id)) => {}
                Some(ids) => {
                    let split = match self.in_song {
                        Some(split) => split,
                        None => {
                            let split = usize::from(is_held_out(self.song, self.share, self.seed));
                            self.splits[split].begin(true)?;
                            self.song += 1;
                            *self.in_song.insert(split)
                        }
                    };
                    self.splits[split].line(&ids, &mut self.seen)?;
                }
                None => {
                    if let Some(split) = self.in_song {
                        self.splits[split].section_end(&mut self.seen)?;
                    }
                    if song_end {
                        self.in_song = None;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One song of every 1 / share, at a random place among them: the share is kept, and spread over the corpus.
fn is_held_out(song: u64, share: f64, seed: u64) -> bool {
    if share == 0.0 {
        return false;
    }
    let group = (song as f64 * share) as u64;
    // A song at the edge of two groups may be the one of either.
    [group, group + 1].into_iter().any(|group| {
        let place = (group as f64 + Stream::new(Purpose::Split, seed, 0, group).uniform()) / share;
        place as u64 == song
    })
}

/// Puts lines together to examples, and writes them.
struct Assembler<'t> {
    writer: CacheWriter,
    tokenizer: &'t Tokenizer,
    template: &'t Template,
    masking: Option<&'t Masking>,
    unit: Unit,
    /// Tokens between those of the template.
    room: usize,
    /// Of the example being put together.
    body: Vec<u32>,
    in_section: bool,
    songs: u64,
    sections: u64,
    truncated: u64,
    duplicates: u64,
}

impl<'t> Assembler<'t> {
    fn new(
        path: &Path,
        tokenizer: &'t Tokenizer,
        template: &'t Template,
        masking: Option<&'t Masking>,
        options: &PrepareOptions,
    ) -> Result<Self> {
        Ok(Self {
            writer: CacheWriter::new(path, masking.is_some())?,
            tokenizer,
            template,
            masking,
            unit: options.unit,
            room: options.max_seq_length - template.prefix.len() - template.suffix.len(),
            body: Vec::new(),
            in_section: false,
            songs: 0,
            sections: 0,
            truncated: 0,
            duplicates: 0,
        })
    }

    fn begin(&mut self, song: bool) -> Result<()> {
        if song {
            self.songs += 1;
        } else {
            self.sections += 1;
        }
        self.writer.boundary(song)
    }

    fn line(&mut self, ids: &[u32], seen: &mut Option<HashSet<u64>>) -> Result<()> {
        if !self.in_section {
            self.in_section = true;
            self.begin(false)?;
        }
        // Only a window goes on in the middle of a line.
        let line = if ids.len() > self.room && self.unit != Unit::Window {
            self.truncated += 1;
            &ids[..self.room]
        } else {
            ids
        };
        match (self.unit, self.template.separator) {
            (Unit::Section, Some(separator)) => {
                if !self.body.is_empty() {
                    if self.body.len() + 1 + line.len() > self.room {
                        self.example(seen)?;
                    } else {
                        self.body.push(separator);
                    }
                }
                self.body.extend(line);
                Ok(())
            }
            (Unit::Window, Some(separator)) => {
                if self.is_repeated(line, seen) {
                    return Ok(());
                }
                if !self.body.is_empty() {
                    self.body.push(separator);
                }
                self.body.extend(line);
                while self.body.len() > self.room {
                    let mut rest = self.body.split_off(self.room);
                    self.example(&mut None)?;
                    if rest.first() == Some(&separator) {
                        // It is at the end of the example already.
                        rest.remove(0);
                    }
                    self.body = rest;
                }
                Ok(())
            }
            _ => {
                self.body.extend(line);
                self.example(seen)
            }
        }
    }

    fn section_end(&mut self, seen: &mut Option<HashSet<u64>>) -> Result<()> {
        self.in_section = false;
        if self.unit == Unit::Section { self.example(seen) } else { Ok(()) }
    }

    /// After the last line.
    fn end(&mut self) -> Result<()> {
        self.example(&mut None)
    }

    /// Writes what was put together.
    fn example(&mut self, seen: &mut Option<HashSet<u64>>) -> Result<()> {
        if self.body.is_empty() {
            return Ok(());
        }
        let body = std::mem::take(&mut self.body);
        if self.is_repeated(&body, seen) {
            return Ok(());
        }
        let ids = [self.template.prefix.as_slice(), &body, &self.template.suffix].concat();
        let index = self.writer.examples() as usize;
        let masked = self.masking.map(|masking| masking.apply(self.tokenizer, &ids, 0, index));
        self.writer.push(&ids, masked)
    }

    fn is_repeated(&mut self, ids: &[u32], seen: &mut Option<HashSet<u64>>) -> bool {
        let Some(seen) = seen else { return false };
        let mut hash = Hash::default();
        hash.example(ids);
        let new = seen.insert(hash.0);
        self.duplicates += u64::from(!new);
        !new
    }

    fn counts(&self) -> Counts {
        Counts {
            songs: self.songs,
            sections: self.sections,
            examples: self.writer.examples(),
            tokens: self.writer.tokens() as u64,
            truncated: self.truncated,
        }
    }

    fn metadata(
        &self,
        tokenizer: &Tokenizer,
        options: &PrepareOptions,
        sources: &[String],
        split: &str,
    ) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        let mut set = |key: &str, value: String| metadata.insert(key.to_owned(), value);
        set("tokenizer_hash", tokenizer.hash());
        set("unit", format!("{:?}", options.unit).to_lowercase());
        set("max_seq_length", options.max_seq_length.to_string());
        set("split", split.to_owned());
        set("validation_split", options.validation_split.to_string());
        set("dedup", options.dedup.to_string());
        set("seed", options.seed.to_string());
        set("truncated", self.truncated.to_string());
        set("duplicates", self.duplicates.to_string());
        if let Some(mask) = &options.static_mask {
            set("mlm_probability", mask.mlm_probability.to_string());
            set("mask_replace_prob", mask.mask_replace_prob.to_string());
            set("random_replace_prob", mask.random_replace_prob.to_string());
            set("whole_word_mask", mask.whole_word_mask.to_string());
        }
        set("sources", serde_json::json!(sources).to_string());
        metadata
    }
}

#[cfg(test)]
mod tests;
