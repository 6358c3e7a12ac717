//! Everything that knows wgpu, and nothing that knows a layer norm.

mod adapter;
mod cache;
mod choices;
mod cpu;
mod device;
mod download;
mod kernel;
mod memory;
mod pass;
#[cfg(feature = "bench")]
pub mod profile;
mod tensor;
mod waiting;
mod workspaces;

pub use adapter::{Adapter, GpuOptions, PowerPreference};
pub(crate) use cache::hash;
pub use device::Gpu;
pub(crate) use download::{Download, SEAL};
#[cfg(test)]
pub(crate) use kernel::Style;
pub(crate) use kernel::{Constants, Kernel};
#[cfg(test)]
pub(crate) use pass::GUARD;
pub(crate) use pass::{Pass, spread};
pub(crate) use tensor::{Packing, Tensor, Upload};
pub(crate) use waiting::Patience;

/// The adapter of the unit tests, which fail without one: `RETTO_DEVICE` names it, else it is the default.
#[cfg(test)]
pub(crate) fn test_gpu() -> Gpu {
    let gpu = match std::env::var("RETTO_DEVICE") {
        Ok(device) => Gpu::open(&device),
        Err(_) => Gpu::open_default(),
    };
    gpu.unwrap_or_else(|error| panic!("the tests need a GPU adapter: {error}"))
}
