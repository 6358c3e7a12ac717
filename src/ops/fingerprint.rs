//! One number that tells arrays apart, whatever adapter they are on.

use crate::error::Result;
use crate::gpu::{Gpu, Kernel, Pass, Tensor, spread};

const SOURCE: &str = concat!(include_str!("../../shaders/random.wgsl"), include_str!("../../shaders/fingerprint.wgsl"));
pub(crate) static FINGERPRINT: Kernel = Kernel::plain("fingerprint", SOURCE, "fingerprint").narrowing();

/// Elements that a workgroup takes; the shader's BLOCK.
const BLOCK: usize = 16_384;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    len: u32,
    first: u32,
}

/// Of the bits of all elements, their places, and the order of the arrays. It runs at once, and waits.
pub(crate) fn fingerprint(gpu: &Gpu, arrays: &[&Tensor]) -> Result<u64> {
    let mut pass = Pass::new(gpu);
    let sums = record(&mut pass, arrays)?;
    let sums = pass.download(&sums)?;
    pass.submit()?;
    Ok(combine(arrays, &sums.wait::<[u32; 2]>(gpu)?))
}

/// u32 \[blocks of all arrays, 2\]
fn record(pass: &mut Pass, arrays: &[&Tensor]) -> Result<Tensor> {
    let blocks = arrays.iter().map(|array| array.len().div_ceil(BLOCK)).sum();
    let sums = pass.alloc(&[blocks, 2])?;
    let mut first = 0;
    for array in arrays {
        let blocks = array.len().div_ceil(BLOCK);
        let params = Params { len: array.len() as u32, first: first as u32 };
        pass.dispatch(&FINGERPRINT, 0, &[array, &sums], &params, spread(blocks))?;
        first += blocks;
    }
    Ok(sums)
}

/// FNV-1a of the arrays' lengths and sums.
fn combine(arrays: &[&Tensor], sums: &[[u32; 2]]) -> u64 {
    let (mut bytes, mut sums) = (Vec::new(), sums.iter());
    for array in arrays {
        let blocks = sums.by_ref().take(array.len().div_ceil(BLOCK));
        let [a, b] = blocks.fold([0u32; 2], |[a, b], [c, d]| [a.wrapping_add(*c), b.wrapping_add(*d)]);
        for number in [array.len() as u32, a, b] {
            bytes.extend(number.to_le_bytes());
        }
    }
    crate::gpu::hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, run};
    use crate::ops::dropout::tests::pcg;

    #[test]
    fn sums_equal_their_twin() {
        let gpu = crate::gpu::test_gpu();
        for lengths in [vec![1], vec![16_384, 37, 16_385], vec![40_000]] {
            let arrays: Vec<Vec<f32>> = lengths.iter().enumerate().map(|(i, &n)| random(n, i as u64)).collect();
            let got = run(&gpu, |pass| {
                let tensors: Vec<_> = arrays.iter().map(|a| pass.upload(&[a.len()], a)).collect::<Result<_>>()?;
                Ok(vec![record(pass, &tensors.iter().collect::<Vec<_>>())?])
            });
            let want: Vec<u32> = arrays
                .iter()
                .flat_map(|array| {
                    let hashes: Vec<u32> =
                        array.iter().enumerate().map(|(i, x)| pcg(pcg(x.to_bits()).wrapping_add(i as u32))).collect();
                    let add = |a: u32, b: u32| a.wrapping_add(b);
                    let block = move |block: &[u32]| {
                        let second = block.iter().map(|hash| pcg(hash ^ 0x9e37_79b9)).fold(0, add);
                        [block.iter().copied().fold(0, add), second]
                    };
                    hashes.chunks(BLOCK).flat_map(block).collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(got[0].iter().map(|word| word.to_bits()).collect::<Vec<_>>(), want, "{lengths:?}");
        }
    }

    #[test]
    fn a_bit_a_place_and_the_order_of_arrays_count() {
        let gpu = crate::gpu::test_gpu();
        let of = |arrays: &[&[f32]]| {
            let tensors: Vec<_> = arrays
                .iter()
                .map(|array| {
                    let tensor = Tensor::persistent(&gpu, &[array.len()], "an array").unwrap();
                    tensor.write(&gpu, 0, array).unwrap();
                    tensor
                })
                .collect();
            fingerprint(&gpu, &tensors.iter().collect::<Vec<_>>()).unwrap()
        };
        let first = of(&[&[1.0, 2.0], &[3.0]]);
        assert_eq!(first, of(&[&[1.0, 2.0], &[3.0]]));
        // The same numbers with the same norm, at other places.
        for other in
            [&[&[2.0, 1.0][..], &[3.0]][..], &[&[3.0], &[1.0, 2.0]], &[&[1.0, 2.0, 3.0]], &[&[1.0, -2.0], &[3.0]]]
        {
            assert_ne!(first, of(other), "{other:?}");
        }
        assert_ne!(first, of(&[&[1.0, 2.0], &[f32::from_bits(3.0f32.to_bits() + 1)]]));
    }
}
