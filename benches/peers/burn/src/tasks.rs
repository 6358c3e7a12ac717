//! What is measured.

use std::path::Path;
use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use burn::tensor::activation::softmax;
use burn::tensor::wgpu::wgpu::{AdapterInfo, DeviceType};
use burn::tensor::{Distribution, TensorData};
use serde_json::{Value, json};

use crate::measure::{Numbers, peak_host_bytes, repeat, sync};
use crate::model::{Bert, BertConfig};

const LEARNING_RATE: f64 = 5e-5;
const MAX_GRAD_NORM: f32 = 1.0;
const MASKED: f64 = 0.15;

pub struct Peer {
    device: Device,
    adapter: AdapterInfo,
    config: BertConfig,
    model: Option<Bert>,
}

impl Peer {
    /// On burn's default device, which CUBECL_WGPU_DEFAULT_DEVICE overrides, as in `DiscreteGpu(1)` or `Cpu`.
    pub fn new(folder: &Path) -> Result<Self, String> {
        let config = BertConfig::read(folder)?;
        let (device, setup) = Device::wgpu_options().init_with_setup().map_err(|error| error.to_string())?;
        Ok(Self { device, adapter: setup.adapter.get_info(), config, model: None })
    }

    pub fn describe(&self) -> Value {
        // From the pin itself, so that the two cannot differ.
        let burn = include_str!("../Cargo.toml").lines().find_map(|line| line.strip_prefix("burn = "));
        let burn = burn.and_then(|pin| pin.split('"').nth(1)).unwrap_or_default().trim_start_matches('=');
        let (adapter, backend) = (&self.adapter.name, self.adapter.backend);
        json!({
            "name": format!("burn {burn} on wgpu ({adapter}, {backend})"),
            "burn": burn,
            "adapter": adapter,
            "backend": backend.to_string(),
            "device": format!("{:?}", self.adapter.device_type),
            "persistence": cfg!(feature = "persistence"),
        })
    }

    pub fn gemm(&self, [m, n, k]: [usize; 3], seconds: f64, calls: usize) -> Result<Value, String> {
        let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &self.device);
        let (x, weight, bias) = (random([m, k]), random([n, k]), random([1, n]));
        sync(&self.device)?;
        let run = || x.clone().matmul(weight.clone().transpose()) + bias.clone();
        repeat(&self.device, seconds, calls, run)
    }

    pub fn fill(&mut self, tokens: usize, top_k: usize, seconds: f64) -> Result<Value, String> {
        if tokens == 0 || tokens > self.config.max_position_embeddings {
            return Err(format!("{tokens} tokens: the model takes 1 to {}", self.config.max_position_embeddings));
        }
        if top_k == 0 || top_k >= self.config.vocab_size {
            return Err(format!("top_k {top_k}: not between 1 and the vocabulary"));
        }
        let device = &self.device;
        let model = self.model.get_or_insert_with(|| self.config.init(device));
        sync(device)?;
        let mut numbers = Numbers(0);
        let ids: Vec<i32> = (0..tokens).map(|_| numbers.below(self.config.vocab_size) as i32).collect();
        let mut answers = Vec::new();
        let mut reply = repeat(device, seconds, 1, || {
            let ids = Tensor::from_data(TensorData::new(ids.clone(), [1, tokens]), device);
            let mask = Tensor::from_data([(tokens / 2) as i32], device);
            let (scores, ids) = softmax(model.forward(ids, mask), 1).topk_with_indices(top_k, 1);
            let (scores, ids) = (scores.into_data(), ids.into_data());
            answers = ids.iter::<u32>().zip(scores.iter::<f32>()).collect();
        })?;
        reply["tokens"] = json!(tokens);
        reply["answers"] = json!(answers);
        Ok(reply)
    }

    /// As the other peers train, but for clipping: burn's is each parameter's by itself.
    pub fn adapt(&self, batch_size: usize, length: usize, steps: usize) -> Result<Value, String> {
        let BertConfig { vocab_size, max_position_embeddings, .. } = self.config;
        if batch_size == 0 || length == 0 || length > max_position_embeddings {
            return Err(format!("batch_size {batch_size}, length {length} of at most {max_position_embeddings}"));
        }
        let device = self.device.clone().autodiff();
        let mut model = self.config.init(&device);
        sync(&device)?;
        let clipping = GradientClippingConfig::Norm(MAX_GRAD_NORM);
        let optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.0);
        let mut optimizer = optimizer.with_grad_clipping(Some(clipping)).init();
        let cross_entropy = CrossEntropyLossConfig::new().init(&device);

        let tokens = batch_size * length;
        // As many in each step: burn tunes again for shapes that it has not seen.
        let masked = ((tokens as f64 * MASKED) as usize).max(1);
        let mut numbers = Numbers(0);
        let (mut seconds, mut losses) = (Vec::new(), Vec::new());
        // The first step is the warm-up.
        for _ in 0..=steps {
            let ids: Vec<i32> = (0..tokens).map(|_| numbers.below(vocab_size) as i32).collect();
            let labels: Vec<i32> = (0..masked).map(|_| numbers.below(vocab_size) as i32).collect();
            let mut rows: Vec<i32> = (0..tokens as i32).collect();
            for i in 0..masked {
                rows.swap(i, i + numbers.below(tokens - i));
            }
            rows.truncate(masked);

            let start = Instant::now();
            let ids = Tensor::from_data(TensorData::new(ids, [batch_size, length]), &device);
            let rows = Tensor::from_data(TensorData::new(rows, [masked]), &device);
            let labels = Tensor::from_data(TensorData::new(labels, [masked]), &device);
            let loss = cross_entropy.forward(model.forward(ids, rows), labels);
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(LEARNING_RATE, model, gradients);
            sync(&device)?;
            seconds.push(start.elapsed().as_secs_f64());
            losses.push(loss.into_scalar::<f32>());
        }
        Ok(json!({
            "seconds": seconds[1..],
            "first_seconds": seconds[0],
            "tokens": vec![tokens; steps],
            "padded_tokens": vec![tokens; steps],
            "loss": losses[1..],
            "max_length": length,
        }))
    }

    pub fn memory(&self) -> Value {
        // A software adapter's memory is the process's own, and in its peak already. burn counts no peak, but keeps
        // what it has reserved.
        let on_gpu = self.adapter.device_type != DeviceType::Cpu;
        let pools = self.device.memory_pool_usage().filter(|_| on_gpu);
        json!({ "peak_host_bytes": peak_host_bytes(), "gpu_bytes": pools.map(|pools| pools.bytes_reserved) })
    }
}
