//! The kernels that can compute a GEMM, and which one does.
//!
//! All f32 kernels but `split` add the products of an element of C in the same order, so they give the same bits for finite numbers
//! where the driver compiles `fma` alike everywhere, as all that were tested do: then the choice is one of speed alone. `split` is
//! for fills.

use super::gemm_form::{FORMS, Form, Sizes};
use super::gemm_kernels::{
    BLOCK, BLOCK_F16, BLOCK_PACKED, BLOCKS, COOPERATIVE_8, COOPERATIVE_8_LARGE, COOPERATIVE_16, COOPERATIVE_16_LARGE,
    EIGHTS_ACROSS, EIGHTS_ALONG, EIGHTS_PACKED, PAIRS, SIXES, SIXES_PACKED, SPLIT, SPLIT_PACKED, SUBGROUP,
    SUBGROUP_F16, SUBGROUP_PACKED, TILED, TILED_F16, TILED_PACKED, TURNS, TURNS_PACKED, VECTOR, VECTOR_F16,
    VECTOR_PACKED,
};
use super::preferences::{Processor, Rows, preferred};
use crate::gpu::{Gpu, Kernel, Packing};

/// Tilings of one kind of kernel, which differ in their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Tiled,
    Blocks,
    Split,
    Subgroup,
    Pairs,
    Eights,
    Vectors,
    Sixes,
    Turns,
    /// Matrices of this edge.
    Cooperative {
        edge: u32,
    },
}

impl Family {
    /// Whether there are tiles for each of the few rows of a query.
    fn is_cut(self) -> bool {
        matches!(self, Self::Split | Self::Eights | Self::Vectors | Self::Sixes | Self::Turns)
    }
}

/// One way to compute C: a kernel, and the tile of C that one of its workgroups takes.
#[derive(Clone)]
pub(crate) struct Tiling {
    /// What the benchmark and the choices on disk call it.
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    /// With A and B in f32, where there is one.
    pub(crate) kernel: Option<&'static Kernel>,
    /// With A and B in f16, where there is one; products and sums are f32.
    pub(crate) half: Option<&'static Kernel>,
    /// With A in f32 and B a packed weight, in the order of [`Packing`], where there are such; for linear layers alone.
    pub(crate) packed: Option<&'static [Kernel; 2]>,
    /// Of this tiling's variants the first; the others follow in the order of [`FORMS`].
    pub(crate) first_variant: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// The lengths of A's rows and of B's, as stored, have to be multiples of these.
    granules: [u32; 2],
    /// Whether B has to be stored transposed, or has not to be, where that makes a difference.
    transposed: Option<bool>,
    /// Whether a sum is that of several parts, so that it is another in its last bits.
    pub(crate) split_sums: bool,
    runs_on: fn(&Gpu) -> bool,
}

/// At least 8 lanes that hand values round.
pub(super) fn has_subgroups_of_8(gpu: &Gpu) -> bool {
    gpu.has_subgroups() && gpu.adapter().subgroup_min_size >= 8
}

/// Mesa's software before 26 compiles what is long for minutes, where each load becomes a loop.
fn compiles_loads(gpu: &Gpu) -> bool {
    let adapter = gpu.adapter();
    adapter.device_type != "cpu" || adapter.mesa_version().is_none_or(|version| version >= 26)
}

/// Such Mesa also runs these kernels slowly.
fn takes_arrays_apart(gpu: &Gpu) -> bool {
    has_subgroups_of_8(gpu) && gpu.has_int64() && compiles_loads(gpu)
}

/// The same, for so many sums that a CPU of sixteen registers reads and stores one for each product: they compile for seconds there, and
/// are slower than those with fewer.
fn takes_large_arrays_apart(gpu: &Gpu) -> bool {
    takes_arrays_apart(gpu) && Processor::of(gpu) != Processor::SixteenRegisters
}

/// Of a workgroup of cooperative matrices.
const SUBGROUPS: u32 = 4;

/// Cooperative matrices of this edge, and subgroups that may have so many lanes: the kernels are right with any number, as a driver
/// chooses it for each, and fast with theirs. But a workgroup has to be of whole subgroups, as Vulkan wants for such matrices.
fn has_cooperative(gpu: &Gpu, edge: u32, lanes: u32) -> bool {
    let adapter = gpu.adapter();
    let sizes = match &adapter.backend[..] {
        // wgpu does not ask, and says 4 to 64. Apple's GPUs have 32.
        "metal" => 32..=32,
        _ => adapter.subgroup_min_size..=adapter.subgroup_max_size,
    };
    gpu.cooperative_edges().contains(&edge)
        && sizes.contains(&lanes)
        && (SUBGROUPS * lanes).is_multiple_of((*sizes.end()).max(1))
}

const fn vectors_tiling(name: &'static str, which: usize, rows: usize) -> Tiling {
    Tiling {
        name,
        family: Family::Vectors,
        kernel: Some(&VECTOR),
        half: Some(&VECTOR_F16),
        packed: Some(&VECTOR_PACKED),
        first_variant: which * FORMS.len(),
        rows,
        columns: 64,
        granules: [2, 4],
        transposed: None,
        split_sums: false,
        runs_on: if rows > 16 { takes_large_arrays_apart } else { takes_arrays_apart },
    }
}

const fn sixes_tiling(name: &'static str, which: usize, rows: usize) -> Tiling {
    Tiling {
        name,
        family: Family::Sixes,
        kernel: Some(&SIXES),
        half: None,
        packed: Some(&SIXES_PACKED),
        first_variant: which * FORMS.len(),
        rows,
        columns: 48,
        granules: [2, 2],
        transposed: None,
        split_sums: false,
        runs_on: takes_large_arrays_apart,
    }
}

const fn turns_tiling(name: &'static str, which: usize, rows: usize) -> Tiling {
    Tiling {
        name,
        family: Family::Turns,
        kernel: Some(&TURNS),
        half: None,
        packed: Some(&TURNS_PACKED),
        first_variant: which * FORMS.len(),
        rows,
        columns: 32,
        granules: [2, 2],
        transposed: None,
        split_sums: false,
        runs_on: takes_arrays_apart,
    }
}

const fn eights_tiling(name: &'static str, transposed: bool, which: usize) -> Tiling {
    Tiling {
        name,
        family: Family::Eights,
        kernel: Some(if transposed { &EIGHTS_ALONG } else { &EIGHTS_ACROSS }),
        half: None,
        packed: if transposed { Some(&EIGHTS_PACKED) } else { None },
        first_variant: which * FORMS.len(),
        rows: 8 + 4 * which,
        columns: 32,
        granules: if transposed { [8, 8] } else { [8, 4] },
        transposed: Some(transposed),
        split_sums: false,
        runs_on: |gpu| has_subgroups_of_8(gpu) && gpu.has_int64(),
    }
}

const fn blocks_tiling(name: &'static str, which: usize) -> Tiling {
    let [down, across, height, width, _] = BLOCKS[which];
    Tiling {
        name,
        family: Family::Blocks,
        kernel: Some(&BLOCK),
        half: Some(&BLOCK_F16),
        packed: Some(&BLOCK_PACKED),
        first_variant: which * FORMS.len(),
        rows: (down * height) as usize,
        columns: (across * width) as usize,
        granules: [2, 2],
        transposed: None,
        split_sums: false,
        runs_on: |_| true,
    }
}

const fn split_tiling(name: &'static str, which: usize) -> Tiling {
    Tiling {
        name,
        family: Family::Split,
        kernel: Some(&SPLIT),
        half: None,
        packed: Some(&SPLIT_PACKED),
        first_variant: which * FORMS.len(),
        rows: 4 + 4 * which,
        columns: 4,
        granules: [4, 4],
        transposed: Some(true),
        split_sums: true,
        runs_on: compiles_loads,
    }
}

/// Matrices of this edge, for subgroups of so many lanes, each of which is to compute so many by so many of them.
macro_rules! cooperative_tiling {
    ($name:literal, $kernel:ident, $which:literal, [$edge:literal, $lanes:literal], $span:literal) => {
        Tiling {
            name: $name,
            family: Family::Cooperative { edge: $edge },
            kernel: None,
            half: Some(&$kernel),
            packed: None,
            first_variant: $which * FORMS.len(),
            rows: 2 * $span * $edge,
            columns: 2 * $span * $edge,
            granules: [2, 2],
            transposed: None,
            split_sums: false,
            runs_on: |gpu| has_cooperative(gpu, $edge, $lanes),
        }
    };
}

pub(crate) static TILINGS: [Tiling; 37] = [
    Tiling {
        name: "tiled",
        family: Family::Tiled,
        kernel: Some(&TILED),
        half: Some(&TILED_F16),
        packed: Some(&TILED_PACKED),
        first_variant: 0,
        rows: 64,
        columns: 64,
        granules: [1, 1],
        transposed: None,
        split_sums: false,
        runs_on: |_| true,
    },
    blocks_tiling("blocks-16", 0),
    blocks_tiling("blocks-32", 1),
    blocks_tiling("blocks-64", 2),
    blocks_tiling("blocks-128", 3),
    split_tiling("split-4", 0),
    split_tiling("split-8", 1),
    split_tiling("split-12", 2),
    split_tiling("split-16", 3),
    Tiling {
        name: "subgroup",
        family: Family::Subgroup,
        kernel: Some(&SUBGROUP),
        half: Some(&SUBGROUP_F16),
        packed: Some(&SUBGROUP_PACKED),
        first_variant: 0,
        rows: 16,
        columns: 128,
        granules: [1, 1],
        transposed: None,
        split_sums: false,
        runs_on: has_subgroups_of_8,
    },
    Tiling {
        name: "pairs",
        family: Family::Pairs,
        kernel: Some(&PAIRS),
        half: None,
        packed: None,
        first_variant: 0,
        rows: 16,
        columns: 32,
        granules: [1, 2],
        transposed: None,
        split_sums: false,
        runs_on: |gpu| has_subgroups_of_8(gpu) && gpu.has_int64(),
    },
    eights_tiling("eights-8", true, 0),
    eights_tiling("eights-12", true, 1),
    eights_tiling("eights-16", true, 2),
    eights_tiling("eights-across", false, 2),
    vectors_tiling("vectors-2", 0, 2),
    vectors_tiling("vectors-4", 1, 4),
    vectors_tiling("vectors-8", 2, 8),
    vectors_tiling("vectors-12", 3, 12),
    vectors_tiling("vectors-16", 4, 16),
    vectors_tiling("vectors-24", 5, 24),
    vectors_tiling("vectors-32", 6, 32),
    vectors_tiling("vectors-64", 7, 64),
    sixes_tiling("sixes-24", 0, 24),
    sixes_tiling("sixes-32", 1, 32),
    turns_tiling("turns-8", 0, 8),
    turns_tiling("turns-12", 1, 12),
    turns_tiling("turns-16", 2, 16),
    turns_tiling("turns-24", 3, 24),
    cooperative_tiling!("cooperative-8", COOPERATIVE_8, 0, [8, 8], 2),
    cooperative_tiling!("cooperative-8-of-32", COOPERATIVE_8, 1, [8, 32], 2),
    cooperative_tiling!("cooperative-16", COOPERATIVE_16, 1, [16, 32], 2),
    cooperative_tiling!("cooperative-16-of-64", COOPERATIVE_16, 2, [16, 64], 2),
    cooperative_tiling!("cooperative-8-large", COOPERATIVE_8_LARGE, 0, [8, 8], 4),
    cooperative_tiling!("cooperative-8-of-32-large", COOPERATIVE_8_LARGE, 1, [8, 32], 4),
    cooperative_tiling!("cooperative-16-large", COOPERATIVE_16_LARGE, 1, [16, 32], 4),
    cooperative_tiling!("cooperative-16-of-64-large", COOPERATIVE_16_LARGE, 2, [16, 64], 4),
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

    /// Whether the rows of A and B, as stored, have lengths this kernel can read, and C no more tiles than can be dispatched.
    pub(crate) fn fits(&self, form: Form, sizes: Sizes) -> bool {
        let rows = match form {
            Form::InputGradient | Form::InputGradientAdd => [sizes.k, sizes.n],
            Form::WeightGradient => [sizes.m, sizes.n],
            _ => [sizes.k, sizes.k],
        };
        let grid = [sizes.n.div_ceil(self.columns as u32), sizes.m.div_ceil(self.rows as u32)];
        rows.iter().zip(self.granules).all(|(row, granule)| row.is_multiple_of(granule))
            && grid.iter().all(|&groups| groups <= MOST_WORKGROUPS)
            && self.transposed.is_none_or(|transposed| transposed == form.transposes_b())
    }

    /// Whether it is worth measuring there on so many rows: not where half of its tile would be beyond the end, nor of a size that is
    /// only taken in another's place; nor what is for GPUs on software, and, where a GEMM is large, the other way round: it would take
    /// so long that a driver takes the GPU for hung.
    pub(crate) fn is_for(&self, gpu: &Gpu, rows: Rows) -> bool {
        let fits = self.rows <= (rows.typical().m as usize).next_multiple_of(16);
        let sixteen = Processor::of(gpu) == Processor::SixteenRegisters;
        match self.family {
            Family::Tiled => true,
            Family::Subgroup => rows != Rows::Plenty,
            // A workgroup of eight threads leaves most of a GPU's subgroup idle, and compiling so many sums takes long.
            Family::Pairs => gpu.is_software(),
            Family::Eights => self.rows != 12 && fits && gpu.is_software() && !takes_arrays_apart(gpu),
            Family::Vectors => fits && gpu.is_software() && [4, 16, 32, 64].contains(&self.rows),
            Family::Sixes => self.rows == 32 && fits && gpu.is_software(),
            Family::Turns if self.rows == 16 => sixteen && rows == Rows::Few,
            Family::Turns => self.rows == 24 && sixteen && fits,
            Family::Blocks => fits && !gpu.is_software(),
            Family::Split if self.rows == 4 => rows == Rows::Blanks && !gpu.is_software(),
            Family::Split => self.rows == 16 && matches!(rows, Rows::Few | Rows::Some) && !gpu.is_software(),
            Family::Cooperative { .. } => fits,
        }
    }

    /// Of the kernels of its kind with tiles as high as this one's or lower, that which computes least beyond the end. Only for the
    /// few rows of queries, as each of them has to be compiled.
    fn cut_to(&'static self, form: Form, m: usize) -> &'static Self {
        if !self.family.is_cut() || !form.is_linear() || m > 64 {
            return self;
        }
        // Reading B takes as long as multiplying it with eight rows: measured, on software.
        let cost = |tiling: &&Self| m.div_ceil(tiling.rows) * (tiling.rows + 8);
        let alike = |other: &&Self| other.family == self.family && other.transposed == self.transposed;
        let lower = TILINGS.iter().filter(alike).filter(|other| other.rows <= self.rows);
        lower.min_by_key(cost).unwrap_or(self)
    }
}

/// Numbers of rows of queries, such that every kernel which up to 255 rows take is taken by one of these.
pub(crate) const LENGTHS: [u32; 9] = [1, 4, 8, 12, 16, 24, 32, 64, 128];

/// In each direction: WebGPU's default.
const MOST_WORKGROUPS: u32 = 65_535;

/// What A and B of a GEMM are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inputs {
    Single,
    Half,
    /// A in f32, and B a weight for queries.
    Packed(Packing),
}

/// The tiling for one GEMM, and its kernel: one whose sums are in parts, if that is allowed. Where B is packed, that which is the fastest
/// in f32 is taken to be so there, too.
pub(crate) fn choose(
    gpu: &Gpu,
    form: Form,
    sizes: Sizes,
    inputs: Inputs,
    split_sums: bool,
) -> (&'static Tiling, &'static Kernel) {
    let named = |name: &&str| TILINGS.iter().find(|tiling| tiling.name == *name);
    let usable = |tiling: &'static Tiling| {
        let tiling = tiling.cut_to(form, sizes.m as usize);
        let serves = tiling.runs_on(gpu) && tiling.fits(form, sizes) && !gpu.refuses(tiling.name);
        let serves = serves && (split_sums || !tiling.split_sums);
        tiling.of(inputs).filter(|_| serves).map(|kernel| (tiling, kernel))
    };
    let rows = Rows::of(gpu, sizes);
    let half = inputs == Inputs::Half;
    let split_too = gpu.choice(rows.key_split_sums()).filter(|_| split_sums && !half);
    let measured = split_too.into_iter().chain(gpu.choice(rows.key(half)));
    let measured: Vec<_> = measured.filter_map(|name| named(&&name[..])).collect();
    let preferred = preferred(gpu.is_software(), gpu.adapter().mesa_version(), Processor::of(gpu), rows);
    let mut choices = measured.into_iter().chain(preferred.iter().filter_map(named));
    let last = match inputs {
        Inputs::Single => &TILED,
        Inputs::Half => &TILED_F16,
        Inputs::Packed(packing) => &TILED_PACKED[packing as usize],
    };
    choices.find_map(usable).unwrap_or((&TILINGS[0], last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_that_are_compiled_ahead_take_all_kernels_of_queries() {
        let gpu = crate::gpu::test_gpu();
        for (n, k) in [(768, 768), (30_522, 96), (10, 6)] {
            let of = |m: u32| choose(&gpu, Form::Linear, Sizes { m, n, k }, Inputs::Single, true).0.name;
            let ahead = LENGTHS.map(of);
            for m in 1..256 {
                assert!(ahead.contains(&of(m)), "{m} x {n} x {k}: {} is not in {ahead:?}", of(m));
            }
        }
    }

    /// `make test-as-gpu` runs this as a GPU, too, where there are such kernels to be taken.
    #[test]
    fn sums_in_parts_are_for_fills_alone() {
        let gpu = crate::gpu::test_gpu();
        for m in 1..300 {
            for form in super::FORMS {
                let taken = |split_sums| choose(&gpu, form, Sizes { m, n: 768, k: 768 }, Inputs::Single, split_sums).0;
                assert!(!taken(false).split_sums, "{form:?} {m}");
                let fill = form.transposes_b() && m <= 16 && !gpu.is_software() && compiles_loads(&gpu);
                assert_eq!(taken(true).split_sums, fill, "{form:?} {m}");
            }
        }
    }

    #[test]
    fn what_has_too_many_tiles_is_left_to_larger_ones() {
        let split = TILINGS.iter().find(|tiling| tiling.name == "split-4").unwrap();
        assert!(split.fits(Form::Linear, Sizes { m: 1, n: 262_140, k: 4 }));
        assert!(!split.fits(Form::Linear, Sizes { m: 1, n: 262_141, k: 4 }));
    }

    #[test]
    fn tiles_are_cut_to_the_rows_of_queries() {
        let named = |name: &str| TILINGS.iter().find(|tiling| tiling.name == name).unwrap();
        for (chosen, rows, cut) in [
            ("vectors-4", 1, "vectors-2"),
            ("vectors-4", 3, "vectors-4"),
            ("vectors-16", 5, "vectors-8"),
            ("vectors-16", 8, "vectors-8"),
            ("vectors-16", 9, "vectors-12"),
            ("vectors-16", 16, "vectors-16"),
            ("vectors-32", 17, "vectors-24"),
            ("vectors-32", 32, "vectors-32"),
            ("vectors-64", 40, "vectors-24"),
            ("vectors-64", 64, "vectors-64"),
            ("vectors-64", 65, "vectors-64"),
            ("split-16", 1, "split-4"),
            ("split-16", 5, "split-8"),
            ("split-16", 12, "split-12"),
            ("split-16", 20, "split-12"),
            ("split-4", 12, "split-4"),
            ("sixes-32", 24, "sixes-24"),
            ("sixes-32", 25, "sixes-32"),
            ("sixes-32", 40, "sixes-24"),
            ("sixes-32", 65, "sixes-32"),
            // No higher than what was chosen, and of vectors alone.
            ("vectors-4", 12, "vectors-4"),
            ("pairs", 12, "pairs"),
            ("eights-16", 8, "eights-8"),
            ("eights-16", 12, "eights-12"),
            ("eights-16", 13, "eights-16"),
            ("turns-16", 12, "turns-12"),
            ("turns-16", 7, "turns-8"),
            ("turns-24", 17, "turns-24"),
            ("turns-24", 40, "turns-24"),
            ("turns-24", 65, "turns-24"),
        ] {
            assert_eq!(named(chosen).cut_to(Form::Linear, rows).name, cut, "{chosen} for {rows} rows");
            assert_eq!(named(chosen).cut_to(Form::InputGradient, rows).name, chosen);
        }
    }
}
