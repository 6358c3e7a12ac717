//! Rows picked from a matrix, and put back.

use super::Extent;
use crate::error::Result;
use crate::gpu::{Kernel, Pass, Tensor, spread};

const SOURCE: &str = include_str!("../../shaders/rows.wgsl");
pub(crate) static GATHER: Kernel = Kernel::plain("rows", SOURCE, "gather").narrowing();
pub(crate) static GATHER_TWO: Kernel = Kernel::plain("rows", SOURCE, "gather_two").narrowing();
pub(crate) static SCATTER: Kernel = Kernel::plain("rows", SOURCE, "scatter").narrowing();

/// y\[i, :\] = x\[rows\[i\], :\]
pub(crate) fn gather(pass: &mut Pass, x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let y = pass.alloc(&[rows.len(), x.columns()])?;
    let params = Extent { rows: rows.len() as u32, columns: x.columns() as u32 };
    pass.dispatch(&GATHER, 0, &[x, rows, &y], &params, spread(rows.len()))?;
    Ok(y)
}

/// [`gather`] of two arrays of one shape
pub(crate) fn gather_two(pass: &mut Pass, x: [&Tensor; 2], rows: &Tensor) -> Result<[Tensor; 2]> {
    let shape = [rows.len(), x[0].columns()];
    let y = [pass.alloc(&shape)?, pass.alloc(&shape)?];
    let params = Extent { rows: rows.len() as u32, columns: x[0].columns() as u32 };
    pass.dispatch(&GATHER_TWO, 0, &[x[0], rows, &y[0], x[1], &y[1]], &params, spread(rows.len()))?;
    Ok(y)
}

/// y\[rows\[i\], :\] = x\[i, :\], leaving the other rows as they are. The rows must all be different.
pub(crate) fn scatter(pass: &mut Pass, x: &Tensor, rows: &Tensor, y: &Tensor) -> Result<()> {
    let params = Extent { rows: rows.len() as u32, columns: x.columns() as u32 };
    pass.dispatch(&SCATTER, 0, &[x, rows, y], &params, spread(rows.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, run};

    #[test]
    fn gathers_and_scatters_exactly() {
        let gpu = crate::gpu::test_gpu();
        for (rows, columns) in [(7, 1), (13, 37), (9, 130)] {
            let picked: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
            let (x, y) = (random(rows * columns, 1), random(rows * columns, 2));
            let got = run(&gpu, |pass| {
                let (x, y) = (pass.upload(&[rows, columns], &x)?, pass.upload(&[rows, columns], &y)?);
                let picked = pass.upload(&[picked.len()], &picked)?;
                let [of_x, of_y] = gather_two(pass, [&x, &y], &picked)?;
                let gathered = gather(pass, &x, &picked)?;
                scatter(pass, &gathered, &picked, &y)?;
                Ok(vec![gathered, y, of_x, of_y])
            });
            let before = y.clone();
            let mut scattered = y.clone();
            for (i, &row) in picked.iter().enumerate() {
                let row = row as usize * columns..(row as usize + 1) * columns;
                let own = i * columns..(i + 1) * columns;
                assert_eq!(got[0][own.clone()], x[row.clone()]);
                assert_eq!(got[2][own.clone()], x[row.clone()]);
                assert_eq!(got[3][own], before[row.clone()]);
                scattered[row.clone()].copy_from_slice(&x[row]);
            }
            assert_eq!(got[1], scattered);
        }
    }
}
