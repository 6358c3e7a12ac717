//! The words that are taken out.

use super::CompareOptions;
use crate::text::{Dataset, Purpose, Tokenizer, random};

/// A word that is taken out.
pub(super) struct Blank {
    pub(super) example: usize,
    /// Its place in the example.
    pub(super) at: usize,
    pub(super) gold: u32,
}

/// What English words end in behind an apostrophe; and what is less than a word there, beside words of their own: rock 'n' roll, give 'em.
const ENDINGS: [&str; 7] = ["d", "ll", "m", "re", "s", "t", "ve"];
const PIECES: [&str; 2] = ["em", "n"];

/// Whether a token stands for what the vocabulary does not know.
pub(super) fn is_unknown(token: &str) -> bool {
    matches!(token, "[UNK]" | "<unk>")
}

/// The tokens of an example, as words.
struct Words<'t> {
    tokenizer: &'t Tokenizer,
    ids: &'t [u32],
}

impl Words<'_> {
    fn token(&self, at: usize) -> Option<String> {
        self.ids.get(at).filter(|&&id| !self.tokenizer.is_special(id)).and_then(|&id| self.tokenizer.id_to_token(id))
    }

    /// Punctuation is not what a songwriter asks for.
    fn is_word(&self, at: usize) -> bool {
        self.token(at).is_some_and(|token| token.chars().any(char::is_alphanumeric))
    }

    /// Whether a token goes on with the word before it. Without marks of word boundaries every token is a word, and the first of a line is.
    fn continues(&self, at: usize) -> bool {
        let marked = |id: u32| self.tokenizer.continuations().is_some_and(|of| of.get(id as usize) == Some(&true));
        at > 0 && self.is_word(at) && self.token(at - 1).is_some() && marked(self.ids[at])
    }

    /// Whether it stands behind an apostrophe, as one of these. BERT's tokens do not say whether there is a space. An apostrophe that the
    /// vocabulary does not know is one, too.
    fn is_behind_apostrophe(&self, at: usize, of: &[&str]) -> bool {
        let before = |at: usize| self.ids.get(at).and_then(|&id| self.tokenizer.id_to_token(id));
        let is_apostrophe = |token: String| matches!(&token[..], "'" | "\u{2019}") || is_unknown(&token);
        at > 0
            && self.token(at).is_some_and(|token| of.contains(&&token.to_lowercase()[..]))
            && before(at - 1).is_some_and(is_apostrophe)
    }

    /// Whether it is no word by itself.
    fn is_piece(&self, at: usize) -> bool {
        self.ends_contraction(at) || self.is_behind_apostrophe(at, &PIECES)
    }

    /// Whether it ends a contraction: `don't`, `we'll`.
    fn ends_contraction(&self, at: usize) -> bool {
        self.is_behind_apostrophe(at, &ENDINGS)
    }
}

/// The blanks in order, of how many they are, and the words passed over.
pub(super) fn blanks(tokenizer: &Tokenizer, data: &Dataset, options: &CompareOptions) -> (Vec<Blank>, usize, usize) {
    let (mut blanks, mut passed_over) = (Vec::new(), 0);
    for example in 0..data.len() {
        let words = Words { tokenizer, ids: data.get(example) };
        let mut random = random::Stream::new(Purpose::Blanks, options.seed, 0, example as u64);
        for (at, &gold) in words.ids.iter().enumerate() {
            let chosen = random.uniform() < options.mlm_probability;
            if !chosen || !words.is_word(at) || words.continues(at) || words.is_piece(at) {
                continue;
            }
            match words.continues(at + 1) || words.ends_contraction(at + 2) {
                true => passed_over += 1,
                false => blanks.push(Blank { example, at, gold }),
            }
        }
    }
    let drawn_from = blanks.len();
    if blanks.len() > options.max_blanks {
        let mut order = random::shuffled(blanks.len(), options.seed, 0);
        order.truncate(options.max_blanks);
        order.sort_unstable();
        let mut kept = order.into_iter().peekable();
        let mut index = 0;
        blanks.retain(|_| {
            let keep = kept.next_if_eq(&index).is_some();
            index += 1;
            keep
        });
    }
    (blanks, drawn_from, passed_over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_a_word_of_its_own() {
        let tokenizer = Tokenizer::open("models/retto-tiny").unwrap();
        let asked = |text: &str| {
            let data = Dataset::from_lines(&tokenizer, &[text], 64).unwrap();
            let options = CompareOptions { mlm_probability: 1.0, ..Default::default() };
            let (blanks, drawn_from, passed_over) = blanks(&tokenizer, &data, &options);
            assert_eq!(blanks.len(), drawn_from);
            let words: Vec<_> = blanks.iter().map(|blank| tokenizer.id_to_token(blank.gold).unwrap()).collect();
            (words.join(" "), passed_over)
        };
        assert_eq!(asked("the rain, and you!"), ("the rain and you".into(), 0));
        // Pieces of one word say each other.
        assert_eq!(asked("i don't know, we'll see what you've done"), ("i know see what done".into(), 3));
        assert_eq!(asked("she said 'hello' to me"), ("she said hello to me".into(), 0));
        assert_eq!(asked("'t was the night"), ("was the night".into(), 0));
        assert_eq!(asked("rock 'n' roll, give 'em hell").0, "rock roll give hell");
        // As the bundled model's tokenizer reads it.
        assert_eq!(asked("i don\u{2019}t know\u{2026}"), asked("i don't know..."));
        // Words of several tokens.
        assert_eq!(asked("the lipstickstains on you").1, 1);
    }

    /// Whose first token of a line has no mark of a word's beginning, and whose commas have none of one that goes on.
    #[test]
    fn words_of_other_tokenizers_begin_lines_and_end_at_commas() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "\u{120}sea", ",", "\u{120}and", "we", "ep"];
        let vocabulary: serde_json::Map<_, _> =
            vocabulary.iter().enumerate().map(|(id, token)| ((*token).into(), id.into())).collect();
        let special = |id: u32, content: &str| {
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [special(0, "[UNK]"), special(1, "[CLS]"), special(2, "[SEP]"), special(3, "[MASK]")],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "[UNK]"},
        });
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let continues = tokenizer.continuations().expect("marks").to_vec();
        assert!(continues[4] && !continues[5]);
        let words = |ids: &[u32]| {
            let words = Words { tokenizer: &tokenizer, ids };
            (0..ids.len()).filter(|&at| words.is_word(at) && !words.continues(at)).collect::<Vec<_>>()
        };
        // the sea, and weep
        assert_eq!(words(&[1, 4, 5, 6, 7, 2]), [1, 2, 4]);
        assert_eq!(words(&[1, 5, 9, 6, 2]), [1]);
    }
}
