//! y = gamma * (s - mean) / sqrt(var + eps) + beta, row by row, with s = x (+ residual).

use super::column_sum::{ROWS_PER_BLOCK, column_sum};
use crate::error::Result;
use crate::gpu::{Constants, Kernel, Pass, Tensor, spread};

const SOURCE: &str = include_str!("../../shaders/layer_norm.wgsl");
const VARIANTS: &[Constants] = &[&[("RESIDUAL", 0.0)], &[("RESIDUAL", 1.0)]];
pub(crate) static FORWARD: Kernel = Kernel::new("layer_norm", SOURCE, "forward", VARIANTS).narrowing();
pub(crate) static BACKWARD: Kernel = Kernel::plain("layer_norm", SOURCE, "backward").narrowing();
pub(crate) static BACKWARD_PARAMETERS: Kernel = Kernel::plain("layer_norm", SOURCE, "backward_parameters").narrowing();

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sizes {
    rows: u32,
    columns: u32,
    eps: f32,
    rows_per_block: u32,
}

impl Sizes {
    fn of(x: &Tensor, eps: f32) -> Self {
        Self { rows: x.rows() as u32, columns: x.columns() as u32, eps, rows_per_block: ROWS_PER_BLOCK as u32 }
    }
}

/// Arrays of [`forward`].
pub(crate) struct Forward<'t> {
    /// \[rows, columns\]
    pub(crate) x: &'t Tensor,
    /// \[rows, columns\], added to `x` first
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
    let Forward { x, residual, gamma, beta, eps } = arrays;
    let y = pass.alloc(x.shape())?;
    let normalized = pass.alloc(x.shape())?;
    let rstd = pass.alloc(&[x.rows()])?;
    let variant = usize::from(residual.is_some());
    let tensors = [x, residual.unwrap_or(x), gamma, beta, &y, &normalized, &rstd];
    pass.dispatch(&FORWARD, variant, &tensors, &Sizes::of(x, eps), spread(x.rows()))?;
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
}

/// Returns ds\[rows, columns\], the gradient of x and of the residual alike.
pub(crate) fn backward(pass: &mut Pass, arrays: Backward) -> Result<Tensor> {
    let Backward { dy, saved, gamma, dparameters } = arrays;
    let Saved { normalized, rstd } = saved;
    let sizes = Sizes::of(dy, 0.0);
    let ds = pass.alloc(dy.shape())?;
    pass.dispatch(&BACKWARD, 0, &[dy, gamma, normalized, rstd, &ds], &sizes, spread(dy.rows()))?;
    let Some([dgamma, dbeta]) = dparameters else { return Ok(ds) };

    let (columns, blocks) = (dy.columns(), dy.rows().div_ceil(ROWS_PER_BLOCK));
    let (partial_gamma, partial_beta) = (pass.alloc(&[blocks, columns])?, pass.alloc(&[blocks, columns])?);
    let tensors = [dy, normalized, &partial_gamma, &partial_beta];
    pass.dispatch(&BACKWARD_PARAMETERS, 0, &tensors, &sizes, [columns.div_ceil(64), blocks, 1])?;
    column_sum(pass, &partial_gamma, dgamma)?;
    column_sum(pass, &partial_beta, dbeta)?;
    Ok(ds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, dot, f64s, random, run, run_within};

    // So large that it has to be in its place.
    const EPS: f64 = 1e-2;

    /// (normalized, rstd) of one row
    fn normalize(s: &[f64]) -> (Vec<f64>, f64) {
        let n = s.len() as f64;
        let mean = s.iter().sum::<f64>() / n;
        let rstd = 1.0 / (s.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n + EPS).sqrt();
        (s.iter().map(|s| (s - mean) * rstd).collect(), rstd)
    }

    fn twin(s: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
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
            for with_residual in [false, true] {
                let got = run(&gpu, |pass| {
                    let shape = [rows, columns];
                    let (x, r) = (pass.upload(&shape, &x)?, pass.upload(&shape, &residual)?);
                    let (gamma, beta) = (pass.upload(&[columns], &gamma)?, pass.upload(&[columns], &beta)?);
                    let residual = with_residual.then_some(&r);
                    let arrays = Forward { x: &x, residual, gamma: &gamma, beta: &beta, eps: EPS as f32 };
                    let (y, saved) = forward(pass, arrays)?;
                    let (dgamma, dbeta) = (pass.upload(&[columns], &dgamma0)?, pass.upload(&[columns], &dbeta0)?);
                    let dy = pass.upload(&shape, &dy)?;
                    let dparameters = Some([&dgamma, &dbeta]);
                    let arrays = Backward { dy: &dy, saved: &saved, gamma: &gamma, dparameters };
                    let ds = backward(pass, arrays)?;
                    Ok(vec![y, ds, dgamma, dbeta])
                });
                let keep = f64::from(u8::from(with_residual));
                let s: Vec<f64> = x.iter().zip(&residual).map(|(&x, &r)| f64::from(x) + keep * f64::from(r)).collect();
                let [gamma, beta, dy] = [&gamma, &beta, &dy].map(|v| f64s(v));
                let [ds, dgamma, dbeta] = twin_backward(&s, &gamma, &dy);
                let sum = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
                assert_close("y", &got[0], &twin(&s, &gamma, &beta), 2e-5);
                assert_close("ds", &got[1], &ds, 5e-5);
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
            let arrays = Forward { x: &x, residual: None, gamma: &gamma, beta: &beta, eps: EPS as f32 };
            Ok(vec![forward(pass, arrays)?.0])
        });
        assert_close("y", &got[0], &twin(&f64s(&x), &[1.0; 64], &[0.0; 64]), 1e-3);
    }
}
