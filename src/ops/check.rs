//! What the op tests share: seeded inputs, a run on the GPU, comparison with an f64 twin, central differences.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::Result;
use crate::gpu::{GUARD, Gpu, Pass, Style, Tensor};

/// Uniform values in -1..1.
pub(crate) fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| (rng.next_u32() as f64 / f64::from(u32::MAX) * 2.0 - 1.0) as f32).collect()
}

pub(crate) fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Records, submits, and reads back the tensors that `record` returns. Fails where a kernel wrote beyond a tensor's end, and
/// where the adapter's [`Style`] and the opposite disagree: it takes one, and is tested with both.
pub(crate) fn run(gpu: &Gpu, record: impl FnMut(&mut Pass) -> Result<Vec<Tensor>>) -> Vec<Vec<f32>> {
    run_within(2e-5, gpu, record)
}

/// The same where the two styles may differ by so much, as [`assert_close`] has it.
pub(crate) fn run_within(
    tolerance: f32,
    gpu: &Gpu,
    mut record: impl FnMut(&mut Pass) -> Result<Vec<Tensor>>,
) -> Vec<Vec<f32>> {
    let (got, differing) = run_once(gpu, gpu.style(), &mut record);
    // Loads of another width change no bit.
    let tolerance = if differing.narrow { tolerance } else { 0.0 };
    if differing.narrow || differing.in_words {
        let (other, _) = run_once(gpu, gpu.style().other(), &mut record);
        for (i, (got, other)) in got.iter().zip(&other).enumerate() {
            assert_eq!(got.len(), other.len());
            for (got, other) in got.iter().zip(other) {
                let same = got.to_bits() == other.to_bits() || (got - other).abs() <= tolerance * (1.0 + got.abs());
                assert!(same, "output {i}: {got} and {other} by the style");
            }
        }
    }
    got
}

/// And in which respects the style makes a difference.
fn run_once(
    gpu: &Gpu,
    style: Style,
    record: &mut impl FnMut(&mut Pass) -> Result<Vec<Tensor>>,
) -> (Vec<Vec<f32>>, Style) {
    let mut pass = Pass::new(gpu);
    pass.style = style;
    let tensors = record(&mut pass).unwrap();
    let differing = pass.differing;
    let downloads: Vec<_> = tensors.iter().map(|tensor| pass.download(tensor).unwrap()).collect();
    let handed_out = std::mem::take(&mut pass.handed_out);
    let whole: Vec<_> = handed_out.iter().map(|tensor| (tensor, pass.download(&tensor.whole()).unwrap())).collect();
    pass.submit().unwrap();
    for (tensor, download) in whole {
        let words: Vec<u32> = download.wait(gpu).unwrap();
        assert!(words[tensor.len()..].iter().all(|&word| word == GUARD), "written beyond the end of {tensor:?}");
    }
    (downloads.into_iter().map(|download| download.wait(gpu).unwrap()).collect(), differing)
}

/// Fails where `|got - want| > tolerance * (1 + |want|)`, or where `got` is not finite.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs() / (1.0 + want.abs());
        assert!(error <= tolerance, "{what}[{i}]: got {got}, want {want}");
    }
}

/// Rung 1: the analytic gradient of the twin against central differences of the twin, at about 1e-6.
#[track_caller]
pub(crate) fn assert_gradient(what: &str, f: impl Fn(&[f64]) -> f64, at: &[f64], gradient: &[f64]) {
    assert_eq!(at.len(), gradient.len(), "{what}: length");
    let h = 1e-5;
    for i in 0..at.len() {
        let mut x = at.to_vec();
        x[i] = at[i] + h;
        let above = f(&x);
        x[i] = at[i] - h;
        let below = f(&x);
        let numeric = (above - below) / (2.0 * h);
        let error = (numeric - gradient[i]).abs() / (1.0 + numeric.abs());
        assert!(error <= 1e-6, "{what}[{i}]: analytic {}, numeric {numeric}", gradient[i]);
    }
}

/// The scalar whose gradient is the upstream gradient: sum of y * dy.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
