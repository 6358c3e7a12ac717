//! y\[j\] += sum over i of x\[i, j\]: the gradient of a bias.

use super::BlockExtent;
use crate::error::Result;
use crate::gpu::{Constants, Kernel, Pass, Tensor};

const VARIANTS: &[Constants] = &[&[("ACCUMULATE", 0.0)], &[("ACCUMULATE", 1.0)]];
const WRITE: usize = 0;
const ADD: usize = 1;

pub(crate) static COLUMN_SUM: Kernel =
    Kernel::new("column_sum", include_str!("../../shaders/column_sum.wgsl"), "column_sum", VARIANTS).narrowing();

/// Rows one thread adds up before its sum goes to memory: bounds both the rounding error and the longest serial chain.
pub(crate) const ROWS_PER_BLOCK: usize = 128;

/// y\[columns\] += column sums of x\[rows, columns\], in a fixed order.
pub(crate) fn column_sum(pass: &mut Pass, x: &Tensor, y: &Tensor) -> Result<()> {
    let columns = x.columns();
    let mut x = x.clone();
    while x.rows() > ROWS_PER_BLOCK {
        let blocks = x.rows().div_ceil(ROWS_PER_BLOCK);
        let partial = pass.alloc(&[blocks, columns])?;
        record(pass, WRITE, &x, &partial, blocks)?;
        x = partial;
    }
    record(pass, ADD, &x, y, 1)
}

fn record(pass: &mut Pass, variant: usize, x: &Tensor, y: &Tensor, blocks: usize) -> Result<()> {
    let params =
        BlockExtent { rows: x.rows() as u32, columns: x.columns() as u32, rows_per_block: ROWS_PER_BLOCK as u32 };
    pass.dispatch(&COLUMN_SUM, variant, &[x, y], &params, [x.columns().div_ceil(64), blocks, 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, random, run};

    #[test]
    fn equals_its_twin_and_adds() {
        let gpu = crate::gpu::test_gpu();
        for (rows, columns) in [(1, 1), (13, 37), (128, 64), (129, 65), (16_500, 7)] {
            let (x, before) = (random(rows * columns, 1), random(columns, 2));
            let got = run(&gpu, |pass| {
                let (x, y) = (pass.upload(&[rows, columns], &x)?, pass.upload(&[columns], &before)?);
                column_sum(pass, &x, &y)?;
                Ok(vec![y])
            });
            let sum = |j: usize| (0..rows).map(|i| f64::from(x[i * columns + j])).sum::<f64>();
            let want: Vec<f64> = (0..columns).map(|j| f64::from(before[j]) + sum(j)).collect();
            assert_close(&format!("{rows}x{columns}"), &got[0], &want, 2e-5);
        }
    }
}
