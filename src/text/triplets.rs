//! Texts, and which of them belong together: what embeddings are trained on.

use std::collections::{HashMap, HashSet};

use super::batch::PackedBatch;
use super::dataset::{Dataset, Hash, SHORTEST};
use super::random::{Purpose, Stream};
use super::tokenizer::{Template, Tokenizer};
use crate::error::{Error, Result};

/// Triplets of texts to train embeddings on: an anchor, a positive that belongs to it, and a negative that does not.
///
/// They are drawn from songs, two sections of one and one of another, anew in every epoch; or given.
#[derive(Clone, Debug)]
pub struct Triplets {
    texts: Dataset,
    source: Source,
    truncated: usize,
    /// Sections left out, see [`Triplets::from_held_out_sections`].
    learnt: usize,
    hash: u64,
}

#[derive(Clone, Debug)]
enum Source {
    Songs(Songs),
    /// Indices of texts.
    Given {
        triplets: Vec<[usize; 3]>,
        /// Without, the third index is the second once more.
        negatives: bool,
    },
}

#[derive(Clone, Debug)]
struct Songs {
    /// The text of each section.
    sections: Vec<usize>,
    /// The section each song begins with, and the number of sections.
    starts: Vec<usize>,
    /// Songs of at least two sections.
    anchors: Vec<usize>,
}

impl Songs {
    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn of(&self, song: usize) -> &[usize] {
        &self.sections[self.starts[song]..self.starts[song + 1]]
    }
}

/// A triplet, as indices of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Triplet {
    pub(crate) anchor: usize,
    pub(crate) positive: usize,
    pub(crate) negative: Option<usize>,
    /// The song, for drawn ones; for given ones the triplet's own index.
    pub(crate) group: usize,
    /// The negative's song.
    pub(crate) negative_group: usize,
}

/// A batch of triplets: its sequences are all anchors, then all positives, then all negatives, if there are any.
#[derive(Clone, Debug)]
pub(crate) struct TripletBatch {
    pub(crate) packed: PackedBatch,
    pub(crate) triplets: usize,
    /// \[sequences\]: those of one group belong together, and are not each other's negatives.
    pub(crate) groups: Vec<u32>,
}

/// What a text is known by.
fn hash_of(data: &Dataset, text: usize) -> u64 {
    let mut hash = Hash::default();
    hash.example(data.get(text));
    hash.0
}

/// Held-out triplets of each song.
const HELD_OUT_DRAWS: u64 = 4;

impl Triplets {
    /// Triplets drawn from the sections of songs: a token cache that was prepared with `Unit::Section`. An epoch
    /// takes each song with at least two sections once: one of them is the anchor, another the positive, and a section of another
    /// song, which may have one alone, the negative; all drawn anew, as functions of seed, epoch and song. Of a section longer
    /// than the longest example its beginning is used, whichever side of other texts the tokenizer cuts, and counted as
    /// [`Triplets::truncated`]. A section that came before, in any song, is left out: a chorus would be its own positive.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a dataset that knows no songs or is not one of sections, for one without a song of two
    /// sections, and for one of a single song.
    pub fn from_sections(data: Dataset) -> Result<Self> {
        Self::from_sections_without(data, HashSet::new())
    }

    /// [`Triplets::from_sections`] of songs that are to judge what learns from others: sections that are among the others' texts are left out, and
    /// counted as [`Triplets::learnt`]. A song that is there twice would otherwise be learnt and held out.
    ///
    /// # Errors
    /// As [`Triplets::from_sections`], of what is left.
    pub fn from_held_out_sections(data: Dataset, train: &Self) -> Result<Self> {
        let texts: Vec<usize> = match &train.source {
            Source::Songs(songs) => songs.sections.clone(),
            Source::Given { .. } => (0..train.texts.len()).collect(),
        };
        Self::from_sections_without(data, texts.into_iter().map(|text| hash_of(&train.texts, text)).collect())
    }

    /// Sections that were left out because they are learnt: see [`Triplets::from_held_out_sections`].
    pub fn learnt(&self) -> usize {
        self.learnt
    }

    fn from_sections_without(data: Dataset, learnt: HashSet<u64>) -> Result<Self> {
        let invalid = |reason: String| Err(Error::InvalidArgument(reason));
        let Some(songs) = data.song_boundaries() else {
            return invalid("lines know no songs to draw triplets from: give a token cache of sections".into());
        };
        let unit = data.metadata().get("unit").map_or("unknown", String::as_str);
        if unit != "section" {
            return invalid(format!(
                "triplets are drawn from sections, and these data are prepared by {unit}: prepare them by section"
            ));
        }
        let mut of_songs = Songs { sections: Vec::new(), starts: vec![0], anchors: Vec::new() };
        let (mut truncated, mut seen, mut left_out) = (0, HashSet::new(), 0);
        let mut sections = data.sections().unwrap_or_default().into_iter().peekable();
        for end in songs.iter().skip(1) {
            let mut count = 0;
            while let Some(section) = sections.next_if(|section| (section.start as u64) < *end) {
                let text = section.start;
                let hash = hash_of(&data, text);
                if learnt.contains(&hash) {
                    left_out += 1;
                    continue;
                }
                if !seen.insert(hash) {
                    continue;
                }
                of_songs.sections.push(text);
                truncated += usize::from(section.len() > 1);
                count += 1;
            }
            // A song of which everything came before has none.
            if count > 0 {
                if count > 1 {
                    of_songs.anchors.push(of_songs.len());
                }
                of_songs.starts.push(of_songs.sections.len());
            }
        }
        let hint = match left_out {
            0 => "(two blank lines part songs in a text file, one blank line parts sections)".to_owned(),
            _ => format!("({left_out} sections are left out, as they are among those that are learnt)"),
        };
        if of_songs.len() < 2 {
            return invalid(format!("a triplet takes two songs, and there is {}: {hint}", of_songs.len()));
        }
        if of_songs.anchors.is_empty() {
            return invalid(format!("none of {} songs has two different sections: {hint}", of_songs.len()));
        }
        let mut hash = Hash(data.hash());
        of_songs.sections.iter().chain(&of_songs.starts).for_each(|&n| hash.bytes(&(n as u64).to_le_bytes()));
        Ok(Self { texts: data, source: Source::Songs(of_songs), truncated, learnt: left_out, hash: hash.0 })
    }

    /// Given triplets, or pairs where no negative is given. Lines of a text are joined by the separator token; a text is cut to
    /// `max_length` tokens, special tokens included, and counted.
    ///
    /// # Errors
    /// [`Error::EmptyCorpus`] for none; [`Error::InvalidArgument`] where a text has no words (named by its place, from 0), or
    /// where only some have negatives; [`Error::BadTokenizer`].
    pub fn from_texts<S: AsRef<str>>(
        tokenizer: &Tokenizer,
        triplets: impl IntoIterator<Item = (S, S, Option<S>)>,
        max_length: usize,
    ) -> Result<Self> {
        let template = Self::template(tokenizer, max_length)?;
        let mut given = Given::new(tokenizer, template, max_length);
        for (at, (anchor, positive, negative)) in triplets.into_iter().enumerate() {
            let texts = [Some(anchor), Some(positive), negative];
            let texts = [0, 1, 2].map(|role: usize| texts[role].as_ref().map(AsRef::as_ref));
            given.push(texts)?.map_err(|reason| Error::InvalidArgument(format!("triplet {at}: {reason}")))?;
        }
        given.finish("the triplets")
    }

    /// Given triplets from JSON Lines, plain or compressed: an object a line with `anchor`, `positive` and, in all or none of them,
    /// `negative`, each a string or a list of lines. Otherwise as [`Triplets::from_texts`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadData`] for a line that is no such object or has an empty text; as [`Triplets::from_texts`].
    #[cfg(feature = "prepare")]
    pub fn read_json_lines(tokenizer: &Tokenizer, paths: &[std::path::PathBuf], max_length: usize) -> Result<Self> {
        let mut given = Given::new(tokenizer, Self::template(tokenizer, max_length)?, max_length);
        for path in paths {
            super::readers::read_triplets(path, &mut |texts| given.push(texts))?;
        }
        given.finish(&paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))
    }

    /// Whether a file is such JSON Lines, by its name and first record.
    #[cfg(feature = "prepare")]
    pub fn is_json_lines(path: impl AsRef<std::path::Path>) -> bool {
        super::readers::is_triplets(path.as_ref())
    }

    fn template(tokenizer: &Tokenizer, max_length: usize) -> Result<Template> {
        let template = tokenizer.template()?;
        let shortest = SHORTEST.max(template.around() + 1);
        if max_length < shortest {
            let reason = format!("max_length is {max_length}; it must be at least {shortest}");
            return Err(Error::InvalidArgument(reason));
        }
        Ok(template)
    }

    /// Triplets of an epoch.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Songs(songs) => songs.anchors.len(),
            Source::Given { triplets, .. } => triplets.len(),
        }
    }

    /// Whether there is none, which no constructor lets pass.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The texts: of songs all examples of the data.
    pub fn texts(&self) -> &Dataset {
        &self.texts
    }

    /// Texts that are longer than the longest example, and were cut.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// How many songs there are, and how many of them have one section only, which is never an anchor; `None` for given triplets.
    pub fn songs(&self) -> Option<(usize, usize)> {
        match &self.source {
            Source::Songs(songs) => Some((songs.len(), songs.len() - songs.anchors.len())),
            Source::Given { .. } => None,
        }
    }

    /// Whether each has a negative of its own.
    pub fn has_negatives(&self) -> bool {
        match &self.source {
            Source::Songs(_) => true,
            Source::Given { negatives, .. } => *negatives,
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The sections of each song, as texts; `None` for given triplets.
    pub(crate) fn sections_by_song(&self) -> Option<impl Iterator<Item = &[usize]>> {
        match &self.source {
            Source::Songs(songs) => Some((0..songs.len()).map(|song| songs.of(song))),
            Source::Given { .. } => None,
        }
    }

    pub(crate) fn get(&self, index: usize, seed: u64, epoch: u64) -> Triplet {
        self.draw(index, Purpose::Triplets, seed, epoch)
    }

    /// What a held-out set is judged by: some triplets of each song, always the same, each song once before any comes again;
    /// given ones as they are.
    pub(crate) fn held_out(&self, seed: u64) -> Vec<Triplet> {
        let draws = if self.songs().is_some() { HELD_OUT_DRAWS } else { 1 };
        let of = |draw| (0..self.len()).map(move |index| self.draw(index, Purpose::HeldOutTriplets, seed, draw));
        (0..draws).flat_map(of).collect()
    }

    /// Of given triplets, for each the first one with the same anchor.
    pub(crate) fn anchors(&self) -> Option<Vec<usize>> {
        let Source::Given { triplets, .. } = &self.source else { return None };
        let mut first = HashMap::new();
        let of = |(index, &[anchor, ..]): (usize, &[usize; 3])| *first.entry(self.texts.get(anchor)).or_insert(index);
        Some(triplets.iter().enumerate().map(of).collect())
    }

    fn draw(&self, index: usize, purpose: Purpose, seed: u64, epoch: u64) -> Triplet {
        let songs = match &self.source {
            Source::Songs(songs) => songs,
            Source::Given { triplets, negatives } => {
                let [anchor, positive, negative] = triplets[index];
                let negative = negatives.then_some(negative);
                return Triplet { anchor, positive, negative, group: index, negative_group: triplets.len() + index };
            }
        };
        let song = songs.anchors[index];
        let mut random = Stream::new(purpose, seed, epoch, index as u64);
        let own = songs.of(song);
        let anchor = random.below(own.len());
        let positive = other_than(anchor, own.len(), &mut random);
        let negative_group = other_than(song, songs.len(), &mut random);
        let of_other = songs.of(negative_group);
        let negative = Some(of_other[random.below(of_other.len())]);
        Triplet { anchor: own[anchor], positive: own[positive], negative, group: song, negative_group }
    }

    /// The batch of these triplets of an epoch. Negatives are left out where they are not wanted and were drawn, not given.
    pub(crate) fn batch(&self, examples: &[usize], seed: u64, epoch: u64, negatives: bool) -> TripletBatch {
        let drawn: Vec<Triplet> = examples.iter().map(|&example| self.get(example, seed, epoch)).collect();
        let mut batch = TripletBatch { packed: PackedBatch::default(), triplets: drawn.len(), groups: Vec::new() };
        let negatives = negatives || self.songs().is_none();
        for role in 0..3 {
            for (triplet, &example) in drawn.iter().zip(examples) {
                let (text, group) = match role {
                    0 => (Some(triplet.anchor), triplet.group),
                    1 => (Some(triplet.positive), triplet.group),
                    _ => (triplet.negative.filter(|_| negatives), triplet.negative_group),
                };
                let Some(text) = text else { continue };
                batch.packed.push(self.texts.get(text));
                batch.groups.push(group as u32);
                let random = Stream::new(Purpose::Dropout, seed, epoch, 3 * example as u64 + role).number();
                batch.packed.dropout_seeds.push(random);
            }
        }
        batch
    }

    /// Tokens of a triplet as the first epoch draws it, in a batch of [`Triplets::batch`].
    pub(crate) fn length(&self, index: usize, seed: u64, negatives: bool) -> usize {
        let Triplet { anchor, positive, negative, .. } = self.get(index, seed, 0);
        let negative = negative.filter(|_| negatives || self.songs().is_none());
        [Some(anchor), Some(positive), negative].into_iter().flatten().map(|text| self.texts.length(text)).sum()
    }
}

/// Triplets as they are given, one after another.
struct Given<'t> {
    tokenizer: &'t Tokenizer,
    template: Template,
    max_length: usize,
    texts: Dataset,
    triplets: Vec<[usize; 3]>,
    truncated: usize,
    negatives: Option<bool>,
}

impl<'t> Given<'t> {
    fn new(tokenizer: &'t Tokenizer, template: Template, max_length: usize) -> Self {
        let (texts, triplets) = (Dataset::in_memory(tokenizer), Vec::new());
        Self { tokenizer, template, max_length, texts, triplets, truncated: 0, negatives: None }
    }

    /// Anchor, positive and maybe negative. The inner error is about these texts, for one who knows where they are from.
    fn push(&mut self, texts: [Option<&str>; 3]) -> Result<Result<(), String>> {
        let has_negative = texts[2].is_some();
        if *self.negatives.get_or_insert(has_negative) != has_negative {
            return Ok(Err("some have a negative and some have none".into()));
        }
        let first = self.texts.len();
        for (name, text) in ["anchor", "positive", "negative"].into_iter().zip(texts) {
            let Some(text) = text else { continue };
            let (ids, tokens) = self.tokenizer.encode_section(&self.template, text, self.max_length)?;
            if ids.iter().all(|&id| self.tokenizer.is_special(id)) {
                return Ok(Err(format!("its {name} has no words")));
            }
            self.truncated += usize::from(tokens > ids.len());
            self.texts.push(&ids);
        }
        self.triplets.push([first, first + 1, self.texts.len() - 1]);
        Ok(Ok(()))
    }

    fn finish(self, from: &str) -> Result<Triplets> {
        if self.triplets.is_empty() {
            return Err(Error::EmptyCorpus { paths: from.to_owned() });
        }
        let negatives = self.negatives == Some(true);
        let mut hash = Hash(self.texts.hash());
        hash.bytes(&[u8::from(negatives)]);
        let source = Source::Given { triplets: self.triplets, negatives };
        Ok(Triplets { texts: self.texts, source, truncated: self.truncated, learnt: 0, hash: hash.0 })
    }
}

/// Any of 0..n but this one.
fn other_than(this: usize, n: usize, random: &mut Stream) -> usize {
    let i = random.below(n - 1);
    if i < this { i } else { i + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "prepare")]
    use std::collections::HashSet;

    fn tokenizer() -> Tokenizer {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/tokenizer");
        Tokenizer::open(folder).unwrap()
    }

    #[cfg(feature = "prepare")]
    fn songs(text: &str, max_seq_length: usize) -> Result<Triplets> {
        use crate::text::{PrepareOptions, Unit, prepare};
        let folder = tempfile::tempdir().unwrap();
        let [file, cache] = ["songs.txt", "cache"].map(|name| folder.path().join(name));
        std::fs::write(&file, text).unwrap();
        let options = PrepareOptions { unit: Unit::Section, ..PrepareOptions::new(max_seq_length) };
        prepare(&tokenizer(), &[file], &cache, None, &options, |_| std::ops::ControlFlow::Continue(()))?;
        Triplets::from_sections(Dataset::open(&cache, &tokenizer())?)
    }

    #[cfg(feature = "prepare")]
    #[test]
    fn two_sections_of_one_song_and_one_of_another() {
        // The third song repeats a chorus, the fourth is one section, of the fifth nothing is new.
        let text = "the rain\n\nthe sun\n\nthe sea\n\n\na road\n\na house\n\n\nthe night\n\nthe day\n\nthe night\n\n\nalone\n\n\nalone\n";
        let triplets = songs(text, 32).unwrap();
        assert_eq!((triplets.len(), triplets.songs()), (3, Some((4, 1))));
        let by_song: Vec<Vec<usize>> = triplets.sections_by_song().unwrap().map(<[usize]>::to_vec).collect();
        assert_eq!(by_song, [vec![0, 1, 2], vec![3, 4], vec![5, 6], vec![8]]);
        let mut seen = HashSet::new();
        for (epoch, index) in (0..60).flat_map(|epoch| (0..3).map(move |index| (epoch, index))) {
            let triplet = triplets.get(index, 7, epoch);
            let negative = triplet.negative.unwrap();
            assert_eq!(triplet, triplets.get(index, 7, epoch));
            let [a, p, n] = [triplet.anchor, triplet.positive, negative]
                .map(|text| by_song.iter().position(|song| song.contains(&text)).unwrap());
            assert!(a == index && p == a && n != a && triplet.anchor != triplet.positive);
            assert_eq!((triplet.group, triplet.negative_group), (a, n));
            seen.insert((triplet.anchor, triplet.positive, negative));
        }
        // Nearly all of (6 x 5 + 2 x 6 + 2 x 6) come.
        assert!(seen.len() > 40, "{}", seen.len());
        let held_out = triplets.held_out(7);
        // Each song once, then again: a song's texts are not each other's negatives in a batch.
        assert!(held_out.chunks(3).all(|draw| draw.iter().map(|of| of.group).eq([0, 1, 2])));
        assert_eq!((held_out.len(), held_out.clone()), (12, triplets.held_out(7)));
        assert_ne!(held_out, triplets.held_out(8));

        let batch = triplets.batch(&[2, 0], 7, 5, true);
        assert_eq!((batch.triplets, batch.packed.sequences(), batch.groups.len()), (2, 6, 6));
        assert_eq!(batch.groups[..4], [2, 0, 2, 0]);
        let first = triplets.get(2, 7, 5);
        assert_eq!(&batch.packed.input_ids[..batch.packed.cu_seqlens[1] as usize], triplets.texts().get(first.anchor));
        assert_eq!(batch.packed.dropout_seeds.iter().collect::<HashSet<_>>().len(), 6);
        assert_eq!(triplets.batch(&[2, 0], 7, 5, false).packed.sequences(), 4);
    }

    #[cfg(feature = "prepare")]
    #[test]
    fn songs_that_make_no_triplets_are_refused() {
        for (text, words) in [
            ("the rain\n\nthe sun\n", "takes two songs"),
            ("the rain\n\n\nthe sun\n", "two different sections"),
            ("the rain\n\nthe rain\n\n\nthe sun\n", "two different sections"),
        ] {
            let error = songs(text, 32).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let long = "the rain the rain the rain\nthe sun the sun the sun\n\nthe sea\n\n\na road\n\na house\n";
        let triplets = songs(long, 10).unwrap();
        assert_eq!((triplets.truncated(), triplets.texts().len()), (1, 5));
        assert_eq!(triplets.sections_by_song().unwrap().next().unwrap(), [0, 2]);
        let lines = Dataset::from_lines(&tokenizer(), &["the rain"], 8).unwrap();
        assert!(Triplets::from_sections(lines).unwrap_err().to_string().contains("know no songs"));
    }

    #[test]
    fn given_triplets_stay_as_they_are() {
        let given = [("the rain", "the\nsun", Some("a road")), ("a house", "the sea the sea the sea", Some("the"))];
        let triplets = Triplets::from_texts(&tokenizer(), given, 6).unwrap();
        assert_eq!((triplets.len(), triplets.songs(), triplets.truncated()), (2, None, 1));
        let batch = triplets.batch(&[1, 0], 0, 3, false);
        assert_eq!((batch.packed.sequences(), batch.groups), (6, vec![1, 0, 1, 0, 3, 2]));
        assert_eq!(triplets.held_out(1), [triplets.get(0, 0, 0), triplets.get(1, 9, 9)]);
        // Lines are joined by the separator token, which closes the text, too.
        let joined = triplets.texts().get(1);
        assert_eq!(joined.iter().filter(|&&id| id == joined[joined.len() - 1]).count(), 2);
        let pairs = Triplets::from_texts(&tokenizer(), [("the rain", "the sun", None)], 6).unwrap();
        assert_eq!((pairs.has_negatives(), pairs.batch(&[0], 0, 0, true).packed.sequences()), (false, 2));
        let fails = |given: &[(&str, &str, Option<&str>)], words: &str| {
            let error = Triplets::from_texts(&tokenizer(), given.to_vec(), 6).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        fails(&[], "the triplets");
        fails(&[("the", " \n", None)], "triplet 0: its positive has no words");
        fails(&[("the", "sun", None), ("the", "sun", Some("a"))], "triplet 1: some have");
    }
}
