//! Measures which GEMM kernels are the fastest on an adapter: once, where the choice can be kept.

use std::time::{Duration, Instant};

use super::gemm::{Form, Gemm, Sizes, gemm_with};
use super::half::to_half;
use super::preferences::Rows;
use super::tilings::{Inputs, TILINGS, Tiling, choose};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Pass};

/// A kernel that takes longer for one GEMM is not run again: it has lost.
const HOPELESS: Duration = Duration::from_millis(250);

/// Chooses a kernel for each number of rows, and for f16 if that is wanted, where this `Gpu` was given a folder to keep that in
/// and it is not known yet. Takes a second or two on a CPU, most of it compiling, and less on a GPU.
///
/// Gemms in f32 give the same bits whatever is chosen. In f16 cooperative matrices may add in another order: checkpoints of
/// such runs name the kernels, see [`in_use`].
pub(crate) fn tune(gpu: &Gpu, fp16: bool) -> Result<()> {
    if fp16 {
        gpu.refuse(|| differing(gpu))?;
    }
    if !gpu.keeps_choices() {
        return Ok(());
    }
    for half in [false, true] {
        if half && !fp16 {
            continue;
        }
        for rows in Rows::ALL.into_iter().filter(|rows| rows.is_apart(gpu)) {
            let what = rows.key(half);
            if gpu.choice(what).is_none()
                && let Some(name) = fastest(gpu, rows, half)?
            {
                gpu.keep_choice(what, name);
            }
        }
    }
    Ok(())
}

/// The names of the kernels that GEMMs in f16 take here.
pub(crate) fn in_use(gpu: &Gpu) -> String {
    // A form that is not cut to the rows of queries, which changes no bit.
    let name = |rows: Rows| choose(gpu, Form::InputGradient, rows.typical(), Inputs::Half).0.name;
    let names: Vec<_> = Rows::ALL.into_iter().filter(|rows| rows.is_apart(gpu)).map(name).collect();
    names.join(", ")
}

/// Names of the kernels for cooperative matrices that do not compute here what `tiled` computes: they are young in drivers and in
/// what translates the shaders (<https://github.com/gfx-rs/wgpu/issues/8805>), and what is wrong in training may not be seen.
fn differing(gpu: &Gpu) -> Result<Vec<&'static str>> {
    let of_matrices = |tiling: &&Tiling| tiling.name.starts_with("cooperative") && tiling.runs_on(gpu);
    let mut names = Vec::new();
    for tiling in TILINGS.iter().filter(of_matrices) {
        // More than a tile, and than its depth, in each direction; on a GPU so much that all of it is at work, as what is wrong may be a
        // matter of time.
        let sizes = match gpu.is_software() {
            true => Sizes { m: tiling.rows as u32 + 6, n: tiling.columns as u32 + 10, k: 90 },
            false => Sizes { m: 1030, n: 1034, k: 538 },
        };
        for form in [Form::Linear, Form::InputGradientAdd, Form::WeightGradient] {
            match differs(gpu, tiling, form, sizes) {
                Ok(false) => {}
                Err(error @ (Error::DeviceLost(_) | Error::OutOfMemory { .. })) => return Err(error),
                // What the driver refuses is not to be used either.
                Ok(true) | Err(_) => {
                    names.push(tiling.name);
                    break;
                }
            }
        }
    }
    Ok(names)
}

fn differs(gpu: &Gpu, tiling: &Tiling, form: Form, sizes: Sizes) -> Result<bool> {
    let [m, n, k] = [sizes.m, sizes.n, sizes.k].map(|n| n as usize);
    let mut pass = Pass::new(gpu);
    let values = |len: usize, step: usize| (0..len).map(|i| (i * step % 101) as f32 / 101.0 - 0.5).collect::<Vec<_>>();
    let (a, b) = (pass.upload(&[m, k], &values(m * k, 37))?, pass.upload(&[n, k], &values(n * k, 53))?);
    let (a, b) = (to_half(&mut pass, &a)?, to_half(&mut pass, &b)?);
    let bias = pass.upload(&[n], &values(n, 29))?;
    let mut results = Vec::new();
    for tiling in std::iter::once(&TILINGS[0]).chain([tiling; AGAIN]) {
        let Some(kernel) = tiling.half else { return Ok(true) };
        let c = pass.upload(&[m, n], &values(m * n, 17))?;
        let bias = form.is_linear().then_some(&bias);
        gemm_with(&mut pass, tiling, kernel, form, &Gemm { a: &a, b: &b, bias, c: &c, sizes })?;
        results.push(pass.download(&c)?);
    }
    pass.submit()?;
    let results: Vec<Vec<f32>> = results.into_iter().map(|c| c.wait(gpu)).collect::<Result<_>>()?;
    let near = |(x, y): (&f32, &f32)| (x - y).abs() <= 1e-4;
    let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits();
    let (first, rest) = (&results[1], &results[2..]);
    Ok(!results[0].iter().zip(first).all(near) || !rest.iter().all(|again| again.iter().zip(first).all(same)))
}

/// Times that a kernel has to come to the same bits.
const AGAIN: usize = 4;

/// `None` where there is only one.
fn fastest(gpu: &Gpu, rows: Rows, half: bool) -> Result<Option<&'static str>> {
    let sizes = rows.typical();
    let [m, n, k] = [sizes.m, sizes.n, sizes.k].map(|n| n as usize);
    let kernel = |tiling: &'static Tiling| Some((tiling, if half { tiling.half? } else { tiling.kernel? }));
    let candidates: Vec<_> = TILINGS
        .iter()
        .filter(|tiling| tiling.runs_on(gpu) && tiling.fits(Form::Linear, sizes))
        .filter(|tiling| tiling.is_for(gpu, rows))
        .filter_map(kernel)
        .collect();
    if candidates.len() < 2 {
        return Ok(None);
    }
    // In f16 two elements take the room of one.
    let width = if half { k / 2 } else { k };
    let mut pass = Pass::new(gpu);
    let zeros = |pass: &mut Pass, shape: &[usize]| pass.upload(shape, &vec![0f32; shape.iter().product()]);
    let (a, b) = (zeros(&mut pass, &[m, width])?, zeros(&mut pass, &[n, width])?);
    let (bias, c) = (zeros(&mut pass, &[n])?, pass.alloc(&[m, n])?);
    pass.submit()?;
    let arrays = Gemm { a: &a, b: &b, bias: Some(&bias), c: &c, sizes };
    let mut best: Option<(Duration, &'static str)> = None;
    for (tiling, kernel) in candidates {
        let time = match time(gpu, tiling, kernel, &arrays) {
            Ok(time) => time,
            // The rest would fail likewise.
            Err(error @ (Error::DeviceLost(_) | Error::OutOfMemory { .. })) => return Err(error),
            // A kernel the driver refuses has lost.
            Err(_) => continue,
        };
        if best.is_none_or(|(least, _)| time < least) {
            best = Some((time, tiling.name));
        }
    }
    Ok(best.map(|(_, name)| name))
}

/// The least of a few runs, each of several GEMMs: what else the machine does only adds to it.
fn time(gpu: &Gpu, tiling: &Tiling, kernel: &'static Kernel, arrays: &Gemm) -> Result<Duration> {
    let run = |count: u32| -> Result<Duration> {
        let mut pass = Pass::new(gpu);
        // Nothing begins before the clock.
        pass.part_after = None;
        for _ in 0..count {
            gemm_with(&mut pass, tiling, kernel, Form::Linear, arrays)?;
        }
        let began = Instant::now();
        pass.submit()?;
        gpu.wait()?;
        Ok(began.elapsed() / count)
    };
    // Compiles.
    run(1)?;
    let mut least = run(1)?;
    if least > HOPELESS {
        return Ok(least);
    }
    let count = (Duration::from_millis(4).as_nanos() / least.as_nanos().max(1)).clamp(1, 64) as u32;
    for _ in 0..5 {
        least = least.min(run(count)?);
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuOptions;

    #[test]
    fn cooperative_matrices_are_compared_and_what_differs_is_not_taken() {
        let gpu = crate::gpu::test_gpu();
        assert_eq!(differing(&gpu).unwrap(), Vec::<&str>::new());
        // A kernel of another form computes something else.
        let tiled = &TILINGS[0];
        let sizes = Sizes { m: 70, n: 74, k: 90 };
        let mut other = tiled.clone();
        other.first_variant = Form::WeightGradient as usize;
        assert!(!differs(&gpu, tiled, Form::Linear, sizes).unwrap());
        assert!(differs(&gpu, &other, Form::Linear, sizes).unwrap());
        let taken = || choose(&gpu, Form::Linear, Sizes { m: 256, n: 64, k: 64 }, Inputs::Single).0.name;
        let refused = taken();
        gpu.refuse(|| Ok(vec![refused])).unwrap();
        gpu.refuse(|| panic!("it was asked before")).unwrap();
        assert_ne!(taken(), refused);
    }

    #[test]
    fn what_was_measured_is_kept_taken_and_made_again_when_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let index = crate::gpu::test_gpu().adapter().index;
            let cache_dir = Some(folder.path().to_owned());
            Gpu::open_with(&GpuOptions { adapter: Some(index), cache_dir, ..Default::default() }).unwrap()
        };
        let files = || {
            let all = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
            all.filter(|path| path.extension().is_some_and(|end| end == "json")).collect::<Vec<_>>()
        };
        tune(&open(), true).unwrap();
        let gpu = open();
        let known = gpu.choice(Rows::Many.key(false));
        assert_eq!(files().len(), usize::from(known.is_some()));
        let sizes = Sizes { m: 256, n: 64, k: 64 };
        let taken = || choose(&open(), Form::Linear, sizes, Inputs::Single).0.name;
        if let Some(name) = known {
            assert_eq!(taken(), name);
            // A choice that this adapter or shape cannot follow is passed over.
            gpu.keep_choice(Rows::Many.key(false), "cooperative-16");
            assert_ne!(taken(), "cooperative-16");
            gpu.keep_choice(Rows::Many.key(false), "tiled");
            assert_eq!(taken(), "tiled");
            std::fs::write(&files()[0], "{").unwrap();
            assert_eq!(open().choice(Rows::Many.key(false)), None);
            tune(&open(), true).unwrap();
            assert!(open().choice(Rows::Many.key(false)).is_some());
        }
        // Without a folder nothing is measured, and nothing kept.
        let gpu = crate::gpu::test_gpu();
        tune(&gpu, true).unwrap();
        assert_eq!(gpu.choice(Rows::Many.key(false)), None);
    }
}
