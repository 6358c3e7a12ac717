//! y = x in f16.

use super::BLOCK;
use crate::error::Result;
use crate::gpu::{Kernel, Pass, Tensor, spread};

const SOURCE: &str = concat!(include_str!("../../shaders/f16.wgsl"), include_str!("../../shaders/half.wgsl"));
pub(crate) static TO_HALF: Kernel = Kernel::plain("half", SOURCE, "to_half").narrowing();

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
        // Around every f16 there is, halfway between two, and on either side of that.
        for bits in 0..0x7c00 {
            let [low, high] = [bits, bits + 1].map(|bits| f16::from_bits(bits).to_f32());
            let middle = if high.is_finite() { low + (high - low) / 2.0 } else { 65_520.0 };
            x.extend([low, middle.next_down(), -middle, middle.next_up()]);
        }
        x.extend([-0.0, 1e-8, -1e30, 1e-45, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        let got = run(&gpu, |pass| {
            let x = pass.upload(&[x.len()], &x)?;
            Ok(vec![to_half(pass, &x)?])
        });
        let got: &[u16] = bytemuck::cast_slice(&got[0]);
        assert_eq!(got.len(), x.len().next_multiple_of(2));
        for (x, got) in x.iter().zip(got) {
            let (got, want) = (f16::from_bits(*got), f16::from_f32(*x));
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{x:e}: {got:e} {want:e}");
        }
    }
}
