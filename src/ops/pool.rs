//! One vector for each packed sequence, and vectors of length 1.

use super::Extent;
use crate::error::Result;
use crate::gpu::{Constants, Kernel, Pass, Tensor, spread};

const SOURCE: &str = include_str!("../../shaders/pool.wgsl");
const KINDS: &[Constants] = &[&[("KIND", 0.0)], &[("KIND", 1.0)], &[("KIND", 2.0)]];
pub(crate) static POOL: Kernel = Kernel { file: "pool", source: SOURCE, entry: "pool", variants: KINDS };
pub(crate) static NORMALIZE: Kernel =
    Kernel { file: "pool", source: SOURCE, entry: "normalize", variants: &[&[("KIND", 0.0)]] };

/// Which vector; the discriminants are the shader's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Mean = 0,
    First = 1,
    Max = 2,
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

/// x\[rows, columns\] with each row divided by its 2-norm, or by 1e-12 where that is less, as `torch.nn.functional.normalize`.
pub(crate) fn normalize(pass: &mut Pass, x: &Tensor) -> Result<Tensor> {
    let y = pass.alloc(x.shape())?;
    let params = Extent { rows: x.rows() as u32, columns: x.columns() as u32 };
    pass.dispatch(&NORMALIZE, 0, &[x, &y], &params, spread(x.rows()))?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, f64s, random, run};

    fn twin(kind: Kind, x: &[f64], cu_seqlens: &[u32], columns: usize) -> Vec<f64> {
        let sequences = cu_seqlens.windows(2).map(|pair| (pair[0] as usize, pair[1] as usize));
        let of_column = |(start, end): (usize, usize), i: usize| {
            let mut values = (start..end).map(|t| x[t * columns + i]);
            match kind {
                Kind::Mean => values.sum::<f64>() / (end - start) as f64,
                Kind::First => values.next().unwrap(),
                Kind::Max => values.fold(f64::MIN, f64::max),
            }
        };
        sequences.flat_map(|sequence| (0..columns).map(move |i| of_column(sequence, i))).collect()
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        for (cu_seqlens, columns) in [(vec![0, 1], 1), (vec![0, 5, 6, 19], 37), (vec![0, 3, 70], 130)] {
            let tokens = cu_seqlens.last().copied().unwrap_or_default() as usize;
            let x = random(tokens * columns, 1);
            for kind in [Kind::Mean, Kind::First, Kind::Max] {
                let got = run(&gpu, |pass| {
                    let x = pass.upload(&[tokens, columns], &x)?;
                    let y = pool(pass, kind, &x, &cu_seqlens)?;
                    let z = normalize(pass, &y)?;
                    Ok(vec![y, z])
                });
                let y = twin(kind, &f64s(&x), &cu_seqlens, columns);
                let z: Vec<f64> = y
                    .chunks(columns)
                    .flat_map(|row| {
                        let norm = row.iter().map(|y| y * y).sum::<f64>().sqrt();
                        row.iter().map(move |y| y / norm)
                    })
                    .collect();
                assert_close(&format!("{kind:?}"), &got[0], &y, 1e-6);
                assert_close(&format!("{kind:?}, normalized"), &got[1], &z, 1e-6);
            }
        }
    }

    #[test]
    fn a_vector_of_zeros_stays_one() {
        let gpu = crate::gpu::test_gpu();
        let got = run(&gpu, |pass| {
            let x = pass.upload(&[2, 3], &[0f32, 0.0, 0.0, 3.0, 0.0, -4.0])?;
            Ok(vec![normalize(pass, &x)?])
        });
        assert_close("y", &got[0], &[0.0, 0.0, 0.0, 0.6, 0.0, -0.8], 1e-6);
    }
}
