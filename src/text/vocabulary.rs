//! Learning a WordPiece vocabulary from text.

use std::collections::BTreeMap;
use std::path::Path;

use tokenizers::models::TrainerWrapper;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Tokenizer as Inner,
};

use super::settings::{SPECIAL_TOKENS, Settings};
use super::tokenizer::{TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer, VOCAB_FILE};
use crate::error::{Error, Result};

/// How a vocabulary is learnt by [`Tokenizer::train`].
#[derive(Clone, Debug)]
pub struct WordPieceOptions {
    /// Entries at most, special tokens included.
    pub vocab_size: usize,
    /// Whether text is lower-cased and its accents removed.
    pub do_lower_case: bool,
    /// Pieces must occur at least this often.
    pub min_frequency: u64,
    /// The longest sequence of the model it is for, noted for transformers; this crate asks the model.
    pub model_max_length: Option<usize>,
}

impl Default for WordPieceOptions {
    fn default() -> Self {
        Self { vocab_size: 30_522, do_lower_case: true, min_frequency: 2, model_max_length: None }
    }
}

/// Four times the vocabulary of the largest multilingual models.
const LARGEST: usize = 1_000_000;

/// As many letters as BERT's own vocabularies have.
const LETTERS: usize = 1000;

/// The letters of a corpus, as they begin a word and as they continue one.
#[derive(Default)]
struct Alphabet {
    letters: BTreeMap<char, Occurrence>,
}

#[derive(Default)]
struct Occurrence {
    count: usize,
    continues: bool,
}

impl Alphabet {
    fn add(&mut self, word: &str) {
        for (i, letter) in word.chars().enumerate() {
            let occurrence = self.letters.entry(letter).or_default();
            occurrence.count += 1;
            occurrence.continues |= i > 0;
        }
    }

    /// The most frequent letters; of equally frequent ones the first.
    fn truncate(&mut self, limit: usize) {
        let mut order: Vec<(usize, char)> = self.letters.iter().map(|(letter, seen)| (seen.count, *letter)).collect();
        order.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, letter) in order.iter().skip(limit) {
            self.letters.remove(letter);
        }
    }
}

impl Tokenizer {
    /// Learns a WordPiece vocabulary from lines of text, with BERT's special tokens, normalisation and pre-tokenization.
    /// The same lines give the same vocabulary.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where `vocab_size` cannot hold the special tokens and an alphabet, or is over a million;
    /// [`Error::EmptyCorpus`] for lines without a letter.
    pub fn train<S: AsRef<str> + Sync>(lines: &[S], options: &WordPieceOptions) -> Result<Self> {
        let WordPieceOptions { vocab_size, min_frequency, do_lower_case, .. } = *options;
        if vocab_size < 4 * SPECIAL_TOKENS.len() {
            return Err(Error::InvalidArgument(format!(
                "vocab_size {vocab_size} is too small: {} are special tokens, and a text has dozens of letters",
                SPECIAL_TOKENS.len()
            )));
        }
        if vocab_size > LARGEST {
            // The library sets memory aside for all of it at once.
            return Err(Error::InvalidArgument(format!("vocab_size is {vocab_size}; it may be {LARGEST} at most")));
        }
        let failed = |error: tokenizers::Error| Error::InvalidArgument(format!("training the vocabulary: {error}"));
        let normalizer = BertNormalizer::new(true, true, None, do_lower_case);
        let mut alphabet = Alphabet::default();
        for line in lines {
            let mut text = NormalizedString::from(line.as_ref());
            normalizer.normalize(&mut text).map_err(failed)?;
            let mut text = PreTokenizedString::from(text);
            BertPreTokenizer.pre_tokenize(&mut text).map_err(failed)?;
            for (word, ..) in text.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
                alphabet.add(word);
            }
        }
        if alphabet.letters.is_empty() {
            return Err(Error::EmptyCorpus { paths: "the lines to learn a vocabulary from".into() });
        }
        // Each letter may need two entries, one for the beginning of a word.
        alphabet.truncate(LETTERS.min((vocab_size - SPECIAL_TOKENS.len()) / 2));

        // The library numbers continuing letters in the order of a randomly seeded hash map, and breaks ties between pieces
        // by those numbers. Naming them beforehand, as if they were special, fixes the numbers; the tokenizer is built anew
        // from the vocabulary below, and there they are pieces like any other.
        let continuing = alphabet.letters.iter().filter(|(_, seen)| seen.continues);
        let continuing = continuing.map(|(letter, _)| AddedToken::from(format!("##{letter}"), true));
        let first = SPECIAL_TOKENS.iter().map(|token| AddedToken::from(*token, true)).chain(continuing).collect();
        let trainer = WordPieceTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(min_frequency)
            .special_tokens(first)
            .limit_alphabet(alphabet.letters.len())
            .initial_alphabet(alphabet.letters.keys().copied().collect())
            .show_progress(false)
            .build();
        let mut inner = Inner::new(WordPiece::default());
        inner.with_normalizer(Some(normalizer)).map_err(failed)?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        inner.train(&mut TrainerWrapper::from(trainer), lines.iter()).map_err(failed)?;

        let mut vocabulary: Vec<(String, u32)> = inner.get_vocab(true).into_iter().collect();
        vocabulary.sort_by_key(|(_, id)| *id);
        let vocabulary: String = vocabulary.into_iter().map(|(token, _)| token + "\n").collect();
        Self::from_new_vocabulary(vocabulary, options)
    }

    /// Through the same door as an old checkpoint, so that there is one way to set a BERT tokenizer up.
    fn from_new_vocabulary(vocabulary: String, options: &WordPieceOptions) -> Result<Self> {
        let folder = Path::new("(new vocabulary)");
        let mut config = serde_json::json!({
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": options.do_lower_case,
            "pad_token": SPECIAL_TOKENS[0],
            "unk_token": SPECIAL_TOKENS[1],
            "cls_token": SPECIAL_TOKENS[2],
            "sep_token": SPECIAL_TOKENS[3],
            "mask_token": SPECIAL_TOKENS[4],
        });
        if let Some(length) = options.model_max_length {
            config["model_max_length"] = length.into();
        }
        let config = (TOKENIZER_CONFIG_FILE.to_owned(), format!("{config:#}\n").into_bytes());
        let settings = Settings::read(folder, std::slice::from_ref(&config))?;
        let inner = settings.open_vocabulary(vocabulary.as_bytes(), folder)?;
        let json = inner.to_string(true).map_err(|error| Error::tokenizer(folder, error.to_string()))?;
        let files = vec![
            (TOKENIZER_FILE.to_owned(), json.into_bytes()),
            config,
            (VOCAB_FILE.to_owned(), vocabulary.into_bytes()),
        ];
        Self::from_files(folder, files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trained_vocabulary_reopens_and_is_reproducible() {
        let lines: Vec<String> = (0..200)
            .map(|i| format!("the rain on roof {i}, the River in the raining city {}", "again".repeat(i % 3)))
            .collect();
        let options = WordPieceOptions { vocab_size: 120, ..Default::default() };
        let train = || Tokenizer::train(&lines, &options).unwrap();
        let tokenizer = train();
        assert!(tokenizer.vocab_size() <= 120);
        for _ in 0..5 {
            assert!(tokenizer.files() == train().files(), "the same lines give the same vocabulary");
        }
        let ids = tokenizer.encode("The RAIN in [MASK]").unwrap();
        assert_eq!(ids[ids.len() - 2], tokenizer.mask_token_id().unwrap());
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the rain in");
        assert!(!tokenizer.is_special(tokenizer.token_to_id("##a").unwrap()));
        // vocab.txt alone gives the same ids as tokenizer.json.
        let only = tokenizer.files().iter().filter(|(name, _)| name != TOKENIZER_FILE).cloned().collect();
        assert_eq!(Tokenizer::from_files(Path::new("x"), only).unwrap().encode("The RAIN in [MASK]").unwrap(), ids);
    }

    #[test]
    fn rare_letters_are_dropped_before_the_vocabulary_overflows() {
        let lines: Vec<String> = ('\u{4e00}'..'\u{4f00}').map(|c| format!("aa bb {c}")).collect();
        let options = WordPieceOptions { vocab_size: 60, ..Default::default() };
        let tokenizer = Tokenizer::train(&lines, &options).unwrap();
        assert!(tokenizer.vocab_size() <= 60);
        assert!(tokenizer.token_to_id("aa").is_some());
        assert!(Tokenizer::train(&lines, &WordPieceOptions { vocab_size: 5, ..Default::default() }).is_err());
    }
}
