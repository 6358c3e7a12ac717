//! Everything that knows wgpu, and nothing that knows a layer norm.

mod device;
mod kernel;
mod pass;
mod tensor;

pub use device::{Adapter, Gpu};
pub(crate) use kernel::{Constants, Kernel};
#[cfg(test)]
pub(crate) use pass::GUARD;
pub(crate) use pass::{Pass, spread};
pub(crate) use tensor::Tensor;
