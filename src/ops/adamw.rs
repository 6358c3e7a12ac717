//! Global-norm clipping and AdamW (Loshchilov and Hutter, arXiv 1711.05101) as `torch.optim.AdamW` computes it.

use super::BLOCK;
use crate::error::Result;
use crate::gpu::{Kernel, Pass, Tensor, spread};

const SOURCE: &str = concat!(include_str!("../../shaders/adamw_params.wgsl"), include_str!("../../shaders/adamw.wgsl"));
const SOURCE_OF_FOURS: &str =
    concat!(include_str!("../../shaders/adamw_params.wgsl"), include_str!("../../shaders/adamw_fours.wgsl"));
pub(crate) static SUM_OF_SQUARES: Kernel = Kernel::plain("adamw", SOURCE, "sum_of_squares").narrowing();
pub(crate) static CLIP: Kernel = Kernel::plain("adamw", SOURCE, "clip").narrowing();
pub(crate) static ADAMW: Kernel = Kernel::plain("adamw", SOURCE, "adamw").narrowing();

/// On software adapters, which are measured to be faster with it.
pub(crate) static ADAMW_FOURS: Kernel = Kernel::plain("adamw_fours", SOURCE_OF_FOURS, "adamw_fours").narrowing();

/// Elements whose squares one workgroup sums; the shader's `SUM_BLOCK`.
const SUM_BLOCK: usize = 16_384;

/// The shader's immediates; each entry point reads those it needs.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    len: u32,
    first: u32,
    decay: f32,
    step_size: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    sqrt_correction2: f32,
    max_norm: f32,
    unscale: f32,
}

/// Returns \[norm, coefficient\]: the 2-norm of all gradients together, and `min(1, max_norm / (norm + 1e-6))`, or 1
/// where `max_norm` is 0. Where the gradients are `loss_scale` times as large as they should be, that is taken out of both.
pub(crate) fn clip(pass: &mut Pass, gradients: &[Tensor], max_norm: f32, loss_scale: f32) -> Result<Tensor> {
    let blocks: usize = gradients.iter().map(|gradient| gradient.len().div_ceil(SUM_BLOCK)).sum();
    let partials = pass.alloc(&[blocks])?;
    let mut first = 0;
    for gradient in gradients {
        let params = Params { len: gradient.len() as u32, first: first as u32, ..Default::default() };
        let blocks = gradient.len().div_ceil(SUM_BLOCK);
        pass.dispatch(&SUM_OF_SQUARES, 0, &[gradient, &partials], &params, spread(blocks))?;
        first += blocks;
    }
    let state = pass.alloc(&[2])?;
    let params = Params { len: blocks as u32, max_norm, unscale: 1.0 / loss_scale, ..Default::default() };
    pass.dispatch(&CLIP, 0, &[&partials, &state], &params, [1, 1, 1])?;
    Ok(state)
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Counted from 1.
    pub(crate) step: u64,
    pub(crate) learning_rate: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
}

/// What is trained, and what the optimizer knows of it: arrays of one shape.
pub(crate) struct AdamW<'t> {
    pub(crate) gradient: &'t Tensor,
    pub(crate) value: &'t Tensor,
    pub(crate) m: &'t Tensor,
    pub(crate) v: &'t Tensor,
    pub(crate) weight_decay: f64,
}

impl AdamW<'_> {
    fn arrays(&self) -> [&Tensor; 4] {
        [self.gradient, self.value, self.m, self.v]
    }

    fn follows(&self, before: &Self) -> bool {
        self.weight_decay == before.weight_decay
            && self.arrays().into_iter().zip(before.arrays()).all(|(array, before)| array.follows(before))
    }
}

/// Updates values, m and v in place: those that lie one behind another, in all four kinds of arrays, in one dispatch. `clip` is from
/// [`clip`]; where its norm is not finite nothing is changed.
pub(crate) fn adamw(pass: &mut Pass, clip: &Tensor, trained: &[AdamW], step: Step) -> Result<()> {
    let Step { step, learning_rate, beta1, beta2, eps } = step;
    let steps = i32::try_from(step).unwrap_or(i32::MAX);
    for run in trained.chunk_by(|before, next| next.follows(before)) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let [gradient, value, m, v]: [Tensor; 4] =
            std::array::from_fn(|i| Tensor::spanning(first.arrays()[i], last.arrays()[i]));
        let params = Params {
            len: value.len() as u32,
            decay: (1.0 - learning_rate * first.weight_decay) as f32,
            step_size: (learning_rate / (1.0 - beta1.powi(steps))) as f32,
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            eps: eps as f32,
            sqrt_correction2: (1.0 - beta2.powi(steps)).sqrt() as f32,
            ..Default::default()
        };
        let in_fours = pass.gpu().is_software() && pass.gpu().has_int64() && value.len().is_multiple_of(4);
        let kernel = if in_fours { &ADAMW_FOURS } else { &ADAMW };
        let grid = spread(value.len().div_ceil(BLOCK));
        pass.dispatch(kernel, 0, &[&gradient, clip, &value, &m, &v], &params, grid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, f64s, random, run};

    const WEIGHT_DECAY: f64 = 0.1;
    const STEP: Step = Step { step: 1, learning_rate: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8 };

    fn norm(gradients: &[Vec<f32>]) -> f64 {
        gradients.iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn clip_measures_all_gradients_together() {
        let gpu = crate::gpu::test_gpu();
        for lengths in [vec![1], vec![37, 16_384, 16_385], vec![70_000, 3]] {
            let gradients: Vec<Vec<f32>> = lengths.iter().enumerate().map(|(i, &n)| random(n, i as u64)).collect();
            for (max_norm, scale) in [(0.0, 1.0), (0.5, 1.0), (1e6, 1.0), (0.0, 1024.0), (0.5, 1024.0), (1e-3, 1024.0)]
            {
                let got = run(&gpu, |pass| {
                    let mut tensors = Vec::new();
                    for gradient in &gradients {
                        tensors.push(pass.upload(&[gradient.len()], gradient)?);
                    }
                    Ok(vec![clip(pass, &tensors, max_norm, scale)?])
                });
                // As torch's GradScaler does it: the gradients first become as large as they should be.
                let norm = norm(&gradients) / f64::from(scale);
                let limit = f64::from(max_norm);
                let coefficient = if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 };
                let got = [got[0][0], got[0][1] * scale];
                assert_close(&format!("{lengths:?}, {max_norm}, {scale}"), &got, &[norm, coefficient], 1e-5);
            }
        }
    }

    /// By fours, where the adapter is software, and one by one.
    #[test]
    fn ten_steps_equal_the_twin() {
        [2500, 2503].into_iter().for_each(ten_steps);
    }

    fn ten_steps(n: usize) {
        let gpu = crate::gpu::test_gpu();
        let start = random(n, 1);
        let gradients: Vec<Vec<f32>> = (0..10).map(|i| random(n, 10 + i)).collect();
        let got = run(&gpu, |pass| {
            let (value, zeros) = (pass.upload(&[n], &start)?, vec![0.0f32; n]);
            let (m, v) = (pass.upload(&[n], &zeros)?, pass.upload(&[n], &zeros)?);
            for (i, gradient) in gradients.iter().enumerate() {
                let gradient = pass.upload(&[n], gradient)?;
                let clip = clip(pass, std::slice::from_ref(&gradient), 2.0, 1.0)?;
                let trained = [AdamW { gradient: &gradient, value: &value, m: &m, v: &v, weight_decay: WEIGHT_DECAY }];
                adamw(pass, &clip, &trained, Step { step: i as u64 + 1, ..STEP })?;
            }
            Ok(vec![value, m, v])
        });
        let (mut value, mut m, mut v) = (f64s(&start), vec![0.0; n], vec![0.0; n]);
        for (i, gradient) in gradients.iter().enumerate() {
            let coefficient = (2.0 / (norm(std::slice::from_ref(gradient)) + 1e-6)).min(1.0);
            let t = i as i32 + 1;
            for j in 0..n {
                let g = f64::from(gradient[j]) * coefficient;
                value[j] *= 1.0 - STEP.learning_rate * WEIGHT_DECAY;
                m[j] = STEP.beta1 * m[j] + (1.0 - STEP.beta1) * g;
                v[j] = STEP.beta2 * v[j] + (1.0 - STEP.beta2) * g * g;
                let m_hat = m[j] / (1.0 - STEP.beta1.powi(t));
                let v_hat = v[j] / (1.0 - STEP.beta2.powi(t));
                value[j] -= STEP.learning_rate * m_hat / (v_hat.sqrt() + STEP.eps);
            }
        }
        assert_close("value", &got[0], &value, 1e-6);
        assert_close("m", &got[1], &m, 1e-6);
        assert_close("v", &got[2], &v, 1e-6);
    }

    /// What lies one behind another is one run for each weight decay, and gets what it gets by itself.
    #[test]
    fn joined_arrays_are_taken_together() {
        let gpu = crate::gpu::test_gpu();
        let lengths = [1500, 3, 64, 130];
        let decays = [0.1, 0.1, 0.0, 0.0];
        let shapes = lengths.map(|len| [len]);
        let parts: Vec<(&[usize], String)> = shapes.iter().map(|shape| (&shape[..], "a part".to_owned())).collect();
        // Gradients, values and both moments.
        let arrays = |kind: u64| -> Vec<Vec<f32>> {
            let numbers = lengths.iter().zip(0..).map(|(&len, i)| random(len, 10 * kind + i));
            numbers.map(|numbers| numbers.into_iter().map(f32::abs).collect()).collect()
        };
        let values: Vec<Vec<Vec<f32>>> = (0..4).map(arrays).collect();
        let joined = || Tensor::joined(&gpu, &parts).unwrap();
        let apart = || shapes.iter().map(|shape| Tensor::persistent(&gpu, shape, "a part").unwrap()).collect();
        let step = |memory: &dyn Fn() -> Vec<Tensor>| {
            run(&gpu, |pass| {
                let filled = |values: &Vec<Vec<f32>>| {
                    let tensors = memory();
                    tensors.iter().zip(values).try_for_each(|(tensor, values)| tensor.write(&gpu, 0, values))?;
                    Ok(tensors)
                };
                let kinds = values.iter().map(filled).collect::<Result<Vec<_>>>()?;
                let clip = clip(pass, &kinds[0], 0.5, 1.0)?;
                let each = (0..4).map(|i| AdamW {
                    gradient: &kinds[0][i],
                    value: &kinds[1][i],
                    m: &kinds[2][i],
                    v: &kinds[3][i],
                    weight_decay: decays[i],
                });
                adamw(pass, &clip, &each.collect::<Vec<_>>(), STEP)?;
                Ok([&kinds[1..].concat()[..], &[clip]].concat())
            })
        };
        let runs = |memory: &dyn Fn() -> Vec<Tensor>| Tensor::runs(&memory().iter().collect::<Vec<_>>()).len();
        assert_eq!((runs(&joined), runs(&apart)), (1, 4));
        let (mut one, mut other) = (step(&joined), step(&apart));
        // Norms are added up in another order.
        let (norm, same) = (one.pop().unwrap(), f64s(&other.pop().unwrap()));
        assert_close("norm and coefficient", &norm, &same, 1e-6);
        for (one, other) in one.iter().zip(&other) {
            assert_close("values and moments", one, &f64s(other), 1e-6);
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let gpu = crate::gpu::test_gpu();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let got = run(&gpu, |pass| {
                let value = pass.upload(&[3], &[1.0f32, 2.0, 3.0])?;
                let (m, v) = (pass.upload(&[3], &[4.0f32; 3])?, pass.upload(&[3], &[5.0f32; 3])?);
                let gradient = pass.upload(&[3], &[0.1, bad, 0.1])?;
                let clip = clip(pass, std::slice::from_ref(&gradient), 1.0, 1.0)?;
                let trained = [AdamW { gradient: &gradient, value: &value, m: &m, v: &v, weight_decay: WEIGHT_DECAY }];
                adamw(pass, &clip, &trained, STEP)?;
                Ok(vec![value, m, v])
            });
            assert_eq!(got, [vec![1.0, 2.0, 3.0], vec![4.0; 3], vec![5.0; 3]]);
        }
    }
}
