//! Every random choice about the data: a function of (purpose, seed, epoch, example).
//!
//! So masks do not depend on how batches are cut or on what was drawn before, and a run can be continued anywhere.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a random stream is for; streams of different purposes are independent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Masks of training examples.
    Train = 1,
    /// Masks of held-out examples: the same whatever is trained.
    Evaluate = 2,
    /// The order of examples in an epoch.
    Shuffle = 3,
    /// Masks that are stored with the examples.
    #[cfg_attr(not(feature = "prepare"), allow(dead_code, reason = "written by `prepare` alone"))]
    Static = 4,
    /// Which songs are held out.
    #[cfg_attr(not(feature = "prepare"), allow(dead_code, reason = "drawn by `prepare` alone"))]
    Split = 5,
    /// The order of batches in an epoch, where they are of examples of about one length.
    Batches = 6,
    /// What dropout drops of an example.
    Dropout = 7,
    /// Which words two models are compared on.
    Blanks = 8,
    /// Which of them are shown.
    Showcases = 9,
    /// What confidence intervals resample.
    Bootstrap = 10,
    /// Which sections of songs are trained on together.
    Triplets = 11,
    /// The same of held-out songs.
    HeldOutTriplets = 12,
}

/// Random numbers of one purpose.
pub(crate) struct Stream(ChaCha8Rng);

impl Stream {
    pub(crate) fn new(purpose: Purpose, seed: u64, epoch: u64, example: u64) -> Self {
        let mut key = [0; 32];
        for (part, value) in key.chunks_exact_mut(8).zip([purpose as u64, seed, epoch, example]) {
            part.copy_from_slice(&value.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// In [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In 0..n, without bias worth speaking of: n is far below 2^64.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.number()) * n as u128) >> 64) as usize
    }
}

/// 0..len in the order of this epoch.
pub(crate) fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    shuffle(&mut order, Purpose::Shuffle, seed, epoch);
    order
}

/// Fisher and Yates' shuffle.
pub(crate) fn shuffle<T>(values: &mut [T], purpose: Purpose, seed: u64, epoch: u64) {
    let mut random = Stream::new(purpose, seed, epoch, 0);
    for i in (1..values.len()).rev() {
        values.swap(i, random.below(i + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
