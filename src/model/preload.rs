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

/// Where the values of a network's parameters are read from, by any thread.
pub(crate) trait Store: Sync {
    /// Whether it has them.
    fn has(&self, spec: &Spec) -> bool;

    /// Those of the parameter with this index.
    ///
    /// # Errors
    /// What is wrong with them, or that they are missing; GPU errors.
    fn read(&self, spec: &Spec, index: usize) -> Result<Tensor>;
}

/// The values of a network's parameters, by index.
pub(crate) struct Preloaded {
    tensors: Vec<OnceLock<Result<Tensor>>>,
    trainable: bool,
}

impl Preloaded {
    /// Where memory of the GPU is the host's, several threads read at a time: most of what a start takes is fresh pages of memory, of which
    /// a model has a hundred thousand.
    pub(crate) fn new(gpu: &Gpu, config: &BertConfig, store: &dyn Store, trainable: bool) -> Result<Self> {
        let specs = Specs::of(gpu, config, store)?;
        let tensors: Vec<OnceLock<Result<Tensor>>> = specs.iter().map(|_| OnceLock::new()).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(spec) = specs.get(index) else { break };
                let loaded = store.read(spec, index);
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
        Ok(Self { tensors, trainable })
    }
}

impl Source for Preloaded {
    /// Parameters are begun in their order, so that before one that failed there is none that was not loaded.
    fn load(&mut self, _: &Gpu, _: &Spec, index: usize) -> Result<Tensor> {
        let loaded = self.tensors.get_mut(index).and_then(OnceLock::take);
        loaded.unwrap_or_else(|| Err(Error::InvalidArgument(format!("parameter {index} was not read"))))
    }

    fn is_trainable(&self, _keys: &[String]) -> bool {
        self.trainable
    }
}

/// What a network asks for, as far as the store has it.
struct Specs<'s> {
    all: Vec<Spec>,
    store: &'s dyn Store,
    /// The last of them is not in the store.
    ended: bool,
    /// In the place of each.
    placeholder: Tensor,
}

impl<'s> Specs<'s> {
    /// Ends with the first that is missing: a config may ask for more layers than there is memory to list.
    fn of(gpu: &Gpu, config: &BertConfig, store: &'s dyn Store) -> Result<Vec<Spec>> {
        let placeholder = Tensor::persistent(gpu, &[1], "a placeholder")?;
        let mut specs = Self { all: Vec::new(), store, ended: false, placeholder };
        match Bert::new(gpu, config.clone(), &mut specs) {
            Err(error) if !specs.ended => Err(error),
            _ => Ok(specs.all),
        }
    }
}

impl Source for Specs<'_> {
    fn load(&mut self, _: &Gpu, spec: &Spec, index: usize) -> Result<Tensor> {
        debug_assert_eq!(self.all.len(), index);
        self.all.push(spec.clone());
        self.ended = !self.store.has(spec);
        match self.ended {
            true => Err(Error::InvalidArgument(format!("{} is missing", spec.keys[0]))),
            false => Ok(self.placeholder.standing_in_for(&spec.shape)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    fn config() -> BertConfig {
        let mut config = BertConfig::new(50);
        (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) = (8, 3, 2);
        (config.intermediate_size, config.max_position_embeddings) = (12, 16);
        config
    }

    /// Values that are the parameter's index; from `missing` on there are none.
    struct Indices {
        gpu: Gpu,
        missing: usize,
        /// Fails, though it is there.
        damaged: usize,
        read: Mutex<Vec<usize>>,
        asked: AtomicUsize,
    }

    impl Store for Indices {
        fn has(&self, _: &Spec) -> bool {
            self.asked.fetch_add(1, Ordering::Relaxed) < self.missing
        }

        fn read(&self, spec: &Spec, index: usize) -> Result<Tensor> {
            self.read.lock().unwrap().push(index);
            if index == self.missing || index == self.damaged {
                return Err(Error::InvalidArgument(format!("no {index}")));
            }
            if index > self.damaged {
                // By the last of them another thread has had seconds in which to say that its own failed.
                thread::sleep(Duration::from_millis(2));
            }
            let value = Tensor::persistent(&self.gpu, &spec.shape, &spec.keys[0])?;
            value.write(&self.gpu, 0, &vec![index as f32; value.len()])?;
            Ok(value)
        }
    }

    fn indices(missing: usize, damaged: usize) -> Indices {
        Indices { gpu: crate::gpu::test_gpu(), missing, damaged, read: Mutex::default(), asked: AtomicUsize::new(0) }
    }

    #[test]
    fn every_parameter_is_read_once_and_gets_its_own() {
        let store = indices(usize::MAX, usize::MAX);
        let gpu = &store.gpu;
        let before = gpu.memory_in_use();
        let mut loaded = Preloaded::new(gpu, &config(), &store, false).unwrap();
        let bert = Bert::new(gpu, config(), &mut loaded).unwrap();
        let parameters = bert.parameters();
        let mut read = store.read.lock().unwrap().clone();
        read.sort_unstable();
        assert_eq!(read, (0..parameters.len()).collect::<Vec<_>>());
        let bytes: u64 = parameters.iter().map(|parameter| parameter.value.bytes()).sum();
        assert_eq!(gpu.memory_in_use() - before, bytes);
        for parameter in parameters {
            let mut pass = crate::gpu::Pass::new(gpu);
            let download = pass.download(&parameter.value).unwrap();
            pass.submit().unwrap();
            let values: Vec<f32> = download.wait(gpu).unwrap();
            assert!(values.iter().all(|&x| x == parameter.index as f32), "{:?}", parameter.keys);
            assert!(!parameter.trainable);
        }
    }

    #[test]
    fn the_first_that_fails_is_told_and_no_more_are_begun() {
        for (missing, damaged) in [(usize::MAX, 3), (3, usize::MAX), (5, 3)] {
            let store = indices(missing, damaged);
            let mut config = config();
            // More than would be read by chance, or than can be listed.
            config.num_hidden_layers = if missing == usize::MAX { 100 } else { 4_000_000_000 };
            let mut loaded = Preloaded::new(&store.gpu, &config, &store, true).unwrap();
            let error = Bert::new(&store.gpu, config, &mut loaded).unwrap_err();
            assert_eq!(error.to_string(), Error::InvalidArgument("no 3".into()).to_string());
            let begun = store.read.into_inner().unwrap().len();
            let listed = if missing == usize::MAX { 100 * 16 } else { missing + 1 };
            assert!(begun >= 4 && begun <= listed, "{begun} of {listed}");
            // What other threads began before they were told is theirs to end.
            assert!(missing != usize::MAX || begun < listed, "{begun}");
        }
    }
}
