//! A checkpoint's tokenizer: `tokenizer.json`, or the `vocab.txt` of older ones.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokenizers::Tokenizer as Inner;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::dataset::Hash;
use super::settings::{Settings, clean_up_tokenization};
use crate::error::{Error, Result};

pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";
pub(super) const VOCAB_FILE: &str = "vocab.txt";
pub(super) const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
pub(super) const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
pub(super) const ADDED_TOKENS_FILE: &str = "added_tokens.json";

/// The files a tokenizer may consist of; all that are there are carried along when a model is saved.
pub(crate) const TOKENIZER_FILES: [&str; 5] =
    [TOKENIZER_FILE, VOCAB_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE];

/// Turns text into ids and back. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Inner,
    /// Names and contents, as they were read.
    files: Vec<(String, Vec<u8>)>,
    /// For errors.
    folder: PathBuf,
    special: HashSet<u32>,
    mask_token: String,
    mask_token_id: Option<u32>,
    pad_token_id: Option<u32>,
    sep_token_id: Option<u32>,
    /// One more than the largest id.
    vocab_size: usize,
    continuations: OnceLock<Option<Vec<bool>>>,
    /// What [`Tokenizer::hash`] found.
    hash: OnceLock<String>,
    /// transformers' `clean_up_tokenization_spaces`.
    clean_up: bool,
    /// transformers' `truncation_side`.
    cuts_front: bool,
}

/// See [`Tokenizer::template`].
pub(crate) struct Template {
    pub(crate) prefix: Vec<u32>,
    pub(crate) suffix: Vec<u32>,
    /// `None` where this tokenizer has none.
    pub(crate) separator: Option<u32>,
    /// [`Tokenizer::cuts_front`]
    pub(crate) cuts_front: bool,
}

impl Template {
    /// Special tokens of an example.
    pub(crate) fn around(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }
}

/// The tokenizers library panics at some files that are no tokenizers, and may at others when they are used.
fn guarded<T>(folder: &Path, call: impl FnOnce() -> Result<T>) -> Result<T> {
    // Nothing of it is used after that.
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    answer.unwrap_or_else(|_| Err(Error::tokenizer(folder, "the tokenizers library cannot work with what it says")))
}

impl Tokenizer {
    /// Opens `tokenizer.json`, or `vocab.txt` with what `tokenizer_config.json` says of it, from a folder.
    ///
    /// # Errors
    /// [`Error::BadTokenizer`] where both are missing or one is malformed; [`Error::Io`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let mut files = Vec::new();
        for name in TOKENIZER_FILES {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => files.push((name.to_owned(), bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(path)(error)),
            }
        }
        Self::from_files(folder, files)
    }

    /// From the contents of the files named in [`TOKENIZER_FILES`]; `folder` is for errors.
    pub(crate) fn from_files(folder: &Path, files: Vec<(String, Vec<u8>)>) -> Result<Self> {
        let tokenizer = guarded(folder, || Self::read_files(folder, files))?;
        // What the library panics at is found out before anything is made of it. That it refuses a text may be the text's fault.
        guarded(folder, || {
            let inner = &tokenizer.shared.inner;
            let _ = inner.encode_fast("a b", true).map(|encoding| inner.decode(encoding.get_ids(), true));
            Ok(())
        })?;
        Ok(tokenizer)
    }

    fn read_files(folder: &Path, files: Vec<(String, Vec<u8>)>) -> Result<Self> {
        let settings = Settings::read(folder, &files)?;
        let find = |name: &str| files.iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes.as_slice());
        let mut inner = match (find(TOKENIZER_FILE), find(VOCAB_FILE)) {
            (Some(bytes), _) => settings.open_json(bytes, &folder.join(TOKENIZER_FILE))?,
            (None, Some(vocabulary)) => settings.open_vocabulary(vocabulary, &folder.join(VOCAB_FILE))?,
            (None, None) => return Err(Error::tokenizer(folder, "no tokenizer.json and no vocab.txt")),
        };
        let cuts_front = match settings.truncation_side() {
            Some(side) => side == "left",
            None => inner.get_truncation().is_some_and(|it| it.direction == tokenizers::TruncationDirection::Left),
        };
        // Some checkpoints ship with padding and truncation on; here batches are packed, and callers are told what is cut.
        let _ = inner.with_padding(None).with_truncation(None);

        let special = settings.names.iter().filter_map(|name| inner.token_to_id(name));
        let marked = inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).map(|(id, _)| id);
        let special = special.chain(marked).collect();
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if vocab_size == 0 {
            return Err(Error::tokenizer(folder, "the vocabulary is empty"));
        }
        let [pad_token, .., sep_token, mask_token] = settings.names;
        let shared = Shared {
            sep_token_id: inner.token_to_id(&sep_token),
            mask_token_id: inner.token_to_id(&mask_token),
            pad_token_id: inner.token_to_id(&pad_token),
            mask_token,
            continuations: OnceLock::new(),
            hash: OnceLock::new(),
            special,
            vocab_size,
            clean_up: settings.clean_up_tokenization_spaces,
            cuts_front,
            folder: folder.to_owned(),
            files,
            inner,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ids of a text, \[CLS\] and \[SEP\] (or what this tokenizer adds) included.
    ///
    /// # Errors
    /// [`Error::BadTokenizer`] where the tokenizer cannot represent the text at all.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, true)
    }

    fn encode_with(&self, text: &str, adds_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.guarded(|inner| inner.encode_fast(text, adds_special_tokens))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What the library makes of something; its errors name the folder.
    fn guarded<T>(&self, call: impl FnOnce(&Inner) -> tokenizers::Result<T>) -> Result<T> {
        let folder = &self.shared.folder;
        guarded(folder, || call(&self.shared.inner).map_err(|error| Error::tokenizer(folder, error.to_string())))
    }

    /// Ids of a text alone, without the tokens that [`Tokenizer::template`] puts around it.
    pub(crate) fn encode_body(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, false)
    }

    /// Whether of a text that is too long the end is kept.
    pub(crate) fn cuts_front(&self) -> bool {
        self.shared.cuts_front
    }

    /// What is put before and after a text, and between two lines of one: \[CLS\], \[SEP\] and \[SEP\] for BERT.
    pub(crate) fn template(&self) -> Result<Template> {
        let around = self.encode("a")?;
        let body = self.encode_body("a")?;
        let bad = |reason: &str| Error::tokenizer(&self.shared.folder, reason);
        let at = around.windows(body.len().max(1)).position(|window| window == body);
        let at = at.ok_or_else(|| bad("it changes a text when it adds its special tokens"))?;
        let (prefix, suffix) = (around[..at].to_vec(), around[at + body.len()..].to_vec());
        let separator = suffix.last().copied().or(self.shared.sep_token_id);
        Ok(Template { prefix, suffix, separator, cuts_front: self.cuts_front() })
    }

    /// The ids of a text whose lines are joined by the separator token, cut to `longest` by leaving out the last before the closing
    /// special tokens; and how many they were before. `longest` has to hold the special tokens.
    pub(crate) fn encode_section(&self, template: &Template, text: &str, longest: usize) -> Result<(Vec<u32>, usize)> {
        let mut body = Vec::new();
        for line in text.lines() {
            let ids = self.encode_body(line)?;
            if !body.is_empty() && !ids.is_empty() {
                body.extend(template.separator);
            }
            body.extend(ids);
        }
        let around = template.around();
        let tokens = around + body.len();
        let room = longest.saturating_sub(around);
        if template.cuts_front {
            body.drain(..body.len().saturating_sub(room));
        }
        body.truncate(room);
        Ok(([&template.prefix[..], &body, &template.suffix].concat(), tokens))
    }

    /// Whether an id is the same word in both; how texts become words may differ.
    pub(crate) fn has_vocabulary_of(&self, other: &Self) -> bool {
        let vocabulary = |tokenizer: &Self| tokenizer.shared.inner.get_vocab(true);
        Arc::ptr_eq(&self.shared, &other.shared) || self.hash() == other.hash() || vocabulary(self) == vocabulary(other)
    }

    /// A hash of all that decides about the ids of a text.
    pub(crate) fn hash(&self) -> &str {
        self.shared.hash.get_or_init(|| {
            let mut hash = Hash::default();
            // The library writes the vocabulary in the order of its ids.
            hash.bytes(self.shared.inner.to_string(false).unwrap_or_default().as_bytes());
            format!("{:016x}", hash.0)
        })
    }

    /// Text of ids.
    ///
    /// # Errors
    /// [`Error::BadTokenizer`] where the tokenizer's decoder refuses.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let text = self.guarded(|inner| inner.decode(ids, skip_special_tokens))?;
        Ok(if self.shared.clean_up { clean_up_tokenization(text) } else { text })
    }

    /// The entry of the vocabulary with this id, as it is written there (`##ing`).
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.shared.inner.id_to_token(id)
    }

    /// The id of an entry of the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.shared.inner.token_to_id(token)
    }

    /// The mask token as it is written in texts, `[MASK]` for most.
    pub fn mask_token(&self) -> &str {
        &self.shared.mask_token
    }

    /// Its id; `None` where the vocabulary has none.
    pub fn mask_token_id(&self) -> Option<u32> {
        self.shared.mask_token_id
    }

    /// The padding token's id.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.shared.pad_token_id
    }

    /// Ids in use: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.shared.vocab_size
    }

    /// Whether an id is a special token, which is never masked.
    pub fn is_special(&self, id: u32) -> bool {
        self.shared.special.contains(&id)
    }

    /// For each id whether it continues the word of the token before; `None` where the tokens do not say.
    pub(crate) fn continuations(&self) -> Option<&[bool]> {
        self.shared.continuations.get_or_init(|| continuations(&self.shared.inner, self.shared.vocab_size)).as_deref()
    }

    pub(crate) fn files(&self) -> &[(String, Vec<u8>)] {
        &self.shared.files
    }

    pub(crate) fn require_mask_token(&self) -> Result<u32> {
        self.shared.mask_token_id.ok_or_else(|| {
            Error::tokenizer(&self.shared.folder, format!("no {} in the vocabulary", self.shared.mask_token))
        })
    }

    /// Refuses a vocabulary whose ids the embeddings do not have.
    pub(crate) fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        if self.vocab_size() > vocab_size {
            let reason = format!(
                "the vocabulary has ids up to {}, but the model's vocab_size is {vocab_size}",
                self.vocab_size() - 1
            );
            return Err(Error::tokenizer(&self.shared.folder, reason));
        }
        Ok(())
    }
}

/// How tokens say where words begin.
enum Words {
    /// WordPiece: what continues a word begins with this.
    Continuing(String),
    /// SentencePiece and byte-level BPE: what begins a word begins with this.
    Beginning(char),
}

fn continuations(inner: &Inner, vocab_size: usize) -> Option<Vec<bool>> {
    let words = match inner.get_model() {
        ModelWrapper::WordPiece(model) if !model.continuing_subword_prefix.is_empty() => {
            Words::Continuing(model.continuing_subword_prefix.clone())
        }
        _ => Words::Beginning(beginning(inner.get_pre_tokenizer()?)?),
    };
    let vocabulary = inner.get_vocab(true);
    let mut continues = vec![false; vocab_size];
    for (token, id) in vocabulary {
        continues[id as usize] = match &words {
            Words::Continuing(prefix) => token.starts_with(prefix.as_str()),
            Words::Beginning(mark) => !token.starts_with(*mark),
        };
    }
    Some(continues)
}

fn beginning(pre_tokenizer: &PreTokenizerWrapper) -> Option<char> {
    match pre_tokenizer {
        PreTokenizerWrapper::Metaspace(metaspace) => Some(metaspace.get_replacement()),
        PreTokenizerWrapper::ByteLevel(_) => Some('\u{120}'),
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref().iter().find_map(beginning),
        _ => None,
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    /// A template with a token that it does not define, at which the library panics.
    const NAMES_NO_TOKEN: &str = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}}, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "\u0023#",
        "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "[CLS]": 1, "a": 2}}}"#;

    use super::*;

    pub(crate) fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/tokenizer")
    }

    pub(crate) fn tokenizer() -> Tokenizer {
        Tokenizer::open(folder()).unwrap()
    }

    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        input_ids: Vec<u32>,
        cased_input_ids: Vec<u32>,
        with_accents: Vec<u32>,
        cased_without_accents: Vec<u32>,
        chinese_in_words: Vec<u32>,
    }

    #[test]
    fn vocab_txt_tokenizes_as_transformers_does() {
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(folder().join("cases.json")).unwrap()).unwrap();
        let vocabulary = std::fs::read(folder().join(VOCAB_FILE)).unwrap();
        let with = |config: &str| {
            let config = (TOKENIZER_CONFIG_FILE.to_owned(), config.as_bytes().to_vec());
            Tokenizer::from_files(Path::new(""), vec![(VOCAB_FILE.to_owned(), vocabulary.clone()), config]).unwrap()
        };
        assert!(cases.len() > 20);
        type Ids = fn(&Case) -> &Vec<u32>;
        let configured: [(Tokenizer, Ids); 5] = [
            (tokenizer(), |case| &case.input_ids),
            (with(r#"{"do_lower_case": false}"#), |case| &case.cased_input_ids),
            (with(r#"{"do_lower_case": true, "strip_accents": false}"#), |case| &case.with_accents),
            (with(r#"{"do_lower_case": false, "strip_accents": true}"#), |case| &case.cased_without_accents),
            (with(r#"{"do_lower_case": true, "tokenize_chinese_chars": false}"#), |case| &case.chinese_in_words),
        ];
        for (which, (tokenizer, ids)) in configured.iter().enumerate() {
            for case in &cases {
                assert_eq!(&tokenizer.encode(&case.text).unwrap(), ids(case), "{:?}, {which}", case.text);
            }
        }
    }

    #[test]
    fn broken_tokenizers_are_refused() {
        let open = |files: &[(&str, &str)]| {
            let files = files.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec())).collect();
            Tokenizer::from_files(Path::new("folder"), files).unwrap_err()
        };
        for (files, words) in [
            (&[][..], "no tokenizer.json and no vocab.txt"),
            (&[(TOKENIZER_FILE, "{")][..], "tokenizer.json"),
            (&[(TOKENIZER_FILE, NAMES_NO_TOKEN)][..], "cannot work with"),
            (&[(VOCAB_FILE, "a\nb\n")][..], "[CLS]"),
            (&[(VOCAB_FILE, "")][..], "[CLS]"),
            (&[(VOCAB_FILE, "[CLS]\n"), (TOKENIZER_CONFIG_FILE, "nonsense")][..], "tokenizer_config.json"),
        ] {
            let error = open(files);
            assert!(matches!(error, Error::BadTokenizer { .. }), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(matches!(tokenizer().check_vocabulary(10).unwrap_err(), Error::BadTokenizer { .. }));
    }
}
