//! The shaders of GEMM kernels, in all their variants.

use super::activation::{self, Activation};
use super::gemm_form::{FORMS, Form};
use crate::gpu::{Constants, Kernel};

const fn flag(value: bool) -> f64 {
    value as u8 as f64
}

const SWITCHES: usize = 5;

const fn switches(form: Form) -> [(&'static str, f64); SWITCHES] {
    let kind = match form {
        Form::LinearGelu => Activation::Gelu as u8,
        Form::LinearGeluNew => Activation::GeluNew as u8,
        Form::LinearRelu => Activation::Relu as u8,
        _ => activation::NONE,
    };
    [
        ("TRANS_A", flag(matches!(form, Form::WeightGradient))),
        ("TRANS_B", flag(form.transposes_b())),
        ("BIAS", flag(form.is_linear())),
        ("ACCUMULATE", flag(!form.is_linear() && !matches!(form, Form::InputGradient))),
        ("KIND", kind as f64),
    ]
}

/// For each tile, by the values of these further constants, one variant a form.
macro_rules! variants {
    ($tiles:expr, [$($name:literal),*]) => {{
        const NAMES: &[&str] = &[$($name),*];
        const TILES: &[[f64; NAMES.len()]] = $tiles;
        const COUNT: usize = TILES.len() * FORMS.len();
        const VALUES: [[(&str, f64); SWITCHES + NAMES.len()]; COUNT] = {
            let mut all = [[("", 0.0); SWITCHES + NAMES.len()]; COUNT];
            let mut at = 0;
            while at < COUNT {
                let switches = switches(FORMS[at % FORMS.len()]);
                let mut i = 0;
                while i < SWITCHES {
                    all[at][i] = switches[i];
                    i += 1;
                }
                while i < SWITCHES + NAMES.len() {
                    all[at][i] = (NAMES[i - SWITCHES], TILES[at / FORMS.len()][i - SWITCHES]);
                    i += 1;
                }
                at += 1;
            }
            all
        };
        const ALL: [Constants; COUNT] = {
            let mut all: [Constants; COUNT] = [&[]; COUNT];
            let mut at = 0;
            while at < COUNT {
                all[at] = &VALUES[at];
                at += 1;
            }
            all
        };
        &ALL
    }};
}

const PLAIN: &[Constants] = variants!(&[[]], []);

/// 2, 4, 8, 12, 16, 24, 32 and 64 rows.
const VECTORS: &[Constants] = variants!(
    &[[2.0, 0.0], [4.0, 0.0], [8.0, 0.0], [12.0, 0.0], [16.0, 0.0], [24.0, 0.0], [32.0, 0.0], [32.0, 1.0]],
    ["ROWS", "TWICE"]
);

/// 24 and 32 rows.
const OF_SIXES: &[Constants] = variants!(&[[24.0], [32.0]], ["ROWS"]);

/// 8, 12, 16 and 24 rows.
const OF_TURNS: &[Constants] = variants!(&[[8.0], [12.0], [16.0], [24.0]], ["ROWS"]);

/// 8, 12 and 16 rows.
const EIGHTS: &[Constants] = variants!(&[[8.0], [12.0], [16.0]], ["ROWS"]);

/// DOWN, ACROSS, HEIGHT, WIDTH and DEPTH of the kernels in blocks.
pub(super) const BLOCKS: &[[f64; 5]] = &[
    [16.0, 4.0, 1.0, 4.0, 64.0],
    [8.0, 8.0, 4.0, 4.0, 16.0],
    [16.0, 16.0, 4.0, 4.0, 16.0],
    [16.0, 16.0, 8.0, 8.0, 8.0],
];

const OF_BLOCKS: &[Constants] = variants!(BLOCKS, ["DOWN", "ACROSS", "HEIGHT", "WIDTH", "DEPTH"]);

/// Four subgroups of 8, of 32 and of 64 lanes, and, for the tests, two of 8.
const COOPERATIVE: &[Constants] = variants!(&[[32.0], [128.0], [256.0], [16.0]], ["WIDTH"]);

/// A macro, as `concat!` takes no constants.
macro_rules! shader {
    ($name:literal) => {
        include_str!(concat!("../../shaders/gemm_", $name, ".wgsl"))
    };
}

macro_rules! source {
    ($before:expr, $source:expr) => {
        concat!(
            $before,
            include_str!("../../shaders/activated.wgsl"),
            include_str!(concat!("../../shaders/", $source, ".wgsl"))
        )
    };
}

macro_rules! kernel {
    ($name:literal, $before:expr, $source:expr, $variants:expr) => {
        Kernel::new($name, source!($before, $source), "gemm", $variants)
    };
}

/// How 64 bits are loaded.
macro_rules! long {
    ($which:literal) => {
        include_str!(concat!("../../shaders/long_", $which, ".wgsl"))
    };
}

/// A kernel with 64 bits in one load, and with 32.
macro_rules! longs {
    ($name:literal, $source:literal, $variants:expr, [$($before:expr),*]) => {
        kernel!($name, concat!(long!("u64"), $($before),*), $source, $variants)
            .in_words(source!(concat!(long!("words"), $($before),*), $source))
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
/// In blocks.
pub(super) static BLOCK: Kernel = kernel!(
    "gemm_blocks",
    concat!(
        "alias Pair = vec2<f32>;\nalias Two = vec2<f32>;\nalias Four = vec4<f32>;\n",
        shader!("fours"),
        shader!("fours_b"),
        shader!("unscaled"),
        shader!("c")
    ),
    "gemm_blocks",
    OF_BLOCKS
);
pub(super) static BLOCK_F16: Kernel = kernel!(
    "gemm_blocks_f16",
    concat!(
        "enable f16;\nalias Pair = vec2<f16>;\nalias Two = vec2<f32>;\nalias Four = vec4<f32>;\n",
        shader!("fours"),
        shader!("fours_b"),
        shader!("unscaled"),
        shader!("c")
    ),
    "gemm_blocks",
    OF_BLOCKS
);
pub(super) static BLOCK_PACKED: [Kernel; 2] = packed!(
    "gemm_blocks_packed_f16",
    "gemm_blocks_packed_i8",
    concat!(
        "alias Pair = vec2<f32>;\nalias Two = vec2<f32>;\nalias Four = vec4<f32>;\n",
        shader!("fours"),
        shader!("blocks_packed"),
        shader!("c")
    ),
    "gemm_blocks",
    OF_BLOCKS
);
/// 4, 8, 12 and 16 rows.
const OF_SPLIT: &[Constants] = variants!(&[[4.0], [8.0], [12.0], [16.0]], ["ROWS"]);

pub(super) static SPLIT: Kernel = kernel!(
    "gemm_split",
    concat!(shader!("split_a"), shader!("split_b"), shader!("unscaled"), shader!("c")),
    "gemm_split",
    OF_SPLIT
);
pub(super) static SPLIT_PACKED: [Kernel; 2] = packed!(
    "gemm_split_packed_f16",
    "gemm_split_packed_i8",
    concat!(shader!("split_a"), shader!("blocks_packed"), shader!("c")),
    "gemm_split",
    OF_SPLIT
);
pub(super) static PAIRS: Kernel =
    kernel!("gemm_pairs", concat!(shader!("unscaled"), shader!("c")), "gemm_pairs", PLAIN);
macro_rules! eights {
    ($name:literal, $how:literal) => {
        kernel!(
            $name,
            concat!(
                long!("u64"),
                shader!("unscaled"),
                shader!("c"),
                shader!("c_later"),
                shader!("vectors_block"),
                shader!($how)
            ),
            "gemm_eights",
            EIGHTS
        )
    };
}
/// Where B is stored transposed, and where it is not.
pub(super) static EIGHTS_ALONG: Kernel = eights!("gemm_eights_along", "eights_along");
pub(super) static EIGHTS_ACROSS: Kernel = eights!("gemm_eights_across", "eights_across");
pub(super) static EIGHTS_PACKED: [Kernel; 2] = packed!(
    "gemm_eights_packed_f16",
    "gemm_eights_packed_i8",
    concat!(
        long!("u64"),
        shader!("c"),
        shader!("c_later"),
        shader!("packed_pairs"),
        shader!("vectors_block"),
        shader!("eights_packed")
    ),
    "gemm_eights",
    EIGHTS
);
macro_rules! pairs {
    ($name:literal, $source:literal, $variants:expr, $b:literal) => {
        longs!(
            $name,
            $source,
            $variants,
            [
                shader!("unscaled"),
                shader!("c"),
                shader!("c_later"),
                shader!("touch"),
                shader!("touch_pairs"),
                shader!("vectors_block"),
                shader!("vectors_rows"),
                shader!($b)
            ]
        )
    };
}
macro_rules! packed_pairs {
    ($name:literal, $bits:literal, $source:literal, $variants:expr, $b:literal) => {
        longs!(
            $name,
            $source,
            $variants,
            [
                $bits,
                include_str!("../../shaders/packed.wgsl"),
                shader!("c"),
                shader!("c_later"),
                shader!("touch"),
                shader!("packed_pairs"),
                shader!("vectors_block"),
                shader!("vectors_rows"),
                shader!($b)
            ]
        )
        .packing()
    };
}
pub(super) static VECTOR: Kernel = pairs!("gemm_vectors", "gemm_vectors", VECTORS, "vectors_pairs");
pub(super) static VECTOR_PACKED: [Kernel; 2] = [
    packed_pairs!("gemm_vectors_packed_f16", "const BITS = 16u;\n", "gemm_vectors", VECTORS, "vectors_packed"),
    packed_pairs!("gemm_vectors_packed_i8", "const BITS = 8u;\n", "gemm_vectors", VECTORS, "vectors_packed"),
];
pub(super) static SIXES: Kernel = pairs!("gemm_sixes", "gemm_sixes", OF_SIXES, "sixes_pairs");
pub(super) static SIXES_PACKED: [Kernel; 2] = [
    packed_pairs!("gemm_sixes_packed_f16", "const BITS = 16u;\n", "gemm_sixes", OF_SIXES, "sixes_packed"),
    packed_pairs!("gemm_sixes_packed_i8", "const BITS = 8u;\n", "gemm_sixes", OF_SIXES, "sixes_packed"),
];
pub(super) static TURNS: Kernel = pairs!("gemm_turns", "gemm_turns", OF_TURNS, "sixes_pairs");
pub(super) static TURNS_PACKED: [Kernel; 2] = [
    packed_pairs!("gemm_turns_packed_f16", "const BITS = 16u;\n", "gemm_turns", OF_TURNS, "sixes_packed"),
    packed_pairs!("gemm_turns_packed_i8", "const BITS = 8u;\n", "gemm_turns", OF_TURNS, "sixes_packed"),
];
pub(super) static VECTOR_F16: Kernel = kernel!(
    "gemm_vectors_f16",
    concat!(
        "enable f16;\nalias Element = f16;\n",
        long!("u64"),
        shader!("unscaled"),
        shader!("c"),
        shader!("c_later"),
        shader!("touch"),
        shader!("vectors_block"),
        shader!("vectors_single")
    ),
    "gemm_vectors",
    VECTORS
);
/// SPAN, and PIECES as far as workgroup memory goes.
macro_rules! cooperative {
    ($name:literal, $edge:literal, $span:literal, $pieces:literal) => {
        kernel!(
            $name,
            concat!(
                "enable f16;\nenable wgpu_cooperative_matrix;\n",
                "alias Pair = vec2<f16>;\nalias Two = vec2<f16>;\nalias Four = vec4<f16>;\n",
                concat!("const EDGE = ", $edge, "u;\nconst SPAN = ", $span, "u;\nconst PIECES = ", $pieces, "u;\n"),
                concat!("alias MatrixA = coop_mat", $edge, "x", $edge, "<f16, A>;\n"),
                concat!("alias MatrixB = coop_mat", $edge, "x", $edge, "<f16, B>;\n"),
                concat!("alias MatrixC = coop_mat", $edge, "x", $edge, "<f32, C>;\n"),
                shader!("fours"),
                shader!("fours_b"),
                shader!("cooperative")
            ),
            concat!("gemm_cooperative_", $span),
            COOPERATIVE
        )
    };
}

pub(super) static COOPERATIVE_8: Kernel = cooperative!("gemm_cooperative_8", 8, 2, 4);
pub(super) static COOPERATIVE_16: Kernel = cooperative!("gemm_cooperative_16", 16, 2, 2);
pub(super) static COOPERATIVE_8_LARGE: Kernel = cooperative!("gemm_cooperative_8_large", 8, 4, 4);
pub(super) static COOPERATIVE_16_LARGE: Kernel = cooperative!("gemm_cooperative_16_large", 16, 4, 1);

/// Every kernel of the family, for the test that translates all shaders.
#[cfg(test)]
pub(crate) static KERNELS: [&Kernel; 34] = [
    &TILED,
    &TILED_F16,
    &TILED_PACKED[0],
    &TILED_PACKED[1],
    &SUBGROUP,
    &SUBGROUP_F16,
    &SUBGROUP_PACKED[0],
    &SUBGROUP_PACKED[1],
    &BLOCK,
    &BLOCK_F16,
    &BLOCK_PACKED[0],
    &BLOCK_PACKED[1],
    &SPLIT,
    &SPLIT_PACKED[0],
    &SPLIT_PACKED[1],
    &PAIRS,
    &EIGHTS_ALONG,
    &EIGHTS_ACROSS,
    &EIGHTS_PACKED[0],
    &EIGHTS_PACKED[1],
    &VECTOR,
    &VECTOR_F16,
    &VECTOR_PACKED[0],
    &VECTOR_PACKED[1],
    &SIXES,
    &SIXES_PACKED[0],
    &SIXES_PACKED[1],
    &TURNS,
    &TURNS_PACKED[0],
    &TURNS_PACKED[1],
    &COOPERATIVE_8,
    &COOPERATIVE_8_LARGE,
    &COOPERATIVE_16,
    &COOPERATIVE_16_LARGE,
];
