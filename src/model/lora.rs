//! Low-rank adaptation (Hu et al., arXiv 2106.09685): a linear layer's weight is W + scale B A, and only A and B are trained.
//!
//! The effective weight is formed when a layer runs, and again for its backward pass, so that it takes memory for one layer
//! at a time; against the layer itself on a few dozen tokens that is little arithmetic. From the gradient of the effective
//! weight, dB = scale dW A^T and dA = scale B^T dW.

use super::parameters::{Builder, Gradients, Init, Parameter};
use crate::error::{Error, Result};
use crate::gpu::{Pass, Tensor};
use crate::ops::gemm::{Gemm, gemm};
use crate::ops::gemm_form::{Form, Sizes};
use crate::ops::scale::scale;

/// Options of a low-rank adaptation, with the names and defaults of PEFT's `LoraConfig`.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LoraConfig {
    /// Rank of the update.
    pub r: usize,
    /// The update is multiplied with `lora_alpha / r`.
    pub lora_alpha: f64,
    /// The linear layers to update, by the ends of their names: `query`, `key`, `value`, `dense` (all others), or longer
    /// ones like `attention.output.dense`.
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { r: 8, lora_alpha: 8.0, target_modules: vec!["query".into(), "value".into()] }
    }
}

impl LoraConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        if !(1..=65_536).contains(&self.r) {
            return Err(Error::InvalidArgument(format!("r is {}; a rank is from 1 to 65536", self.r)));
        }
        if !self.lora_alpha.is_finite() || self.lora_alpha == 0.0 {
            return Err(Error::InvalidArgument(format!(
                "lora_alpha is {}; it must be a number but 0",
                self.lora_alpha
            )));
        }
        if self.target_modules.is_empty() {
            return Err(Error::InvalidArgument("target_modules is empty; name query and value, say".into()));
        }
        Ok(())
    }

    /// PEFT's rule: the module's name is a target's, or ends with a dot and it.
    pub(crate) fn targets(&self, module: &str) -> bool {
        self.target_modules.iter().any(|target| {
            module.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }

    pub(crate) fn scale(&self) -> f32 {
        (self.lora_alpha / self.r as f64) as f32
    }
}

/// The factors of one layer, or of one of the layers that are stacked.
#[derive(Debug)]
pub(crate) struct Lora {
    /// Which of the stacked layers.
    part: usize,
    /// \[r, in\]
    a: Parameter,
    /// \[out, r\]
    b: Parameter,
    scale: f32,
}

impl Lora {
    pub(crate) fn new(
        builder: &mut Builder,
        config: &LoraConfig,
        module: &str,
        part: usize,
        [out, input]: [usize; 2],
    ) -> Result<Self> {
        // PEFT's initialisation: A as torch's Linear, B zero, so that training begins at the base model.
        let a = Init::Uniform { bound: 1.0 / (input as f64).sqrt() };
        Ok(Self {
            part,
            a: builder.parameter(vec![format!("{module}.lora_A.weight")], &[config.r, input], a)?,
            b: builder.parameter(vec![format!("{module}.lora_B.weight")], &[out, config.r], Init::Zeros)?,
            scale: config.scale(),
        })
    }

    pub(crate) fn parameters(&self) -> [&Parameter; 2] {
        [&self.a, &self.b]
    }

    pub(crate) fn parameters_mut(&mut self) -> [&mut Parameter; 2] {
        [&mut self.a, &mut self.b]
    }

    /// weight\[part\] += scale B A
    fn add_to(&self, pass: &mut Pass, weight: &Tensor) -> Result<()> {
        let (out, input, r) = (self.b.value.rows(), self.a.value.columns(), self.a.value.rows());
        let b = scale(pass, &self.b.value, self.scale)?;
        let update = pass.alloc(&[out, input])?;
        pass.copy_rows(weight, self.part * out, &update, 0, out);
        let sizes = Sizes { m: out as u32, n: input as u32, k: r as u32 };
        gemm(pass, Form::InputGradientAdd, &Gemm { a: &b, b: &self.a.value, bias: None, c: &update, sizes })?;
        pass.copy_rows(&update, 0, weight, self.part * out, out);
        Ok(())
    }

    /// Gradients of the factors `+=`, from that of the effective weight.
    fn backward(&self, pass: &mut Pass, gradients: &Gradients, dweight: &Tensor) -> Result<()> {
        let (out, input, r) = (self.b.value.rows(), self.a.value.columns(), self.a.value.rows());
        let mine = pass.alloc(&[out, input])?;
        pass.copy_rows(dweight, self.part * out, &mine, 0, out);
        if let Some(da) = gradients.of(&self.a) {
            let b = scale(pass, &self.b.value, self.scale)?;
            let sizes = Sizes { m: r as u32, n: input as u32, k: out as u32 };
            gemm(pass, Form::WeightGradient, &Gemm { a: &b, b: &mine, bias: None, c: da, sizes })?;
        }
        if let Some(db) = gradients.of(&self.b) {
            let a = scale(pass, &self.a.value, self.scale)?;
            let sizes = Sizes { m: out as u32, n: r as u32, k: input as u32 };
            gemm(pass, Form::TransposedAdd, &Gemm { a: &mine, b: &a, bias: None, c: db, sizes })?;
        }
        Ok(())
    }
}

/// The weight that a layer runs with.
pub(crate) fn effective(pass: &mut Pass, weight: &Tensor, loras: &[Lora]) -> Result<Tensor> {
    if loras.is_empty() {
        return Ok(weight.clone());
    }
    let sum = pass.alloc(weight.shape())?;
    pass.copy(weight, &sum);
    loras.iter().try_for_each(|lora| lora.add_to(pass, &sum))?;
    Ok(sum)
}

/// Gradients of the factors `+=`, from that of the effective weight.
pub(crate) fn backward(pass: &mut Pass, gradients: &Gradients, loras: &[Lora], dweight: &Tensor) -> Result<()> {
    loras.iter().try_for_each(|lora| lora.backward(pass, gradients, dweight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_matched_as_peft_matches_them() {
        let config = |targets: &[&str]| LoraConfig {
            target_modules: targets.iter().map(|target| target.to_string()).collect(),
            ..Default::default()
        };
        let module = "bert.encoder.layer.0.attention.output.dense";
        assert!(config(&["query", "dense"]).targets(module));
        assert!(config(&["attention.output.dense"]).targets(module) && config(&[module]).targets(module));
        assert!(!config(&["output"]).targets(module) && !config(&["ense"]).targets(module));
        assert!(config(&["x"]).validate().is_ok() && config(&[]).validate().is_err());
        assert!(LoraConfig { r: 0, ..Default::default() }.validate().is_err());
        assert!(LoraConfig { lora_alpha: f64::NAN, ..Default::default() }.validate().is_err());
    }

    use crate::gpu::test_gpu;
    use crate::model::{Model, TrainOptions};
    use crate::text::PackedBatch;

    fn base() -> Model {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/fillmask");
        Model::open(&test_gpu(), folder).unwrap()
    }

    fn config() -> LoraConfig {
        let target_modules = ["query", "value", "attention.output.dense", "intermediate.dense", "transform.dense"];
        LoraConfig { r: 3, lora_alpha: 6.0, target_modules: target_modules.map(str::to_owned).into() }
    }

    /// With factors that are no longer zero.
    fn adapted() -> Model {
        let model = base().with_fresh_lora(&config(), 5).unwrap();
        for parameter in model.bert.lora_parameters() {
            let values = crate::ops::check::random(parameter.value.len(), parameter.index as u64);
            let values: Vec<f32> = values.iter().map(|x| 0.2 * x).collect();
            parameter.value.write(&model.gpu, 0, &values).unwrap();
        }
        model
    }

    fn batch() -> PackedBatch {
        let mut batch = PackedBatch::default();
        batch.push_masked(&[2, 7, 4, 9, 11, 3], &[(2, 8), (4, 11)]);
        batch.push_masked(&[2, 30, 31, 4, 3], &[(1, 30), (3, 40)]);
        batch
    }

    fn values(model: &Model, suffix: &str) -> Vec<f64> {
        let parameters = model.bert.lora_parameters();
        let parameter = parameters.iter().find(|parameter| parameter.keys[0].ends_with(suffix)).unwrap();
        let mut pass = Pass::new(&model.gpu);
        let download = pass.download(&parameter.value).unwrap();
        pass.submit().unwrap();
        crate::ops::check::f64s(&download.wait::<f32>(&model.gpu).unwrap())
    }

    /// Of the merged model, which is compared with transformers elsewhere, the factors' gradients follow by their equations.
    #[test]
    fn gradients_of_the_factors_follow_from_those_of_the_merged_weights() {
        let model = adapted();
        let (loss, factors) = model.loss_and_gradients_with(&batch(), TrainOptions::default()).unwrap();
        let (merged_loss, full) = model.merge().unwrap().loss_and_gradients(&batch()).unwrap();
        assert!((loss - merged_loss).abs() < 1e-6, "{loss} {merged_loss}");
        assert!((loss - base().loss_and_gradients(&batch()).unwrap().0).abs() > 1e-3, "the factors matter");
        assert_eq!(factors.len(), model.bert.lora_parameters().len());
        let (r, scale) = (3, 2.0);
        for (key, got) in &factors {
            let module = key.strip_suffix(".lora_A.weight").or(key.strip_suffix(".lora_B.weight")).unwrap();
            let dw = full.iter().find(|(name, _)| *name == format!("{module}.weight")).unwrap();
            let dw = crate::ops::check::f64s(&dw.1);
            let (a, b) = (
                values(&model, &format!("{module}.lora_A.weight")),
                values(&model, &format!("{module}.lora_B.weight")),
            );
            let (input, out) = (a.len() / r, b.len() / r);
            let want: Vec<f64> = if key.ends_with("lora_A.weight") {
                let at = |k: usize, j: usize| (0..out).map(|o| scale * b[o * r + k] * dw[o * input + j]).sum();
                (0..r * input).map(|i| at(i / input, i % input)).collect()
            } else {
                let at = |o: usize, k: usize| (0..input).map(|j| scale * dw[o * input + j] * a[k * input + j]).sum();
                (0..out * r).map(|i| at(i / r, i % r)).collect()
            };
            let size = want.iter().map(|x| x.abs()).fold(0.0, f64::max);
            for (got, want) in got.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 1e-4 * size, "{key}: {got} {want}");
            }
        }
    }

    #[test]
    fn an_adapter_reopens_and_merges_to_the_same_model() {
        let folder = tempfile::tempdir().unwrap();
        let model = adapted();
        model.save_adapter(folder.path(), "base").unwrap();
        let opened = base().with_adapter(folder.path()).unwrap();
        let logits = |model: &Model| {
            let mut batch = batch();
            batch.labels.clear();
            model.logits(&batch).unwrap()
        };
        assert_eq!(logits(&opened), logits(&model.merge().unwrap()));
        assert_eq!(logits(&opened), logits(&model), "the update is added when a layer runs as it is when merged");
        assert_ne!(logits(&opened), logits(&base()));
        // Saved whole, the update is in the weights.
        model.save(folder.path().join("whole")).unwrap();
        assert_eq!(logits(&Model::open(&test_gpu(), folder.path().join("whole")).unwrap()), logits(&opened));
        // What has no update is not stored twice.
        let of = |model: &Model| model.bert.parameters().iter().map(|p| p.value.clone()).collect::<Vec<_>>();
        let shared = of(&model).iter().zip(of(&model.merge().unwrap())).filter(|(a, b)| a.same_buffer(b)).count();
        assert!(shared > of(&model).len() / 2, "{shared}");
    }

    #[test]
    fn adapters_of_other_kinds_and_models_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let model = adapted();
        let path = folder.path().join("adapter_config.json");
        let refused = |from: &str, to: &str| {
            model.save_adapter(folder.path(), "base").unwrap();
            let config = std::fs::read_to_string(&path).unwrap();
            assert!(config.contains(from), "{config}");
            std::fs::write(&path, config.replace(from, to)).unwrap();
            base().with_adapter(folder.path()).unwrap_err().to_string()
        };
        for (from, to, words) in [
            ("\"LORA\"", "\"IA3\"", "IA3"),
            ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
            ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
            ("\"modules_to_save\": null", "\"modules_to_save\": [\"cls\"]", "modules_to_save"),
            ("\"r\": 3", "\"r\": 4", "shape"),
            ("\"query\"", "\"key\"", "missing"),
            ("\"query\",", "", "has no place in this model"),
            ("\"query\"", "\"nothing\"", "'nothing'"),
            ("{", "", "not JSON"),
            ("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa_niter_4\"", "pissa_niter_4"),
            ("\"use_dora\": false", "\"alora_invocation_tokens\": [1]", "alora_invocation_tokens"),
            ("\"query\"", "\"query\", 7", "target_modules"),
        ] {
            let error = refused(from, to);
            assert!(error.contains(words), "{to}: {error}");
        }
        assert!(base().save_adapter(folder.path(), "").is_err());
    }
}
