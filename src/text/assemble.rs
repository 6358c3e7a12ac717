//! Lines put together to examples, split by song, and written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use super::cache::CacheWriter;
use super::dataset::Hash;
use super::masking::Masking;
use super::prepare::{Counts, PrepareOptions, Unit};
use super::random::{Purpose, Stream};
use super::readers::Piece;
use super::tokenizer::{Template, Tokenizer};
use crate::error::Result;

/// Lines or bytes that are tokenized together, on all cores.
const TOGETHER: usize = 16_384;
const TOGETHER_BYTES: usize = 1 << 20;
/// Songs that begin with so many lines alike, sections apart, or have no more, are the same song.
const BEGINNING: usize = 64;

/// The songs as they come.
pub(super) struct Corpus<'t> {
    tokenizer: &'t Tokenizer,
    /// Not yet tokenized.
    pieces: Vec<Piece>,
    /// Their bytes.
    held: usize,
    pub(super) splits: Vec<Assembler<'t>>,
    /// Lines of which the vocabulary knows nothing, before the first word of a song.
    unknown: u64,
    /// Which split the present song belongs to, once that is known.
    in_song: Option<usize>,
    /// Of the present song until then: lines, and ends of sections.
    beginning: Vec<Option<Vec<u32>>>,
    seen: Option<HashSet<u64>>,
    pub(super) sides: Sides,
    pub(super) headings: u64,
    /// Of all words, and where sections and songs end: what the songs are, whatever becomes of them.
    pub(super) hash: Hash,
    /// Whether a line is in it, and what has ended since the last: a section, 1, or a song, 2.
    hashed: bool,
    ended: u8,
}

impl<'t> Corpus<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, splits: Vec<Assembler<'t>>, options: &PrepareOptions) -> Self {
        Self {
            tokenizer,
            pieces: Vec::new(),
            held: 0,
            splits,
            unknown: 0,
            in_song: None,
            beginning: Vec::new(),
            seen: options.dedup.then(HashSet::new),
            sides: Sides { share: options.validation_split, seed: options.seed, songs: 0, of: HashMap::new() },
            headings: 0,
            hash: split_hash(),
            hashed: false,
            ended: 0,
        }
    }

    pub(super) fn piece(&mut self, piece: Piece) -> Result<()> {
        match &piece {
            Piece::Line(line) => {
                self.held += line.len();
                // Ends count where something follows.
                self.hash.bytes(&[if self.hashed { self.ended } else { 0 }]);
                self.hash.bytes(&(line.len() as u64).to_le_bytes());
                self.hash.bytes(line.as_bytes());
                (self.hashed, self.ended) = (true, 0);
            }
            Piece::Heading | Piece::SectionEnd => self.ended = self.ended.max(1),
            Piece::SongEnd => self.ended = 2,
        }
        self.headings += u64::from(piece == Piece::Heading);
        self.pieces.push(piece);
        if self.pieces.len() >= TOGETHER || self.held >= TOGETHER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.held = 0;
        let pieces = std::mem::take(&mut self.pieces);
        let tokenized = pieces.into_par_iter().map(|piece| {
            Ok(match piece {
                Piece::Line(line) => (Some(self.tokenizer.encode_body(&line)?), false),
                Piece::SectionEnd | Piece::Heading => (None, false),
                Piece::SongEnd => (None, true),
            })
        });
        for (line, song_end) in tokenized.collect::<Result<Vec<_>>>()? {
            self.tokenized(line, song_end)?;
        }
        Ok(())
    }

    /// A line, or where there is none the end of a section, or song.
    fn tokenized(&mut self, line: Option<Vec<u32>>, song_end: bool) -> Result<()> {
        match (line, self.in_song) {
            // Characters the vocabulary drops altogether.
            (Some(ids), in_song) if ids.iter().all(|&id| self.tokenizer.is_special(id)) => match in_song {
                Some(split) => self.splits[split].unknown += 1,
                None => self.unknown += 1,
            },
            (Some(ids), Some(split)) => self.splits[split].line(&ids, &mut self.seen)?,
            (Some(ids), None) => {
                self.beginning.push(Some(ids));
                if self.sides.share == 0.0 || self.beginning.iter().flatten().count() == BEGINNING {
                    self.begin()?;
                }
            }
            (None, _) => {
                if song_end {
                    self.begin()?;
                }
                match self.in_song {
                    Some(split) => self.splits[split].section_end(&mut self.seen)?,
                    // Nor does it end twice.
                    None if matches!(self.beginning.last(), None | Some(None)) => {}
                    None => self.beginning.push(None),
                }
                if song_end {
                    self.in_song = None;
                }
            }
        }
        Ok(())
    }

    /// Where a song is known by its beginning, as far as there is one.
    fn begin(&mut self) -> Result<()> {
        let beginning = std::mem::take(&mut self.beginning);
        if beginning.is_empty() {
            return Ok(());
        }
        let index = self.sides.side(&beginning);
        let split = &mut self.splits[index];
        split.begin(true)?;
        split.unknown += std::mem::take(&mut self.unknown);
        for line in beginning {
            match line {
                Some(ids) => split.line(&ids, &mut self.seen)?,
                None => split.section_end(&mut self.seen)?,
            }
        }
        self.in_song = Some(index);
        Ok(())
    }

    /// After the last song.
    pub(super) fn end(&mut self) -> Result<()> {
        self.begin()?;
        self.splits[0].unknown += std::mem::take(&mut self.unknown);
        self.splits.iter_mut().try_for_each(Assembler::end)
    }
}

/// As many names as a header has room for: it is read into memory whole, and safetensors refuses one of 100 MB.
fn shown(sources: &[String]) -> Vec<String> {
    const BYTES: usize = 1 << 20;
    let mut bytes = 0;
    let fits = |name: &&String| {
        bytes += name.len();
        bytes <= BYTES
    };
    let mut shown: Vec<String> = sources.iter().take_while(fits).cloned().collect();
    if shown.len() < sources.len() {
        shown.push(format!("and {} more", sources.len() - shown.len()));
    }
    shown
}

/// Of no words yet. Its byte counts the ways in which songs have been split: the same songs with the same share and seed are not the same
/// held out after it changed.
fn split_hash() -> Hash {
    let mut hash = Hash::default();
    hash.bytes(&[2]);
    hash
}

/// Which songs are held out.
pub(super) struct Sides {
    share: f64,
    seed: u64,
    /// Different ones so far, where songs are held out.
    pub(super) songs: u64,
    /// Those of songs that came, by what they begin with: a song that comes again is on the same, or what is held out would be learnt.
    of: HashMap<u64, usize>,
}

impl Sides {
    fn side(&mut self, beginning: &[Option<Vec<u32>>]) -> usize {
        if self.share == 0.0 {
            return 0;
        }
        let mut hash = Hash::default();
        beginning.iter().flatten().for_each(|ids| hash.example(ids));
        *self.of.entry(hash.0).or_insert_with(|| {
            self.songs += 1;
            usize::from(is_held_out(self.songs - 1, self.share, self.seed))
        })
    }
}

/// One song of every 1 / share, at a random place among them: the share is kept, and spread over the corpus.
fn is_held_out(song: u64, share: f64, seed: u64) -> bool {
    let group = (song as f64 * share) as u64;
    // A song at the edge of two groups may be the one of either.
    [group, group + 1].into_iter().any(|group| {
        let place = (group as f64 + Stream::new(Purpose::Split, seed, 0, group).uniform()) / share;
        place as u64 == song
    })
}

/// Puts lines together to examples, and writes them.
pub(super) struct Assembler<'t> {
    pub(super) writer: CacheWriter,
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
    pub(super) duplicates: u64,
    /// Lines of which the vocabulary knows nothing.
    pub(super) unknown: u64,
}

impl<'t> Assembler<'t> {
    pub(super) fn new(
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
            unknown: 0,
        })
    }

    fn begin(&mut self, song: bool) -> Result<()> {
        // A window with no room for anything after a separator is full: what begins now is in the next one.
        if self.unit == Unit::Window && self.body.len() + 1 >= self.room {
            self.example(&mut None)?;
        }
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
            if self.template.cuts_front { &ids[ids.len() - self.room..] } else { &ids[..self.room] }
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
                    // The template ends with one.
                    self.body.pop_if(|last| *last == separator);
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
    pub(super) fn end(&mut self) -> Result<()> {
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

    pub(super) fn counts(&self) -> Counts {
        Counts {
            songs: self.songs,
            sections: self.sections,
            examples: self.writer.examples(),
            tokens: self.writer.tokens() as u64,
            truncated: self.truncated,
        }
    }

    pub(super) fn metadata(
        &self,
        tokenizer: &Tokenizer,
        options: &PrepareOptions,
        (sources, corpus): (&[String], &Hash),
        split: &str,
    ) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        let mut set = |key: &str, value: String| metadata.insert(key.to_owned(), value);
        set("tokenizer_hash", tokenizer.hash().to_owned());
        set("unit", format!("{:?}", options.unit).to_lowercase());
        set("max_seq_length", options.max_seq_length.to_string());
        set("split", split.to_owned());
        set("validation_split", options.validation_split.to_string());
        set("dedup", options.dedup.to_string());
        set("seed", options.seed.to_string());
        set("truncated", self.truncated.to_string());
        set("duplicates", self.duplicates.to_string());
        set("unknown", self.unknown.to_string());
        if let Some(mask) = &options.static_mask {
            set("mlm_probability", mask.mlm_probability.to_string());
            set("mask_replace_prob", mask.mask_replace_prob.to_string());
            set("random_replace_prob", mask.random_replace_prob.to_string());
            set("whole_word_mask", mask.whole_word_mask.to_string());
        }
        set("corpus", format!("{:016x}", corpus.0));
        set("sources", serde_json::json!(shown(sources)).to_string());
        metadata
    }
}
