//! y = x in f16.

use super::BLOCK;
use crate::error::Result;
use crate::gpu::{Kernel, Pass, Tensor, spread};

pub(crate) static TO_HALF: Kernel =
    Kernel::plain("half", include_str!("../../shaders/half.wgsl"), "to_half").narrowing();

/// Returns x rounded to f16, two values in an element of four bytes.
pub(crate) fn to_half(pass: &mut Pass, x: &Tensor) -> Result<Tensor> {
    let words = x.len().div_ceil(2);
    let y = pass.alloc(&[words])?;
    pass.dispatch(&TO_HALF, 0, &[x, &y], &(x.len() as u32), spread(words.div_ceil(BLOCK)))?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::ops::check::{random, run};

    #[test]
    fn rounds_as_f16_does_and_overflows_to_infinity() {
        let gpu = crate::gpu::test_gpu();
        let mut x = random(5001, 1);
        x.extend([
            0.0,
            -0.0,
            1e-8,
            6e-5,
            65_504.0,
            -65_504.0,
            65_519.0,
            65_520.0,
            -1e30,
            f32::INFINITY,
            f32::NAN,
            2049.0,
        ]);
        let got = run(&gpu, |pass| {
            let x = pass.upload(&[x.len()], &x)?;
            Ok(vec![to_half(pass, &x)?])
        });
        let got: &[u16] = bytemuck::cast_slice(&got[0]);
        for (x, got) in x.iter().zip(got) {
            let (got, want) = (f16::from_bits(*got), f16::from_f32(*x));
            // Drivers may flush what is too small for a normal f16, and round ties either way.
            let step = (want.to_f32().abs() * 0.001).max(6.2e-5);
            let same = got == want || (got.is_nan() && want.is_nan()) || (got.to_f32() - want.to_f32()).abs() <= step;
            assert!(same && got.is_finite() == want.is_finite(), "{x}: {got} {want}");
        }
    }
}
