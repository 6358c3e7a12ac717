//! A linear layer and a LayerNorm with their parameters.

use super::lora::{self, Lora, LoraConfig};
use super::parameters::{Builder, Gradients, Init, Parameter};
use crate::error::Result;
use crate::gpu::{Pass, Tensor};
use crate::ops::activation::Activation;
use crate::ops::dropout::Dropout;
use crate::ops::{embedding, layer_norm, linear};

/// y = x W^T + b
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Parameter,
    pub(crate) bias: Parameter,
    pub(crate) loras: Vec<Lora>,
}

impl Linear {
    pub(crate) fn new(builder: &mut Builder, name: &str, input: usize, output: usize) -> Result<Self> {
        Self::stacked(builder, &[name.to_owned()], input, output)
    }

    /// Several layers of the same input as one: their outputs side by side, each `output` wide.
    pub(crate) fn stacked(builder: &mut Builder, names: &[String], input: usize, output: usize) -> Result<Self> {
        let keys = |what: &str| names.iter().map(|name| format!("{name}.{what}")).collect();
        let rows = names.len() * output;
        let weight = builder.parameter(keys("weight"), &[rows, input], Init::Normal { zero_row: None })?;
        let bias = builder.parameter(keys("bias"), &[rows], Init::Zeros)?;
        Ok(Self { weight, bias, loras: Vec::new() })
    }

    pub(crate) fn forward(&self, pass: &mut Pass, x: &Tensor) -> Result<Tensor> {
        self.forward_activated(pass, x, None)
    }

    /// f(x W^T + b); a backward pass would need what f was given.
    pub(crate) fn forward_activated(
        &self,
        pass: &mut Pass,
        x: &Tensor,
        activation: Option<Activation>,
    ) -> Result<Tensor> {
        let weight = lora::effective(pass, &self.weight.value, &self.loras)?;
        linear::forward(pass, linear::Forward { x, weight: &weight, bias: &self.bias.value, activation })
    }

    /// Gradients of the parameters `+=`; of the input `+=` where `dx` is given, else `=` into a new tensor. Returns dx.
    pub(crate) fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        x: &Tensor,
        dy: &Tensor,
        dx: Option<&Tensor>,
    ) -> Result<Tensor> {
        let weight = lora::effective(pass, &self.weight.value, &self.loras)?;
        let dweight = match self.loras.is_empty() {
            true => gradients.of(&self.weight).cloned(),
            false => {
                let dweight = pass.alloc(weight.shape())?;
                pass.clear(&dweight);
                Some(dweight)
            }
        };
        let dbias = gradients.of(&self.bias);
        let dx =
            linear::backward(pass, linear::Backward { dy, x, weight: &weight, dweight: dweight.as_ref(), dbias, dx })?;
        if let Some(dweight) = dweight.filter(|_| !self.loras.is_empty()) {
            lora::backward(pass, gradients, &self.loras, &dweight)?;
        }
        Ok(dx)
    }

    /// Puts low-rank factors beside the weights that the config targets. Returns the modules' names.
    pub(crate) fn add_lora(&mut self, builder: &mut Builder, config: &LoraConfig) -> Result<Vec<String>> {
        let mut modules = Vec::new();
        for (part, (key, shape)) in self.weight.parts().into_iter().enumerate() {
            let module = key.strip_suffix(".weight").unwrap_or(&key);
            if config.targets(module) {
                self.loras.push(Lora::new(builder, config, module, part, [shape[0], shape[1]])?);
                modules.push(module.to_owned());
            }
        }
        Ok(modules)
    }

    pub(crate) fn parameters(&self) -> [&Parameter; 2] {
        [&self.weight, &self.bias]
    }
}

/// LayerNorm of x, or of x + residual, some of x dropped where there is dropout.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f32,
}

impl LayerNorm {
    pub(crate) fn new(builder: &mut Builder, name: &str, size: usize, eps: f64) -> Result<Self> {
        let weight = builder.parameter(vec![format!("{name}.weight")], &[size], Init::Ones)?;
        let bias = builder.parameter(vec![format!("{name}.bias")], &[size], Init::Zeros)?;
        Ok(Self { weight, bias, eps: eps as f32 })
    }

    pub(crate) fn forward(
        &self,
        pass: &mut Pass,
        x: &Tensor,
        residual: Option<&Tensor>,
        dropout: Option<Dropout>,
    ) -> Result<(Tensor, layer_norm::Saved)> {
        let (gamma, beta) = (&self.weight.value, &self.bias.value);
        layer_norm::forward(pass, layer_norm::Forward { x, dropout, residual, gamma, beta, eps: self.eps })
    }

    /// For what does it together with the embeddings.
    pub(crate) fn of_embeddings(&self) -> embedding::Norm<'_> {
        embedding::Norm { gamma: &self.weight.value, beta: &self.bias.value, eps: self.eps }
    }

    /// Gradients of the parameters `+=`. Returns those of x and of the residual.
    pub(crate) fn backward(
        &self,
        pass: &mut Pass,
        gradients: &Gradients,
        saved: &layer_norm::Saved,
        dy: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<layer_norm::Gradients> {
        let arrays = layer_norm::Backward {
            dy,
            saved,
            gamma: &self.weight.value,
            dparameters: gradients.of(&self.weight).zip(gradients.of(&self.bias)).map(<[_; 2]>::from),
            dropout,
        };
        layer_norm::backward(pass, arrays)
    }

    pub(crate) fn parameters(&self) -> [&Parameter; 2] {
        [&self.weight, &self.bias]
    }
}
