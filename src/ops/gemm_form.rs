//! What a GEMM does, and how large it is: which kernel computes it is another question.

use super::activation::Activation;

/// What a GEMM does beside multiplying; each is a variant of every kernel of the family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    /// C\[m,n\] = A\[m,k\] B\[n,k\]^T + bias\[n\]: a linear layer.
    Linear = 0,
    /// C\[m,n\] = A\[m,k\] B\[k,n\]: the gradient of a linear layer's input.
    InputGradient = 1,
    /// C\[m,n\] += A\[m,k\] B\[k,n\]: the same, where the input is used elsewhere too.
    InputGradientAdd = 2,
    /// C\[m,n\] += A\[k,m\]^T B\[k,n\]: the gradient of a linear layer's weight.
    WeightGradient = 3,
    /// C\[m,n\] += A\[m,k\] B\[n,k\]^T: a product of gradients, for low-rank factors.
    TransposedAdd = 4,
    /// [`Form::Linear`] and an activation of what it gives, where nothing but that is asked for: in queries.
    LinearGelu = 5,
    LinearGeluNew = 6,
    LinearRelu = 7,
}

/// In the order of the kernels' variants.
pub(crate) const FORMS: [Form; 8] = [
    Form::Linear,
    Form::InputGradient,
    Form::InputGradientAdd,
    Form::WeightGradient,
    Form::TransposedAdd,
    Form::LinearGelu,
    Form::LinearGeluNew,
    Form::LinearRelu,
];

impl Form {
    /// A linear layer, and what is done to its output.
    pub(crate) fn linear(activation: Option<Activation>) -> Self {
        match activation {
            None => Self::Linear,
            Some(Activation::Gelu) => Self::LinearGelu,
            Some(Activation::GeluNew) => Self::LinearGeluNew,
            Some(Activation::Relu) => Self::LinearRelu,
        }
    }

    /// Whether B is stored \[n,k\].
    pub(crate) const fn transposes_b(self) -> bool {
        self.is_linear() || matches!(self, Self::TransposedAdd)
    }

    pub(crate) const fn is_linear(self) -> bool {
        matches!(self, Self::Linear | Self::LinearGelu | Self::LinearGeluNew | Self::LinearRelu)
    }
}

/// m, n and k of the shader.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Sizes {
    pub(crate) m: u32,
    pub(crate) n: u32,
    pub(crate) k: u32,
}
