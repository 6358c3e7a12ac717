//! What the repository's own benchmark reaches for; not part of the crate's interface.

use std::time::{Duration, Instant};

pub use crate::gpu::profile;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Pass, Tensor};
use crate::ops::ceiling::{CEILING, FLOPS};
use crate::ops::gemm::{Gemm, gemm_with};
use crate::ops::gemm_form::{Form, Sizes};
use crate::ops::half::to_half;
use crate::ops::preferences::Rows;
use crate::ops::tilings::{Inputs, TILINGS, Tiling, choose};

/// Measures which kernels are the fastest on this adapter, as [`Model::warm_up`](crate::Model::warm_up) and training do, where the `Gpu` has a
/// folder to keep that in.
///
/// # Errors
/// GPU errors.
pub fn tune(gpu: &Gpu) -> Result<()> {
    crate::ops::tuning::tune(gpu, true)
}

/// Names of the GEMM kernels that are worth measuring on this adapter, with A and B in f16 or in f32; of shapes of which a GPU would be taken to hang
/// with some, these are left out.
pub fn tilings(gpu: &Gpu, [m, n, k]: [usize; 3], half: bool) -> Vec<&'static str> {
    let rows = Rows::of(gpu, Sizes { m: m as u32, n: n as u32, k: k as u32 });
    // Beside what is for a query's few rows, what is for many.
    let is_for = |tiling: &Tiling| tiling.is_for(gpu, rows) || (rows != Rows::Plenty && tiling.is_for(gpu, Rows::Many));
    let worth = |tiling: &&Tiling| {
        let has_kernel = if half { tiling.half.is_some() } else { tiling.kernel.is_some() };
        has_kernel && tiling.runs_on(gpu) && is_for(tiling) && !gpu.refuses(tiling.name)
    };
    TILINGS.iter().filter(worth).map(|tiling| tiling.name).collect()
}

/// The name of the kernel that a linear layer of this shape takes: in f32 in a fill, in f16 in training.
pub fn chosen(gpu: &Gpu, [m, n, k]: [usize; 3], half: bool) -> &'static str {
    linear(gpu, Sizes { m: m as u32, n: n as u32, k: k as u32 }, half).0.name
}

fn linear(gpu: &Gpu, sizes: Sizes, half: bool) -> (&'static Tiling, &'static Kernel) {
    choose(gpu, Form::Linear, sizes, if half { Inputs::Half } else { Inputs::Single }, !half)
}

/// Seconds of each run of `record`, which is repeated before one wait until that takes a few milliseconds.
fn repeated(gpu: &Gpu, budget: Duration, mut record: impl FnMut(&mut Pass) -> Result<()>) -> Result<Vec<f64>> {
    // A GPU computes one part while the driver is handed the next: what it takes to encode a dispatch is not to count as its time.
    let parts = |count: usize| if gpu.is_software() || count < 64 { 1 } else { 16 };
    let mut run = |count: usize| -> Result<f64> {
        let each = count.div_ceil(parts(count));
        let passes = (0..parts(count)).map(|_| {
            let mut pass = Pass::new(gpu);
            // Nothing begins before the clock.
            pass.part_after = None;
            for _ in 0..each {
                record(&mut pass)?;
            }
            Ok(pass)
        });
        let passes = passes.collect::<Result<Vec<Pass>>>()?;
        let count = passes.len() * each;
        let began = Instant::now();
        passes.into_iter().try_for_each(Pass::submit)?;
        gpu.wait()?;
        Ok(began.elapsed().as_secs_f64() / count as f64)
    };
    // Compiles.
    run(1)?;
    // One alone is mostly the wait for it, on a GPU; and there clocks rise while it works.
    let mut count = 1;
    for _ in 0..3 {
        count = (0.005 / run(count)?.max(1e-7)).ceil().clamp(1.0, 1024.0) as usize;
    }
    let (began, mut seconds) = (Instant::now(), Vec::new());
    while began.elapsed() < budget || seconds.len() < 5 {
        seconds.push(run(count)?);
    }
    Ok(seconds)
}

/// Seconds of `y[m, n] = x[m, k] W[n, k]^T + b`, of `x` and `W` in f16 or in f32, by the kernel called `tiling`, or the one that is [`chosen`].
///
/// # Errors
/// [`Error::InvalidArgument`] for a kernel there is not, or that cannot compute this shape; GPU errors.
pub fn gemm(gpu: &Gpu, [m, n, k]: [usize; 3], half: bool, tiling: Option<&str>, budget: Duration) -> Result<Vec<f64>> {
    let sizes = Sizes { m: m as u32, n: n as u32, k: k as u32 };
    let (tiling, kernel) = match tiling {
        None => linear(gpu, sizes, half),
        Some(name) => TILINGS
            .iter()
            .find(|tiling| tiling.name == name && tiling.runs_on(gpu) && tiling.fits(Form::Linear, sizes))
            .and_then(|tiling| Some((tiling, if half { tiling.half? } else { tiling.kernel? })))
            .ok_or_else(|| Error::InvalidArgument(format!("no kernel '{name}' for {m} x {n} x {k} on {gpu}")))?,
    };
    let tensor = |shape: &[usize]| -> Result<Tensor> {
        let tensor = Tensor::persistent(gpu, shape, "an operand")?;
        let values: Vec<f32> = (0..tensor.len()).map(|i| ((i * 37) % 101) as f32 / 101.0 - 0.5).collect();
        tensor.write(gpu, 0, &values).map(|()| tensor)
    };
    let (mut a, mut b, bias, c) = (tensor(&[m, k])?, tensor(&[n, k])?, tensor(&[n])?, tensor(&[m, n])?);
    if half {
        let mut pass = Pass::new(gpu);
        (a, b) = (to_half(&mut pass, &a)?, to_half(&mut pass, &b)?);
        pass.submit()?;
    }
    let arrays = Gemm { a: &a, b: &b, bias: Some(&bias), c: &c, sizes };
    repeated(gpu, budget, |pass| gemm_with(pass, tiling, kernel, Form::Linear, &arrays))
}

/// Multiply-adds on registers alone: the adapter's ceiling, in floating-point operations a second.
///
/// # Errors
/// GPU errors.
pub fn ceiling(gpu: &Gpu, budget: Duration) -> Result<Vec<f64>> {
    let (variant, width, groups, rounds) = match gpu.adapter().device_type {
        "cpu" => (0, 8, 256, 2048u32),
        _ => (1, 256, 8192, 512),
    };
    let x = Tensor::persistent(gpu, &[width], "an operand")?;
    let y = Tensor::persistent(gpu, &[width], "an operand")?;
    x.write(gpu, 0, &vec![0.5; width])?;
    let seconds = repeated(gpu, budget, |pass| pass.dispatch(&CEILING, variant, &[&x, &y], &rounds, [groups, 1, 1]))?;
    let flops = FLOPS * width as f64 * groups as f64 * f64::from(rounds);
    Ok(seconds.into_iter().map(|seconds| flops / seconds).collect())
}

/// Seconds of each sum of so many numbers over so many threads of this process, as training on several devices takes them.
///
/// # Errors
/// [`Error::RankFailed`]
pub fn sums_of_threads(ranks: usize, len: usize, rounds: usize) -> Result<Vec<f64>> {
    crate::train::sums_of_threads(ranks, len, rounds)
}

/// The same over the processes that MPI has started.
///
/// # Errors
/// None but a process that does not answer, which ends them all.
#[cfg(feature = "mpi")]
pub fn sums_of_processes(mpi: &crate::Mpi, len: usize, rounds: usize) -> Result<Vec<f64>> {
    crate::train::sums_of_processes(mpi, len, rounds)
}

/// Seconds that so many numbers take from the device to the host, and back.
///
/// # Errors
/// GPU errors.
pub fn staging(gpu: &Gpu, len: usize, rounds: usize) -> Result<Vec<f64>> {
    let tensor = Tensor::persistent(gpu, &[len], "a gradient")?;
    let round = |_| {
        let began = Instant::now();
        let mut pass = Pass::new(gpu);
        let download = pass.download(&tensor)?;
        pass.submit()?;
        let values: Vec<f32> = download.wait(gpu)?;
        tensor.write(gpu, 0, &values)?;
        gpu.flush()?;
        gpu.wait()?;
        Ok(began.elapsed().as_secs_f64())
    };
    (0..=rounds).map(round).skip(1).collect()
}

/// Numbers whose gradients travel in a step.
pub fn trained_numbers(trainer: &crate::Trainer) -> usize {
    trainer.trained_numbers()
}

/// Seconds of the latest step in which other devices were talked to or waited for.
pub fn communication(trainer: &crate::Trainer) -> f64 {
    trainer.communication().as_secs_f64()
}
