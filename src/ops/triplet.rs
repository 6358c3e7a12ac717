//! Losses of triplets of vectors: an anchor, a positive that should be near it, a negative that should be farther away.
//!
//! Rows are laid out as all anchors, then all positives, then what else there is. Distances are torch's: `pairwise_distance`
//! with its 1e-6, or 1 - cosine of vectors that are of length 1 already.

use crate::error::Result;
use crate::gpu::{Constants, Kernel, Pass, Tensor, spread};

const SOURCE: &str = include_str!("../../shaders/triplet.wgsl");
const METRICS: &[Constants] = &[&[("METRIC", 0.0)], &[("METRIC", 1.0)]];
const fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("triplet", SOURCE, entry, METRICS)
}
pub(crate) static CHOOSE: Kernel = kernel("choose");
pub(crate) static LOSS: Kernel = kernel("loss");
pub(crate) static GRADIENT: Kernel = kernel("gradient");

/// How far two vectors are apart; the discriminants are the shader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Euclidean = 0,
    /// Of vectors of length 1.
    Cosine = 1,
}

/// Arrays and sizes of a batch of triplets.
#[derive(Clone, Copy)]
pub(crate) struct Triplets<'t> {
    /// \[rows, columns\]
    pub(crate) x: &'t Tensor,
    /// How many; `x` has at least twice as many rows.
    pub(crate) triplets: usize,
    pub(crate) metric: Metric,
    pub(crate) margin: f32,
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sizes {
    triplets: u32,
    columns: u32,
    rows: u32,
    margin: f32,
    scale: f32,
}

impl Triplets<'_> {
    fn sizes(&self, scale: f32) -> Sizes {
        Sizes {
            triplets: self.triplets as u32,
            columns: self.x.columns() as u32,
            rows: self.x.rows() as u32,
            margin: self.margin,
            scale,
        }
    }
}

/// The semi-hard negative of each triplet, u32 \[triplets\]: of the rows of other groups than the anchor's the nearest that is
/// farther than the positive; where there is none, the farthest; `u32::MAX` where there is no other group. `groups` is u32 \[rows\].
pub(crate) fn choose(pass: &mut Pass, of: Triplets, groups: &Tensor) -> Result<Tensor> {
    let negatives = pass.alloc(&[of.triplets])?;
    let arrays = [of.x, groups, &negatives];
    pass.dispatch(&CHOOSE, of.metric as usize, &arrays, &of.sizes(0.0), spread(of.triplets))?;
    Ok(negatives)
}

/// Loss of each triplet, and 1 where its negative is not the farther one, else 0: \[triplets, 2\]; and the gradient of the sum of
/// losses times `scale`, shaped as x. A triplet without a negative (`u32::MAX`) has a loss of 0.
pub(crate) fn loss(pass: &mut Pass, of: Triplets, negatives: &Tensor, scale: f32) -> Result<(Tensor, Tensor)> {
    let (stats, factors) = (pass.alloc(&[of.triplets, 2])?, pass.alloc(&[of.triplets, 2])?);
    let (variant, sizes) = (of.metric as usize, of.sizes(scale));
    pass.dispatch(&LOSS, variant, &[of.x, negatives, &stats, &factors], &sizes, spread(of.triplets))?;
    let dx = pass.alloc(of.x.shape())?;
    pass.dispatch(&GRADIENT, variant, &[of.x, negatives, &factors, &dx], &sizes, spread(of.x.rows()))?;
    Ok((stats, dx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, dot, f64s, random, run};

    const MARGIN: f64 = 0.75;

    fn distance(metric: Metric, a: &[f64], b: &[f64]) -> f64 {
        match metric {
            Metric::Euclidean => a.iter().zip(b).map(|(a, b)| (a - b + 1e-6).powi(2)).sum::<f64>().sqrt(),
            Metric::Cosine => 1.0 - dot(a, b),
        }
    }

    /// Loss and whether the negative is too near, for each triplet.
    fn twin(metric: Metric, x: &[f64], columns: usize, negatives: &[u32]) -> Vec<[f64; 2]> {
        let row = |i: usize| &x[i * columns..(i + 1) * columns];
        let of = |(i, &negative): (usize, &u32)| {
            if negative == u32::MAX {
                return [0.0, 0.0];
            }
            let near = distance(metric, row(i), row(negatives.len() + i));
            let far = distance(metric, row(i), row(negative as usize));
            [(near - far + MARGIN).max(0.0), f64::from(u8::from(far <= near))]
        };
        negatives.iter().enumerate().map(of).collect()
    }

    fn twin_gradient(metric: Metric, x: &[f64], columns: usize, negatives: &[u32], scale: f64) -> Vec<f64> {
        let mut dx = vec![0.0; x.len()];
        let losses = twin(metric, x, columns, negatives);
        for (i, &negative) in negatives.iter().enumerate() {
            if losses[i][0] == 0.0 {
                continue;
            }
            for (other, sign) in [(negatives.len() + i, 1.0), (negative as usize, -1.0)] {
                let [a, b] = [i, other].map(|row| x[row * columns..(row + 1) * columns].to_vec());
                let d = distance(metric, &a, &b);
                for j in 0..columns {
                    let (by_a, by_b) = match metric {
                        Metric::Euclidean => ((a[j] - b[j] + 1e-6) / d, (b[j] - a[j] - 1e-6) / d),
                        Metric::Cosine => (-b[j], -a[j]),
                    };
                    dx[i * columns + j] += sign * scale * by_a;
                    dx[other * columns + j] += sign * scale * by_b;
                }
            }
        }
        dx
    }

    fn twin_choice(metric: Metric, x: &[f64], columns: usize, triplets: usize, groups: &[u32]) -> Vec<u32> {
        let row = |i: usize| &x[i * columns..(i + 1) * columns];
        let choice = |i: usize| {
            let near = distance(metric, row(i), row(triplets + i));
            let others = (0..groups.len()).filter(|&j| groups[j] != groups[i]);
            let others: Vec<(f64, usize)> = others.map(|j| (distance(metric, row(i), row(j)), j)).collect();
            let beyond = others.iter().filter(|(d, _)| *d > near).min_by(|a, b| a.0.total_cmp(&b.0));
            let best = beyond.or(others.iter().max_by(|a, b| a.0.total_cmp(&b.0)));
            best.map_or(u32::MAX, |&(_, j)| j as u32)
        };
        (0..triplets).map(choice).collect()
    }

    /// Rows of length 1, as the cosine wants them.
    fn unit(x: &[f32], columns: usize) -> Vec<f32> {
        let scaled = |row: &[f32]| {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter().map(|x| x / norm).collect::<Vec<_>>()
        };
        x.chunks(columns).flat_map(scaled).collect()
    }

    #[test]
    fn the_twin_is_right() {
        for metric in [Metric::Euclidean, Metric::Cosine] {
            let x = f64s(&unit(&random(7 * 3, 1), 3));
            // A row that is a negative twice, one that is a positive, too, and a triplet without.
            for negatives in [vec![4, 4], vec![6, 2], vec![u32::MAX, 1]] {
                let total = |x: &[f64]| 0.3 * twin(metric, x, 3, &negatives).iter().map(|of| of[0]).sum::<f64>();
                assert!(total(&x) > 0.0);
                assert_gradient("x", total, &x, &twin_gradient(metric, &x, 3, &negatives, 0.3));
            }
        }
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        for metric in [Metric::Euclidean, Metric::Cosine] {
            for (triplets, rows, columns) in [(1, 3, 1), (3, 9, 37), (5, 10, 130), (70, 210, 24)] {
                let x = random(rows * columns, 5);
                let x = if metric == Metric::Cosine { unit(&x, columns) } else { x };
                let mut negatives: Vec<u32> = (0..triplets).map(|i| ((i * 7 + 2 * triplets) % rows) as u32).collect();
                for (i, negative) in negatives.iter_mut().enumerate() {
                    if *negative as usize == i || *negative as usize == triplets + i {
                        *negative = if triplets > 1 { u32::MAX } else { 2 };
                    }
                }
                let got = run(&gpu, |pass| {
                    let x = pass.upload(&[rows, columns], &x)?;
                    let negatives = pass.upload(&[triplets], &negatives)?;
                    let of = Triplets { x: &x, triplets, metric, margin: MARGIN as f32 };
                    let (stats, dx) = loss(pass, of, &negatives, 0.25)?;
                    Ok(vec![stats, dx])
                });
                let what = format!("{metric:?}, {triplets} x {columns}");
                let stats = twin(metric, &f64s(&x), columns, &negatives).concat();
                assert_close(&format!("{what}: stats"), &got[0], &stats, 2e-6);
                let dx = twin_gradient(metric, &f64s(&x), columns, &negatives, 0.25);
                assert_close(&format!("{what}: dx"), &got[1], &dx, 3e-6);
            }
        }
    }

    #[test]
    fn the_semi_hard_negative_is_chosen() {
        let gpu = crate::gpu::test_gpu();
        for metric in [Metric::Euclidean, Metric::Cosine] {
            for (triplets, rows, columns) in [(2, 4, 3), (8, 16, 20), (75, 200, 5)] {
                let x = unit(&random(rows * columns, 9), columns);
                let groups: Vec<u32> = (0..rows).map(|row| (row % triplets / 2) as u32).collect();
                let got = run(&gpu, |pass| {
                    let (x, of_rows) = (pass.upload(&[rows, columns], &x)?, pass.upload(&[rows], &groups)?);
                    Ok(vec![choose(pass, Triplets { x: &x, triplets, metric, margin: 0.0 }, &of_rows)?])
                });
                let got: Vec<u32> = got[0].iter().map(|bits| bits.to_bits()).collect();
                assert_eq!(got, twin_choice(metric, &f64s(&x), columns, triplets, &groups), "{metric:?} {rows}");
                // With two triplets all rows are of one group, and there is nothing to choose.
                assert_eq!(got.contains(&u32::MAX), triplets == 2);
            }
        }
    }
}
