//! Multiply-adds on registers alone, which the benchmark puts GEMMs beside.

use crate::gpu::Kernel;

const SOURCE: &str = include_str!("../../shaders/ceiling.wgsl");
/// One vector of a CPU; and for GPUs, several of their subgroups.
pub(crate) static CEILING: Kernel =
    Kernel::new("ceiling", SOURCE, "ceiling", &[&[("WIDTH", 8.0)], &[("WIDTH", 256.0)]]);
/// Of the shader, for each thread and round.
pub(crate) const FLOPS: f64 = 160.0;
