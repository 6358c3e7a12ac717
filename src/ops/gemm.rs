//! C = op(A) op(B), with an optional bias, written or added.
//!
//! Two variants, chosen by adapter: `gemm_subgroup` where a subgroup is one vector of a CPU, `gemm_tiled` everywhere else.

use crate::error::Result;
use crate::gpu::{Constants, Gpu, Kernel, Pass, Tensor};

const fn constants(transposed_a: bool, transposed_b: bool, bias: bool, accumulate: bool) -> [(&'static str, f64); 4] {
    [
        ("TRANS_A", transposed_a as u8 as f64),
        ("TRANS_B", transposed_b as u8 as f64),
        ("BIAS", bias as u8 as f64),
        ("ACCUMULATE", accumulate as u8 as f64),
    ]
}

/// What a GEMM does beside multiplying; the discriminants index [`VARIANTS`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// C\[m,n\] = A\[m,k\] B\[n,k\]^T + bias\[n\]: a linear layer.
    Linear = 0,
    /// C\[m,n\] = A\[m,k\] B\[k,n\]: the gradient of a linear layer's input.
    InputGradient = 1,
    /// C\[m,n\] += A\[m,k\] B\[k,n\]: the same, where the input is used elsewhere too.
    InputGradientAdd = 2,
    /// C\[m,n\] += A\[k,m\]^T B\[k,n\]: the gradient of a linear layer's weight.
    WeightGradient = 3,
    /// C\[m,n\] += A\[m,k\] B\[n,k\]^T: a product of gradients, for low-rank factors.
    TransposedAdd = 4,
}

const VARIANTS: &[Constants] = &[
    &constants(false, true, true, false),
    &constants(false, false, false, false),
    &constants(false, false, false, true),
    &constants(true, false, false, true),
    &constants(false, true, false, true),
];

macro_rules! kernel {
    ($name:literal, $elements:literal, $source:literal) => {
        Kernel {
            file: $name,
            source: concat!($elements, include_str!(concat!("../../shaders/", $source, ".wgsl"))),
            entry: "gemm",
            variants: VARIANTS,
        }
    };
}

pub(crate) static TILED: Kernel = kernel!("gemm_tiled", "alias Element = f32;\n", "gemm_tiled");
pub(crate) static SUBGROUP: Kernel = kernel!("gemm_subgroup", "alias Element = f32;\n", "gemm_subgroup");
// The same with A and B in f16; products and sums are f32.
pub(crate) static TILED_F16: Kernel = kernel!("gemm_tiled_f16", "enable f16;\nalias Element = f16;\n", "gemm_tiled");
pub(crate) static SUBGROUP_F16: Kernel =
    kernel!("gemm_subgroup_f16", "enable f16;\nalias Element = f16;\n", "gemm_subgroup");

/// Rows and columns of C that one workgroup computes.
fn tile(kernel: &Kernel) -> [usize; 2] {
    if kernel.file.starts_with("gemm_subgroup") { [16, 128] } else { [64, 64] }
}

/// The kernels this adapter can run, the preferred one first.
pub(crate) fn candidates(gpu: &Gpu) -> Vec<&'static Kernel> {
    let adapter = gpu.adapter();
    match gpu.has_subgroups() && adapter.subgroup_min_size >= 8 {
        true if adapter.device_type == "cpu" => vec![&SUBGROUP, &TILED],
        true => vec![&TILED, &SUBGROUP],
        false => vec![&TILED],
    }
}

/// The arrays of one GEMM.
pub(crate) struct Gemm<'t> {
    pub(crate) a: &'t Tensor,
    pub(crate) b: &'t Tensor,
    /// \[n\]; for [`Form::Linear`] only.
    pub(crate) bias: Option<&'t Tensor>,
    /// \[m, n\]; written `=` or added `+=` as the form says.
    pub(crate) c: &'t Tensor,
    pub(crate) sizes: Sizes,
}

/// m, n and k of the shader.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Sizes {
    pub(crate) m: u32,
    pub(crate) n: u32,
    pub(crate) k: u32,
}

/// Records one GEMM with the kernel preferred on this adapter.
pub(crate) fn gemm(pass: &mut Pass, form: Form, arrays: &Gemm) -> Result<()> {
    let kernel = candidates(pass.gpu())[0];
    gemm_with(pass, kernel, form, arrays)
}

/// [`gemm`] with A and B as [`to_half`](super::half::to_half) gives them.
pub(crate) fn gemm_f16(pass: &mut Pass, form: Form, arrays: &Gemm) -> Result<()> {
    let kernel = half_of(candidates(pass.gpu())[0]);
    gemm_with(pass, kernel, form, arrays)
}

fn half_of(kernel: &Kernel) -> &'static Kernel {
    if kernel.file == SUBGROUP.file { &SUBGROUP_F16 } else { &TILED_F16 }
}

fn gemm_with(pass: &mut Pass, kernel: &'static Kernel, form: Form, arrays: &Gemm) -> Result<()> {
    let Gemm { a, b, bias, c, sizes } = arrays;
    let [rows, columns] = tile(kernel);
    let grid = [(sizes.n as usize).div_ceil(columns), (sizes.m as usize).div_ceil(rows), 1];
    // Without a bias its binding is not read; any read-only tensor serves.
    let bias = bias.unwrap_or(b);
    pass.dispatch(kernel, form as usize, &[a, b, bias, c], sizes, grid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{self, assert_close};
    use crate::ops::half::to_half;

    /// op(A) op(B) + C0 in f64.
    fn twin(form: Form, a: &[f32], b: &[f32], c0: &[f32], Sizes { m, n, k }: Sizes) -> Vec<f64> {
        let (m, n, k) = (m as usize, n as usize, k as usize);
        let a = |i: usize, l: usize| match form {
            Form::WeightGradient => a[l * m + i],
            _ => a[i * k + l],
        };
        let b = |l: usize, j: usize| match form {
            Form::Linear | Form::TransposedAdd => b[j * k + l],
            _ => b[l * n + j],
        };
        let product = |i, j| (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j))).sum::<f64>();
        (0..m * n).map(|at| f64::from(c0[at]) + product(at / n, at % n)).collect()
    }

    /// With A and B in f32, or in f16: then the twin gets the rounded values, and agrees as closely.
    #[test]
    fn every_variant_and_form_equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        let shapes = [(1, 1, 1), (13, 7, 37), (64, 64, 16), (65, 129, 8), (3, 200, 61), (130, 5, 100), (17, 128, 24)];
        let halves = candidates(&gpu).into_iter().map(half_of).filter(|_| gpu.has_f16());
        let kernels: Vec<_> = candidates(&gpu).into_iter().chain(halves).collect();
        assert!(kernels.len() >= if gpu.has_f16() { 2 } else { 1 });
        for kernel in kernels {
            let is_half = kernel.file.ends_with("f16");
            let forms =
                [Form::Linear, Form::InputGradient, Form::InputGradientAdd, Form::WeightGradient, Form::TransposedAdd];
            for form in forms {
                for (m, n, k) in shapes {
                    let sizes = Sizes { m: m as u32, n: n as u32, k: k as u32 };
                    let round = |x: Vec<f32>| match is_half {
                        true => x.into_iter().map(|x| half::f16::from_f32(x).to_f32()).collect(),
                        false => x,
                    };
                    let (a, b) = (round(check::random(m * k, 1)), round(check::random(k * n, 2)));
                    let (bias, before) = (check::random(n, 3), check::random(m * n, 4));
                    let got = check::run(&gpu, |pass| {
                        let c = match form {
                            Form::Linear | Form::InputGradient => pass.alloc(&[m, n])?,
                            _ => pass.upload(&[m, n], &before)?,
                        };
                        let (mut a, mut b) = (pass.upload(&[m, k], &a)?, pass.upload(&[k, n], &b)?);
                        if is_half {
                            (a, b) = (to_half(pass, &a)?, to_half(pass, &b)?);
                        }
                        let bias = pass.upload(&[n], &bias)?;
                        let bias = matches!(form, Form::Linear).then_some(&bias);
                        gemm_with(pass, kernel, form, &Gemm { a: &a, b: &b, bias, c: &c, sizes })?;
                        Ok(vec![c])
                    });
                    let c0: Vec<f32> = match form {
                        Form::Linear => (0..m * n).map(|at| bias[at % n]).collect(),
                        Form::InputGradient => vec![0.0; m * n],
                        _ => before.clone(),
                    };
                    let want = twin(form, &a, &b, &c0, sizes);
                    assert_close(&format!("{} {form:?} {m}x{n}x{k}", kernel.file), &got[0], &want, 1e-5);
                }
            }
        }
    }
}
