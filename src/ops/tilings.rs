//! The kernels that can compute a GEMM, and which one does.
//!
//! All f32 kernels add the products of an element of C in the same order, so they give the same bits for finite numbers, and
//! the choice is one of speed alone.

use super::gemm::{FORMS, Form, Sizes};
use crate::gpu::{Constants, Gpu, Kernel, Packing};

/// One way to compute C: a kernel, and the tile of C that one of its workgroups takes.
pub(crate) struct Tiling {
    /// What the benchmark and the choices on disk call it.
    pub(crate) name: &'static str,
    /// With A and B in f32, where there is one.
    pub(crate) kernel: Option<&'static Kernel>,
    /// With A and B in f16, where there is one; products and sums are f32.
    pub(crate) half: Option<&'static Kernel>,
    /// With A in f32 and B a packed weight, in the order of [`Packing`], where there are such; for [`Form::Linear`] alone.
    pub(crate) packed: Option<&'static [Kernel; 2]>,
    /// Of this tiling's variants the first; the others follow in the order of [`FORMS`].
    pub(crate) first_variant: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// The lengths of A's rows and of B's, as stored, have to be multiples of these.
    granules: [u32; 2],
    runs_on: fn(&Gpu) -> bool,
}

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

/// One variant a form, for 16, 32, 64 and 4 rows.
const VECTORS: &[Constants] = &[
    &vectors(FORMS[0], 16.0, false),
    &vectors(FORMS[1], 16.0, false),
    &vectors(FORMS[2], 16.0, false),
    &vectors(FORMS[3], 16.0, false),
    &vectors(FORMS[4], 16.0, false),
    &vectors(FORMS[0], 32.0, false),
    &vectors(FORMS[1], 32.0, false),
    &vectors(FORMS[2], 32.0, false),
    &vectors(FORMS[3], 32.0, false),
    &vectors(FORMS[4], 32.0, false),
    &vectors(FORMS[0], 32.0, true),
    &vectors(FORMS[1], 32.0, true),
    &vectors(FORMS[2], 32.0, true),
    &vectors(FORMS[3], 32.0, true),
    &vectors(FORMS[4], 32.0, true),
    &vectors(FORMS[0], 4.0, false),
    &vectors(FORMS[1], 4.0, false),
    &vectors(FORMS[2], 4.0, false),
    &vectors(FORMS[3], 4.0, false),
    &vectors(FORMS[4], 4.0, false),
];

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

static TILED: Kernel =
    kernel!("gemm_tiled", concat!("alias Element = f32;\n", shader!("b"), shader!("unscaled")), "gemm_tiled", PLAIN);
static TILED_F16: Kernel = kernel!(
    "gemm_tiled_f16",
    concat!("enable f16;\nalias Element = f16;\n", shader!("b"), shader!("unscaled")),
    "gemm_tiled",
    PLAIN
);
static TILED_PACKED: [Kernel; 2] = [
    kernel!(
        "gemm_tiled_packed_f16",
        concat!("alias Element = f32;\nconst BITS = 16u;\n", shader!("b_packed")),
        "gemm_tiled",
        PLAIN
    )
    .packing(),
    kernel!(
        "gemm_tiled_packed_i8",
        concat!("alias Element = f32;\nconst BITS = 8u;\n", shader!("b_packed")),
        "gemm_tiled",
        PLAIN
    )
    .packing(),
];
static SUBGROUP: Kernel = kernel!(
    "gemm_subgroup",
    concat!("alias Element = f32;\n", shader!("b"), shader!("unscaled")),
    "gemm_subgroup",
    PLAIN
);
static SUBGROUP_F16: Kernel = kernel!(
    "gemm_subgroup_f16",
    concat!("enable f16;\nalias Element = f16;\n", shader!("b"), shader!("unscaled")),
    "gemm_subgroup",
    PLAIN
);
static SUBGROUP_PACKED: [Kernel; 2] = [
    kernel!(
        "gemm_subgroup_packed_f16",
        concat!("alias Element = f32;\nconst BITS = 16u;\n", shader!("b_packed")),
        "gemm_subgroup",
        PLAIN
    )
    .packing(),
    kernel!(
        "gemm_subgroup_packed_i8",
        concat!("alias Element = f32;\nconst BITS = 8u;\n", shader!("b_packed")),
        "gemm_subgroup",
        PLAIN
    )
    .packing(),
];
static PAIRS: Kernel = kernel!("gemm_pairs", concat!(shader!("unscaled"), shader!("c")), "gemm_pairs", PLAIN);
static VECTOR: Kernel = kernel!(
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
static VECTOR_PACKED: [Kernel; 2] = [
    kernel!(
        "gemm_vectors_packed_f16",
        concat!(
            "const BITS = 16u;\n",
            shader!("c"),
            shader!("vectors_block"),
            shader!("vectors_rows"),
            shader!("vectors_packed")
        ),
        "gemm_vectors",
        VECTORS
    )
    .packing(),
    kernel!(
        "gemm_vectors_packed_i8",
        concat!(
            "const BITS = 8u;\n",
            shader!("c"),
            shader!("vectors_block"),
            shader!("vectors_rows"),
            shader!("vectors_packed")
        ),
        "gemm_vectors",
        VECTORS
    )
    .packing(),
];
static VECTOR_F16: Kernel = kernel!(
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
static COOPERATIVE_8: Kernel = kernel!(
    "gemm_cooperative_8",
    "enable f16;\nenable wgpu_cooperative_matrix;\nconst EDGE = 8u;\nalias MatrixA = coop_mat8x8<f16, A>;\n\
     alias MatrixB = coop_mat8x8<f16, B>;\nalias MatrixC = coop_mat8x8<f32, C>;\n",
    "gemm_cooperative",
    COOPERATIVE
);
static COOPERATIVE_16: Kernel = kernel!(
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

/// At least 8 lanes that hand values round.
fn has_subgroups_of_8(gpu: &Gpu) -> bool {
    gpu.has_subgroups() && gpu.adapter().subgroup_min_size >= 8
}

/// Mesa before 26 compiles these kernels for minutes, and runs them slowly.
pub(super) fn takes_arrays_apart(gpu: &Gpu) -> bool {
    let old = gpu.adapter().mesa_version().is_some_and(|version| version < 26);
    has_subgroups_of_8(gpu) && gpu.has_int64() && !(old && gpu.is_software())
}

/// Cooperative matrices of this edge, for subgroups that all have so many lanes.
fn has_cooperative(gpu: &Gpu, edge: u32, lanes: u32) -> bool {
    let adapter = gpu.adapter();
    gpu.cooperative_edges().contains(&edge) && [adapter.subgroup_min_size, adapter.subgroup_max_size] == [lanes; 2]
}

pub(crate) static TILINGS: [Tiling; 11] = [
    Tiling {
        name: "tiled",
        kernel: Some(&TILED),
        half: Some(&TILED_F16),
        packed: Some(&TILED_PACKED),
        first_variant: 0,
        rows: 64,
        columns: 64,
        granules: [1, 1],
        runs_on: |_| true,
    },
    Tiling {
        name: "subgroup",
        kernel: Some(&SUBGROUP),
        half: Some(&SUBGROUP_F16),
        packed: Some(&SUBGROUP_PACKED),
        first_variant: 0,
        rows: 16,
        columns: 128,
        granules: [1, 1],
        runs_on: has_subgroups_of_8,
    },
    Tiling {
        name: "pairs",
        kernel: Some(&PAIRS),
        half: None,
        packed: None,
        first_variant: 0,
        rows: 16,
        columns: 32,
        granules: [1, 2],
        runs_on: |gpu| has_subgroups_of_8(gpu) && gpu.has_int64(),
    },
    Tiling {
        name: "vectors-4",
        kernel: Some(&VECTOR),
        half: Some(&VECTOR_F16),
        packed: Some(&VECTOR_PACKED),
        first_variant: 3 * FORMS.len(),
        rows: 4,
        columns: 64,
        granules: [2, 4],
        runs_on: takes_arrays_apart,
    },
    Tiling {
        name: "vectors-16",
        kernel: Some(&VECTOR),
        half: Some(&VECTOR_F16),
        packed: Some(&VECTOR_PACKED),
        first_variant: 0,
        rows: 16,
        columns: 64,
        granules: [2, 4],
        runs_on: takes_arrays_apart,
    },
    Tiling {
        name: "vectors-32",
        kernel: Some(&VECTOR),
        half: Some(&VECTOR_F16),
        packed: Some(&VECTOR_PACKED),
        first_variant: FORMS.len(),
        rows: 32,
        columns: 64,
        granules: [2, 4],
        runs_on: takes_arrays_apart,
    },
    Tiling {
        name: "vectors-64",
        kernel: Some(&VECTOR),
        half: Some(&VECTOR_F16),
        packed: Some(&VECTOR_PACKED),
        first_variant: 2 * FORMS.len(),
        rows: 64,
        columns: 64,
        granules: [2, 4],
        runs_on: takes_arrays_apart,
    },
    Tiling {
        name: "cooperative-8",
        kernel: None,
        half: Some(&COOPERATIVE_8),
        packed: None,
        first_variant: 0,
        rows: 32,
        columns: 32,
        granules: [1, 1],
        runs_on: |gpu| has_cooperative(gpu, 8, 8),
    },
    Tiling {
        name: "cooperative-8-of-32",
        kernel: None,
        half: Some(&COOPERATIVE_8),
        packed: None,
        first_variant: FORMS.len(),
        rows: 32,
        columns: 32,
        granules: [1, 1],
        runs_on: |gpu| has_cooperative(gpu, 8, 32),
    },
    Tiling {
        name: "cooperative-16",
        kernel: None,
        half: Some(&COOPERATIVE_16),
        packed: None,
        first_variant: FORMS.len(),
        rows: 64,
        columns: 64,
        granules: [1, 1],
        runs_on: |gpu| has_cooperative(gpu, 16, 32),
    },
    Tiling {
        name: "cooperative-16-of-64",
        kernel: None,
        half: Some(&COOPERATIVE_16),
        packed: None,
        first_variant: 2 * FORMS.len(),
        rows: 64,
        columns: 64,
        granules: [1, 1],
        runs_on: |gpu| has_cooperative(gpu, 16, 64),
    },
];

impl Tiling {
    /// Its kernel for such inputs, where there is one.
    pub(crate) fn of(&self, inputs: Inputs) -> Option<&'static Kernel> {
        match inputs {
            Inputs::Single => self.kernel,
            Inputs::Half => self.half,
            Inputs::Packed(packing) => self.packed.map(|kernels| &kernels[packing as usize]),
        }
    }

    pub(crate) fn runs_on(&self, gpu: &Gpu) -> bool {
        (self.runs_on)(gpu)
    }

    /// Whether the rows of A and B, as stored, have lengths this kernel can read.
    pub(crate) fn fits(&self, form: Form, sizes: Sizes) -> bool {
        let rows = match form {
            Form::Linear | Form::TransposedAdd => [sizes.k, sizes.k],
            Form::InputGradient | Form::InputGradientAdd => [sizes.k, sizes.n],
            Form::WeightGradient => [sizes.m, sizes.n],
        };
        rows.iter().zip(self.granules).all(|(row, granule)| row.is_multiple_of(granule))
    }

    /// Whether it is worth trying on so many rows: not where half of its tile would be beyond the end, if a smaller one is
    /// there.
    pub(crate) fn is_for(&self, m: usize) -> bool {
        !self.name.starts_with("vectors") || self.rows <= m.next_multiple_of(16)
    }
}

/// What the preferred tilings depend on besides the adapter.
///
/// [`tune`](super::tuning::tune) measures one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Up to 4: a query's blanks.
    Blanks,
    /// Up to 16: a query.
    Few,
    /// Up to 32.
    Some,
    Many,
}

impl Rows {
    pub(crate) const ALL: [Self; 4] = [Self::Blanks, Self::Few, Self::Some, Self::Many];

    pub(crate) fn of(m: u32) -> Self {
        match m {
            0..=4 => Self::Blanks,
            5..=16 => Self::Few,
            17..=32 => Self::Some,
            _ => Self::Many,
        }
    }

    /// What the choice for them is kept under.
    pub(crate) fn key(self, half: bool) -> &'static str {
        match (self, half) {
            (Self::Blanks, false) => "gemm, up to 4 rows",
            (Self::Few, false) => "gemm, up to 16 rows",
            (Self::Some, false) => "gemm, up to 32 rows",
            (Self::Many, false) => "gemm, more rows",
            (Self::Blanks, true) => "gemm in f16, up to 4 rows",
            (Self::Few, true) => "gemm in f16, up to 16 rows",
            (Self::Some, true) => "gemm in f16, up to 32 rows",
            (Self::Many, true) => "gemm in f16, more rows",
        }
    }

    /// So many that all tiles fill up, where there are many.
    pub(crate) fn typical(self) -> usize {
        match self {
            Self::Blanks => 1,
            Self::Few => 12,
            Self::Some => 32,
            Self::Many => 256,
        }
    }
}

/// Names of tilings, the preferred one first, where nothing was measured; the last takes any shape and runs anywhere.
fn preferred(gpu: &Gpu, rows: Rows) -> &'static [&'static str] {
    let adapter = gpu.adapter();
    // Measured: see ARCHITECTURE.md.
    match (gpu.is_software(), adapter.mesa_version() >= Some(26), rows) {
        (true, true, Rows::Blanks) => &["vectors-4", "subgroup", "tiled"],
        (true, true, Rows::Few) => &["vectors-16", "subgroup", "tiled"],
        (true, true, Rows::Some) => &["vectors-32", "subgroup", "tiled"],
        (true, true, Rows::Many) => &["vectors-64", "subgroup", "tiled"],
        (true, false, _) => &["pairs", "subgroup", "tiled"],
        // The cooperative ones are in f16 alone.
        (false, ..) => &["cooperative-16", "cooperative-16-of-64", "cooperative-8-of-32", "cooperative-8", "tiled"],
    }
}

/// What A and B of a GEMM are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inputs {
    Single,
    Half,
    /// A in f32, and B a weight for queries.
    Packed(Packing),
}

/// The tiling for one GEMM, and its kernel. Where B is packed, that which is the fastest in f32 is taken to be so there, too.
pub(crate) fn choose(gpu: &Gpu, form: Form, sizes: Sizes, inputs: Inputs) -> (&'static Tiling, &'static Kernel) {
    let named = |name: &&str| TILINGS.iter().find(|tiling| tiling.name == *name);
    let usable = |tiling: &'static Tiling| {
        tiling.of(inputs).filter(|_| tiling.runs_on(gpu) && tiling.fits(form, sizes)).map(|kernel| (tiling, kernel))
    };
    let rows = Rows::of(sizes.m);
    let measured = gpu.choice(rows.key(inputs == Inputs::Half));
    let measured = measured.as_deref().and_then(|name| named(&name));
    let mut choices = measured.into_iter().chain(preferred(gpu, rows).iter().filter_map(named));
    let last = match inputs {
        Inputs::Single => &TILED,
        Inputs::Half => &TILED_F16,
        Inputs::Packed(packing) => &TILED_PACKED[packing as usize],
    };
    choices.find_map(usable).unwrap_or((&TILINGS[0], last))
}
