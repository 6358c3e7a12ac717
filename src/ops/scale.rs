//! y = factor * x

use super::BLOCK;
use crate::error::Result;
use crate::gpu::{Kernel, Pass, Tensor, spread};

pub(crate) static SCALE: Kernel = Kernel::plain("scale", include_str!("../../shaders/scale.wgsl"), "scale").narrowing();

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    len: u32,
    factor: f32,
}

/// Returns y, shaped as x.
pub(crate) fn scale(pass: &mut Pass, x: &Tensor, factor: f32) -> Result<Tensor> {
    let y = pass.alloc(x.shape())?;
    let params = Params { len: x.len() as u32, factor };
    pass.dispatch(&SCALE, 0, &[x, &y], &params, spread(x.len().div_ceil(BLOCK)))?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, run};

    #[test]
    fn every_element_is_multiplied() {
        let gpu = crate::gpu::test_gpu();
        for len in [1, 255, 1024, 1025, 3000] {
            let x = random(len, 1);
            let got = run(&gpu, |pass| {
                let x = pass.upload(&[len], &x)?;
                Ok(vec![scale(pass, &x, -1.5)?])
            });
            assert_eq!(got[0], x.iter().map(|x| -1.5 * x).collect::<Vec<_>>());
        }
    }
}
