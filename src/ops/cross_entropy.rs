//! Cross entropy of rows of logits, and how the label ranks among them.

use crate::error::Result;
use crate::gpu::{Constants, Kernel, Pass, Tensor, spread};

const VARIANTS: &[Constants] = &[&[("GRADIENT", 0.0)], &[("GRADIENT", 1.0)]];
pub(crate) static CROSS_ENTROPY: Kernel =
    Kernel::new("cross_entropy", include_str!("../../shaders/cross_entropy.wgsl"), "cross_entropy", VARIANTS)
        .narrowing();

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sizes {
    rows: u32,
    columns: u32,
    scale: f32,
    first_row: u32,
}

/// Arrays of [`cross_entropy`]. Labels and stats are those of all chunks; the logits those of one.
pub(crate) struct CrossEntropy<'t> {
    /// u32 \[rows of all chunks\], each below `columns`
    pub(crate) labels: &'t Tensor,
    /// Where this chunk's rows begin in `labels` and `stats`.
    pub(crate) first_row: usize,
    /// \[rows, columns\]; with a gradient scale, overwritten by the gradient.
    pub(crate) logits: &'t Tensor,
    /// \[rows of all chunks, 2\]: loss and rank of the label, 0 being the best; this chunk's part is written.
    pub(crate) stats: &'t Tensor,
    /// What the sum of losses is multiplied by before it is differentiated: 1 / labels for a mean.
    pub(crate) gradient: Option<f32>,
}

/// Writes loss and rank, and with `gradient` replaces the logits by `(softmax - onehot) * scale`.
pub(crate) fn cross_entropy(pass: &mut Pass, arrays: CrossEntropy) -> Result<()> {
    let CrossEntropy { labels, first_row, logits, stats, gradient } = arrays;
    let params = Sizes {
        rows: logits.rows() as u32,
        columns: logits.columns() as u32,
        scale: gradient.unwrap_or(0.0),
        first_row: first_row as u32,
    };
    let variant = usize::from(gradient.is_some());
    pass.dispatch(&CROSS_ENTROPY, variant, &[labels, logits, stats], &params, spread(logits.rows()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, f64s, random, run};

    fn loss(logits: &[f64], label: usize) -> f64 {
        let largest = logits.iter().copied().fold(f64::MIN, f64::max);
        logits.iter().map(|z| (z - largest).exp()).sum::<f64>().ln() + largest - logits[label]
    }

    fn gradient(logits: &[f64], label: usize, scale: f64) -> Vec<f64> {
        let log_sum = loss(logits, label) + logits[label];
        let p = logits.iter().enumerate();
        p.map(|(i, z)| ((z - log_sum).exp() - f64::from(u8::from(i == label))) * scale).collect()
    }

    #[test]
    fn the_twin_is_right() {
        let logits = f64s(&random(11, 1));
        assert_gradient("logits", |z| 0.3 * loss(z, 4), &logits, &gradient(&logits, 4, 0.3));
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        for (rows, columns) in [(1, 1), (3, 13), (7, 64), (5, 1001)] {
            // Labels and stats of two chunks; this one is the second.
            let first_row = 2;
            let mut logits: Vec<f32> = random(rows * columns, 1).iter().map(|z| z * 30.0).collect();
            // A logit that would overflow exp, and ties with the label of row 0.
            logits[0] = 500.0;
            let mut labels: Vec<u32> = (0..first_row + rows).map(|i| (i * 5 % columns) as u32).collect();
            if columns > 3 {
                labels[first_row] = 2;
                logits[1] = logits[2];
                logits[3] = logits[2];
            }
            for scale in [None, Some(0.25)] {
                let got = run(&gpu, |pass| {
                    let labels = pass.upload(&[labels.len()], &labels)?;
                    let logits = pass.upload(&[rows, columns], &logits)?;
                    let stats = pass.upload(&[first_row + rows, 2], &vec![-7.0f32; (first_row + rows) * 2])?;
                    let arrays =
                        CrossEntropy { labels: &labels, first_row, logits: &logits, stats: &stats, gradient: scale };
                    cross_entropy(pass, arrays)?;
                    Ok(vec![stats, logits])
                });
                let mut stats = vec![-7.0; first_row * 2];
                let mut changed = Vec::new();
                for (row, z) in logits.chunks(columns).enumerate() {
                    let label = labels[first_row + row] as usize;
                    let before = |&(i, x): &(usize, &f32)| *x > z[label] || (*x == z[label] && i < label);
                    stats.push(loss(&f64s(z), label));
                    stats.push(z.iter().enumerate().filter(before).count() as f64);
                    match scale {
                        Some(scale) => changed.extend(gradient(&f64s(z), label, scale.into())),
                        None => changed.extend(f64s(z)),
                    }
                }
                assert_close("stats", &got[0], &stats, 2e-6);
                assert_close("logits", &got[1], &changed, 2e-6);
            }
        }
    }
}
