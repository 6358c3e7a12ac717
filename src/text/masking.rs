//! BERT's masking, and every other random choice of the data: each a function of (seed, epoch, example).
//!
//! So masks do not depend on how batches are cut or on what was drawn before, and a run can be continued anywhere.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::tokenizer::Tokenizer;

/// What a random stream is for; streams of different purposes are independent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Masks of training examples.
    Train = 1,
    /// Masks of held-out examples: the same whatever is trained.
    Evaluate = 2,
    /// The order of examples in an epoch.
    Shuffle = 3,
}

fn stream(purpose: Purpose, seed: u64, epoch: u64, example: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([purpose as u64, seed, epoch, example]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// In [0, 1).
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// In 0..n, without bias worth speaking of: n is far below 2^64.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// 0..len in the order of this epoch (Fisher and Yates).
pub(crate) fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = stream(Purpose::Shuffle, seed, epoch, 0);
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, below(&mut rng, i + 1));
    }
    order
}

/// How examples are masked.
#[derive(Clone, Debug)]
pub(crate) struct Masking {
    pub(crate) probability: f64,
    pub(crate) mask_token_id: u32,
    pub(crate) vocab_size: usize,
    pub(crate) seed: u64,
    pub(crate) purpose: Purpose,
}

impl Masking {
    /// Masks one example: each token that is not special is chosen with `probability`; of the chosen, 80 % become the mask
    /// token, 10 % a random one, 10 % stay (Devlin et al., arXiv 1810.04805, appendix A.1; transformers'
    /// DataCollatorForLanguageModeling). Returns the ids, and (index, label) of the chosen.
    pub(crate) fn apply(
        &self,
        tokenizer: &Tokenizer,
        ids: &[u32],
        epoch: u64,
        example: usize,
    ) -> (Vec<u32>, Vec<(u32, u32)>) {
        let mut rng = stream(self.purpose, self.seed, epoch, example as u64);
        let mut masked = ids.to_vec();
        let mut labels = Vec::new();
        for (index, id) in masked.iter_mut().enumerate() {
            // Drawn for every token, so that one token's fate does not shift the next one's.
            let (chosen, replaced, random) =
                (uniform(&mut rng), uniform(&mut rng), below(&mut rng, self.vocab_size) as u32);
            if tokenizer.is_special(*id) || chosen >= self.probability {
                continue;
            }
            labels.push((index as u32, *id));
            if replaced < 0.8 {
                *id = self.mask_token_id;
            } else if replaced < 0.9 {
                *id = random;
            }
        }
        (masked, labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::tokenizer;

    #[test]
    fn the_shares_are_80_10_10_of_the_probability() {
        let tokenizer = tokenizer();
        let (mask, vocab_size) = (tokenizer.mask_token_id().unwrap(), tokenizer.vocab_size());
        let masking = Masking { probability: 0.15, mask_token_id: mask, vocab_size, seed: 5, purpose: Purpose::Train };
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
        let chosen: Vec<u32> = labels.iter().map(|(row, _)| *row).collect();
        let unchosen = (0..ids.len() as u32).filter(|row| chosen.binary_search(row).is_err());
        assert!(unchosen.into_iter().all(|row| masked[row as usize] == ids[row as usize]));
    }

    #[test]
    fn masks_are_a_function_of_seed_epoch_and_example() {
        let tokenizer = tokenizer();
        let masking = Masking { probability: 0.5, mask_token_id: 6, vocab_size: 100, seed: 1, purpose: Purpose::Train };
        let ids = vec![tokenizer.encode("the").unwrap()[1]; 64];
        let first = masking.apply(&tokenizer, &ids, 3, 9);
        assert_eq!(first, masking.apply(&tokenizer, &ids, 3, 9));
        assert_ne!(first, masking.apply(&tokenizer, &ids, 4, 9));
        assert_ne!(first, masking.apply(&tokenizer, &ids, 3, 8));
        assert_ne!(first, Masking { seed: 2, ..masking.clone() }.apply(&tokenizer, &ids, 3, 9));
        assert_ne!(first, Masking { purpose: Purpose::Evaluate, ..masking }.apply(&tokenizer, &ids, 3, 9));
    }

    #[test]
    fn an_epoch_is_a_permutation() {
        let order = shuffled(1000, 7, 2);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_ne!(order, sorted);
        assert_ne!(order, shuffled(1000, 7, 3));
        assert!(shuffled(0, 1, 1).is_empty());
    }
}
