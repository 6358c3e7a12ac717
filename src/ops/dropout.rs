//! y = x * mask / (1 - p), with masks that are a function of (token, place in the network, column).

use crate::error::Result;
use crate::gpu::{Kernel, Pass, Tensor, spread};

const SOURCE: &str = concat!(include_str!("../../shaders/random.wgsl"), include_str!("../../shaders/dropout.wgsl"));
pub(crate) static APPLY: Kernel = Kernel::plain("dropout", SOURCE, "apply").narrowing();

/// One of the network's dropouts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout<'t> {
    /// u32 \[rows\]: a random number for each row's token.
    pub(crate) keys: &'t Tensor,
    /// Tells this one from the network's others.
    pub(crate) site: u32,
    /// The share that is dropped, below 1.
    pub(crate) probability: f64,
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    columns: u32,
    site: u32,
    threshold: u32,
    kept: f32,
}

impl Dropout<'_> {
    /// The shaders' threshold and factor.
    pub(super) fn constants(&self) -> (u32, f32) {
        ((self.probability * 4_294_967_296.0) as u32, (1.0 / (1.0 - self.probability)) as f32)
    }
}

/// Returns y\[rows, columns\]; given the gradient of y, returns that of x.
pub(crate) fn apply(pass: &mut Pass, dropout: Dropout, x: &Tensor) -> Result<Tensor> {
    let y = pass.alloc(x.shape())?;
    let (threshold, kept) = dropout.constants();
    let params = Params { rows: x.rows() as u32, columns: x.columns() as u32, site: dropout.site, threshold, kept };
    pass.dispatch(&APPLY, 0, &[x, dropout.keys, &y], &params, spread(x.rows()))?;
    Ok(y)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ops::check::{random, run};

    pub(in crate::ops) fn pcg(value: u32) -> u32 {
        let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    }

    /// The shader's function of that name.
    pub(in crate::ops) fn twin(key: u32, site: u32, at: u32, probability: f64) -> f64 {
        let drawn = pcg(pcg(pcg(key).wrapping_add(site)) ^ at.wrapping_mul(0x9e37_79b9));
        if f64::from(drawn) >= (probability * 4_294_967_296.0).floor() { 1.0 / (1.0 - probability) } else { 0.0 }
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        for (rows, columns) in [(1, 1), (13, 37), (7, 130)] {
            let (x, keys) = (random(rows * columns, 1), (0..rows as u32).map(|i| i * 7919).collect::<Vec<_>>());
            for probability in [0.1, 0.5] {
                let got = run(&gpu, |pass| {
                    let (x, keys) = (pass.upload(&[rows, columns], &x)?, pass.upload(&[rows], &keys)?);
                    Ok(vec![apply(pass, Dropout { keys: &keys, site: 3, probability }, &x)?])
                });
                let want = (0..rows * columns).map(|at| {
                    let (row, column) = (at / columns, at % columns);
                    f64::from(x[at]) * twin(keys[row], 3, column as u32, probability)
                });
                crate::ops::check::assert_close("y", &got[0], &want.collect::<Vec<_>>(), 1e-6);
            }
        }
    }

    /// The share, and independence of neighbours in every direction a mask has.
    #[test]
    fn masks_have_the_statistics_of_coins() {
        let probability = 0.1;
        let kept = |key: u32, site: u32, at: u32| twin(key, site, at, probability) > 0.0;
        let n = 200u32;
        let total = f64::from(n * n);
        let share = |f: &dyn Fn(u32, u32) -> bool| {
            f64::from((0..n * n).map(|i| u32::from(f(i / n, i % n))).sum::<u32>()) / total
        };
        // Five deviations of a share over forty thousand.
        let close = |got: f64, p: f64| assert!((got - p).abs() < 5.0 * (p * (1.0 - p) / total).sqrt(), "{got} {p}");
        close(share(&|key, at| kept(key, 1, at)), 0.9);
        close(share(&|site, at| kept(77, site, at)), 0.9);
        close(share(&|key, at| kept(key, 1, at) && kept(key, 1, at + 1)), 0.81);
        close(share(&|key, at| kept(key, 1, at) && kept(key + 1, 1, at)), 0.81);
        close(share(&|key, at| kept(key, 1, at) && kept(key, 2, at)), 0.81);
    }
}
