//! Array operations on the GPU. Nothing here knows BERT.
//!
//! One file per op, beside the shader of the same name: `forward` and `backward` record dispatches into a [`Pass`], allocate
//! what they return, and say whether they write `=` or add `+=`. Activations and their gradients are written, gradients of
//! parameters are added. The tests of each hold its twin in f64.
//!
//! [`Pass`]: crate::gpu::Pass

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod attention;
#[cfg(feature = "bench")]
pub(crate) mod ceiling;
pub(crate) mod column_sum;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod fingerprint;
pub(crate) mod gemm;
pub(crate) mod gemm_form;
mod gemm_kernels;
pub(crate) mod half;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod pack;
pub(crate) mod pool;
pub(crate) mod preferences;
pub(crate) mod rows;
pub(crate) mod scale;
pub(crate) mod tilings;
pub(crate) mod top_k;
pub(crate) mod triplet;
pub(crate) mod tuning;

#[cfg(test)]
pub(crate) mod check;
#[cfg(all(test, target_os = "linux"))]
mod compile;
#[cfg(test)]
mod translate;

/// Elements that a workgroup of an elementwise kernel takes; the shaders' BLOCK.
const BLOCK: usize = 1024;

/// Sizes of kernels that work on rows.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Extent {
    rows: u32,
    columns: u32,
}

/// Sizes of kernels that sum rows block by block.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockExtent {
    rows: u32,
    columns: u32,
    rows_per_block: u32,
}
