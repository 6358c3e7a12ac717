//! Which kernel computes a GEMM where nothing was measured, and what that depends on.

use super::gemm_form::Sizes;
use crate::gpu::Gpu;

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
    /// So many rows, and elements of C, that tiles of any size fill up, and there are more than a hundred of the largest.
    Plenty,
}

impl Rows {
    pub(crate) const ALL: [Self; 5] = [Self::Blanks, Self::Few, Self::Some, Self::Many, Self::Plenty];

    pub(crate) fn of(gpu: &Gpu, sizes: Sizes) -> Self {
        match sizes.m {
            0..=4 => Self::Blanks,
            5..=16 => Self::Few,
            17..=32 => Self::Some,
            m if m.min(sizes.n) >= 256
                && u64::from(m) * u64::from(sizes.n) >= 1 << 21
                && Self::Plenty.is_apart(gpu) =>
            {
                Self::Plenty
            }
            _ => Self::Many,
        }
    }

    /// A CPU has few cores: they are all at work with many rows.
    pub(crate) fn is_apart(self, gpu: &Gpu) -> bool {
        self != Self::Plenty || !gpu.is_software()
    }

    /// What the choice for them is kept under.
    pub(crate) fn key(self, half: bool) -> &'static str {
        match (self, half) {
            (Self::Blanks, false) => "gemm, up to 4 rows",
            (Self::Few, false) => "gemm, up to 16 rows",
            (Self::Some, false) => "gemm, up to 32 rows",
            (Self::Many, false) => "gemm, more rows",
            (Self::Plenty, false) => "gemm, large",
            (Self::Blanks, true) => "gemm in f16, up to 4 rows",
            (Self::Few, true) => "gemm in f16, up to 16 rows",
            (Self::Some, true) => "gemm in f16, up to 32 rows",
            (Self::Many, true) => "gemm in f16, more rows",
            (Self::Plenty, true) => "gemm in f16, large",
        }
    }

    /// What the choice for them is kept under where sums may be in parts, if that is another.
    pub(crate) fn key_split_sums(self) -> &'static str {
        match self {
            Self::Blanks => "gemm in parts, up to 4 rows",
            Self::Few => "gemm in parts, up to 16 rows",
            Self::Some => "gemm in parts, up to 32 rows",
            Self::Many => "gemm in parts, more rows",
            Self::Plenty => "gemm in parts, large",
        }
    }

    /// What is measured: rows, columns and depth. So many rows that all tiles fill up, where there are many.
    pub(crate) fn typical(self) -> Sizes {
        let (m, n, k) = match self {
            Self::Blanks => (1, 768, 768),
            Self::Few => (12, 768, 768),
            Self::Some => (32, 768, 768),
            Self::Many => (256, 768, 768),
            Self::Plenty => (1024, 3072, 768),
        };
        Sizes { m, n, k }
    }
}

/// What makes a difference among software adapters: the CPU under them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Processor {
    /// Software on x86 without AVX-512, which has sixteen vector registers. On the one that was measured, of AMD's, LLVM also makes no
    /// gathering instructions.
    SixteenRegisters,
    Any,
    /// Where loads are of words: see [`Style::in_words`](crate::gpu::Style::in_words).
    InWords,
    /// Likewise, and the first-level cache for instructions holds the loop of `vectors-32`.
    InWordsWithRoom,
}

/// Bytes of the loop of `vectors-32` in words.
const LOOP_OF_VECTORS_32: usize = 55 << 10;

impl Processor {
    pub(super) fn of(gpu: &Gpu) -> Self {
        let has_room = || gpu.instruction_cache().is_some_and(|bytes| bytes > LOOP_OF_VECTORS_32);
        match (gpu.has_sixteen_registers(), gpu.style().in_words) {
            (true, _) => Self::SixteenRegisters,
            (false, false) => Self::Any,
            (false, true) if has_room() => Self::InWordsWithRoom,
            (false, true) => Self::InWords,
        }
    }
}

/// Names of tilings, the preferred one first, where nothing was measured; the last takes any shape and runs anywhere.
pub(super) fn preferred(
    is_software: bool,
    mesa: Option<u32>,
    processor: Processor,
    rows: Rows,
) -> &'static [&'static str] {
    // On software measured, see ARCHITECTURE.md; on GPUs not yet. The cooperative ones are in f16 alone.
    match (is_software, mesa >= Some(26), rows) {
        (true, true, Rows::Some | Rows::Many | Rows::Plenty) if processor == Processor::InWords => {
            &["sixes-32", "vectors-32", "subgroup", "tiled"]
        }
        (true, true, Rows::Some | Rows::Many | Rows::Plenty) if processor == Processor::InWordsWithRoom => {
            &["vectors-32", "subgroup", "tiled"]
        }
        (true, true, Rows::Few) if processor == Processor::SixteenRegisters => {
            &["turns-16", "vectors-16", "subgroup", "tiled"]
        }
        (true, true, Rows::Some | Rows::Many | Rows::Plenty) if processor == Processor::SixteenRegisters => {
            &["turns-24", "vectors-16", "subgroup", "tiled"]
        }
        (true, true, Rows::Blanks) => &["vectors-4", "subgroup", "tiled"],
        (true, true, Rows::Few) => &["vectors-16", "subgroup", "tiled"],
        (true, true, Rows::Some) => &["vectors-32", "subgroup", "tiled"],
        (true, true, Rows::Many | Rows::Plenty) => &["vectors-64", "subgroup", "tiled"],
        (true, false, Rows::Blanks) => &["eights-8", "eights-across", "pairs", "subgroup", "tiled"],
        (true, false, _) => &["eights-16", "eights-across", "pairs", "subgroup", "tiled"],
        (false, _, Rows::Blanks) => &["split-4", "blocks-16", "tiled"],
        (false, _, Rows::Few) => &["split-16", "blocks-16", "tiled"],
        (false, _, Rows::Some) => &["blocks-32", "tiled"],
        (false, _, Rows::Many) => {
            // Those of 64 lanes first, which there are on AMD's GPUs, where Mesa takes them.
            &["cooperative-16-of-64", "cooperative-16", "cooperative-8-of-32", "cooperative-8", "blocks-32", "tiled"]
        }
        (false, _, Rows::Plenty) => &[
            "cooperative-16-of-64-large",
            "cooperative-16-large",
            "cooperative-8-of-32-large",
            "cooperative-8-large",
            "blocks-128",
            "tiled",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gemm_form::FORMS;
    use crate::ops::tilings::TILINGS;

    #[test]
    fn what_is_preferred_exists_and_ends_with_what_runs_anywhere() {
        for rows in Rows::ALL {
            for (is_software, mesa, processor) in [
                (true, Some(25), Processor::Any),
                (true, Some(25), Processor::InWords),
                (true, Some(26), Processor::SixteenRegisters),
                (true, Some(26), Processor::Any),
                (true, Some(26), Processor::InWords),
                (true, Some(26), Processor::InWordsWithRoom),
                (true, None, Processor::Any),
                (false, None, Processor::Any),
                (false, Some(26), Processor::SixteenRegisters),
            ] {
                let names = preferred(is_software, mesa, processor, rows);
                assert_eq!(names.last(), Some(&TILINGS[0].name));
                for name in names {
                    assert!(TILINGS.iter().any(|tiling| tiling.name == *name), "{name}");
                }
            }
        }
        let smallest = Sizes { m: 1, n: 1, k: 1 };
        assert!(FORMS.into_iter().all(|form| TILINGS[0].fits(form, smallest)));
    }
}
