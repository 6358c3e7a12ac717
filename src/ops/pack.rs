//! Weights in f16 or int8, for queries.

use crate::error::Result;
use crate::gpu::{Constants, Gpu, Kernel, Packing, Pass, Tensor, spread};

const VARIANTS: &[Constants] = &[&[("BITS", 16.0)], &[("BITS", 8.0)]];
const SOURCE: &str = concat!(include_str!("../../shaders/f16.wgsl"), include_str!("../../shaders/pack.wgsl"));
pub(crate) static PACK: Kernel = Kernel::new("pack", SOURCE, "pack", VARIANTS).narrowing().packing();

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sizes {
    rows: u32,
    columns: u32,
    words: u32,
}

/// A copy of a matrix, `what` in errors, with elements of fewer bits and a scale for each row. It runs at once.
pub(crate) fn pack(gpu: &Gpu, x: &Tensor, packing: Packing, what: &str) -> Result<Tensor> {
    let mut pass = Pass::new(gpu);
    let y = pack_in(&mut pass, x, packing, what)?;
    pass.submit_kept()?;
    Ok(y)
}

/// [`pack`] within a pass, whose workspace x may be.
pub(crate) fn pack_in(pass: &mut Pass, x: &Tensor, packing: Packing, what: &str) -> Result<Tensor> {
    let y = Tensor::packed(pass.gpu(), [x.rows(), x.columns()], packing, what)?;
    let words = packing.words_of_a_row(x.columns());
    let sizes = Sizes { rows: x.rows() as u32, columns: x.columns() as u32, words: words as u32 };
    pass.dispatch(&PACK, packing as usize, &[x, &y], &sizes, spread(x.rows()))?;
    Ok(y)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ops::check::{random, run};

    /// What the words of a packed matrix stand for.
    pub(crate) fn unpacked(words: &[u32], [rows, columns]: [usize; 2], packing: Packing) -> Vec<f64> {
        let of_row = packing.words_of_a_row(columns);
        let element = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            let scale = f64::from(f32::from_bits(words[rows * of_row + row]));
            let value = match packing {
                Packing::Float16 => {
                    let bits = words[row * of_row + column / 2] >> (column % 2 * 16);
                    half::f16::from_bits(bits as u16).to_f64()
                }
                Packing::Int8 => f64::from((words[row * of_row + column / 4] >> (column % 4 * 8)) as i8),
            };
            scale * value
        };
        (0..rows * columns).map(element).collect()
    }

    /// The matrix packed on the GPU, in words.
    pub(crate) fn words(gpu: &Gpu, x: &[f32], shape: [usize; 2], packing: Packing) -> Vec<u32> {
        let got = run(gpu, |pass| {
            let x = pass.upload(&shape, x)?;
            Ok(vec![pack_in(pass, &x, packing, "x")?.words()])
        });
        got[0].iter().map(|word| word.to_bits()).collect()
    }

    #[test]
    fn elements_are_the_nearest_there_are() {
        let gpu = crate::gpu::test_gpu();
        for shape in [[1, 1], [3, 4], [5, 37], [2, 768], [300, 6]] {
            let mut x = random(shape[0] * shape[1], 1);
            // Rows of very different sizes, one of zeros, and values that f16 alone has no room for.
            for (row, scale) in x.chunks_mut(shape[1]).zip([1.0, 1e9, 0.0, 1e-12, 70_000.0]) {
                row.iter_mut().for_each(|x| *x *= scale);
            }
            for packing in [Packing::Float16, Packing::Int8] {
                let got = unpacked(&words(&gpu, &x, shape, packing), shape, packing);
                for (row, got) in x.chunks(shape[1]).zip(got.chunks(shape[1])) {
                    let largest = row.iter().fold(0.0, |largest: f64, x| largest.max(f64::from(x.abs())));
                    for (&x, &got) in row.iter().zip(got) {
                        let x = f64::from(x);
                        let allowed = match packing {
                            // Half a unit of ten bits, or what is too small for a normal f16 where the largest is 2^14 to 2^15.
                            Packing::Float16 => (x.abs() * 4.9e-4).max(largest * 3.8e-9),
                            Packing::Int8 => largest / 127.0 * 0.5001,
                        };
                        assert!((x - got).abs() <= allowed, "{packing:?} {shape:?}: {x} {got}, {largest}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_f16_is_the_same_by_integers_alone() {
        const SOURCE: &str = "
            var<immediate> count: u32;
            @group(0) @binding(0) var<storage, read> words: array<u32>;
            @group(0) @binding(1) var<storage, read_write> values: array<vec2<f32>>;
            @compute @workgroup_size(64)
            fn halves(@builtin(global_invocation_id) id: vec3<u32>) {
                if id.x < count {
                    values[id.x] = unpack2x16float(words[id.x]);
                }
            }";
        static KERNEL: Kernel = Kernel::plain("halves", SOURCE, "halves");
        let gpu = crate::gpu::test_gpu();
        let words: Vec<u32> = (0..1 << 15).map(|i| i << 1 | (i << 1 | 1) << 16).collect();
        for in_integers in [gpu.style().in_integers, true] {
            let mut pass = Pass::new(&gpu);
            pass.style.in_integers = in_integers;
            let (x, y) = (pass.upload(&[words.len()], &words).unwrap(), pass.alloc(&[words.len(), 2]).unwrap());
            pass.dispatch(&KERNEL, 0, &[&x, &y], &[words.len() as u32], [words.len() / 64, 1, 1]).unwrap();
            let download = pass.download(&y).unwrap();
            pass.submit().unwrap();
            let values: Vec<f32> = download.wait(&gpu).unwrap();
            for (bits, value) in (0..=u16::MAX).zip(values) {
                let expected = half::f16::from_bits(bits).to_f32();
                let same = expected.to_bits() == value.to_bits() || expected.is_nan() && value.is_nan();
                assert!(same, "{bits:x}, in integers {in_integers}: {value} for {expected}");
            }
        }
    }

    #[test]
    fn what_does_not_read_packed_weights_refuses_them() {
        let gpu = crate::gpu::test_gpu();
        let mut pass = Pass::new(&gpu);
        let x = pass.upload(&[4, 4], &[1f32; 16]).unwrap();
        let packed = pack_in(&mut pass, &x, Packing::Int8, "x").unwrap();
        let error = crate::ops::half::to_half(&mut pass, &packed).unwrap_err().to_string();
        assert!(error.contains("int8"), "{error}");
        let error = pass.download(&packed).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("int8"), "{error}");
        assert!(packed.bytes() == 4 * (4 * 2 + 4) && packed.len() == 16);
    }
}
