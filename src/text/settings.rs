//! What stands beside a vocabulary: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`. Read as
//! transformers' BertTokenizer reads them.

use std::path::Path;

use serde_json::Value;
use tokenizers::ModelWrapper;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::tokenizer::{ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE};
use crate::error::{Error, Result};

/// BERT's special tokens, in the order a new vocabulary has them.
pub(super) const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The options of a tokenizer.
pub(super) struct Settings {
    config: Value,
    /// Padding, unknown, classifier, separator and mask token.
    pub(super) names: [String; 5],
    /// Tokens beside the vocabulary, or special ones within it, with the ids they must have where those are given.
    added: Vec<(AddedToken, Option<u64>)>,
    pub(super) clean_up_tokenization_spaces: bool,
}

impl Settings {
    pub(super) fn read(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<Self> {
        let json = |name: &str| match files.iter().find(|(file, _)| file == name) {
            None => Ok(Value::Null),
            Some((_, bytes)) => serde_json::from_slice(bytes)
                .map_err(|error| Error::tokenizer(folder.join(name), format!("not JSON: {error}"))),
        };
        let (config, special_tokens) = (json(TOKENIZER_CONFIG_FILE)?, json(SPECIAL_TOKENS_FILE)?);
        let sources = [&config, &special_tokens];
        let keys = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"];
        let mut names = SPECIAL_TOKENS.map(str::to_owned);
        for (name, key) in names.iter_mut().zip(keys) {
            if let Some(found) = sources.iter().find_map(|source| content(&source[key])) {
                *name = found.to_owned();
            }
        }
        let mut added = Vec::new();
        if let Value::Object(tokens) = json(ADDED_TOKENS_FILE)? {
            added.extend(tokens.iter().map(|(token, id)| (AddedToken::from(token.clone(), false), id.as_u64())));
        }
        if let Some(tokens) = config["added_tokens_decoder"].as_object() {
            let decoded = tokens.iter().filter_map(|(id, token)| Some((added_token(token, false)?, id.parse().ok())));
            added.extend(decoded);
        }
        for source in sources {
            for key in ["additional_special_tokens", "extra_special_tokens"] {
                let tokens = source[key].as_array().into_iter().flatten();
                let tokens = tokens.chain(source[key].as_object().into_iter().flat_map(|named| named.values()));
                added.extend(tokens.filter_map(|token| Some((added_token(token, true)?, None))));
            }
        }
        // Ids are handed out in order, so the tokens have to come in the order of theirs.
        added.sort_by_key(|(_, id)| id.unwrap_or(u64::MAX));
        let clean_up_tokenization_spaces = config["clean_up_tokenization_spaces"].as_bool().unwrap_or(false);
        Ok(Self { config, names, added, clean_up_tokenization_spaces })
    }

    /// The side at which texts are cut, where it is said.
    pub(super) fn truncation_side(&self) -> Option<&str> {
        self.config["truncation_side"].as_str()
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.config[name].as_bool().unwrap_or(default)
    }

    fn normalizer(&self, clean_text: bool) -> BertNormalizer {
        BertNormalizer::new(
            clean_text,
            self.flag("tokenize_chinese_chars", true),
            self.config["strip_accents"].as_bool(),
            self.flag("do_lower_case", true),
        )
    }

    /// From `tokenizer.json`. Where transformers would make a BertTokenizer of it, which it does unless the config names
    /// another class, the config's lower-casing goes before the file's, and a file that puts nothing around a text has \[CLS\] and \[SEP\]
    /// put there, as transformers 5 does.
    pub(super) fn open_json(&self, bytes: &[u8], path: &Path) -> Result<Inner> {
        let bad = |error: tokenizers::Error| Error::tokenizer(path, error.to_string());
        let mut inner = Inner::from_bytes(bytes).map_err(bad)?;
        let class = self.config["tokenizer_class"].as_str().unwrap_or("BertTokenizer");
        // Those that are BERT's under another name, for one.
        let alike = ["Bert", "DistilBert", "Electra", "MPNet"].contains(&kind(class));
        if let (Some(NormalizerWrapper::BertNormalizer(found)), true) = (inner.get_normalizer(), alike) {
            let normalizer = self.normalizer(found.clean_text);
            inner.with_normalizer(Some(normalizer)).map_err(bad)?;
        }
        // What was added beside the file. A stale list is no reason not to open what is whole in itself; and a token that has no id may have
        // no row in the model.
        let own: Vec<String> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        for (token, id) in self.added.iter().filter(|(token, id)| id.is_some() && !own.contains(&token.content)) {
            let next = inner.get_vocab_size(true) as u64;
            let place = inner.token_to_id(&token.content).map_or(next, u64::from);
            if token.content.is_empty() || *id != Some(place) {
                let (token, id) = (&token.content, id.unwrap_or_default());
                log::warn!("{}: the added token '{token}' is left out: its id is {id}, not {place}", path.display());
                continue;
            }
            add(&mut inner, token).map_err(bad)?;
        }
        // What the config names is never split and never masked, whether the file marks it or not.
        let named = self.names.iter().map(|name| AddedToken::from(name, true));
        let added = self.added.iter().map(|(token, _)| token.clone()).filter(|token| token.special);
        let marked = inner.get_added_tokens_decoder();
        let is_marked = |id: u32| marked.get(&id).is_some_and(|token| token.special);
        let unmarked =
            named.chain(added).filter(|token| inner.token_to_id(&token.content).is_some_and(|id| !is_marked(id)));
        let unmarked: Vec<_> = unmarked.collect();
        inner.add_special_tokens(unmarked).map_err(bad)?;
        let [_, _, cls_token, sep_token, _] = &self.names;
        if let (None, ModelWrapper::WordPiece(_), "BertTokenizer" | "BertTokenizerFast", Some(cls), Some(sep)) = (
            inner.get_post_processor(),
            inner.get_model(),
            class,
            inner.token_to_id(cls_token),
            inner.token_to_id(sep_token),
        ) {
            inner.with_post_processor(Some(BertProcessing::new((sep_token.clone(), sep), (cls_token.clone(), cls))));
        }
        Ok(inner)
    }

    /// From the oldest form: one token a line, and options.
    pub(super) fn open_vocabulary(&self, vocabulary: &[u8], path: &Path) -> Result<Inner> {
        let bad = |reason: String| Error::tokenizer(path, reason);
        let failed = |error: tokenizers::Error| bad(error.to_string());
        if let Some(class) = self.config["tokenizer_class"].as_str().filter(|class| !reads_as_bert(class)) {
            return Err(bad(format!("a vocabulary of a {class}, which splits text in another way than BERT")));
        }
        let [_, unk_token, cls_token, sep_token, _] = &self.names;
        let vocabulary = WordPiece::read_bytes(vocabulary).map_err(|error| bad(error.to_string()))?;
        let id = |token: &String| {
            vocabulary.get(token).copied().ok_or_else(|| bad(format!("{token} is not in the vocabulary")))
        };
        let (cls, sep) = ((cls_token.clone(), id(cls_token)?), (sep_token.clone(), id(sep_token)?));
        id(unk_token)?;
        let names = self.names.iter().filter(|name| vocabulary.contains_key(*name));
        let special: Vec<AddedToken> = names.map(|name| AddedToken::from(name, true)).collect();
        let model = WordPiece::builder().vocab(vocabulary).unk_token(unk_token.clone()).build().map_err(failed)?;
        let mut inner = Inner::new(model);
        inner.with_normalizer(Some(self.normalizer(true))).map_err(failed)?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        inner.with_post_processor(Some(BertProcessing::new(sep, cls)));
        inner.with_decoder(Some(WordPieceDecoder::new("##".into(), true)));
        inner.add_special_tokens(special).map_err(failed)?;
        for (token, id) in &self.added {
            add(&mut inner, token).map_err(failed)?;
            let got = inner.token_to_id(&token.content).map(u64::from);
            if id.is_some() && got != *id {
                let (token, id) = (&token.content, id.unwrap_or_default());
                return Err(bad(format!("the added token '{token}' should have id {id}, but {got:?} is next")));
            }
        }
        Ok(inner)
    }
}

/// Adds a token as what it is.
fn add(inner: &mut Inner, token: &AddedToken) -> std::result::Result<(), tokenizers::Error> {
    let token_alone = [token.clone()];
    if token.special { inner.add_special_tokens(token_alone) } else { inner.add_tokens(token_alone) }.map(|_| ())
}

/// A class of transformers' tokenizers without what all of their names end with.
fn kind(class: &str) -> &str {
    class.trim_end_matches("Fast").trim_end_matches("Tokenizer")
}

/// Whether a tokenizer of transformers splits text as BERT's does, given a list of tokens. Its Japanese one, say, does not.
fn reads_as_bert(class: &str) -> bool {
    let name = kind(class);
    let alike = [
        "Bert",
        "DistilBert",
        "Electra",
        "MobileBert",
        "ConvBert",
        "SqueezeBert",
        "RetriBert",
        "LayoutLM",
        "Lxmert",
        "MPNet",
    ];
    // The last two are of any kind, and say nothing.
    alike.contains(&name)
        || name.starts_with("DPR")
        || ["PreTrainedTokenizerFast", "TokenizersBackend"].contains(&class)
}

/// A token is a string, or an object with its content.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

fn added_token(token: &Value, special: bool) -> Option<AddedToken> {
    let special = token["special"].as_bool().unwrap_or(special);
    let flag = |name: &str, default: bool| token[name].as_bool().unwrap_or(default);
    let added = AddedToken::from(content(token)?, special)
        .single_word(flag("single_word", false))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .normalized(flag("normalized", !special));
    Some(added)
}

/// transformers' `clean_up_tokenization`: the spaces that English does without.
pub(super) fn clean_up_tokenization(text: String) -> String {
    const SPACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    SPACED.iter().fold(text, |text, (spaced, joined)| text.replace(spaced, joined))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;
    use crate::text::tokenizer::tests::folder;

    /// The fixture's vocabulary with other files beside it.
    fn with(files: &[(&str, &str)]) -> Result<Tokenizer> {
        let vocabulary = std::fs::read(folder().join("vocab.txt")).unwrap();
        let files = files.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
        Tokenizer::from_files(Path::new("folder"), files.chain([("vocab.txt".to_owned(), vocabulary)]).collect())
    }

    #[test]
    fn spaces_are_cleaned_up_where_the_config_says_so() {
        let decoded = |config: &str| {
            let tokenizer = with(&[(TOKENIZER_CONFIG_FILE, config)]).unwrap();
            tokenizer.decode(&tokenizer.encode("it isn't the end, is it?").unwrap(), true).unwrap()
        };
        assert!(decoded(r#"{"clean_up_tokenization_spaces": true}"#).contains("isn't"));
        assert!(decoded("{}").contains("isn ' t"));
    }

    /// As beside a vocabulary; but a file says most of it itself, and a token that has no id is not known to have a row in the model.
    #[test]
    fn added_tokens_are_applied_to_a_tokenizer_json() {
        let vocabulary = std::fs::read(folder().join("vocab.txt")).unwrap();
        let settings = Settings::read(Path::new(""), with(&[]).unwrap().files()).unwrap();
        let json = settings.open_vocabulary(&vocabulary, Path::new("")).unwrap().to_string(false).unwrap();
        let open = |name: &str, text: &str| {
            let files = [("tokenizer.json", json.as_str()), (name, text)];
            let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
            Tokenizer::from_files(Path::new(""), files.to_vec())
        };
        let next = open("none", "").unwrap().vocab_size();
        let decoder = format!(r#"{{"added_tokens_decoder": {{"{next}": {{"content": "frobnicate"}}}}}}"#);
        for (name, text) in
            [(ADDED_TOKENS_FILE, format!(r#"{{"frobnicate": {next}}}"#)), (TOKENIZER_CONFIG_FILE, decoder)]
        {
            let tokenizer = open(name, &text).unwrap();
            assert_eq!(tokenizer.encode("the frobnicate").unwrap()[2] as usize, next);
            assert!(!tokenizer.is_special(next as u32));
        }
        // A list that does not fit is left out, and a token that two files list is what either makes it.
        for stale in [r#"{"frobnicate": 9999}"#, r#"{"": 9999}"#] {
            assert_eq!(open(ADDED_TOKENS_FILE, stale).unwrap().vocab_size(), next);
        }
        let list = format!(r#"{{"<x>": {next}}}"#);
        for config in [
            format!(r#"{{"added_tokens_decoder": {{"{next}": {{"content": "<x>", "special": true}}}}}}"#),
            r#"{"additional_special_tokens": ["<x>"]}"#.to_owned(),
        ] {
            let files =
                [("tokenizer.json", json.as_str()), (ADDED_TOKENS_FILE, &list), (TOKENIZER_CONFIG_FILE, &config)];
            let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
            let tokenizer = Tokenizer::from_files(Path::new(""), files.to_vec()).unwrap();
            assert!(tokenizer.is_special(next as u32) && tokenizer.vocab_size() == next + 1);
        }
        let unplaced = open(TOKENIZER_CONFIG_FILE, r#"{"additional_special_tokens": ["frobnicate"]}"#).unwrap();
        assert_eq!(unplaced.vocab_size(), next);
    }

    #[test]
    fn added_tokens_are_applied_to_a_vocabulary() {
        let plain = with(&[]).unwrap();
        let next = plain.vocab_size();
        let added = format!(r#"{{"frobnicate": {next}, "zzyzx": {}}}"#, next + 1);
        let decoder = format!(r#"{{"added_tokens_decoder": {{"{next}": {{"content": "frobnicate"}}}}}}"#);
        for files in [&[(ADDED_TOKENS_FILE, added.as_str())], &[(TOKENIZER_CONFIG_FILE, decoder.as_str())]] {
            let tokenizer = with(files).unwrap();
            assert_eq!(tokenizer.encode("the frobnicate").unwrap()[2] as usize, next);
            assert!(!tokenizer.is_special(next as u32));
        }
        let error = with(&[(ADDED_TOKENS_FILE, r#"{"frobnicate": 9999}"#)]).unwrap_err();
        assert!(error.to_string().contains("frobnicate"), "{error}");
    }

    /// transformers' Japanese one takes words of a dictionary before it looks for pieces.
    #[test]
    fn a_vocabulary_for_another_kind_of_tokenizer_is_refused() {
        for class in
            ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast", "DPRReaderTokenizer"]
        {
            with(&[(TOKENIZER_CONFIG_FILE, &format!(r#"{{"tokenizer_class": "{class}"}}"#))]).unwrap();
        }
        for class in ["BertJapaneseTokenizer", "BertweetTokenizer", "EsmTokenizer"] {
            let error = with(&[(TOKENIZER_CONFIG_FILE, &format!(r#"{{"tokenizer_class": "{class}"}}"#))]).unwrap_err();
            assert!(error.to_string().contains(class), "{error}");
        }
    }

    #[test]
    fn special_tokens_that_only_the_config_names_are_whole_and_never_masked() {
        let vocabulary = std::fs::read(folder().join("vocab.txt")).unwrap();
        let settings = Settings::read(Path::new(""), with(&[]).unwrap().files()).unwrap();
        let json = settings.open_vocabulary(&vocabulary, Path::new("")).unwrap().to_string(false).unwrap();
        let mut json: Value = serde_json::from_str(&json).unwrap();
        json["added_tokens"] = Value::Array(Vec::new());
        let config = r#"{"additional_special_tokens": ["[unused0]"]}"#;
        let files = [("tokenizer.json", json.to_string()), (TOKENIZER_CONFIG_FILE, config.to_owned())];
        let files = files.map(|(name, text)| (name.to_owned(), text.into_bytes()));
        let tokenizer = Tokenizer::from_files(Path::new(""), files.into()).unwrap();
        let [unused, mask] = ["[unused0]", "[MASK]"].map(|token| tokenizer.token_to_id(token).unwrap());
        assert_eq!(tokenizer.encode("[unused0] [MASK]").unwrap()[1..3], [unused, mask]);
        assert!(tokenizer.is_special(unused) && tokenizer.is_special(mask));
        assert_eq!(tokenizer.vocab_size(), with(&[]).unwrap().vocab_size());
    }

    #[test]
    fn cls_and_sep_are_put_around_where_the_file_puts_nothing() {
        let whole = with(&[]).unwrap();
        let vocabulary = std::fs::read(folder().join("vocab.txt")).unwrap();
        let settings = Settings::read(Path::new(""), whole.files()).unwrap();
        let mut bare = settings.open_vocabulary(&vocabulary, Path::new("")).unwrap();
        bare.with_post_processor(None::<BertProcessing>);
        let json = bare.to_string(false).unwrap();
        let encoded = |config: &str| {
            let files = [("tokenizer.json", json.as_str()), (TOKENIZER_CONFIG_FILE, config)];
            let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
            Tokenizer::from_files(Path::new(""), files.into()).unwrap().encode("the").unwrap()
        };
        assert_eq!(encoded("{}"), whole.encode("the").unwrap());
        assert_eq!(encoded(r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#), whole.encode_body("the").unwrap());
    }

    #[test]
    fn additional_special_tokens_are_whole_and_never_masked() {
        let unused = with(&[]).unwrap().token_to_id("[unused0]").unwrap();
        for (name, text) in [
            (TOKENIZER_CONFIG_FILE, r#"{"additional_special_tokens": ["[unused0]"]}"#),
            (SPECIAL_TOKENS_FILE, r#"{"additional_special_tokens": [{"content": "[unused0]"}]}"#),
            (TOKENIZER_CONFIG_FILE, r#"{"extra_special_tokens": ["[unused0]"]}"#),
        ] {
            let tokenizer = with(&[(name, text)]).unwrap();
            assert_eq!(tokenizer.encode("[unused0] the").unwrap()[1], unused);
            assert!(tokenizer.is_special(unused));
        }
    }

    /// transformers' BertTokenizer lower-cases as its config says, whatever `tokenizer.json` says.
    #[test]
    fn the_config_decides_on_lower_casing() {
        let cased = with(&[(TOKENIZER_CONFIG_FILE, r#"{"do_lower_case": false}"#)]).unwrap();
        let vocabulary = std::fs::read(folder().join("vocab.txt")).unwrap();
        let settings = Settings::read(Path::new(""), cased.files()).unwrap();
        let json = settings.open_vocabulary(&vocabulary, Path::new("")).unwrap().to_string(false).unwrap();
        let open_json = |config: &str| {
            let files = [("tokenizer.json", json.as_str()), (TOKENIZER_CONFIG_FILE, config)];
            let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
            Tokenizer::from_files(Path::new(""), files.into()).unwrap().encode("THE").unwrap()
        };
        let lower = with(&[]).unwrap().encode("the").unwrap();
        assert_ne!(cased.encode("THE").unwrap(), lower);
        assert_eq!(open_json("{}"), lower);
        assert_eq!(open_json(r#"{"do_lower_case": false}"#), cased.encode("THE").unwrap());
        assert_eq!(open_json(r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#), cased.encode("THE").unwrap());
    }
}
