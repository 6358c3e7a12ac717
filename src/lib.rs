//! retto
mod error;
mod gpu;
mod ops;
pub use error::{Error, Result};
pub use gpu::{Adapter, Gpu};
#[cfg(test)]
fn test_gpu() -> Gpu { Gpu::open_default().unwrap() }
