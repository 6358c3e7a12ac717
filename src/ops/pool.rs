//! One vector for each packed sequence, and vectors of length 1.

use super::Extent;
use crate::error::Result;
use crate::gpu::{Constants, Kernel, Pass, Tensor, spread};

const SOURCE: &str = include_str!("../../shaders/pool.wgsl");
const KINDS: &[Constants] = &[&[("KIND", 0.0)], &[("KIND", 1.0)]];
pub(crate) static POOL: Kernel = Kernel::new("pool", SOURCE, "pool", KINDS).narrowing();
pub(crate) static POOL_BACKWARD: Kernel = Kernel::new("pool", SOURCE, "pool_backward", KINDS).narrowing();
pub(crate) static NORMALIZE: Kernel = Kernel::new("pool", SOURCE, "normalize", &[&[("KIND", 0.0)]]).narrowing();
pub(crate) static NORMALIZE_BACKWARD: Kernel =
    Kernel::new("pool", SOURCE, "normalize_backward", &[&[("KIND", 0.0)]]).narrowing();

/// Which vector; the discriminants are the shader's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Mean = 0,
    Max = 1,
}

/// x\[tokens, columns\] to \[sequences, columns\]. No sequence may be empty.
pub(crate) fn pool(pass: &mut Pass, kind: Kind, x: &Tensor, cu_seqlens: &[u32]) -> Result<Tensor> {
    debug_assert!(cu_seqlens.windows(2).all(|pair| pair[0] < pair[1]));
    let sequences = cu_seqlens.len() - 1;
    let y = pass.alloc(&[sequences, x.columns()])?;
    let bounds = pass.upload(&[cu_seqlens.len()], cu_seqlens)?;
    let params = Extent { rows: sequences as u32, columns: x.columns() as u32 };
    pass.dispatch(&POOL, kind as usize, &[x, &bounds, &y], &params, spread(sequences))?;
    Ok(y)
}

/// The gradient of [`pool`] by x\[tokens, columns\], from dy\[sequences, columns\]; written. Of several rows with a column's
/// maximum the first takes all of it, as torch has it on a CPU.
pub(crate) fn pool_backward(
    pass: &mut Pass,
    kind: Kind,
    x: &Tensor,
    cu_seqlens: &[u32],
    dy: &Tensor,
) -> Result<Tensor> {
    let dx = pass.alloc(x.shape())?;
    let bounds = pass.upload(&[cu_seqlens.len()], cu_seqlens)?;
    let params = Extent { rows: dy.rows() as u32, columns: x.columns() as u32 };
    pass.dispatch(&POOL_BACKWARD, kind as usize, &[x, &bounds, dy, &dx], &params, spread(dy.rows()))?;
    Ok(dx)
}

/// x\[rows, columns\] with each row divided by its 2-norm, or by 1e-12 where that is less, as `torch.nn.functional.normalize`.
pub(crate) fn normalize(pass: &mut Pass, x: &Tensor) -> Result<Tensor> {
    let y = pass.alloc(x.shape())?;
    let params = Extent { rows: x.rows() as u32, columns: x.columns() as u32 };
    pass.dispatch(&NORMALIZE, 0, &[x, &y], &params, spread(x.rows()))?;
    Ok(y)
}

/// The gradient of [`normalize`] by x, from dy\[rows, columns\]; written.
pub(crate) fn normalize_backward(pass: &mut Pass, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let dx = pass.alloc(x.shape())?;
    let params = Extent { rows: x.rows() as u32, columns: x.columns() as u32 };
    pass.dispatch(&NORMALIZE_BACKWARD, 0, &[x, dy, &dx], &params, spread(x.rows()))?;
    Ok(dx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, dot, f64s, random, run};

    fn twin(kind: Kind, x: &[f64], cu_seqlens: &[u32], columns: usize) -> Vec<f64> {
        let sequences = cu_seqlens.windows(2).map(|pair| (pair[0] as usize, pair[1] as usize));
        let of_column = |(start, end): (usize, usize), i: usize| {
            let values = (start..end).map(|t| x[t * columns + i]);
            match kind {
                Kind::Mean => values.sum::<f64>() / (end - start) as f64,
                Kind::Max => values.fold(f64::MIN, f64::max),
            }
        };
        sequences.flat_map(|sequence| (0..columns).map(move |i| of_column(sequence, i))).collect()
    }

    fn twin_backward(kind: Kind, x: &[f64], cu_seqlens: &[u32], columns: usize, dy: &[f64]) -> Vec<f64> {
        let mut dx = vec![0.0; x.len()];
        for (s, pair) in cu_seqlens.windows(2).enumerate() {
            let (start, end) = (pair[0] as usize, pair[1] as usize);
            for i in 0..columns {
                let at = |t: usize| x[t * columns + i];
                let largest = (start..end).fold(start, |best, t| if at(t) > at(best) { t } else { best });
                for t in start..end {
                    dx[t * columns + i] = dy[s * columns + i]
                        * match kind {
                            Kind::Mean => 1.0 / (end - start) as f64,
                            Kind::Max => f64::from(u8::from(t == largest)),
                        };
                }
            }
        }
        dx
    }

    fn twin_normalized(x: &[f64], columns: usize) -> Vec<f64> {
        let scaled = |row: &[f64]| {
            let norm = dot(row, row).sqrt();
            row.iter().map(|x| x / norm).collect::<Vec<_>>()
        };
        x.chunks(columns).flat_map(scaled).collect()
    }

    fn twin_normalized_backward(x: &[f64], columns: usize, dy: &[f64]) -> Vec<f64> {
        let of = |(x, dy): (&[f64], &[f64])| {
            let norm = dot(x, x).sqrt();
            let along = dot(x, dy) / norm / norm;
            x.iter().zip(dy).map(|(x, dy)| (dy - x * along) / norm).collect::<Vec<_>>()
        };
        x.chunks(columns).zip(dy.chunks(columns)).flat_map(of).collect()
    }

    #[test]
    fn the_twin_is_right() {
        let (cu_seqlens, columns) = (vec![0, 2, 3, 7], 3);
        let (x, dy) = (f64s(&random(21, 1)), f64s(&random(9, 2)));
        for kind in [Kind::Mean, Kind::Max] {
            let dx = twin_backward(kind, &x, &cu_seqlens, columns, &dy);
            assert_gradient("x", |x| dot(&twin(kind, x, &cu_seqlens, columns), &dy), &x, &dx);
        }
        let (x, dy) = (&x[..9], &dy);
        let dx = twin_normalized_backward(x, columns, dy);
        assert_gradient("x, normalized", |x| dot(&twin_normalized(x, columns), dy), x, &dx);
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        for (cu_seqlens, columns) in [(vec![0, 1], 1), (vec![0, 5, 6, 19], 37), (vec![0, 3, 70], 130)] {
            let tokens = cu_seqlens.last().copied().unwrap_or_default() as usize;
            let mut x = random(tokens * columns, 1);
            if tokens > 18 {
                // Two largest values in one column: the first has them.
                (x[7 * columns], x[9 * columns]) = (2.0, 2.0);
            }
            let dy = random((cu_seqlens.len() - 1) * columns, 2);
            for kind in [Kind::Mean, Kind::Max] {
                let got = run(&gpu, |pass| {
                    let x = pass.upload(&[tokens, columns], &x)?;
                    let y = pool(pass, kind, &x, &cu_seqlens)?;
                    let z = normalize(pass, &y)?;
                    let dz = pass.upload(z.shape(), &dy)?;
                    let dy = normalize_backward(pass, &y, &dz)?;
                    let dx = pool_backward(pass, kind, &x, &cu_seqlens, &dz)?;
                    Ok(vec![y, z, dy, dx])
                });
                let y = twin(kind, &f64s(&x), &cu_seqlens, columns);
                assert_close(&format!("{kind:?}"), &got[0], &y, 1e-6);
                assert_close(&format!("{kind:?}, normalized"), &got[1], &twin_normalized(&y, columns), 1e-6);
                let dnormalized = twin_normalized_backward(&y, columns, &f64s(&dy));
                assert_close(&format!("{kind:?}, backward of normalized"), &got[2], &dnormalized, 3e-6);
                let dx = twin_backward(kind, &f64s(&x), &cu_seqlens, columns, &f64s(&dy));
                assert_close(&format!("{kind:?}, backward"), &got[3], &dx, 1e-6);
            }
        }
    }

    #[test]
    fn a_vector_of_zeros_stays_one() {
        let gpu = crate::gpu::test_gpu();
        let got = run(&gpu, |pass| {
            let x = pass.upload(&[2, 3], &[0f32, 0.0, 0.0, 3.0, 0.0, -4.0])?;
            let dy = pass.upload(&[2, 3], &[1e-12f32, 0.0, 0.0, 1.0, 0.0, 0.0])?;
            Ok(vec![normalize(pass, &x)?, normalize_backward(pass, &x, &dy)?])
        });
        assert_close("y", &got[0], &[0.0, 0.0, 0.0, 0.6, 0.0, -0.8], 1e-6);
        // torch's: below the bound the norm counts as a constant.
        assert_close("dx", &got[1], &[1.0, 0.0, 0.0, 0.128, 0.0, 0.096], 1e-6);
    }
}
