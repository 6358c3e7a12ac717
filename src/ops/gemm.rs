//! C = op(A) op(B), with an optional bias, written or added.
//!
//! Which kernel computes it is chosen in [`tilings`](super::tilings), by adapter and shape.

use super::gemm_form::{Form, Sizes};
use super::tilings::{Inputs, Tiling, choose};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Pass, Tensor};

/// The arrays of one GEMM.
pub(crate) struct Gemm<'t> {
    pub(crate) a: &'t Tensor,
    pub(crate) b: &'t Tensor,
    /// \[n\]; for linear layers only.
    pub(crate) bias: Option<&'t Tensor>,
    /// \[m, n\]; written `=` or added `+=` as the form says.
    pub(crate) c: &'t Tensor,
    pub(crate) sizes: Sizes,
}

/// Records one GEMM with the kernel preferred on this adapter. B may be a packed weight, for a linear layer.
pub(crate) fn gemm(pass: &mut Pass, form: Form, arrays: &Gemm) -> Result<()> {
    let inputs = arrays.b.packing().map_or(Inputs::Single, Inputs::Packed);
    gemm_of(pass, form, arrays, inputs)
}

/// [`gemm`] with A and B as [`to_half`](super::half::to_half) gives them.
pub(crate) fn gemm_f16(pass: &mut Pass, form: Form, arrays: &Gemm) -> Result<()> {
    gemm_of(pass, form, arrays, Inputs::Half)
}

fn gemm_of(pass: &mut Pass, form: Form, arrays: &Gemm, inputs: Inputs) -> Result<()> {
    let compile = |tiling: &Tiling, kernel: &Kernel| pass.compile(kernel, tiling.first_variant + form as usize);
    let (tiling, kernel) = compiled(pass.gpu(), form, arrays.sizes, inputs, pass.split_sums, compile)?;
    gemm_with(pass, tiling, kernel, form, arrays)
}

/// What is chosen, or, where a driver does not compile that but goes on working, the next.
fn compiled(
    gpu: &Gpu,
    form: Form,
    sizes: Sizes,
    inputs: Inputs,
    split_sums: bool,
    compile: impl Fn(&Tiling, &Kernel) -> Result<()>,
) -> Result<(&'static Tiling, &'static Kernel)> {
    loop {
        let (tiling, kernel) = choose(gpu, form, sizes, inputs, split_sums);
        match compile(tiling, kernel) {
            Err(Error::Gpu(why)) if !gpu.refuses(tiling.name) && gpu.wait().is_ok() => {
                gpu.refuse(tiling.name, &why, false)
            }
            other => return other.map(|()| (tiling, kernel)),
        }
    }
}

pub(crate) fn gemm_with(
    pass: &mut Pass,
    tiling: &Tiling,
    kernel: &'static Kernel,
    form: Form,
    arrays: &Gemm,
) -> Result<()> {
    let Gemm { a, b, bias, c, sizes } = arrays;
    // Its variants for other forms would read it as what it is not.
    if b.packing().is_some() && !form.is_linear() {
        return Err(Error::Unsupported("backward passes with packed weights".into()));
    }
    let grid = [(sizes.n as usize).div_ceil(tiling.columns), (sizes.m as usize).div_ceil(tiling.rows), 1];
    // Without a bias its binding is not read; any read-only tensor serves.
    let bias = bias.unwrap_or(b);
    pass.dispatch(kernel, tiling.first_variant + form as usize, &[a, b, bias, c], sizes, grid)?;
    pass.worked(2 * u64::from(sizes.m) * u64::from(sizes.n) * u64::from(sizes.k))
}

/// Makes a kernel's pipeline ahead of its use. Software on the CPU compiles no sooner than when a pipeline is first used, whatever for: where
/// `wholly` is said, it is used on nothing. Errors come up again where the pipeline is needed.
pub(crate) fn compile_ahead(gpu: &Gpu, tiling: &Tiling, kernel: &'static Kernel, form: Form, wholly: bool) {
    let variant = tiling.first_variant + form as usize;
    gpu.compile_ahead(kernel, variant);
    if wholly && gpu.is_software() {
        let mut pass = Pass::new(gpu);
        let arrays = [64, 64].map(|len| pass.alloc(&[len]));
        let [Ok(read), Ok(written)] = arrays else { return };
        let _ = multiply_nothing(&mut pass, kernel, variant, &read, &written).and_then(|()| pass.submit());
    }
}

/// A workgroup of a GEMM without rows, columns or depth: it reads and writes nothing.
fn multiply_nothing(
    pass: &mut Pass,
    kernel: &'static Kernel,
    variant: usize,
    read: &Tensor,
    written: &Tensor,
) -> Result<()> {
    pass.dispatch(kernel, variant, &[read, read, read, written], &Sizes { m: 0, n: 0, k: 0 }, [1, 1, 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Packing;
    use crate::ops::activation::{self, Activation};
    use crate::ops::check::{self, assert_close};
    use crate::ops::gemm_form::FORMS;
    use crate::ops::half::to_half;
    use crate::ops::pack;
    use crate::ops::tilings::{Family, TILINGS};

    #[test]
    fn what_a_driver_does_not_compile_is_replaced() {
        let gpu = Gpu::open(&crate::gpu::test_gpu().adapter().index.to_string()).unwrap();
        let sizes = Sizes { m: 256, n: 64, k: 64 };
        let taken = |refused: &[&str]| {
            let compile = |tiling: &Tiling, _: &Kernel| match refused.contains(&tiling.name) {
                true => Err(Error::Gpu("no registers".into())),
                false => Ok(()),
            };
            compiled(&gpu, Form::Linear, sizes, Inputs::Single, false, compile).map(|(tiling, _)| tiling.name)
        };
        let first = taken(&[]).unwrap();
        let second = taken(&[first]).unwrap();
        assert_ne!(first, second);
        // It is remembered.
        assert_eq!(taken(&[]).unwrap(), second);
        let all: Vec<_> = TILINGS.iter().map(|tiling| tiling.name).collect();
        assert!(matches!(taken(&all), Err(Error::Gpu(_))));
        // What is no kernel's fault is told, and none is the worse for it.
        let gpu = crate::gpu::test_gpu();
        gpu.lose();
        let compile = |_: &Tiling, _: &Kernel| Err(Error::Gpu("lost".into()));
        assert!(compiled(&gpu, Form::Linear, sizes, Inputs::Single, false, compile).is_err() && !gpu.refuses(first));
    }

    /// op(A) op(B) + C0 in f64.
    fn twin(form: Form, a: &[f32], b: &[f32], c0: &[f32], Sizes { m, n, k }: Sizes) -> Vec<f64> {
        let (m, n, k) = (m as usize, n as usize, k as usize);
        let a = |i: usize, l: usize| match form {
            Form::WeightGradient => a[l * m + i],
            _ => a[i * k + l],
        };
        let b = |l: usize, j: usize| match form {
            Form::InputGradient | Form::InputGradientAdd | Form::WeightGradient => b[l * n + j],
            _ => b[j * k + l],
        };
        let product = |i, j| (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j))).sum::<f64>();
        let sums = (0..m * n).map(|at| f64::from(c0[at]) + product(at / n, at % n));
        let kinds = [Activation::Gelu, Activation::GeluNew, Activation::Relu];
        match kinds.into_iter().find(|&kind| Form::linear(Some(kind)) as usize == form as usize) {
            Some(kind) => sums.map(|sum| activation::tests::f(kind, sum)).collect(),
            None => sums.collect(),
        }
    }

    struct Case {
        a: Vec<f32>,
        b: Vec<f32>,
        bias: Vec<f32>,
        before: Vec<f32>,
        form: Form,
        sizes: Sizes,
    }

    impl Case {
        fn new(form: Form, [m, n, k]: [usize; 3], half: bool) -> Self {
            let round = |x: Vec<f32>| match half {
                true => x.into_iter().map(|x| half::f16::from_f32(x).to_f32()).collect(),
                false => x,
            };
            Self {
                a: round(check::random(m * k, 1)),
                b: round(check::random(k * n, 2)),
                bias: check::random(n, 3),
                before: check::random(m * n, 4),
                form,
                sizes: Sizes { m: m as u32, n: n as u32, k: k as u32 },
            }
        }

        fn want(&self) -> Vec<f64> {
            let n = self.sizes.n as usize;
            let c0: Vec<f32> = match self.form {
                form if form.is_linear() => (0..self.before.len()).map(|at| self.bias[at % n]).collect(),
                Form::InputGradient => vec![0.0; self.before.len()],
                _ => self.before.clone(),
            };
            twin(self.form, &self.a, &self.b, &c0, self.sizes)
        }

        fn got(&self, gpu: &Gpu, tiling: &Tiling, kernel: &'static Kernel, half: bool) -> Vec<f32> {
            let Self { form, sizes, .. } = *self;
            let [m, n, k] = [sizes.m, sizes.n, sizes.k].map(|n| n as usize);
            let mut results = check::run(gpu, |pass| {
                let c = match form {
                    Form::InputGradient => pass.alloc(&[m, n])?,
                    form if form.is_linear() => pass.alloc(&[m, n])?,
                    _ => pass.upload(&[m, n], &self.before)?,
                };
                let (mut a, mut b) = (pass.upload(&[m, k], &self.a)?, pass.upload(&[k, n], &self.b)?);
                if half {
                    (a, b) = (to_half(pass, &a)?, to_half(pass, &b)?);
                }
                let bias = pass.upload(&[n], &self.bias)?;
                let bias = form.is_linear().then_some(&bias);
                gemm_with(pass, tiling, kernel, form, &Gemm { a: &a, b: &b, bias, c: &c, sizes })?;
                Ok(vec![c])
            });
            results.remove(0)
        }
    }

    /// With a packed weight.
    impl Case {
        /// Has its twin multiply what the weight's words stand for, and returns the weight as it was.
        fn round(&mut self, gpu: &Gpu, packing: Packing) -> Vec<f32> {
            let shape = [self.sizes.n as usize, self.sizes.k as usize];
            let words = pack::tests::words(gpu, &self.b, shape, packing);
            let weights = pack::tests::unpacked(&words, shape, packing).iter().map(|&x| x as f32).collect();
            std::mem::replace(&mut self.b, weights)
        }

        fn got_packed(&self, gpu: &Gpu, tiling: &Tiling, packing: Packing, exact: &[f32]) -> Vec<f32> {
            let [m, n, k] = [self.sizes.m, self.sizes.n, self.sizes.k].map(|n| n as usize);
            let kernel = tiling.of(Inputs::Packed(packing)).unwrap();
            let mut results = check::run(gpu, |pass| {
                let (a, b) = (pass.upload(&[m, k], &self.a)?, pass.upload(&[n, k], exact)?);
                let b = pack::pack_in(pass, &b, packing, "a weight")?;
                let (bias, c) = (pass.upload(&[n], &self.bias)?, pass.alloc(&[m, n])?);
                let arrays = Gemm { a: &a, b: &b, bias: Some(&bias), c: &c, sizes: self.sizes };
                gemm_with(pass, tiling, kernel, self.form, &arrays)?;
                Ok(vec![c])
            });
            results.remove(0)
        }
    }

    /// Odd shapes, and some that are multiples of two and of four, on which all kernels have to agree.
    const SHAPES: [[usize; 3]; 17] = [
        [16, 64, 200],
        [1, 1, 1],
        [13, 7, 37],
        [64, 64, 16],
        [65, 129, 8],
        [3, 200, 61],
        [130, 5, 100],
        [17, 128, 24],
        [12, 36, 20],
        [33, 68, 4],
        [70, 132, 12],
        [5, 2, 2],
        [29, 30, 46],
        [132, 260, 20],
        [24, 40, 56],
        [7, 33, 8],
        [48, 20, 13],
    ];

    fn assert_does_nothing(gpu: &Gpu, tiling: &Tiling, kernel: &'static Kernel, form: Form) {
        let variant = tiling.first_variant + form as usize;
        let untouched = check::run(gpu, |pass| {
            let (read, written) = (pass.upload(&[64], &[1f32; 64])?, pass.upload(&[64], &[7f32; 64])?);
            multiply_nothing(pass, kernel, variant, &read, &written)?;
            Ok(vec![written])
        });
        assert!(untouched[0].iter().all(|&x| x == 7.0), "{} {form:?} wrote something", tiling.name);
    }

    /// With A and B in f32, or in f16: then the twin gets the rounded values, and agrees as closely.
    #[test]
    fn every_tiling_and_form_equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        let (mut cases, mut tried) = (0, Vec::new());
        for tiling in TILINGS.iter().filter(|tiling| tiling.runs_on(&gpu)) {
            let full = tiling.kernel.map(|kernel| (kernel, false));
            let half = tiling.half.filter(|_| gpu.has_f16()).map(|kernel| (kernel, true));
            for (kernel, half) in full.into_iter().chain(half) {
                tried.push(kernel.file);
                for form in FORMS {
                    if !half {
                        assert_does_nothing(&gpu, tiling, kernel, form);
                    }
                    for shape in SHAPES {
                        let case = Case::new(form, shape, half);
                        if tiling.fits(form, case.sizes) {
                            let what = format!("{} {} {form:?} {shape:?}", tiling.name, kernel.file);
                            assert_close(&what, &case.got(&gpu, tiling, kernel, half), &case.want(), 1e-5);
                            cases += 1;
                        }
                    }
                }
            }
        }
        assert!(cases >= FORMS.len() * SHAPES.len(), "{cases}");
        // `make test-next` is there for these.
        let cooperative = tried.iter().any(|file| file.starts_with("gemm_cooperative"));
        assert!(cooperative || std::env::var_os("RETTO_NEEDS_COOPERATIVE").is_none(), "{tried:?}");
    }

    /// The number of lanes of a subgroup is the driver's choice, kernel by kernel where it has one. So with half of the subgroups that a
    /// kernel of cooperative matrices expects, and with four and eight times as many, it gives the same bits.
    #[test]
    fn cooperative_matrices_get_along_with_any_number_of_subgroups() {
        let gpu = crate::gpu::test_gpu();
        let expected = |tiling: &&Tiling| matches!(tiling.family, Family::Cooperative { .. }) && tiling.runs_on(&gpu);
        let mut cases = 0;
        for tiling in TILINGS.iter().filter(expected) {
            // Compiling them is what takes long.
            for form in [Form::Linear, Form::WeightGradient] {
                let case = Case::new(form, [70, 132, 44], true);
                let want = case.got(&gpu, tiling, tiling.half.unwrap(), true);
                assert_close(tiling.name, &want, &case.want(), 1e-5);
                for which in 0..tiling.half.unwrap().variants.len() / FORMS.len() {
                    let (_, width) = tiling.half.unwrap().variants[which * FORMS.len()].last().unwrap();
                    // Vulkan wants workgroups of whole subgroups for such matrices.
                    if !(*width as u32).is_multiple_of(gpu.adapter().subgroup_max_size) {
                        continue;
                    }
                    let mut other = tiling.clone();
                    other.first_variant = which * FORMS.len();
                    let got = case.got(&gpu, &other, tiling.half.unwrap(), true);
                    assert!(got == want, "{} {form:?} in variant {which}", tiling.name);
                    cases += 1;
                }
            }
        }
        assert!(cases > 0 || std::env::var_os("RETTO_NEEDS_COOPERATIVE").is_none());
    }

    /// So deep that threads come round several times, the last of them in vain.
    #[test]
    fn sums_in_parts_equal_their_twin() {
        let gpu = crate::gpu::test_gpu();
        let mut cases = 0;
        for tiling in TILINGS.iter().filter(|tiling| tiling.split_sums && tiling.runs_on(&gpu)) {
            for shape in [[1, 6, 3076], [4, 3, 768], [13, 7, 1100], [35, 9, 1536]] {
                let case = Case::new(Form::Linear, shape, false);
                assert!(tiling.fits(Form::Linear, case.sizes));
                let got = case.got(&gpu, tiling, tiling.kernel.unwrap(), false);
                assert_close(&format!("{} {shape:?}", tiling.name), &got, &case.want(), 1e-5);
                for packing in [Packing::Float16, Packing::Int8] {
                    let mut case = Case::new(Form::Linear, shape, false);
                    let exact = case.round(&gpu, packing);
                    let got = case.got_packed(&gpu, tiling, packing, &exact);
                    assert_close(&format!("{} {packing:?} {shape:?}", tiling.name), &got, &case.want(), 1e-5);
                }
                cases += 1;
            }
        }
        assert!(cases > 0 || std::env::var_os("RETTO_NEEDS_COOPERATIVE").is_none());
    }

    /// With B a packed weight: the twin gets what its words stand for. Rows of all classes, and for each all kernels the same bits,
    /// but for those whose sums are in parts.
    #[test]
    fn packed_weights_multiply_as_what_they_stand_for() {
        let gpu = crate::gpu::test_gpu();
        let linear = FORMS.into_iter().filter(|form| form.is_linear());
        let packings = [Packing::Float16, Packing::Int8];
        for (form, packing) in linear.flat_map(|form| packings.map(|packing| (form, packing))) {
            for shape in SHAPES {
                let mut case = Case::new(form, shape, false);
                let exact = case.round(&gpu, packing);
                let want = case.want();
                let mut all: Vec<(&str, Vec<f32>)> = Vec::new();
                for tiling in TILINGS.iter().filter(|tiling| tiling.runs_on(&gpu) && tiling.fits(form, case.sizes)) {
                    let Some(kernel) = tiling.of(Inputs::Packed(packing)) else { continue };
                    assert_does_nothing(&gpu, tiling, kernel, form);
                    let got = case.got_packed(&gpu, tiling, packing, &exact);
                    assert_close(&format!("{} {form:?} {packing:?} {shape:?}", tiling.name), &got, &want, 1e-5);
                    all.push((tiling.name, got));
                }
                assert!(!all.is_empty());
                for (name, values) in &all {
                    let split_sums = TILINGS.iter().any(|tiling| tiling.name == *name && tiling.split_sums);
                    assert!(split_sums || *values == all[0].1, "{name} {form:?} {packing:?} {shape:?}");
                }
            }
        }
    }

    /// So the choice of a kernel, which depends on the number of rows, changes no result.
    #[test]
    fn all_kernels_give_the_same_bits() {
        let gpu = crate::gpu::test_gpu();
        for (form, shape) in FORMS.into_iter().flat_map(|form| [(form, [21, 44, 36]), (form, [24, 48, 40])]) {
            let case = Case::new(form, shape, false);
            let usable = TILINGS.iter().filter(|tiling| tiling.runs_on(&gpu) && tiling.fits(form, case.sizes));
            let usable = usable.filter(|tiling| !tiling.split_sums);
            let of = |tiling: &'static Tiling| Some((tiling.name, case.got(&gpu, tiling, tiling.kernel?, false)));
            let all: Vec<_> = usable.filter_map(of).collect();
            for (name, values) in &all {
                assert!(*values == all[0].1, "{name} {form:?} {shape:?}");
            }
        }
    }
}
