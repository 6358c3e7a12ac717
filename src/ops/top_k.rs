//! The largest of each row of logits, found on the device: what comes back is a kilobyte and a half a row.

use crate::error::Result;
use crate::gpu::{Kernel, Pass, Tensor, spread};

pub(crate) static TOP_K: Kernel = Kernel::plain("top_k", include_str!("../../shaders/top_k.wgsl"), "top_k").narrowing();

/// The shader's.
const PARTS: usize = 64;
const LIMIT: usize = 128;
const WORDS: usize = 2 + 2 * PARTS + 2 * LIMIT;

/// The most that [`top_k`] is asked for: half of the parts, for which 64 ln 2 = 44 candidates are expected; for all of them it were 300.
pub(crate) const MOST: usize = PARTS / 2;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sizes {
    rows: u32,
    columns: u32,
    k: u32,
}

/// What [`Found::of`] reads; u32 \[rows, WORDS\]. `logits` are \[rows, columns\], k at most [`MOST`].
pub(crate) fn top_k(pass: &mut Pass, logits: &Tensor, k: usize) -> Result<Tensor> {
    let found = pass.alloc(&[logits.rows(), WORDS])?;
    let sizes = Sizes { rows: logits.rows() as u32, columns: logits.columns() as u32, k: k as u32 };
    pass.dispatch(&TOP_K, 0, &[logits, &found], &sizes, spread(logits.rows()))?;
    Ok(found)
}

/// What was found of one row.
pub(crate) struct Found {
    /// Ids and logits of the k largest, or of all where there are fewer; best first, and of equals the smaller id. `None` where so
    /// many are equal, or not numbers, that the whole row has to be looked at.
    pub(crate) largest: Option<Vec<(u32, f32)>>,
    /// The largest logit, and the sum of exp(logit - that) over the whole row.
    max: f32,
    sum: f64,
}

impl Found {
    /// What [`top_k`] found of all rows.
    pub(crate) fn of(words: &[u32], columns: usize, k: usize) -> Vec<Self> {
        words.chunks_exact(WORDS).map(|row| Self::of_row(row, k.min(columns))).collect()
    }

    fn of_row(words: &[u32], k: usize) -> Self {
        let count = words[0] as usize;
        let (parts, candidates) = words[2..].split_at(2 * PARTS);
        let pair = |pair: &[u32]| (f32::from_bits(pair[0]), f32::from_bits(pair[1]));
        let parts: Vec<(f32, f32)> = parts.chunks_exact(2).map(pair).collect();
        let max = parts.iter().map(|part| part.0).fold(f32::MIN, f32::max);
        let sum = parts.iter().map(|&(most, sum)| f64::from(sum) * f64::from(most - max).exp()).sum();
        let candidate = |pair: &[u32]| (pair[0], f32::from_bits(pair[1]));
        let largest = (k..=LIMIT).contains(&count).then(|| {
            let mut largest: Vec<(u32, f32)> = candidates[..2 * count].chunks_exact(2).map(candidate).collect();
            largest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            largest.truncate(k);
            largest
        });
        Self { largest, max, sum }
    }

    /// Whether the row's probabilities are numbers.
    pub(crate) fn is_finite(&self) -> bool {
        self.max.is_finite() && self.sum.is_finite()
    }

    /// The softmax of one of the row's logits.
    pub(crate) fn probability(&self, logit: f32) -> f32 {
        (f64::from(logit - self.max).exp() / self.sum) as f32
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ops::check::{random, run};

    pub(crate) fn found(logits: &[f32], columns: usize, k: usize) -> Vec<Found> {
        let gpu = crate::gpu::test_gpu();
        let got = run(&gpu, |pass| {
            let logits = pass.upload(&[logits.len() / columns, columns], logits)?;
            Ok(vec![top_k(pass, &logits, k)?])
        });
        // Behind the candidates lies what nothing wrote.
        let words: Vec<u32> = got[0].iter().map(|word| word.to_bits()).collect();
        Found::of(&words, columns, k)
    }

    #[test]
    fn the_largest_are_those_of_a_sort() {
        for (rows, columns) in [(1, 1), (3, 5), (2, 64), (2, 65), (5, 1000), (2, 30_522)] {
            let mut logits: Vec<f32> = random(rows * columns, 1).iter().map(|x| 8.0 * x).collect();
            // Some equals, which the smaller id comes first of, and zeros of both signs.
            for i in (0..logits.len()).step_by(97) {
                logits[i] = [7.5, 0.0, -0.0][i % 3];
            }
            for k in [1, 2, 10, MOST] {
                let found = found(&logits, columns, k);
                assert_eq!(found.len(), rows);
                for (found, logits) in found.iter().zip(logits.chunks(columns)) {
                    let mut want: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
                    want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                    want.truncate(k);
                    assert_eq!(found.largest, Some(want.clone()), "{rows} x {columns}, {k}");
                    assert_eq!(found.max.total_cmp(&want[0].1), std::cmp::Ordering::Equal);
                    let sum: f64 = logits.iter().map(|&z| f64::from(z - found.max).exp()).sum();
                    assert!((found.sum / sum - 1.0).abs() < 3e-6, "{} {sum}", found.sum);
                }
            }
        }
    }

    #[test]
    fn rows_of_equals_are_left_to_the_host() {
        let largest = |logits: &[f32]| found(logits, logits.len(), 3).remove(0).largest;
        assert!(largest(&[1.0; 500]).is_none() && largest(&[f32::NAN; 500]).is_none());
        // As many as there is room for are found.
        let mut logits = random(1000, 1);
        logits[300..428].fill(2.0);
        assert_eq!(largest(&logits), Some(vec![(300, 2.0), (301, 2.0), (302, 2.0)]));
        logits[428] = 2.0;
        assert!(largest(&logits).is_none());
    }
}
