//! y = gamma * (s - mean) / sqrt(var + eps) + beta, row by row, with s = x (+ residual), some of x dropped where there is dropout.

use super::column_sum::{ROWS_PER_BLOCK, column_sum};
use super::dropout::Dropout;
use crate::error::Result;
use crate::gpu::{Constants, Kernel, Pass, Tensor, spread};

const SOURCE: &str = concat!(
    include_str!("../../shaders/random.wgsl"),
    include_str!("../../shaders/reduce.wgsl"),
    include_str!("../../shaders/moments.wgsl"),
    include_str!("../../shaders/layer_norm.wgsl"),
);
const VARIANTS: &[Constants] = &[
    &[("RESIDUAL", 0.0), ("DROPOUT", 0.0)],
    &[("RESIDUAL", 1.0), ("DROPOUT", 0.0)],
    &[("RESIDUAL", 0.0), ("DROPOUT", 1.0)],
    &[("RESIDUAL", 1.0), ("DROPOUT", 1.0)],
];
pub(crate) static FORWARD: Kernel = Kernel::new("layer_norm", SOURCE, "forward", VARIANTS).narrowing();
pub(crate) static BACKWARD: Kernel = Kernel::plain("layer_norm", SOURCE, "backward").narrowing();
pub(crate) static BACKWARD_DROPOUT: Kernel = Kernel::plain("layer_norm", SOURCE, "backward_dropout").narrowing();
pub(crate) static BACKWARD_PARAMETERS: Kernel = Kernel::plain("layer_norm", SOURCE, "backward_parameters").narrowing();

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sizes {
    rows: u32,
    columns: u32,
    eps: f32,
    rows_per_block: u32,
    site: u32,
    threshold: u32,
    kept: f32,
}

impl Sizes {
    fn of(x: &Tensor, eps: f32, dropout: Option<Dropout>) -> Self {
        let (rows, columns) = (x.rows() as u32, x.columns() as u32);
        let (site, (threshold, kept)) = dropout.map_or((0, (0, 1.0)), |dropout| (dropout.site, dropout.constants()));
        Self { rows, columns, eps, rows_per_block: ROWS_PER_BLOCK as u32, site, threshold, kept }
    }
}

/// Arrays of [`forward`].
pub(crate) struct Forward<'t> {
    /// \[rows, columns\]
    pub(crate) x: &'t Tensor,
    /// Of `x`
    pub(crate) dropout: Option<Dropout<'t>>,
    /// \[rows, columns\], added to what is left of `x`
    pub(crate) residual: Option<&'t Tensor>,
    /// \[columns\]
    pub(crate) gamma: &'t Tensor,
    /// \[columns\]
    pub(crate) beta: &'t Tensor,
    pub(crate) eps: f32,
}

/// What the backward pass needs of the forward pass.
pub(crate) struct Saved {
    /// (s - mean) * rstd, \[rows, columns\]
    normalized: Tensor,
    /// \[rows\]
    rstd: Tensor,
}

/// Returns y\[rows, columns\].
pub(crate) fn forward(pass: &mut Pass, arrays: Forward) -> Result<(Tensor, Saved)> {
    let Forward { x, dropout, residual, gamma, beta, eps } = arrays;
    let y = pass.alloc(x.shape())?;
    let normalized = pass.alloc(x.shape())?;
    let rstd = pass.alloc(&[x.rows()])?;
    let variant = usize::from(residual.is_some()) + 2 * usize::from(dropout.is_some());
    let keys = dropout.map_or(x, |dropout| dropout.keys);
    let tensors = [x, residual.unwrap_or(x), gamma, beta, &y, &normalized, &rstd, keys];
    pass.dispatch(&FORWARD, variant, &tensors, &Sizes::of(x, eps, dropout), spread(x.rows()))?;
    Ok((y, Saved { normalized, rstd }))
}

/// Arrays of [`backward`].
pub(crate) struct Backward<'t> {
    /// \[rows, columns\]
    pub(crate) dy: &'t Tensor,
    pub(crate) saved: &'t Saved,
    /// \[columns\]
    pub(crate) gamma: &'t Tensor,
    /// \[columns\] each, gamma's and beta's, added to; `None` where they are not trained
    pub(crate) dparameters: Option<[&'t Tensor; 2]>,
    /// As it was in [`forward`]
    pub(crate) dropout: Option<Dropout<'t>>,
}

/// What [`backward`] returns, \[rows, columns\] each; without dropout they are the same tensor.
pub(crate) struct Gradients {
    pub(crate) dx: Tensor,
    pub(crate) dresidual: Tensor,
}

pub(crate) fn backward(pass: &mut Pass, arrays: Backward) -> Result<Gradients> {
    let Backward { dy, saved, gamma, dparameters, dropout } = arrays;
    let Saved { normalized, rstd } = saved;
    let sizes = Sizes::of(dy, 0.0, dropout);
    let ds = pass.alloc(dy.shape())?;
    let dx = match dropout {
        None => {
            pass.dispatch(&BACKWARD, 0, &[dy, gamma, normalized, rstd, &ds], &sizes, spread(dy.rows()))?;
            ds.clone()
        }
        Some(dropout) => {
            let dx = pass.alloc(dy.shape())?;
            let tensors = [dy, gamma, normalized, rstd, &ds, dropout.keys, &dx];
            pass.dispatch(&BACKWARD_DROPOUT, 0, &tensors, &sizes, spread(dy.rows()))?;
            dx
        }
    };
    let gradients = Gradients { dx, dresidual: ds };
    let Some([dgamma, dbeta]) = dparameters else { return Ok(gradients) };

    let (columns, blocks) = (dy.columns(), dy.rows().div_ceil(ROWS_PER_BLOCK));
    let (partial_gamma, partial_beta) = (pass.alloc(&[blocks, columns])?, pass.alloc(&[blocks, columns])?);
    let tensors = [dy, normalized, &partial_gamma, &partial_beta];
    pass.dispatch(&BACKWARD_PARAMETERS, 0, &tensors, &sizes, [columns.div_ceil(64), blocks, 1])?;
    column_sum(pass, &partial_gamma, dgamma)?;
    column_sum(pass, &partial_beta, dbeta)?;
    Ok(gradients)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, dot, f64s, random, run, run_within};
    use crate::ops::dropout::tests::twin as dropout_twin;

    // So large that it has to be in its place.
    pub(in crate::ops) const EPS: f64 = 1e-2;

    /// (normalized, rstd) of one row
    fn normalize(s: &[f64]) -> (Vec<f64>, f64) {
        let n = s.len() as f64;
        let mean = s.iter().sum::<f64>() / n;
        let rstd = 1.0 / (s.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n + EPS).sqrt();
        (s.iter().map(|s| (s - mean) * rstd).collect(), rstd)
    }

    pub(in crate::ops) fn twin(s: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
        let rows = s.chunks(gamma.len()).flat_map(|row| normalize(row).0);
        rows.enumerate().map(|(i, z)| gamma[i % gamma.len()] * z + beta[i % gamma.len()]).collect()
    }

    /// (ds, dgamma, dbeta)
    fn twin_backward(s: &[f64], gamma: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
        let columns = gamma.len();
        let (mut ds, mut dgamma, mut dbeta) = (Vec::new(), vec![0.0; columns], vec![0.0; columns]);
        for (s, dy) in s.chunks(columns).zip(dy.chunks(columns)) {
            let (z, rstd) = normalize(s);
            let g: Vec<f64> = gamma.iter().zip(dy).map(|(a, b)| a * b).collect();
            let (mean, mean_z) = (g.iter().sum::<f64>() / columns as f64, dot(&g, &z) / columns as f64);
            for i in 0..columns {
                ds.push(rstd * (g[i] - mean - z[i] * mean_z));
                dgamma[i] += dy[i] * z[i];
                dbeta[i] += dy[i];
            }
        }
        [ds, dgamma, dbeta]
    }

    #[test]
    fn the_twin_is_right() {
        let [s, gamma, beta, dy] = [(21, 1), (7, 2), (7, 3), (21, 4)].map(|(n, seed)| f64s(&random(n, seed)));
        let [ds, dgamma, dbeta] = twin_backward(&s, &gamma, &dy);
        assert_gradient("ds", |s| dot(&twin(s, &gamma, &beta), &dy), &s, &ds);
        assert_gradient("dgamma", |gamma| dot(&twin(&s, gamma, &beta), &dy), &gamma, &dgamma);
        assert_gradient("dbeta", |beta| dot(&twin(&s, &gamma, beta), &dy), &beta, &dbeta);
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        for (rows, columns) in [(1, 3), (13, 37), (7, 32), (300, 65)] {
            let n = rows * columns;
            let [x, residual, gamma, beta] = [(n, 1), (n, 2), (columns, 3), (columns, 4)].map(|(n, s)| random(n, s));
            let [dy, dgamma0, dbeta0] = [(n, 5), (columns, 6), (columns, 7)].map(|(n, s)| random(n, s));
            let keys: Vec<u32> = (0..rows as u32).map(|row| row * 7919).collect();
            for (with_residual, probability) in [(false, 0.0), (true, 0.0), (false, 0.3), (true, 0.3)] {
                let got = run(&gpu, |pass| {
                    let shape = [rows, columns];
                    let keys = pass.upload(&[rows], &keys)?;
                    let dropout = (probability > 0.0).then_some(Dropout { keys: &keys, site: 5, probability });
                    let (x, r) = (pass.upload(&shape, &x)?, pass.upload(&shape, &residual)?);
                    let (gamma, beta) = (pass.upload(&[columns], &gamma)?, pass.upload(&[columns], &beta)?);
                    let residual = with_residual.then_some(&r);
                    let arrays = Forward { x: &x, dropout, residual, gamma: &gamma, beta: &beta, eps: EPS as f32 };
                    let (y, saved) = forward(pass, arrays)?;
                    let (dgamma, dbeta) = (pass.upload(&[columns], &dgamma0)?, pass.upload(&[columns], &dbeta0)?);
                    let dy = pass.upload(&shape, &dy)?;
                    let dparameters = Some([&dgamma, &dbeta]);
                    let arrays = Backward { dy: &dy, saved: &saved, gamma: &gamma, dparameters, dropout };
                    let Gradients { dx, dresidual } = backward(pass, arrays)?;
                    Ok(vec![y, dresidual, dgamma, dbeta, dx])
                });
                let keep = f64::from(u8::from(with_residual));
                let mask = |i: usize| dropout_twin(keys[i / columns], 5, (i % columns) as u32, probability);
                let masks: Vec<f64> = (0..n).map(mask).collect();
                let values = x.iter().zip(&masks).zip(&residual);
                let s: Vec<f64> = values.map(|((&x, m), &r)| f64::from(x) * m + keep * f64::from(r)).collect();
                let [gamma, beta, dy] = [&gamma, &beta, &dy].map(|v| f64s(v));
                let [ds, dgamma, dbeta] = twin_backward(&s, &gamma, &dy);
                let sum = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
                assert_close("y", &got[0], &twin(&s, &gamma, &beta), 2e-5);
                assert_close("dresidual", &got[1], &ds, 5e-5);
                assert_close("dx", &got[4], &ds.iter().zip(&masks).map(|(d, m)| d * m).collect::<Vec<_>>(), 5e-5);
                assert_close("dgamma", &got[2], &sum(&dgamma, &dgamma0), 2e-5);
                assert_close("dbeta", &got[3], &sum(&dbeta, &dbeta0), 2e-5);
            }
        }
    }

    /// Far from zero the mean of squares would cancel: x = 1000 + noise.
    #[test]
    fn survives_a_large_mean() {
        let gpu = crate::gpu::test_gpu();
        let x: Vec<f32> = random(64, 1).iter().map(|x| 1000.0 + x).collect();
        let got = run_within(1e-3, &gpu, |pass| {
            let x = pass.upload(&[1, 64], &x)?;
            let (gamma, beta) = (pass.upload(&[64], &[1.0f32; 64])?, pass.upload(&[64], &[0.0f32; 64])?);
            let arrays = Forward { x: &x, dropout: None, residual: None, gamma: &gamma, beta: &beta, eps: EPS as f32 };
            Ok(vec![forward(pass, arrays)?.0])
        });
        assert_close("y", &got[0], &twin(&f64s(&x), &[1.0; 64], &[0.0; 64]), 1e-3);
    }
}
