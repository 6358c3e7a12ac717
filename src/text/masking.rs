//! BERT's masking.

use super::random::{Purpose, Stream};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// A masked example: its ids, and (index, label) of the tokens that were chosen.
pub(crate) type Masked = (Vec<u32>, Vec<(u32, u32)>);

/// How examples are masked.
#[derive(Clone, Debug)]
pub(crate) struct Masking {
    /// The share of tokens (or words) that are chosen.
    pub(crate) probability: f64,
    /// Of the chosen, how many become the mask token.
    pub(crate) mask_replace_prob: f64,
    /// Of the chosen, how many become a random token; the rest stay.
    pub(crate) random_replace_prob: f64,
    /// Words are chosen whole, not token by token.
    pub(crate) whole_word_mask: bool,
    pub(crate) seed: u64,
    pub(crate) purpose: Purpose,
}

impl Masking {
    /// Refuses options out of range, and what this tokenizer cannot do.
    pub(crate) fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        tokenizer.require_mask_token()?;
        let Self { probability, mask_replace_prob, random_replace_prob, .. } = *self;
        if !(probability > 0.0 && probability <= 1.0) {
            let reason = format!("mlm_probability is {probability}; it must be above 0, and 1 at most");
            return Err(Error::InvalidArgument(reason));
        }
        let (mask, random) = (mask_replace_prob, random_replace_prob);
        if !(mask >= 0.0 && random >= 0.0 && mask + random <= 1.0 + 1e-9) {
            let reason = format!(
                "mask_replace_prob is {mask} and random_replace_prob {random}; they may be 0 or more, and 1 together at most"
            );
            return Err(Error::InvalidArgument(reason));
        }
        if self.whole_word_mask && tokenizer.continuations().is_none() {
            let reason = "whole_word_mask needs a tokenizer whose tokens say where words begin (WordPiece's ##, \
                          SentencePiece's \u{2581} or byte-level BPE's \u{120}); this one's do not";
            return Err(Error::InvalidArgument(reason.into()));
        }
        Ok(())
    }

    /// Masks one example: each token that is not special is chosen with `probability`; of the chosen, by default 80 % become
    /// the mask token, 10 % a random one, 10 % stay (Devlin et al., arXiv 1810.04805, appendix A.1; transformers'
    /// DataCollatorForLanguageModeling). With whole words, a word's first token decides for all of its tokens.
    pub(crate) fn apply(&self, tokenizer: &Tokenizer, ids: &[u32], epoch: u64, example: usize) -> Masked {
        let mut random = Stream::new(self.purpose, self.seed, epoch, example as u64);
        let continuations = if self.whole_word_mask { tokenizer.continuations() } else { None };
        let mask_token_id = tokenizer.mask_token_id();
        let mut masked = ids.to_vec();
        let mut labels = Vec::new();
        // Whether the last token was a word's, and that word chosen.
        let (mut in_word, mut word_chosen) = (false, false);
        for (index, id) in masked.iter_mut().enumerate() {
            // Drawn for every token, so that one token's fate does not shift the next one's.
            let (chosen, replaced, other) =
                (random.uniform(), random.uniform(), random.below(tokenizer.vocab_size()) as u32);
            if tokenizer.is_special(*id) {
                in_word = false;
                continue;
            }
            let continues = in_word && continuations.is_some_and(|of| of.get(*id as usize) == Some(&true));
            if !continues {
                word_chosen = chosen < self.probability;
            }
            in_word = true;
            if !word_chosen {
                continue;
            }
            labels.push((index as u32, *id));
            if replaced < self.mask_replace_prob {
                *id = mask_token_id.unwrap_or(*id);
            } else if replaced < self.mask_replace_prob + self.random_replace_prob {
                *id = other;
            }
        }
        (masked, labels)
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Purpose;
    use super::*;
    use crate::text::tokenizer::tests::tokenizer;

    fn masking(probability: f64, seed: u64) -> Masking {
        let (mask_replace_prob, random_replace_prob) = (0.8, 0.1);
        let (whole_word_mask, purpose) = (false, Purpose::Train);
        Masking { probability, mask_replace_prob, random_replace_prob, whole_word_mask, seed, purpose }
    }

    #[test]
    fn whole_words_are_chosen_whole() {
        let tokenizer = tokenizer();
        let continues = tokenizer.continuations().unwrap();
        let text = "unbelievable rain again and again in the raining cityscapes of nowhere";
        let ids = tokenizer.encode(text).unwrap();
        assert!(ids.iter().any(|&id| continues[id as usize]), "the text has words of several pieces");
        let masking =
            Masking { whole_word_mask: true, mask_replace_prob: 1.0, random_replace_prob: 0.0, ..masking(0.3, 4) };
        masking.check(&tokenizer).unwrap();
        let (mut chosen, mut words) = (0usize, 0usize);
        for example in 0..2000 {
            let (masked, labels) = masking.apply(&tokenizer, &ids, 0, example);
            let rows: Vec<usize> = labels.iter().map(|(row, _)| *row as usize).collect();
            for at in 1..ids.len() - 1 {
                let here = rows.contains(&at);
                assert_eq!(masked[at] == tokenizer.mask_token_id().unwrap(), here);
                if continues[ids[at] as usize] {
                    assert_eq!(here, rows.contains(&(at - 1)), "a word is masked whole or not at all");
                } else {
                    words += 1;
                    chosen += usize::from(here);
                }
            }
        }
        let share = chosen as f64 / words as f64;
        assert!((share - 0.3).abs() < 0.01, "{share}");
    }

    #[test]
    fn options_out_of_range_and_tokenizers_without_words_are_refused() {
        let tokenizer = tokenizer();
        for bad in [
            Masking { probability: 0.0, ..masking(0.1, 1) },
            Masking { probability: f64::NAN, ..masking(0.1, 1) },
            Masking { mask_replace_prob: 0.95, ..masking(0.1, 1) },
            Masking { random_replace_prob: -0.1, ..masking(0.1, 1) },
        ] {
            assert!(matches!(bad.check(&tokenizer), Err(Error::InvalidArgument(_))), "{bad:?}");
        }
        let unigram =
            br#"{"model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "[MASK]": 1, "a": 2}, "unk_token": "[UNK]"}}"#;
        let files = vec![("tokenizer.json".to_owned(), unigram.to_vec())];
        let plain = Tokenizer::from_files(std::path::Path::new("x"), files).unwrap();
        let whole = Masking { whole_word_mask: true, ..masking(0.1, 1) };
        assert!(whole.check(&plain).unwrap_err().to_string().contains("whole_word_mask"));
        masking(0.1, 1).check(&plain).unwrap();
    }

    #[test]
    fn the_shares_are_80_10_10_of_the_probability() {
        let tokenizer = tokenizer();
        let mask = tokenizer.mask_token_id().unwrap();
        let masking = masking(0.15, 5);
        let word = tokenizer.encode("the").unwrap()[1];
        let mut ids = vec![word; 100_000];
        ids[0] = tokenizer.encode("the").unwrap()[0];
        let (masked, labels) = masking.apply(&tokenizer, &ids, 0, 0);
        assert!(labels.iter().all(|&(row, label)| row > 0 && label == word), "specials are never chosen");
        let share = |n: usize| n as f64 / labels.len() as f64;
        let count = |f: &dyn Fn(u32) -> bool| labels.iter().filter(|(row, _)| f(masked[*row as usize])).count();
        assert!((labels.len() as f64 / 1e5 - 0.15).abs() < 0.005, "{}", labels.len());
        assert!((share(count(&|id| id == mask)) - 0.8).abs() < 0.015);
        assert!((share(count(&|id| id == word)) - 0.1).abs() < 0.015);
        // The rest are any tokens, special ones among them as in transformers, and all about as often.
        let mut seen = vec![0; tokenizer.vocab_size()];
        let replaced = labels.iter().map(|(row, _)| masked[*row as usize]).filter(|&id| id != mask && id != word);
        replaced.for_each(|id| seen[id as usize] += 1);
        let others = seen.iter().enumerate().filter(|(id, _)| ![mask, word].contains(&(*id as u32)));
        let expected = 0.1 * labels.len() as f64 / tokenizer.vocab_size() as f64;
        for (id, &count) in others {
            let far = (f64::from(count) - expected).abs();
            assert!(far < 6.0 * expected.sqrt(), "{id} came {count} times, and should about {expected:.0}");
        }
        let chosen: Vec<u32> = labels.iter().map(|(row, _)| *row).collect();
        let unchosen = (0..ids.len() as u32).filter(|row| chosen.binary_search(row).is_err());
        assert!(unchosen.into_iter().all(|row| masked[row as usize] == ids[row as usize]));
    }

    #[test]
    fn masks_are_a_function_of_seed_epoch_and_example() {
        let tokenizer = tokenizer();
        let masking = masking(0.5, 1);
        let ids = vec![tokenizer.encode("the").unwrap()[1]; 64];
        let first = masking.apply(&tokenizer, &ids, 3, 9);
        assert_eq!(first, masking.apply(&tokenizer, &ids, 3, 9));
        assert_ne!(first, masking.apply(&tokenizer, &ids, 4, 9));
        assert_ne!(first, masking.apply(&tokenizer, &ids, 3, 8));
        assert_ne!(first, Masking { seed: 2, ..masking.clone() }.apply(&tokenizer, &ids, 3, 9));
        assert_ne!(first, Masking { purpose: Purpose::Evaluate, ..masking }.apply(&tokenizer, &ids, 3, 9));
    }
}
