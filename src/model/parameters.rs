//! Parameters, the keys checkpoints have for them, and where their first values come from.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::Result;
use crate::gpu::{Gpu, Pass, Tensor};

/// One tensor that is trained. It may stack several tensors of the checkpoint along its first dimension (query, key and
/// value are multiplied as one).
#[derive(Debug)]
pub(crate) struct Parameter {
    /// The checkpoint's own keys, in stacking order.
    pub(crate) keys: Vec<String>,
    pub(crate) value: Tensor,
    /// Its place in [`Gradients`], and among the optimizer's states.
    pub(crate) index: usize,
    /// Whether weight decay applies: not to biases and LayerNorms.
    pub(crate) decay: bool,
    /// Whether training changes it. What it does not change may be shared with another model.
    pub(crate) trainable: bool,
}

impl Parameter {
    /// The checkpoint's tensors it stacks: key and shape of each.
    pub(crate) fn parts(&self) -> Vec<(String, Vec<usize>)> {
        let mut shape = self.value.shape().to_vec();
        shape[0] /= self.keys.len();
        self.keys.iter().map(|key| (key.clone(), shape.clone())).collect()
    }
}

/// A parameter still to be made.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) keys: Vec<String>,
    /// Of the whole stack.
    pub(crate) shape: Vec<usize>,
    pub(crate) init: Init,
}

/// BERT's initialisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    /// Normal with the config's `initializer_range`: weights and embeddings, but for row `zero_row`.
    Normal { zero_row: Option<usize> },
    /// Biases and LayerNorm's beta.
    Zeros,
    /// LayerNorm's gamma.
    Ones,
    /// Uniform within the bound on either side of 0.
    Uniform {
        /// Not included.
        bound: f64,
    },
}

/// Where values come from: a checkpoint, a random state, or another model.
pub(crate) trait Source {
    fn load(&mut self, gpu: &Gpu, spec: &Spec, index: usize) -> Result<Tensor>;

    /// Whether what goes by these keys will be trained.
    fn is_trainable(&self, _keys: &[String]) -> bool {
        true
    }
}

/// Hands out indices while a network is built.
pub(crate) struct Builder<'s> {
    pub(crate) gpu: &'s Gpu,
    pub(crate) source: &'s mut dyn Source,
    pub(crate) next: usize,
}

impl Builder<'_> {
    pub(crate) fn parameter(&mut self, keys: Vec<String>, shape: &[usize], init: Init) -> Result<Parameter> {
        // The rule of transformers' Trainer: no decay for biases and LayerNorms, which are the one-dimensional ones.
        let decay = shape.len() > 1;
        let spec = Spec { keys, shape: shape.to_vec(), init };
        let index = self.next;
        let value = self.source.load(self.gpu, &spec, index)?;
        self.next += 1;
        let trainable = self.source.is_trainable(&spec.keys);
        Ok(Parameter { keys: spec.keys, value, index, decay, trainable })
    }

    pub(crate) fn normal(&mut self, key: &str, shape: &[usize]) -> Result<Parameter> {
        self.parameter(vec![key.to_owned()], shape, Init::Normal { zero_row: None })
    }
}

/// Parameters in the order in which their values, gradients and moments lie in memory: those with weight decay first, so that the
/// optimizer does the same with long runs of them.
pub(crate) fn in_memory_order(mut parameters: Vec<&Parameter>) -> Vec<&Parameter> {
    parameters.sort_by_key(|parameter| (!parameter.decay, parameter.index));
    parameters
}

/// Zeros of the shape of each of these parameters, in their order, called `what` and the parameter's key in errors. They lie as
/// [`in_memory_order`] has them.
pub(crate) fn zeros_like(gpu: &Gpu, parameters: &[&Parameter], what: &str) -> Result<Vec<Tensor>> {
    let ordered = in_memory_order(parameters.to_vec());
    let called = |parameter: &Parameter| format!("{what}{}", parameter.keys[0]);
    let parts: Vec<_> = ordered.iter().map(|parameter| (parameter.value.shape(), called(parameter))).collect();
    let indices = ordered.iter().map(|parameter| parameter.index);
    let mut joined: HashMap<usize, Tensor> = indices.zip(Tensor::joined(gpu, &parts)?).collect();
    Ok(parameters.iter().filter_map(|parameter| joined.remove(&parameter.index)).collect())
}

/// Gradients of the trained parameters, by the index of all.
pub(crate) struct Gradients {
    each: Vec<Option<Tensor>>,
    /// The same as long arrays.
    runs: Vec<Tensor>,
}

impl Gradients {
    pub(crate) fn new(gpu: &Gpu, parameters: &[&Parameter]) -> Result<Self> {
        debug_assert!(parameters.iter().enumerate().all(|(i, parameter)| parameter.index == i));
        let trained = parameters.iter().copied().filter(|parameter| parameter.trainable);
        let trained = in_memory_order(trained.collect());
        let gradients = zeros_like(gpu, &trained, "the gradient of ")?;
        let runs = Tensor::runs(&gradients.iter().collect::<Vec<_>>());
        let mut each = vec![None; parameters.len()];
        trained.into_iter().zip(gradients).for_each(|(parameter, zeros)| each[parameter.index] = Some(zeros));
        Ok(Self { each, runs })
    }

    /// `None` for a parameter that is not trained.
    pub(crate) fn of(&self, parameter: &Parameter) -> Option<&Tensor> {
        self.each[parameter.index].as_ref()
    }

    /// All of them in as few arrays as may be, with zeros in between.
    pub(crate) fn runs(&self) -> &[Tensor] {
        &self.runs
    }

    pub(crate) fn clear(&self, pass: &mut Pass) {
        self.runs.iter().for_each(|run| pass.clear(run));
    }
}

/// Fresh values. Each parameter has a stream of its own, so that its values do not depend on what else is fresh.
pub(crate) struct InitialSource {
    pub(crate) seed: u64,
    pub(crate) range: f64,
}

impl Source for InitialSource {
    fn load(&mut self, gpu: &Gpu, spec: &Spec, index: usize) -> Result<Tensor> {
        self.draw(gpu, spec, index)
    }
}

impl InitialSource {
    pub(crate) fn draw(&self, gpu: &Gpu, spec: &Spec, index: usize) -> Result<Tensor> {
        // First: a tensor this adapter cannot hold is refused before its values are drawn.
        let tensor = Tensor::persistent(gpu, &spec.shape, &spec.keys[0])?;
        let len = spec.shape.iter().product();
        let values = match spec.init {
            Init::Zeros => vec![0.0; len],
            Init::Ones => vec![1.0; len],
            Init::Uniform { bound } => {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                rng.set_stream(index as u64);
                let mut draw = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                (0..len).map(|_| ((2.0 * draw() - 1.0) * bound) as f32).collect()
            }
            Init::Normal { zero_row } => {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                rng.set_stream(index as u64);
                let mut values = normal(&mut rng, len, self.range);
                if let Some(row) = zero_row.filter(|&row| row < spec.shape[0]) {
                    let columns = len / spec.shape[0];
                    values[row * columns..(row + 1) * columns].fill(0.0);
                }
                values
            }
        };
        tensor.write(gpu, 0, &values)?;
        gpu.flush()?;
        Ok(tensor)
    }
}

/// Normal values by Box and Muller's method (1958).
fn normal(rng: &mut ChaCha8Rng, len: usize, deviation: f64) -> Vec<f32> {
    // In (0, 1], so that the logarithm is finite.
    let mut uniform = || (rng.next_u64() >> 11).wrapping_add(1) as f64 / (1u64 << 53) as f64;
    let pairs = (0..len.div_ceil(2)).flat_map(|_| {
        let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
        [radius * angle.cos(), radius * angle.sin()]
    });
    pairs.take(len).map(|x| (x * deviation) as f32).collect()
}

/// The values of another model: copied on the GPU where they will be trained, or, of one that is live, are being trained; shared where not.
pub(crate) struct CopySource<'p> {
    parameters: Vec<&'p Parameter>,
    is_trainable: &'p dyn Fn(&str) -> bool,
    /// Memory for those that will be, by index.
    copies: HashMap<usize, Tensor>,
}

impl<'p> CopySource<'p> {
    pub(crate) fn new(
        gpu: &Gpu,
        parameters: Vec<&'p Parameter>,
        is_trainable: &'p dyn Fn(&str) -> bool,
        live: bool,
    ) -> Result<Self> {
        let mut source = Self { parameters, is_trainable, copies: HashMap::new() };
        let changes = |parameter: &Parameter| source.is_trainable(&parameter.keys) || (live && parameter.trainable);
        let trained: Vec<&Parameter> =
            source.parameters.iter().copied().filter(|parameter| changes(parameter)).collect();
        let copies = zeros_like(gpu, &trained, "")?;
        source.copies = trained.iter().map(|parameter| parameter.index).zip(copies).collect();
        Ok(source)
    }
}

impl Source for CopySource<'_> {
    fn load(&mut self, gpu: &Gpu, _: &Spec, index: usize) -> Result<Tensor> {
        let value = &self.parameters[index].value;
        let Some(copy) = self.copies.remove(&index) else { return Ok(value.clone()) };
        let mut pass = Pass::new(gpu);
        pass.copy(value, &copy);
        pass.submit_kept()?;
        Ok(copy)
    }

    fn is_trainable(&self, keys: &[String]) -> bool {
        keys.iter().any(|key| (self.is_trainable)(key))
    }
}

/// The values of a model on another GPU, by way of the host.
pub(crate) struct ForeignSource<'p> {
    pub(crate) from: &'p Gpu,
    pub(crate) parameters: Vec<&'p Parameter>,
}

impl Source for ForeignSource<'_> {
    fn load(&mut self, gpu: &Gpu, spec: &Spec, index: usize) -> Result<Tensor> {
        let mut pass = Pass::new(self.from);
        let download = pass.download(&self.parameters[index].value)?;
        pass.submit()?;
        let values: Vec<f32> = download.wait(self.from)?;
        let mut upload = Tensor::upload(gpu, &spec.shape, &spec.keys[0])?;
        upload.write(0, &values)?;
        upload.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_values_have_the_deviation_asked_for() {
        let values = normal(&mut ChaCha8Rng::seed_from_u64(7), 100_001, 0.02);
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 3e-4 && (variance.sqrt() - 0.02).abs() < 2e-4, "{mean} {variance}");
        // A normal has 4.55 % beyond two deviations.
        let far = values.iter().filter(|x| x.abs() > 0.04).count() as f64 / values.len() as f64;
        assert!((far - 0.0455).abs() < 0.003, "{far}");
    }
}
