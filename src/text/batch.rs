//! Sequences of different lengths as one, without padding.

/// A batch: its tokens one after another, and where each sequence begins.
///
/// Attention stays within a sequence, so there is no attention mask and nothing is computed for padding. Hugging Face's
/// padded batch with its mask gives the same numbers.
///
/// ```
/// let mut batch = retto::PackedBatch::default();
/// batch.push(&[2, 7, 8, 3]);
/// batch.push(&[2, 9, 3]);
/// assert_eq!(batch.cu_seqlens, [0, 4, 7]);
/// assert_eq!(batch.position_ids, [0, 1, 2, 3, 0, 1, 2]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBatch {
    /// \[tokens\]: ids of the vocabulary.
    pub input_ids: Vec<u32>,
    /// \[tokens\]: from 0 in each sequence.
    pub position_ids: Vec<u32>,
    /// \[tokens\]: 0, or 1 for the second text of a pair.
    pub token_type_ids: Vec<u32>,
    /// \[sequences + 1\]: where each sequence begins, and the number of tokens.
    pub cu_seqlens: Vec<u32>,
    /// Tokens the head is asked about: indices into `input_ids`, ascending, each once.
    pub masked_rows: Vec<u32>,
    /// \[masked rows\]: the ids that belong there; empty for a query.
    pub labels: Vec<u32>,
    /// \[sequences\]: a random number for each, which decides what dropout drops of it in training. Where there are fewer,
    /// a sequence's index is taken.
    pub dropout_seeds: Vec<u64>,
}

impl Default for PackedBatch {
    fn default() -> Self {
        Self {
            input_ids: Vec::new(),
            position_ids: Vec::new(),
            token_type_ids: Vec::new(),
            cu_seqlens: vec![0],
            masked_rows: Vec::new(),
            labels: Vec::new(),
            dropout_seeds: Vec::new(),
        }
    }
}

impl PackedBatch {
    /// Appends a sequence of token type 0. Nothing is asked about it yet.
    pub fn push(&mut self, input_ids: &[u32]) {
        self.input_ids.extend(input_ids);
        self.position_ids.extend(0..input_ids.len() as u32);
        self.token_type_ids.extend(std::iter::repeat_n(0, input_ids.len()));
        self.cu_seqlens.push(self.input_ids.len() as u32);
    }

    /// Appends a sequence of which some tokens are asked about: (index within the sequence, label), ascending. An index beyond its end
    /// makes a batch that is refused.
    pub fn push_masked(&mut self, input_ids: &[u32], labels: &[(u32, u32)]) {
        let first = self.tokens() as u32;
        self.push(input_ids);
        // Not that of a token of the next sequence.
        let row = |row: u32| if (row as usize) < input_ids.len() { first + row } else { u32::MAX };
        self.masked_rows.extend(labels.iter().map(|&(index, _)| row(index)));
        self.labels.extend(labels.iter().map(|(_, label)| label));
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// A random number for each token, from its sequence's and its position: the same however batches are cut.
    pub(crate) fn dropout_keys(&self) -> Vec<u32> {
        let mut keys = Vec::with_capacity(self.tokens());
        for (index, ends) in self.cu_seqlens.windows(2).enumerate() {
            let seed = self.dropout_seeds.get(index).copied().unwrap_or(index as u64);
            keys.extend((0..ends[1] - ends[0]).map(|position| {
                // The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
                let mut z = seed.wrapping_add(u64::from(position).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) as u32
            }));
        }
        keys
    }

    /// What is wrong with the batch in itself, if anything: the arrays have to agree before ids are checked by a model.
    pub(crate) fn inconsistency(&self) -> Option<&'static str> {
        let tokens = self.tokens();
        let ends = self.cu_seqlens.first() == Some(&0) && self.cu_seqlens.last() == Some(&(tokens as u32));
        if !ends || self.cu_seqlens.windows(2).any(|pair| pair[0] > pair[1]) {
            return Some("cu_seqlens has to rise from 0 to the number of tokens");
        }
        if self.position_ids.len() != tokens || self.token_type_ids.len() != tokens {
            return Some("input_ids, position_ids and token_type_ids have to be of one length");
        }
        if self.masked_rows.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Some("masked_rows have to rise");
        }
        if !self.labels.is_empty() && self.labels.len() != self.masked_rows.len() {
            return Some("labels have to be as many as masked_rows");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inconsistent_batches_are_seen() {
        let mut good = PackedBatch::default();
        good.push_masked(&[5, 6, 7], &[(0, 1), (2, 3)]);
        good.push_masked(&[8, 9], &[(1, 4)]);
        assert_eq!((good.masked_rows.as_slice(), good.labels.as_slice()), ([0, 2, 4].as_slice(), [1, 3, 4].as_slice()));
        assert_eq!(good.inconsistency(), None);
        let broken: [fn(&mut PackedBatch); 6] = [
            |b| b.cu_seqlens = vec![],
            |b| b.cu_seqlens[1] = 9,
            |b| b.input_ids.push(1),
            |b| b.position_ids.truncate(1),
            |b| b.masked_rows[1] = 0,
            |b| b.labels.truncate(1),
        ];
        let mut beyond = PackedBatch::default();
        beyond.push_masked(&[2, 7, 3], &[(4, 9)]);
        beyond.push(&[2, 7, 3]);
        assert_eq!(beyond.masked_rows, [u32::MAX], "not a token of the next sequence");
        for spoil in broken {
            let mut batch = good.clone();
            spoil(&mut batch);
            assert!(batch.inconsistency().is_some(), "{batch:?}");
        }
    }
}
