//! The shaders of GEMM kernels, in all their variants.

use super::gemm::{FORMS, Form};
use crate::gpu::{Constants, Kernel};

const fn flag(value: bool) -> f64 {
    value as u8 as f64
}

/// TRANS_A, TRANS_B, BIAS, ACCUMULATE
const fn switches(form: Form) -> [f64; 4] {
    let [a, b, bias, add] = match form {
        Form::Linear => [false, true, true, false],
        Form::InputGradient => [false, false, false, false],
        Form::InputGradientAdd => [false, false, false, true],
        Form::WeightGradient => [true, false, false, true],
        Form::TransposedAdd => [false, true, false, true],
    };
    [flag(a), flag(b), flag(bias), flag(add)]
}

const fn constants(form: Form) -> [(&'static str, f64); 4] {
    let [a, b, bias, add] = switches(form);
    [("TRANS_A", a), ("TRANS_B", b), ("BIAS", bias), ("ACCUMULATE", add)]
}

const fn vectors(form: Form, rows: f64, twice: bool) -> [(&'static str, f64); 6] {
    let [a, b, bias, add] = switches(form);
    [("TRANS_A", a), ("TRANS_B", b), ("BIAS", bias), ("ACCUMULATE", add), ("ROWS", rows), ("TWICE", flag(twice))]
}

const fn cooperative(form: Form, width: f64) -> [(&'static str, f64); 5] {
    let [a, b, bias, add] = switches(form);
    [("TRANS_A", a), ("TRANS_B", b), ("BIAS", bias), ("ACCUMULATE", add), ("WIDTH", width)]
}

/// One variant a form.
const PLAIN: &[Constants] =
    &[&constants(FORMS[0]), &constants(FORMS[1]), &constants(FORMS[2]), &constants(FORMS[3]), &constants(FORMS[4])];

const VECTOR_ROWS: [(f64, bool); 7] =
    [(4.0, false), (8.0, false), (12.0, false), (16.0, false), (24.0, false), (32.0, false), (32.0, true)];
const VECTOR_CONSTANTS: [[[(&str, f64); 6]; 5]; 7] = {
    let mut all = [[[("", 0.0); 6]; 5]; 7];
    let mut which = 0;
    while which < 7 {
        let (rows, twice) = VECTOR_ROWS[which];
        let mut form = 0;
        while form < 5 {
            all[which][form] = vectors(FORMS[form], rows, twice);
            form += 1;
        }
        which += 1;
    }
    all
};

/// One variant a form, for 4, 8, 12, 16, 24, 32 and 64 rows.
const VECTORS: &[Constants] = &{
    let mut all: [Constants; 35] = [&[]; 35];
    let mut at = 0;
    while at < 35 {
        all[at] = &VECTOR_CONSTANTS[at / 5][at % 5];
        at += 1;
    }
    all
};

/// One variant a form, for four subgroups of 8, of 32 and of 64 lanes.
const COOPERATIVE: &[Constants] = &[
    &cooperative(FORMS[0], 32.0),
    &cooperative(FORMS[1], 32.0),
    &cooperative(FORMS[2], 32.0),
    &cooperative(FORMS[3], 32.0),
    &cooperative(FORMS[4], 32.0),
    &cooperative(FORMS[0], 128.0),
    &cooperative(FORMS[1], 128.0),
    &cooperative(FORMS[2], 128.0),
    &cooperative(FORMS[3], 128.0),
    &cooperative(FORMS[4], 128.0),
    &cooperative(FORMS[0], 256.0),
    &cooperative(FORMS[1], 256.0),
    &cooperative(FORMS[2], 256.0),
    &cooperative(FORMS[3], 256.0),
    &cooperative(FORMS[4], 256.0),
];

/// A macro, as `concat!` takes no constants.
macro_rules! shader {
    ($name:literal) => {
        include_str!(concat!("../../shaders/gemm_", $name, ".wgsl"))
    };
}

macro_rules! kernel {
    ($name:literal, $before:expr, $source:literal, $variants:expr) => {
        Kernel::new(
            $name,
            concat!($before, include_str!(concat!("../../shaders/", $source, ".wgsl"))),
            "gemm",
            $variants,
        )
    };
}

/// The kernels for packed weights, in the order of [`Packing`](crate::gpu::Packing).
macro_rules! packed {
    ($f16:literal, $i8:literal, $before:expr, $source:literal, $variants:expr) => {
        [
            kernel!(
                $f16,
                concat!("const BITS = 16u;\n", include_str!("../../shaders/packed.wgsl"), $before),
                $source,
                $variants
            )
            .packing(),
            kernel!(
                $i8,
                concat!("const BITS = 8u;\n", include_str!("../../shaders/packed.wgsl"), $before),
                $source,
                $variants
            )
            .packing(),
        ]
    };
}

pub(super) static TILED: Kernel =
    kernel!("gemm_tiled", concat!("alias Element = f32;\n", shader!("b"), shader!("unscaled")), "gemm_tiled", PLAIN);
pub(super) static TILED_F16: Kernel = kernel!(
    "gemm_tiled_f16",
    concat!("enable f16;\nalias Element = f16;\n", shader!("b"), shader!("unscaled")),
    "gemm_tiled",
    PLAIN
);
pub(super) static TILED_PACKED: [Kernel; 2] = packed!(
    "gemm_tiled_packed_f16",
    "gemm_tiled_packed_i8",
    concat!("alias Element = f32;\n", shader!("b_packed")),
    "gemm_tiled",
    PLAIN
);
pub(super) static SUBGROUP: Kernel = kernel!(
    "gemm_subgroup",
    concat!("alias Element = f32;\n", shader!("b"), shader!("unscaled")),
    "gemm_subgroup",
    PLAIN
);
pub(super) static SUBGROUP_F16: Kernel = kernel!(
    "gemm_subgroup_f16",
    concat!("enable f16;\nalias Element = f16;\n", shader!("b"), shader!("unscaled")),
    "gemm_subgroup",
    PLAIN
);
pub(super) static SUBGROUP_PACKED: [Kernel; 2] = packed!(
    "gemm_subgroup_packed_f16",
    "gemm_subgroup_packed_i8",
    concat!("alias Element = f32;\n", shader!("b_packed")),
    "gemm_subgroup",
    PLAIN
);
pub(super) static PAIRS: Kernel =
    kernel!("gemm_pairs", concat!(shader!("unscaled"), shader!("c")), "gemm_pairs", PLAIN);
pub(super) static VECTOR: Kernel = kernel!(
    "gemm_vectors",
    concat!(
        shader!("unscaled"),
        shader!("c"),
        shader!("vectors_block"),
        shader!("vectors_rows"),
        shader!("vectors_pairs")
    ),
    "gemm_vectors",
    VECTORS
);
pub(super) static VECTOR_PACKED: [Kernel; 2] = packed!(
    "gemm_vectors_packed_f16",
    "gemm_vectors_packed_i8",
    concat!(shader!("c"), shader!("vectors_block"), shader!("vectors_rows"), shader!("vectors_packed")),
    "gemm_vectors",
    VECTORS
);
pub(super) static VECTOR_F16: Kernel = kernel!(
    "gemm_vectors_f16",
    concat!(
        "enable f16;\nalias Element = f16;\n",
        shader!("unscaled"),
        shader!("c"),
        shader!("vectors_block"),
        shader!("vectors_single")
    ),
    "gemm_vectors",
    VECTORS
);
pub(super) static COOPERATIVE_8: Kernel = kernel!(
    "gemm_cooperative_8",
    "enable f16;\nenable wgpu_cooperative_matrix;\nconst EDGE = 8u;\nalias MatrixA = coop_mat8x8<f16, A>;\n\
     alias MatrixB = coop_mat8x8<f16, B>;\nalias MatrixC = coop_mat8x8<f32, C>;\n",
    "gemm_cooperative",
    COOPERATIVE
);
pub(super) static COOPERATIVE_16: Kernel = kernel!(
    "gemm_cooperative_16",
    "enable f16;\nenable wgpu_cooperative_matrix;\nconst EDGE = 16u;\nalias MatrixA = coop_mat16x16<f16, A>;\n\
     alias MatrixB = coop_mat16x16<f16, B>;\nalias MatrixC = coop_mat16x16<f32, C>;\n",
    "gemm_cooperative",
    COOPERATIVE
);

/// Every kernel of the family, for the test that translates all shaders.
#[cfg(test)]
pub(crate) static KERNELS: [&Kernel; 13] = [
    &TILED,
    &TILED_F16,
    &TILED_PACKED[0],
    &TILED_PACKED[1],
    &SUBGROUP,
    &SUBGROUP_F16,
    &SUBGROUP_PACKED[0],
    &SUBGROUP_PACKED[1],
    &PAIRS,
    &VECTOR,
    &VECTOR_F16,
    &VECTOR_PACKED[0],
    &VECTOR_PACKED[1],
];
