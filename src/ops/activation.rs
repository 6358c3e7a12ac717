//! The activations BERT checkpoints name in `hidden_act`.

use super::BLOCK;
use crate::error::Result;
use crate::gpu::{Constants, Kernel, Pass, Tensor, spread};

/// `hidden_act`; the discriminants index [`VARIANTS`] and are the shader's `KIND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x Phi(x), by the error function.
    Gelu = 0,
    /// GELU by the tanh approximation.
    GeluNew = 1,
    /// max(x, 0)
    Relu = 2,
}

const VARIANTS: &[Constants] = &[&[("KIND", 0.0)], &[("KIND", 1.0)], &[("KIND", 2.0)]];
/// The shader's `KIND` of no activation.
pub(super) const NONE: u8 = 3;
const SOURCE: &str =
    concat!(include_str!("../../shaders/activated.wgsl"), include_str!("../../shaders/activation.wgsl"));
pub(crate) static FORWARD: Kernel = Kernel::new("activation", SOURCE, "forward", VARIANTS).narrowing();
pub(crate) static BACKWARD: Kernel = Kernel::new("activation", SOURCE, "backward", VARIANTS).narrowing();

/// y = f(x)
pub(crate) fn forward(pass: &mut Pass, kind: Activation, x: &Tensor) -> Result<Tensor> {
    let y = pass.alloc(x.shape())?;
    pass.dispatch(&FORWARD, kind as usize, &[x, &y], &(x.len() as u32), spread(x.len().div_ceil(BLOCK)))?;
    Ok(y)
}

/// dx = dy f'(x)
pub(crate) fn backward(pass: &mut Pass, kind: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let dx = pass.alloc(x.shape())?;
    pass.dispatch(&BACKWARD, kind as usize, &[x, dy, &dx], &(x.len() as u32), spread(x.len().div_ceil(BLOCK)))?;
    Ok(dx)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, dot, f64s, random, run};
    use std::f64::consts::{FRAC_1_SQRT_2, PI};

    const ALL: [Activation; 3] = [Activation::Gelu, Activation::GeluNew, Activation::Relu];

    pub(in crate::ops) fn f(kind: Activation, x: f64) -> f64 {
        match kind {
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2)),
            Activation::GeluNew => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
            Activation::Relu => x.max(0.0),
        }
    }

    fn df(kind: Activation, x: f64) -> f64 {
        match kind {
            Activation::Gelu => {
                0.5 * (1.0 + libm::erf(x * FRAC_1_SQRT_2)) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
            }
            Activation::GeluNew => {
                let th = ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh();
                0.5 * (1.0 + th) + 0.5 * x * (1.0 - th * th) * (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x)
            }
            Activation::Relu => f64::from(x > 0.0),
        }
    }

    fn inputs() -> Vec<f32> {
        let mut x: Vec<f32> = random(2601, 1).iter().map(|x| x * 6.0).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-3, 10.0, -10.0, 20.0, -20.0, 88.0, -89.0, 1e3, -1e3, 1e4, -1e4]);
        x
    }

    #[test]
    fn the_twin_is_right() {
        for kind in ALL {
            let (x, dy) = (f64s(&random(50, 2)), f64s(&random(50, 3)));
            let gradient: Vec<f64> = x.iter().zip(&dy).map(|(&x, dy)| dy * df(kind, x)).collect();
            let value = |x: &[f64]| dot(&x.iter().map(|&x| f(kind, x)).collect::<Vec<_>>(), &dy);
            assert_gradient(&format!("{kind:?}"), value, &x, &gradient);
        }
    }

    #[test]
    fn equals_its_twin_and_is_finite_far_out() {
        let gpu = crate::gpu::test_gpu();
        let (x, dy) = (inputs(), random(inputs().len(), 3));
        for kind in ALL {
            let got = run(&gpu, |pass| {
                let (x, dy) = (pass.upload(&[x.len()], &x)?, pass.upload(&[dy.len()], &dy)?);
                Ok(vec![forward(pass, kind, &x)?, backward(pass, kind, &x, &dy)?])
            });
            let y: Vec<f64> = x.iter().map(|&x| f(kind, x.into())).collect();
            let dx: Vec<f64> = x.iter().zip(&dy).map(|(&x, &dy)| f64::from(dy) * df(kind, x.into())).collect();
            assert_close(&format!("{kind:?}"), &got[0], &y, 1e-6);
            // 1 - tanh^2 cancels where tanh is near 1.
            assert_close(&format!("{kind:?} gradient"), &got[1], &dx, 3e-6);
        }
    }
}
