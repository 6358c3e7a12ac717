//! y = x W^T + b, with W stored \[out, in\] as checkpoints have it.

use super::activation::{self, Activation};
use super::column_sum::column_sum;
use super::gemm::{Gemm, gemm, gemm_f16};
use super::gemm_form::{Form, Sizes};
use super::half::to_half;
use crate::error::Result;
use crate::gpu::{Gpu, Pass, Tensor};

/// Arrays of [`forward`].
pub(crate) struct Forward<'t> {
    /// \[rows, in\]
    pub(crate) x: &'t Tensor,
    /// \[out, in\]
    pub(crate) weight: &'t Tensor,
    /// \[out\]
    pub(crate) bias: &'t Tensor,
    /// Of y; a backward pass would need what it was before.
    pub(crate) activation: Option<Activation>,
}

/// Whether an activation is a part of the GEMM's kernel. Not on software, where it saves no time, but a first start has more kernels to
/// compile.
pub(crate) fn fuses(gpu: &Gpu) -> bool {
    !gpu.is_software()
}

/// y\[rows, out\] = f(x W^T + b)
pub(crate) fn forward(pass: &mut Pass, Forward { x, weight, bias, activation }: Forward) -> Result<Tensor> {
    let y = pass.alloc(&[x.rows(), weight.rows()])?;
    let sizes = sizes(x.rows(), weight.rows(), weight.columns());
    let (x, weight) = (operand(pass, x)?, operand(pass, weight)?);
    let arrays = Gemm { a: &x, b: &weight, bias: Some(bias), c: &y, sizes };
    let (fused, after) = if fuses(pass.gpu()) { (activation, None) } else { (None, activation) };
    multiply(pass, Form::linear(fused), &arrays)?;
    match after {
        Some(kind) => activation::forward(pass, kind, &y),
        None => Ok(y),
    }
}

/// A tensor as the pass multiplies it: in f16 where that is asked for.
fn operand(pass: &mut Pass, tensor: &Tensor) -> Result<Tensor> {
    if pass.half { to_half(pass, tensor) } else { Ok(tensor.clone()) }
}

fn multiply(pass: &mut Pass, form: Form, arrays: &Gemm) -> Result<()> {
    if pass.half { gemm_f16(pass, form, arrays) } else { gemm(pass, form, arrays) }
}

/// Arrays of [`backward`].
pub(crate) struct Backward<'t> {
    /// \[rows, out\]
    pub(crate) dy: &'t Tensor,
    /// \[rows, in\]
    pub(crate) x: &'t Tensor,
    /// \[out, in\]
    pub(crate) weight: &'t Tensor,
    /// \[out, in\], added to; `None` where the weight is not trained
    pub(crate) dweight: Option<&'t Tensor>,
    /// \[out\], added to, likewise
    pub(crate) dbias: Option<&'t Tensor>,
    /// \[rows, in\], added to where the input is used elsewhere too; otherwise one is made and written.
    pub(crate) dx: Option<&'t Tensor>,
}

/// dx = dy W (or +=), dW += dy^T x, db += column sums of dy. Returns dx.
pub(crate) fn backward(pass: &mut Pass, arrays: Backward) -> Result<Tensor> {
    let Backward { dy, x, weight, dweight, dbias, dx } = arrays;
    let (out, input) = (weight.rows(), weight.columns());
    let dy_operand = operand(pass, dy)?;
    if let Some(c) = dweight {
        let sizes = sizes(out, input, x.rows());
        let x = operand(pass, x)?;
        multiply(pass, Form::WeightGradient, &Gemm { a: &dy_operand, b: &x, bias: None, c, sizes })?;
    }
    if let Some(dbias) = dbias {
        column_sum(pass, dy, dbias)?;
    }
    let (form, dx) = match dx {
        Some(dx) => (Form::InputGradientAdd, dx.clone()),
        None => (Form::InputGradient, pass.alloc(&[x.rows(), input])?),
    };
    let sizes = sizes(x.rows(), input, out);
    let weight = operand(pass, weight)?;
    multiply(pass, form, &Gemm { a: &dy_operand, b: &weight, bias: None, c: &dx, sizes })?;
    Ok(dx)
}

fn sizes(m: usize, n: usize, k: usize) -> Sizes {
    Sizes { m: m as u32, n: n as u32, k: k as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, dot, f64s, random, run};

    fn twin(x: &[f64], w: &[f64], b: &[f64], input: usize) -> Vec<f64> {
        let out = b.len();
        let rows = x.len() / input;
        let row = |i: usize, o: usize| b[o] + dot(&x[i * input..(i + 1) * input], &w[o * input..(o + 1) * input]);
        (0..rows * out).map(|at| row(at / out, at % out)).collect()
    }

    /// (dx, dw, db)
    fn twin_backward(x: &[f64], w: &[f64], dy: &[f64], input: usize) -> [Vec<f64>; 3] {
        let out = w.len() / input;
        let rows = x.len() / input;
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; out]);
        for i in 0..rows {
            for o in 0..out {
                let g = dy[i * out + o];
                db[o] += g;
                for j in 0..input {
                    dx[i * input + j] += g * w[o * input + j];
                    dw[o * input + j] += g * x[i * input + j];
                }
            }
        }
        [dx, dw, db]
    }

    #[test]
    fn the_twin_is_right() {
        let [x, w, b, dy] = [(15, 1), (12, 2), (4, 3), (20, 4)].map(|(n, seed)| f64s(&random(n, seed)));
        let [dx, dw, db] = twin_backward(&x, &w, &dy, 3);
        assert_gradient("dx", |x| dot(&twin(x, &w, &b, 3), &dy), &x, &dx);
        assert_gradient("dw", |w| dot(&twin(&x, w, &b, 3), &dy), &w, &dw);
        assert_gradient("db", |b| dot(&twin(&x, &w, b, 3), &dy), &b, &db);
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        for (rows, input, out) in [(1, 1, 1), (13, 7, 37), (130, 65, 20)] {
            let [x, w, b, dy] =
                [(rows * input, 1), (out * input, 2), (out, 3), (rows * out, 4)].map(|(n, s)| random(n, s));
            let [dw0, db0, dx0] = [(out * input, 5), (out, 6), (rows * input, 7)].map(|(n, s)| random(n, s));
            let got = run(&gpu, |pass| {
                let (x, weight) = (pass.upload(&[rows, input], &x)?, pass.upload(&[out, input], &w)?);
                let (bias, dy) = (pass.upload(&[out], &b)?, pass.upload(&[rows, out], &dy)?);
                let y = forward(pass, Forward { x: &x, weight: &weight, bias: &bias, activation: None })?;
                let (dweight, dbias) = (pass.upload(&[out, input], &dw0)?, pass.upload(&[out], &db0)?);
                let (dw, db) = (Some(&dweight), Some(&dbias));
                let arrays = Backward { dy: &dy, x: &x, weight: &weight, dweight: dw, dbias: db, dx: None };
                let dx = backward(pass, arrays)?;
                let added = pass.upload(&[rows, input], &dx0)?;
                let arrays = Backward { dy: &dy, x: &x, weight: &weight, dweight: None, dbias: None, dx: Some(&added) };
                backward(pass, arrays)?;
                Ok(vec![y, dx, dweight, dbias, added])
            });
            let [x, w, b, dy] = [x, w, b, dy].map(|v| f64s(&v));
            let [dx, dw, db] = twin_backward(&x, &w, &dy, input);
            let sum = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, &b)| a + f64::from(b)).collect::<Vec<_>>();
            assert_close("y", &got[0], &twin(&x, &w, &b, input), 1e-5);
            assert_close("dx", &got[1], &dx, 1e-5);
            assert_close("dweight", &got[2], &sum(&dw, &dw0), 1e-5);
            assert_close("dbias", &got[3], &sum(&db, &db0), 1e-5);
            assert_close("dx, added", &got[4], &sum(&dx, &dx0), 1e-5);
        }
    }
}
