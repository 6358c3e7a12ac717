//! Tokenized examples, in memory or in a token cache on disk.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::SafeTensors;

use super::masking::Masked;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::mapped;

/// Three tokens are the least that hold a word between \[CLS\] and \[SEP\].
pub(crate) const SHORTEST: usize = 3;

/// The label of a token that is not to be predicted, as in torch.
pub(super) const IGNORED: i32 = -100;

/// The cache's layout; another number means another meaning of its tensors.
pub(super) const FORMAT: &str = "1";

/// Tokenized examples to train on or to evaluate: lines in memory, or a token cache that is read where it lies.
///
/// A token cache is a safetensors file, written by `retto prepare` or `prepare` (feature `prepare`):
///
/// | tensor | shape | what |
/// |---|---|---|
/// | `input_ids` | I32 \[tokens\] | all examples one after another, special tokens included |
/// | `cu_seqlens` | I64 \[examples + 1\] | where each example begins, and the number of tokens |
/// | `section_boundaries` | I64 \[sections + 1\] | the example each section begins in, and the number of examples |
/// | `song_boundaries` | I64 \[songs + 1\] | the same for songs |
/// | `masked_input_ids` | I32 \[tokens\] | with static masks only: the examples, masked once |
/// | `labels` | I32 \[tokens\] | with static masks only: what was masked, and -100 elsewhere |
///
/// Its metadata name the tokenizer (`tokenizer_hash`), `unit`, `max_seq_length`, counts, `sources`, and what songs they are of: `corpus`,
/// a hash of their words and of where sections and songs end, which is the same for all caches of the same songs.
#[derive(Clone)]
pub struct Dataset {
    store: Store,
    /// Examples that were cut to the longest allowed.
    truncated: usize,
    longest: usize,
    /// FNV-1a of lengths and tokens: enough to notice other data.
    hash: u64,
    /// What made it.
    tokenizer: Tokenizer,
}

#[derive(Clone)]
enum Store {
    Memory { ids: Vec<u32>, starts: Vec<u64> },
    Mapped(Arc<Mapped>),
}

struct Mapped {
    map: Mmap,
    path: PathBuf,
    metadata: BTreeMap<String, String>,
    ids: Range<usize>,
    starts: Range<usize>,
    sections: Range<usize>,
    songs: Range<usize>,
    /// Masked ids and labels.
    masks: Option<(Range<usize>, Range<usize>)>,
}

impl Mapped {
    fn ids(&self, range: &Range<usize>) -> &[u32] {
        bytemuck::cast_slice(&self.map[range.clone()])
    }

    fn offsets(&self, range: &Range<usize>) -> &[u64] {
        bytemuck::cast_slice(&self.map[range.clone()])
    }
}

/// Texts that are tokenized between two questions whether to go on: a few milliseconds.
pub(crate) const ASKED: usize = 256;

impl Dataset {
    /// Tokenizes each line with its special tokens, cut to `max_length` tokens by leaving out the last before \[SEP\]. Lines
    /// without a token of their own are left out.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a `max_length` below 3; [`Error::BadTokenizer`] where the tokenizer cannot represent a line at all.
    pub fn from_lines<S: AsRef<str>>(tokenizer: &Tokenizer, lines: &[S], max_length: usize) -> Result<Self> {
        Self::from_lines_with(tokenizer, lines, max_length, &mut || ControlFlow::Continue(()))
    }

    /// The same, asking every so many lines whether to go on: [`Error::Cancelled`] where not.
    pub(crate) fn from_lines_with<S: AsRef<str>>(
        tokenizer: &Tokenizer,
        lines: &[S],
        max_length: usize,
        ask: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Self> {
        if max_length < SHORTEST {
            return Err(Error::InvalidArgument(format!("max_length is {max_length}; it must be at least {SHORTEST}")));
        }
        let mut dataset = Self::in_memory(tokenizer);
        for (index, line) in lines.iter().enumerate() {
            if index % ASKED == ASKED - 1 && ask().is_break() {
                return Err(Error::Cancelled);
            }
            let mut example = tokenizer.encode(line.as_ref())?;
            if example.iter().all(|&id| tokenizer.is_special(id)) {
                continue;
            }
            if example.len() > max_length {
                // The special tokens around it stay, as transformers' truncation leaves them.
                let (first, last) = (example[0], example[example.len() - 1]);
                if tokenizer.cuts_front() {
                    example.drain(..example.len() - max_length);
                }
                example.truncate(max_length);
                for (at, id) in [(0, first), (max_length - 1, last)] {
                    if tokenizer.is_special(id) {
                        example[at] = id;
                    }
                }
                dataset.truncated += 1;
            }
            dataset.push(&example);
        }
        Ok(dataset)
    }

    /// Without an example yet.
    pub(super) fn in_memory(tokenizer: &Tokenizer) -> Self {
        let store = Store::Memory { ids: Vec::new(), starts: vec![0] };
        Self { store, truncated: 0, longest: 0, hash: Hash::default().0, tokenizer: tokenizer.clone() }
    }

    /// Appends an example to those in memory.
    pub(super) fn push(&mut self, example: &[u32]) {
        let Store::Memory { ids, starts } = &mut self.store else { return };
        ids.extend(example);
        starts.push(ids.len() as u64);
        let mut hash = Hash(self.hash);
        hash.example(example);
        (self.hash, self.longest) = (hash.0, self.longest.max(example.len()));
    }

    /// Maps a token cache. Its offsets are checked here, its ids when a model reads them.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadData`] for a file that is not a token cache, is damaged, or was made with another tokenizer.
    pub fn open(path: impl AsRef<Path>, tokenizer: &Tokenizer) -> Result<Self> {
        let path = path.as_ref();
        let bad = |reason: String| Error::BadData { path: path.to_owned(), reason };
        let map = mapped::map(path)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| bad(format!("not a token cache: {error}")))?;
        let own = metadata.metadata().clone().unwrap_or_default();
        let entry = |key: &str| own.get(key).map(String::as_str);
        match entry("retto_token_cache") {
            Some(FORMAT) => {}
            Some(other) => return Err(bad(format!("a token cache of version {other}; this program reads {FORMAT}"))),
            None => return Err(bad("not a token cache, as prepare writes them".into())),
        }
        if entry("tokenizer_hash") != Some(tokenizer.hash()) {
            let reason = "made with another tokenizer than the model's: prepare it again with this model";
            return Err(bad(reason.into()));
        }
        let tensor = |name: &str, dtype: Dtype| -> Result<Range<usize>> {
            let info = metadata.info(name).ok_or_else(|| bad(format!("damaged: it has no {name}")))?;
            if info.dtype != dtype || info.shape.len() != 1 {
                return Err(bad(format!("damaged: {name} is {:?} {:?}", info.dtype, info.shape)));
            }
            let (begin, end) = info.data_offsets;
            let range = header + 8 + begin..header + 8 + end;
            // A mapping begins at a page, so this asks for the alignment within the file.
            let size = if dtype == Dtype::I64 { 8 } else { 4 };
            if range.start % size != 0 {
                return Err(bad(format!("{name} is not aligned to {size} bytes, so it cannot be read in place")));
            }
            Ok(range)
        };
        let ids = tensor("input_ids", Dtype::I32)?;
        let masks = match metadata.info("masked_input_ids") {
            Some(_) => Some((tensor("masked_input_ids", Dtype::I32)?, tensor("labels", Dtype::I32)?)),
            None => None,
        };
        let same = |range: &Range<usize>| range.len() == ids.len();
        if masks.as_ref().is_some_and(|(masked, labels)| !same(masked) || !same(labels)) {
            return Err(bad("damaged: input_ids, masked_input_ids and labels are not of one length".into()));
        }
        let mapped = Mapped {
            starts: tensor("cu_seqlens", Dtype::I64)?,
            sections: tensor("section_boundaries", Dtype::I64)?,
            songs: tensor("song_boundaries", Dtype::I64)?,
            ids,
            masks,
            path: path.to_owned(),
            metadata: own.clone().into_iter().collect(),
            map,
        };
        let starts = mapped.offsets(&mapped.starts);
        let rises = |offsets: &[u64], last: u64, strictly: bool| {
            offsets.first() == Some(&0)
                && offsets.last() == Some(&last)
                && offsets.windows(2).all(|pair| pair[0] < pair[1] || (!strictly && pair[0] == pair[1]))
        };
        let tokens = mapped.ids(&mapped.ids).len() as u64;
        if !rises(starts, tokens, true) {
            return Err(bad("damaged: cu_seqlens does not rise from 0 to the number of tokens".into()));
        }
        for (name, range) in [("section_boundaries", &mapped.sections), ("song_boundaries", &mapped.songs)] {
            if !rises(mapped.offsets(range), starts.len() as u64 - 1, false) {
                return Err(bad(format!("damaged: {name} does not rise from 0 to the number of examples")));
            }
        }
        let longest = starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        let number = |key: &str| entry(key).ok_or_else(|| bad(format!("damaged: its metadata lack {key}")));
        let hash = u64::from_str_radix(number("content_hash")?, 16);
        let hash = hash.map_err(|error| bad(format!("damaged: content_hash: {error}")))?;
        let truncated = number("truncated")?.parse().map_err(|error| bad(format!("damaged: truncated: {error}")))?;
        let tokenizer = tokenizer.clone();
        Ok(Self { store: Store::Mapped(Arc::new(mapped)), truncated, longest, hash, tokenizer })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.starts().len() - 1
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens, special tokens included.
    pub fn tokens(&self) -> usize {
        self.starts()[self.len()] as usize
    }

    /// The longest example in tokens.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Examples that were cut to the longest allowed when they were tokenized.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// The ids of an example, special tokens included.
    ///
    /// # Panics
    /// If there is no example of this index.
    pub fn get(&self, index: usize) -> &[u32] {
        let range = self.range(index);
        match &self.store {
            Store::Memory { ids, .. } => &ids[range],
            Store::Mapped(mapped) => &mapped.ids(&mapped.ids)[range],
        }
    }

    /// Tokens of an example.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.range(index).len()
    }

    /// Whether each example has a second, masked version.
    pub fn has_static_masks(&self) -> bool {
        matches!(&self.store, Store::Mapped(mapped) if mapped.masks.is_some())
    }

    /// Refuses what was made with another vocabulary than a model's, whose ids would be other words, or for longer texts than may be.
    pub(crate) fn check(&self, tokenizer: &Tokenizer, longest: usize) -> Result<()> {
        if !self.tokenizer.has_vocabulary_of(tokenizer) {
            let reason = "the data were made with another tokenizer than the model's: make them again with the model's";
            return Err(Error::InvalidArgument(reason.into()));
        }
        if self.longest > longest {
            let found = self.longest;
            let reason =
                format!("the data have examples of {found} tokens, and {longest} are allowed: prepare them for that");
            return Err(Error::InvalidArgument(reason));
        }
        Ok(())
    }

    /// For what was asked to use them.
    pub(crate) fn require_static_masks(&self) -> Result<()> {
        if self.has_static_masks() {
            return Ok(());
        }
        let reason = "static_mask is asked for, but the data have no static masks: prepare them with static_mask";
        Err(Error::InvalidArgument(reason.into()))
    }

    /// The masked version of an example, as [`Masking::apply`](super::Masking::apply) gives one.
    pub(crate) fn static_mask(&self, index: usize) -> Option<Masked> {
        let Store::Mapped(mapped) = &self.store else { return None };
        let (masked, labels) = mapped.masks.as_ref()?;
        let range = self.range(index);
        let labels = mapped.ids(labels)[range.clone()].iter().enumerate();
        let labels = labels.filter(|&(_, &label)| label != IGNORED as u32);
        let labels = labels.map(|(row, &label)| (row as u32, label)).collect();
        Some((mapped.ids(masked)[range].to_vec(), labels))
    }

    /// The example each section begins in, and the number of examples; `None` for lines in memory.
    pub fn section_boundaries(&self) -> Option<&[u64]> {
        let Store::Mapped(mapped) = &self.store else { return None };
        Some(mapped.offsets(&mapped.sections))
    }

    /// The examples of each section, where they are of sections: more than one of those that are longer than the longest example. Sections
    /// of which nothing is left are not among them; `None` for lines, windows, and lines in memory.
    pub fn sections(&self) -> Option<Vec<Range<usize>>> {
        let boundaries =
            self.section_boundaries().filter(|_| self.metadata().get("unit").is_some_and(|it| it == "section"))?;
        let ranges = boundaries.windows(2).map(|pair| pair[0] as usize..pair[1] as usize);
        Some(ranges.filter(|range| !range.is_empty()).collect())
    }

    /// The example each song begins in, and the number of examples; `None` for lines in memory.
    pub fn song_boundaries(&self) -> Option<&[u64]> {
        let Store::Mapped(mapped) = &self.store else { return None };
        Some(mapped.offsets(&mapped.songs))
    }

    /// What a token cache says of itself; empty for lines in memory.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match &self.store {
            Store::Memory { .. } => &NONE,
            Store::Mapped(mapped) => &mapped.metadata,
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    fn starts(&self) -> &[u64] {
        match &self.store {
            Store::Memory { starts, .. } => starts,
            Store::Mapped(mapped) => mapped.offsets(&mapped.starts),
        }
    }

    fn range(&self, index: usize) -> Range<usize> {
        let starts = self.starts();
        starts[index] as usize..starts[index + 1] as usize
    }
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Dataset");
        if let Store::Mapped(mapped) = &self.store {
            f.field("path", &mapped.path);
        }
        f.field("examples", &self.len()).field("tokens", &self.tokens()).finish_non_exhaustive()
    }
}

/// FNV-1a: the same on every machine, and enough to tell data apart that nobody forges.
pub(crate) struct Hash(pub(crate) u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    pub(crate) fn example(&mut self, ids: &[u32]) {
        self.bytes(&(ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| self.bytes(&id.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::tokenizer;

    #[test]
    fn tokenizing_can_be_ended() {
        let lines = vec!["the rain"; 4 * ASKED];
        let mut asked = 0;
        let made = Dataset::from_lines_with(&tokenizer(), &lines, 8, &mut || {
            asked += 1;
            if asked == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(made, Err(Error::Cancelled)) && asked == 2);
    }
}
