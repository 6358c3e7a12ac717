//! Measures which GEMM kernels are the fastest on an adapter: once, where the choice can be kept.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::gemm::{Gemm, gemm_with};
use super::gemm_form::{Form, Sizes};
use super::half::to_half;
use super::preferences::Rows;
use super::tilings::{Family, Inputs, TILINGS, Tiling, choose};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Pass, Tensor};

/// A kernel that takes longer for one GEMM is not run again: it has lost.
const HOPELESS: Duration = Duration::from_millis(250);

/// Chooses a kernel for each number of rows, and for f16 if that is wanted, where this `Gpu` was given a folder to keep that in
/// and it is not known yet. Takes a second or two on a CPU, most of it compiling, and less on a GPU.
///
/// GEMMs in f32 give the same bits whatever is chosen, but in fills. In f16 cooperative matrices may add in another order: checkpoints of
/// such runs name the kernels, see [`in_use`].
pub(crate) fn tune(gpu: &Gpu, fp16: bool) -> Result<()> {
    if gpu.keeps_choices() {
        gpu.choose_among(hash_of_kernels());
        gpu.refresh_choices();
    }
    let mut trial = Trial::of(gpu);
    if fp16 && !gpu.has_compared() {
        differing(&mut trial)?;
        gpu.set_compared();
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
            if gpu.choice(what).is_some() {
                continue;
            }
            match fastest(&mut trial, rows, half) {
                Ok(Some(Fastest { in_order, split_sums })) => {
                    if let Some(name) = split_sums {
                        gpu.keep_choice(rows.key_split_sums(), name);
                    }
                    gpu.keep_choice(what, in_order);
                }
                Ok(None) => {}
                // It only makes things faster: what is preferred does as well, where this device still works.
                Err(error) => {
                    gpu.wait()?;
                    log::warn!("it was not measured which kernels are the fastest: {error}");
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Of what is chosen among: names, sources and variants.
fn hash_of_kernels() -> u64 {
    static HASH: OnceLock<u64> = OnceLock::new();
    *HASH.get_or_init(|| {
        let mut text = String::new();
        for tiling in &TILINGS {
            text += tiling.name;
            let packed = tiling.packed.into_iter().flatten();
            for kernel in tiling.kernel.into_iter().chain(tiling.half).chain(packed) {
                text += kernel.source;
                text += kernel.in_words.unwrap_or_default();
                text += &format!("{:?}", kernel.variants);
            }
        }
        crate::gpu::hash(text.as_bytes())
    })
}

/// Where kernels are tried that a driver may not stand: wgpu gives a device up where a pipeline cannot be made.
struct Trial<'g> {
    gpu: &'g Gpu,
    /// Another device of the same adapter, when it is needed; software gets along with what it is given.
    apart: bool,
    device: Option<Gpu>,
    /// Kernels that have failed once.
    suspects: Vec<&'static str>,
}

impl<'g> Trial<'g> {
    fn of(gpu: &'g Gpu) -> Self {
        Self { gpu, apart: !gpu.is_software(), device: None, suspects: Vec::new() }
    }

    fn device(&mut self) -> Result<Gpu> {
        let device = match self.device.take() {
            Some(device) => device,
            None if self.apart => self.gpu.another()?,
            None => self.gpu.clone(),
        };
        Ok(self.device.insert(device).clone())
    }

    /// A kernel came to this error: the second time it is not to be used any more, as the first may have been an accident. What is tried
    /// next has a device that works. Passes on what is not the kernel's fault, or has cost the device for which it was tried.
    fn failed(&mut self, name: &'static str, error: Error) -> Result<()> {
        if matches!(error, Error::OutOfMemory { .. }) {
            return Err(error);
        }
        self.device.take_if(|device| device.wait().is_err());
        self.gpu.wait()?;
        if !self.suspects.contains(&name) {
            self.suspects.push(name);
            return Ok(());
        }
        // Where another program has the memory, wgpu gives up devices likewise: that passes, and so does this refusal.
        let why = error.to_string();
        let lasts = !why.to_lowercase().contains("memory") && self.device().is_ok_and(|device| works(&device));
        self.gpu.refuse(name, &why, lasts);
        Ok(())
    }
}

/// Whether a device carries out anything at all.
fn works(gpu: &Gpu) -> bool {
    let mut pass = Pass::new(gpu);
    let download = pass.upload(&[1], &[1f32]).and_then(|one| pass.download(&one));
    download.and_then(|download| pass.submit().and_then(|()| download.wait::<f32>(gpu))).is_ok_and(|one| one == [1.0])
}

/// The names of the kernels that GEMMs in f16 take here.
pub(crate) fn in_use(gpu: &Gpu) -> String {
    // A form that is not cut to the rows of queries, which changes no bit.
    let name = |rows: Rows| choose(gpu, Form::InputGradient, rows.typical(), Inputs::Half, false).0.name;
    let names: Vec<_> = Rows::ALL.into_iter().filter(|rows| rows.is_apart(gpu)).map(name).collect();
    names.join(", ")
}

/// Refuses the kernels for cooperative matrices that do not compute here what `tiled` computes: they are young in drivers and in
/// what translates the shaders (<https://github.com/gfx-rs/wgpu/issues/8805>), and what is wrong in training may not be seen.
fn differing(trial: &mut Trial) -> Result<()> {
    let gpu = trial.gpu;
    let of_matrices = |tiling: &&Tiling| matches!(tiling.family, Family::Cooperative { .. }) && tiling.runs_on(gpu);
    for tiling in TILINGS.iter().filter(of_matrices).filter(|tiling| !gpu.refuses(tiling.name)) {
        // More than a tile, and than its depth, in each direction; on a GPU so much that all of it is at work, as what is wrong may be a
        // matter of time.
        let sizes = match gpu.is_software() {
            true => Sizes { m: tiling.rows as u32 + 6, n: tiling.columns as u32 + 10, k: 90 },
            false => Sizes { m: 1030, n: 1034, k: 538 },
        };
        let forms = [Form::Linear, Form::InputGradientAdd, Form::WeightGradient];
        while !gpu.refuses(tiling.name) {
            let device = match trial.device() {
                Ok(device) => device,
                // What was not compared is not used.
                Err(error) => {
                    gpu.refuse(tiling.name, &error.to_string(), false);
                    continue;
                }
            };
            let mut found = forms.into_iter().map(|form| differs(&device, tiling, form, sizes));
            match found.find(|found| !matches!(found, Ok(false))) {
                None => break,
                Some(Ok(_)) => gpu.refuse(tiling.name, "it computes something else than others do", true),
                Some(Err(error @ Error::OutOfMemory { .. })) => gpu.refuse(tiling.name, &error.to_string(), false),
                // What the driver refuses is not to be used either.
                Some(Err(error)) => trial.failed(tiling.name, error)?,
            }
        }
    }
    Ok(())
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

/// The names of kernels.
struct Fastest {
    in_order: &'static str,
    /// Where that is faster still.
    split_sums: Option<&'static str>,
}

/// `None` where there is only one.
fn fastest(trial: &mut Trial, rows: Rows, half: bool) -> Result<Option<Fastest>> {
    let gpu = trial.gpu;
    let kernel = |tiling: &'static Tiling| Some((tiling, if half { tiling.half? } else { tiling.kernel? }));
    loop {
        let candidates: Vec<Candidate> = TILINGS
            .iter()
            .filter(|tiling| tiling.runs_on(gpu) && tiling.fits(Form::Linear, rows.typical()))
            .filter(|tiling| tiling.is_for(gpu, rows) && !gpu.refuses(tiling.name))
            .filter_map(kernel)
            .collect();
        if candidates.len() < 2 {
            return Ok(None);
        }
        let device = trial.device()?;
        let arrays = Arrays::new(&device, rows, half)?;
        match race(&device, &candidates, &arrays) {
            Ok(fastest) => return Ok(Some(fastest)),
            // Then without it.
            Err((name, error)) => trial.failed(name, error)?,
        }
    }
}

type Candidate = (&'static Tiling, &'static Kernel);

/// What kernels are timed on.
struct Arrays {
    sizes: Sizes,
    a: Tensor,
    /// Taken in turns: a query's weights come from memory, which those of a single layer would not.
    b: Vec<Tensor>,
    bias: Tensor,
    c: Tensor,
}

/// On GPUs that have as many megabytes of cache as that.
const WEIGHTS: usize = 64 << 20;

impl Arrays {
    fn new(gpu: &Gpu, rows: Rows, half: bool) -> Result<Self> {
        let sizes = rows.typical();
        let [m, n, k] = [sizes.m, sizes.n, sizes.k].map(|n| n as usize);
        // In f16 two elements take the room of one.
        let width = if half { k / 2 } else { k };
        let mut pass = Pass::new(gpu);
        let mut zeros = |shape: &[usize]| pass.upload(shape, &vec![0f32; shape.iter().product()]);
        // What is preferred on software was measured on one.
        let weights = match rows {
            Rows::Blanks | Rows::Few | Rows::Some if !gpu.is_software() => WEIGHTS / (4 * n * width),
            _ => 1,
        };
        let b = (0..weights).map(|_| zeros(&[n, width])).collect::<Result<_>>()?;
        let (a, bias, c) = (zeros(&[m, width])?, zeros(&[n])?, zeros(&[m, n])?);
        pass.submit()?;
        Ok(Self { sizes, a, b, bias, c })
    }

    /// A GEMM's time, of several one after another.
    fn time(&self, gpu: &Gpu, (tiling, kernel): Candidate, count: u32) -> Result<Duration> {
        let mut pass = Pass::new(gpu);
        // Nothing begins before the clock.
        pass.part_after = None;
        for b in self.b.iter().cycle().take(count as usize) {
            let arrays = Gemm { a: &self.a, b, bias: Some(&self.bias), c: &self.c, sizes: self.sizes };
            gemm_with(&mut pass, tiling, kernel, Form::Linear, &arrays)?;
        }
        let began = Instant::now();
        pass.submit()?;
        gpu.wait()?;
        Ok(began.elapsed() / count)
    }
}

/// How long a GPU is kept at work before anything counts: at rest its clock is slow.
const WARM_UP: Duration = Duration::from_millis(200);
const ROUNDS: usize = 5;

/// The fastest, or the name of one that fails, and its error. They take turns, and the least of each counts: what else the machine does
/// only adds to it.
fn race(gpu: &Gpu, candidates: &[Candidate], arrays: &Arrays) -> std::result::Result<Fastest, (&'static str, Error)> {
    let time = |candidate: Candidate, count| {
        let time = arrays.time(gpu, candidate, count);
        time.map_err(|error| (candidate.0.name, error))
    };
    let mut times = Vec::new();
    for &candidate in candidates {
        // Compiles.
        time(candidate, 1)?;
        times.push((candidate, time(candidate, 1)?));
    }
    let count = |least: Duration| (Duration::from_millis(4).as_nanos() / least.as_nanos().max(1)).clamp(1, 64) as u32;
    let began = Instant::now();
    while !gpu.is_software() && began.elapsed() < WARM_UP {
        time(candidates[0], count(times[0].1))?;
    }
    for _ in 0..ROUNDS {
        for (candidate, least) in times.iter_mut().filter(|(_, least)| *least <= HOPELESS) {
            *least = time(*candidate, count(*least))?.min(*least);
        }
    }
    times.sort_by_key(|(_, least)| *least);
    let mut names = times.iter().map(|((tiling, _), _)| tiling);
    let split_sums = names.clone().next().filter(|tiling| tiling.split_sums).map(|tiling| tiling.name);
    let in_order = names.find(|tiling| !tiling.split_sums).expect("one runs anywhere").name;
    Ok(Fastest { in_order, split_sums })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuOptions;

    #[test]
    fn cooperative_matrices_are_compared_and_what_differs_is_not_taken() {
        let gpu = crate::gpu::test_gpu();
        differing(&mut Trial::of(&gpu)).unwrap();
        assert!(TILINGS.iter().all(|tiling| !gpu.refuses(tiling.name)));
        // A kernel of another form computes something else.
        let tiled = &TILINGS[0];
        let sizes = Sizes { m: 70, n: 74, k: 90 };
        let mut other = tiled.clone();
        other.first_variant = Form::WeightGradient as usize;
        assert!(!differs(&gpu, tiled, Form::Linear, sizes).unwrap());
        assert!(differs(&gpu, &other, Form::Linear, sizes).unwrap());
        let taken = || choose(&gpu, Form::Linear, Sizes { m: 256, n: 64, k: 64 }, Inputs::Single, false).0.name;
        let refused = taken();
        gpu.refuse(refused, "a test", false);
        assert_ne!(taken(), refused);
    }

    #[test]
    fn what_costs_a_device_costs_it_alone_and_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let index = crate::gpu::test_gpu().adapter().index;
        let options =
            GpuOptions { adapter: Some(index), cache_dir: Some(folder.path().to_owned()), ..Default::default() };
        let gpu = Gpu::open_with(&options).unwrap();
        let mut trial = Trial { apart: true, ..Trial::of(&gpu) };
        let arrays = |gpu: &Gpu| Arrays::new(gpu, Rows::Few, false);
        let candidate = (&TILINGS[0], TILINGS[0].kernel.unwrap());
        let device = trial.device().unwrap();
        let of_it = arrays(&device).unwrap();
        device.lose();
        let error = of_it.time(&device, candidate, 1).unwrap_err();
        trial.failed("blocks-16", error).unwrap();
        assert!(!gpu.refuses("blocks-16"), "once may be an accident");
        for (name, why) in [("blocks-16", "a defect"), ("blocks-64", "Out of memory"), ("blocks-64", "Out of memory")] {
            trial.failed(name, Error::Gpu(why.into())).unwrap();
        }
        // The next one works, as does that for which all of this is done.
        for works in [trial.device().unwrap(), gpu.clone()] {
            arrays(&works).unwrap().time(&works, candidate, 1).unwrap();
        }
        let refused = |gpu: &Gpu| ["blocks-16", "blocks-32", "blocks-64"].map(|name| gpu.refuses(name));
        assert_eq!(refused(&gpu), [true, false, true]);
        assert_eq!(refused(&Gpu::open_with(&options).unwrap()), [true, false, false]);
        // What has nothing to do with a kernel is passed on.
        let error = Error::OutOfMemory { bytes: 1, in_use: 1 };
        assert!(matches!(trial.failed("tiled", error), Err(Error::OutOfMemory { .. })) && !gpu.refuses("tiled"));
        gpu.lose();
        let error = Error::DeviceLost("both".into());
        assert!(matches!(trial.failed("tiled", error), Err(Error::DeviceLost(_))) && !gpu.refuses("tiled"));
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
        let taken = || choose(&open(), Form::Linear, sizes, Inputs::Single, false).0.name;
        if let Some(name) = known {
            assert_eq!(taken(), name);
            // A choice that this adapter or shape cannot follow is passed over.
            gpu.keep_choice(Rows::Many.key(false), "cooperative-16");
            assert_ne!(taken(), "cooperative-16");
            gpu.keep_choice(Rows::Many.key(false), "tiled");
            assert_eq!(taken(), "tiled");
            // It was chosen among other kernels, and another was refused.
            gpu.refuse("blocks-16", "it was another", true);
            gpu.keep_choice("kernels", "of before");
            let anew = open();
            assert!(anew.refuses("blocks-16"));
            tune(&anew, true).unwrap();
            assert!(!anew.refuses("blocks-16") && taken() != "tiled");
            assert!(!open().refuses("blocks-16"));
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
