//! Weights read by several threads, before the network is built of them.

use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::bert::Bert;
use super::config::BertConfig;
use super::parameters::{Source, Spec};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Tensor};

/// The values of a network's parameters, by index.
pub(crate) struct Preloaded {
    tensors: Vec<OnceLock<Result<Tensor>>>,
}

impl Preloaded {
    /// What `load` makes of each parameter, given its index, too. Where memory of the GPU is the host's, several threads do so at a time:
    /// most of what a start takes is fresh pages of memory, of which a model has a hundred thousand.
    pub(crate) fn new(
        gpu: &Gpu,
        config: &BertConfig,
        load: &(dyn Fn(&Spec, usize) -> Result<Tensor> + Sync),
    ) -> Result<Self> {
        let specs = Specs::of(gpu, config)?;
        let tensors: Vec<OnceLock<Result<Tensor>>> = specs.iter().map(|_| OnceLock::new()).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(spec) = specs.get(index) else { break };
                let loaded = load(spec, index);
                failed.fetch_or(loaded.is_err(), Ordering::Relaxed);
                let _ = tensors[index].set(loaded);
            }
        };
        let threads = match gpu.writes_in_place() {
            true => thread::available_parallelism().map_or(1, NonZero::get).min(4),
            // The driver's staging memory would hold as many pieces.
            false => 1,
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // With fewer it only takes longer.
                let _ = thread::Builder::new().name("retto-load".into()).spawn_scoped(scope, work);
            }
            work();
        });
        Ok(Self { tensors })
    }
}

impl Source for Preloaded {
    /// Parameters are begun in their order, so that before one that failed there is none that was not loaded.
    fn load(&mut self, _: &Gpu, _: &Spec, index: usize) -> Result<Tensor> {
        let loaded = self.tensors.get_mut(index).and_then(OnceLock::take);
        loaded.unwrap_or_else(|| Err(Error::InvalidArgument(format!("parameter {index} was not read"))))
    }
}

/// What a network asks for.
struct Specs {
    all: Vec<Spec>,
    /// In the place of each.
    placeholder: Tensor,
}

impl Specs {
    fn of(gpu: &Gpu, config: &BertConfig) -> Result<Vec<Spec>> {
        let placeholder = Tensor::persistent(gpu, &[1], "a placeholder")?;
        let mut specs = Self { all: Vec::new(), placeholder };
        Bert::new(gpu, config.clone(), &mut specs)?;
        Ok(specs.all)
    }
}

impl Source for Specs {
    fn load(&mut self, _: &Gpu, spec: &Spec, index: usize) -> Result<Tensor> {
        debug_assert_eq!(self.all.len(), index);
        self.all.push(spec.clone());
        Ok(self.placeholder.standing_in_for(&spec.shape))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;

    fn config() -> BertConfig {
        let mut config = BertConfig::new(50);
        (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) = (8, 3, 2);
        (config.intermediate_size, config.max_position_embeddings) = (12, 16);
        config
    }

    #[test]
    fn every_parameter_is_loaded_once_and_gets_its_own() {
        let gpu = crate::gpu::test_gpu();
        let seen = Mutex::new(BTreeSet::new());
        let before = gpu.memory_in_use();
        let load = |spec: &Spec, index: usize| {
            assert!(seen.lock().unwrap().insert(index), "{index} twice");
            let value = Tensor::persistent(&gpu, &spec.shape, &spec.keys[0])?;
            value.write(&gpu, 0, &vec![index as f32; value.len()])?;
            Ok(value)
        };
        let bert = Bert::new(&gpu, config(), &mut Preloaded::new(&gpu, &config(), &load).unwrap()).unwrap();
        let parameters = bert.parameters();
        assert_eq!(
            seen.into_inner().unwrap().into_iter().collect::<Vec<_>>(),
            (0..parameters.len()).collect::<Vec<_>>()
        );
        let bytes: u64 = parameters.iter().map(|parameter| parameter.value.bytes()).sum();
        assert_eq!(gpu.memory_in_use() - before, bytes);
        for parameter in parameters {
            let mut pass = crate::gpu::Pass::new(&gpu);
            let download = pass.download(&parameter.value).unwrap();
            pass.submit().unwrap();
            let values: Vec<f32> = download.wait(&gpu).unwrap();
            assert!(values.iter().all(|&x| x == parameter.index as f32), "{:?}", parameter.keys);
        }
    }

    #[test]
    fn the_first_that_fails_is_told_and_no_more_are_begun() {
        let gpu = crate::gpu::test_gpu();
        let begun = AtomicUsize::new(0);
        let load = |spec: &Spec, index: usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            match index {
                0..3 => Tensor::persistent(&gpu, &spec.shape, &spec.keys[0]),
                _ => Err(Error::InvalidArgument(format!("no {index}"))),
            }
        };
        let mut loaded = Preloaded::new(&gpu, &config(), &load).unwrap();
        let error = Bert::new(&gpu, config(), &mut loaded).unwrap_err();
        assert_eq!(error.to_string(), Error::InvalidArgument("no 3".into()).to_string());
        // Each thread may have begun another.
        assert!((4..12).contains(&begun.into_inner()));
    }
}
