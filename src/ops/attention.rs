//! Multi-head self-attention over packed sequences, each attending to itself alone.

use std::ops::Range;

use super::dropout::Dropout;
use super::tilings::has_subgroups_of_8;
use crate::error::Result;
use crate::gpu::{Constants, Gpu, Kernel, Pass, Tensor, spread};

const SOURCE: &str = concat!(include_str!("../../shaders/random.wgsl"), include_str!("../../shaders/attention.wgsl"));
const VARIANTS: &[Constants] = &[&[("DROPOUT", 0.0)], &[("DROPOUT", 1.0)]];
const EIGHTS_SOURCE: &str =
    concat!(include_str!("../../shaders/random.wgsl"), include_str!("../../shaders/attention_eights.wgsl"));
/// The heads of nearly every BERT.
const HEADS: [usize; 2] = [32, 64];
const EIGHTS_VARIANTS: &[Constants] = &[
    &[("HEAD_SIZE", 32.0), ("DROPOUT", 0.0)],
    &[("HEAD_SIZE", 32.0), ("DROPOUT", 1.0)],
    &[("HEAD_SIZE", 64.0), ("DROPOUT", 0.0)],
    &[("HEAD_SIZE", 64.0), ("DROPOUT", 1.0)],
];

/// The kernels of one way to compute it.
pub(crate) struct Kernels {
    pub(crate) forward: Kernel,
    pub(crate) backward_query: Kernel,
    pub(crate) backward_key: Kernel,
}

const fn kernels(file: &'static str, source: &'static str, variants: &'static [Constants]) -> Kernels {
    Kernels {
        forward: Kernel::new(file, source, "forward", variants),
        backward_query: Kernel::new(file, source, "backward_query", variants),
        backward_key: Kernel::new(file, source, "backward_key", variants),
    }
}

pub(crate) static ANY: Kernels = kernels("attention", SOURCE, VARIANTS);
pub(crate) static OF_EIGHTS: Kernels = kernels("attention_eights", EIGHTS_SOURCE, EIGHTS_VARIANTS);

/// The ways to compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Any head, on any adapter.
    Any,
    /// Eight numbers of a row a lane, for software adapters and heads of [`HEADS`], of which this is the index.
    Eights(usize),
}

impl Way {
    /// The faster one, for heads of this size.
    pub(crate) fn of(gpu: &Gpu, head_size: usize) -> Self {
        if gpu.is_software() { Self::eights(gpu, head_size) } else { None }.unwrap_or(Self::Any)
    }

    /// [`Way::Eights`], where they can be had.
    pub(crate) fn eights(gpu: &Gpu, head_size: usize) -> Option<Self> {
        let index = HEADS.iter().position(|&size| size == head_size)?;
        (has_subgroups_of_8(gpu) && gpu.has_int64()).then_some(Self::Eights(index))
    }

    pub(crate) fn kernels(self) -> &'static Kernels {
        match self {
            Self::Any => &ANY,
            Self::Eights(_) => &OF_EIGHTS,
        }
    }

    pub(crate) fn variant(self, has_dropout: bool) -> usize {
        match self {
            Self::Any => usize::from(has_dropout),
            Self::Eights(head) => 2 * head + usize::from(has_dropout),
        }
    }
}

/// An operation here counts as so many of a GEMM's: of four multiply-adds there are five loads. Reckoned, not measured.
const SLOWNESS: u64 = 8;

/// Rows of one sequence that a workgroup takes: as many as a vec4 has numbers.
const ROWS: u32 = 4;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sizes {
    first: u32,
    end: u32,
    heads: u32,
    head_size: u32,
    scale: f32,
    site: u32,
    threshold: u32,
    kept: f32,
}

/// The work list of a batch, for one way to compute its attention.
pub(crate) struct Blocks {
    way: Way,
    /// u32 \[blocks, 4\]
    list: Tensor,
    /// Of each block and those before it, the elements of P.
    elements: Vec<u64>,
}

impl Blocks {
    pub(crate) fn upload(pass: &mut Pass, way: Way, cu_seqlens: &[u32]) -> Result<Self> {
        let list = blocks(cu_seqlens, ROWS);
        let mut sum = 0;
        let elements = list.iter().map(|[_, rows, start, end]| {
            sum += u64::from(*rows) * u64::from(end - start);
            sum
        });
        Ok(Self { way, elements: elements.collect(), list: pass.upload(&[list.len(), 4], &list)? })
    }

    /// The blocks, one after another, in ranges of up to so many elements of P, or of one block, and the elements of each range.
    fn ranges(&self, most: u64) -> impl Iterator<Item = (Range<usize>, u64)> {
        let (mut first, mut before) = (0, 0u64);
        std::iter::from_fn(move || {
            let within = self.elements.partition_point(|&sum| sum <= before.saturating_add(most));
            let range = first..within.max(first + 1).min(self.elements.len());
            let elements = self.elements.get(range.end.checked_sub(1)?)? - before;
            (first, before) = (range.end, before + elements);
            (!range.is_empty()).then_some((range, elements))
        })
    }
}

/// (first row, rows, start and end of the sequence) for every up to so many rows.
fn blocks(cu_seqlens: &[u32], rows: u32) -> Vec<[u32; 4]> {
    let sequences = cu_seqlens.windows(2).map(|pair| (pair[0], pair[1]));
    let block = |(start, end): (u32, u32)| {
        (start..end).step_by(rows as usize).map(move |row| [row, rows.min(end - row), start, end])
    };
    sequences.flat_map(block).collect()
}

/// What forward and backward share.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'t> {
    pub(crate) blocks: &'t Blocks,
    /// \[tokens, 3 * hidden\]: queries, keys, values
    pub(crate) qkv: &'t Tensor,
    pub(crate) heads: usize,
    /// Of the probabilities.
    pub(crate) dropout: Option<Dropout<'t>>,
}

impl Attention<'_> {
    fn sizes(&self, blocks: Range<usize>) -> Sizes {
        let head_size = self.qkv.columns() / 3 / self.heads;
        let (threshold, kept) = self.dropout.map_or((0, 1.0), |dropout| dropout.constants());
        Sizes {
            site: self.dropout.map_or(0, |dropout| dropout.site),
            threshold,
            kept,
            first: blocks.start as u32,
            end: blocks.end as u32,
            heads: self.heads as u32,
            head_size: head_size as u32,
            scale: (1.0 / (head_size as f64).sqrt()) as f32,
        }
    }

    fn variant(&self) -> usize {
        self.blocks.way.variant(self.dropout.is_some())
    }

    /// Without dropout its binding is not read; any read-only tensor serves.
    fn keys(&self) -> &Tensor {
        self.dropout.map_or(&self.blocks.list, |dropout| dropout.keys)
    }

    /// Records a kernel that goes through P with so many products of matrices: at once, or in parts where a GPU would be busy for long.
    fn dispatch(&self, pass: &mut Pass, kernel: &'static Kernel, products: u64, tensors: &[&Tensor]) -> Result<()> {
        let hidden = self.qkv.columns() / 3;
        let operations = products * 2 * hidden as u64 * SLOWNESS;
        let most = pass.part_after.map_or(u64::MAX, |limit| limit / operations);
        for (range, elements) in self.blocks.ranges(most) {
            let [x, y, _] = spread(range.len());
            let sizes = self.sizes(range);
            // Of wide heads a workgroup takes a part; eights are for no head so wide.
            let grid = [x, y, self.heads * (sizes.head_size as usize).div_ceil(64)];
            pass.dispatch(kernel, self.variant(), tensors, &sizes, grid)?;
            pass.worked(elements * operations)?;
        }
        Ok(())
    }
}

/// What the backward pass needs beside the inputs.
pub(crate) struct Saved {
    /// log of each row's sum of exponentials, \[tokens, heads\]
    lse: Tensor,
}

/// Returns the context, \[tokens, hidden\].
pub(crate) fn forward(pass: &mut Pass, attention: Attention) -> Result<(Tensor, Saved)> {
    let Attention { blocks, qkv, heads, .. } = attention;
    let context = pass.alloc(&[qkv.rows(), qkv.columns() / 3])?;
    let lse = pass.alloc(&[qkv.rows(), heads])?;
    let tensors = [&blocks.list, qkv, &context, &lse, attention.keys()];
    attention.dispatch(pass, &blocks.way.kernels().forward, 2, &tensors)?;
    Ok((context, Saved { lse }))
}

/// Returns the gradient of qkv, \[tokens, 3 * hidden\], from that of the context.
pub(crate) fn backward(
    pass: &mut Pass,
    attention: Attention,
    context: &Tensor,
    saved: &Saved,
    dcontext: &Tensor,
) -> Result<Tensor> {
    let Attention { blocks, qkv, .. } = attention;
    let dqkv = pass.alloc(qkv.shape())?;
    let delta = pass.alloc(saved.lse.shape())?;
    let keys = attention.keys();
    let kernels = blocks.way.kernels();
    let tensors = [&blocks.list, qkv, context, &saved.lse, dcontext, &delta, &dqkv, keys];
    attention.dispatch(pass, &kernels.backward_query, 3, &tensors)?;
    let tensors = [&blocks.list, qkv, &saved.lse, &delta, dcontext, &dqkv, keys];
    attention.dispatch(pass, &kernels.backward_key, 4, &tensors)?;
    Ok(dqkv)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, dot, f64s, random, run};

    struct Shape<'a> {
        cu_seqlens: &'a [u32],
        heads: usize,
        head_size: usize,
        /// Of dropout, 0 for none.
        probability: f64,
    }

    const SITE: u32 = 9;

    impl Shape<'_> {
        fn hidden(&self) -> usize {
            self.heads * self.head_size
        }

        fn tokens(&self) -> usize {
            *self.cu_seqlens.last().unwrap() as usize
        }

        /// Part 0, 1 or 2 (query, key, value) of a token for a head.
        fn part<'q>(&self, qkv: &'q [f64], t: usize, part: usize, head: usize) -> &'q [f64] {
            let at = (3 * t + part) * self.hidden() + head * self.head_size;
            &qkv[at..at + self.head_size]
        }

        /// What dropout multiplies the probability with that a token has for the i-th key of its sequence.
        fn mask(&self, t: usize, i: usize, head: usize) -> f64 {
            match self.probability {
                0.0 => 1.0,
                p => crate::ops::dropout::tests::twin(self.keys()[t], SITE, (head * 65_536 + i) as u32, p),
            }
        }

        fn keys(&self) -> Vec<u32> {
            (0..self.tokens() as u32).map(|t| t * 31 + 5).collect()
        }

        fn rows(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
            let sequences = self.cu_seqlens.windows(2).map(|pair| pair[0] as usize..pair[1] as usize);
            sequences.flat_map(|sequence| sequence.clone().map(move |t| (t, sequence.clone())))
        }

        fn probabilities(&self, qkv: &[f64], t: usize, keys: std::ops::Range<usize>, head: usize) -> Vec<f64> {
            let q = self.part(qkv, t, 0, head);
            let scale = 1.0 / (self.head_size as f64).sqrt();
            let s: Vec<f64> = keys.map(|j| scale * dot(q, self.part(qkv, j, 1, head))).collect();
            let largest = s.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = s.iter().map(|s| (s - largest).exp()).sum();
            s.iter().map(|s| (s - largest).exp() / sum).collect()
        }

        fn twin(&self, qkv: &[f64]) -> Vec<f64> {
            let mut context = vec![0.0; self.tokens() * self.hidden()];
            for (t, keys) in self.rows() {
                for head in 0..self.heads {
                    let p = self.probabilities(qkv, t, keys.clone(), head);
                    for (i, (p, j)) in p.iter().zip(keys.clone()).enumerate() {
                        let p = p * self.mask(t, i, head);
                        for (d, v) in self.part(qkv, j, 2, head).iter().enumerate() {
                            context[t * self.hidden() + head * self.head_size + d] += p * v;
                        }
                    }
                }
            }
            context
        }

        fn twin_backward(&self, qkv: &[f64], dcontext: &[f64]) -> Vec<f64> {
            let scale = 1.0 / (self.head_size as f64).sqrt();
            let mut dqkv = vec![0.0; qkv.len()];
            for (t, keys) in self.rows() {
                for head in 0..self.heads {
                    let at = |t: usize, part: usize| (3 * t + part) * self.hidden() + head * self.head_size;
                    let do_ = &dcontext[t * self.hidden() + head * self.head_size..][..self.head_size];
                    let p = self.probabilities(qkv, t, keys.clone(), head);
                    let dp = keys.clone().enumerate();
                    let dp: Vec<f64> =
                        dp.map(|(i, j)| self.mask(t, i, head) * dot(do_, self.part(qkv, j, 2, head))).collect();
                    let delta = dot(&p, &dp);
                    for (i, j) in keys.clone().enumerate() {
                        let ds = scale * p[i] * (dp[i] - delta);
                        for d in 0..self.head_size {
                            dqkv[at(t, 0) + d] += ds * qkv[at(j, 1) + d];
                            dqkv[at(j, 1) + d] += ds * qkv[at(t, 0) + d];
                            dqkv[at(j, 2) + d] += p[i] * self.mask(t, i, head) * do_[d];
                        }
                    }
                }
            }
            dqkv
        }
    }

    #[test]
    fn blocks_cover_every_row_once() {
        assert_eq!(blocks(&[0, 5, 5, 6], 4), [[0, 4, 0, 5], [4, 1, 0, 5], [5, 1, 5, 6]]);
        assert!(blocks(&[0], 4).is_empty());
    }

    #[test]
    fn ranges_of_blocks_follow_each_other_and_hold_as_much_as_they_may() {
        let gpu = crate::gpu::test_gpu();
        let mut pass = Pass::new(&gpu);
        let mut ranges = |cu_seqlens: &[u32], most| {
            let blocks = Blocks::upload(&mut pass, Way::Any, cu_seqlens).unwrap();
            blocks.ranges(most).collect::<Vec<_>>()
        };
        // Blocks of 4 x 5, 1 x 5, 1 x 1, 4 x 8 and 4 x 8 elements.
        let cu_seqlens = [0, 5, 5, 6, 14];
        assert_eq!(ranges(&cu_seqlens, u64::MAX), [(0..5, 90)]);
        assert_eq!(ranges(&cu_seqlens, 90), [(0..5, 90)]);
        assert_eq!(ranges(&cu_seqlens, 89), [(0..4, 58), (4..5, 32)]);
        assert_eq!(ranges(&cu_seqlens, 26), [(0..3, 26), (3..4, 32), (4..5, 32)]);
        assert_eq!(ranges(&cu_seqlens, 0), [(0..1, 20), (1..2, 5), (2..3, 1), (3..4, 32), (4..5, 32)]);
        assert!(ranges(&[0, 0], 7).is_empty());
    }

    #[test]
    fn the_twin_is_right() {
        for probability in [0.0, 0.4] {
            let shape = Shape { cu_seqlens: &[0, 3, 5], heads: 2, head_size: 3, probability };
            let (qkv, dcontext) = (f64s(&random(5 * 18, 1)), f64s(&random(5 * 6, 2)));
            let gradient = shape.twin_backward(&qkv, &dcontext);
            assert_gradient("qkv", |qkv| dot(&shape.twin(qkv), &dcontext), &qkv, &gradient);
        }
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        let shapes = [
            Shape { cu_seqlens: &[0, 1], heads: 1, head_size: 1, probability: 0.0 },
            Shape { cu_seqlens: &[0, 13, 20, 57, 58], heads: 3, head_size: 13, probability: 0.0 },
            Shape { cu_seqlens: &[0, 13, 20, 57, 58], heads: 3, head_size: 13, probability: 0.3 },
            Shape { cu_seqlens: &[0, 128, 257], heads: 1, head_size: 8, probability: 0.1 }, // on and beyond a piece
            Shape { cu_seqlens: &[0, 300], heads: 2, head_size: 5, probability: 0.0 },
            Shape { cu_seqlens: &[0, 9, 17], heads: 2, head_size: 72, probability: 0.5 }, // wider than a workgroup
            Shape { cu_seqlens: &[0, 1, 8, 16, 25, 58], heads: 2, head_size: 32, probability: 0.0 },
            Shape { cu_seqlens: &[0, 1, 8, 16, 25, 58], heads: 2, head_size: 32, probability: 0.2 },
            Shape { cu_seqlens: &[0, 17, 30, 165], heads: 1, head_size: 64, probability: 0.0 },
            Shape { cu_seqlens: &[0, 17, 30, 60], heads: 3, head_size: 64, probability: 0.3 },
        ];
        // What software adapters take is not to be left out in silence.
        assert!(!gpu.is_software() || Way::eights(&gpu, 64).is_some());
        let ways = |size| [Some(Way::Any), Way::eights(&gpu, size)].into_iter().flatten();
        for (shape, way) in shapes.iter().flat_map(|shape| ways(shape.head_size).map(move |way| (shape, way))) {
            let (tokens, hidden) = (shape.tokens(), shape.hidden());
            let Shape { cu_seqlens, heads, head_size, probability } = shape;
            let what = format!("{way:?}: {cu_seqlens:?} x {heads} x {head_size}, dropout {probability}");
            // Large enough scores that softmax is far from uniform.
            let qkv: Vec<f32> = random(tokens * 3 * hidden, 1).iter().map(|x| x * 3.0).collect();
            let dcontext = random(tokens * hidden, 2);
            let record = |pass: &mut Pass, part_after| {
                pass.part_after = part_after;
                let blocks = Blocks::upload(pass, way, shape.cu_seqlens)?;
                let qkv = pass.upload(&[tokens, 3 * hidden], &qkv)?;
                let dcontext = pass.upload(&[tokens, hidden], &dcontext)?;
                let keys = pass.upload(&[tokens], &shape.keys())?;
                let dropout = Dropout { keys: &keys, site: SITE, probability: shape.probability };
                let dropout = (shape.probability > 0.0).then_some(dropout);
                let attention = Attention { blocks: &blocks, qkv: &qkv, heads: shape.heads, dropout };
                let (context, saved) = forward(pass, attention)?;
                let dqkv = backward(pass, attention, &context, &saved, &dcontext)?;
                Ok(vec![context, dqkv])
            };
            let got = run(&gpu, |pass| record(pass, None));
            // In several dispatches, and of several blocks each.
            let operations = SLOWNESS * 4 * 300 * hidden as u64;
            assert!(run(&gpu, |pass| record(pass, Some(operations))) == got, "{what}");
            let qkv = f64s(&qkv);
            assert_close(&format!("context {what}"), &got[0], &shape.twin(&qkv), 1e-5);
            let dqkv = shape.twin_backward(&qkv, &f64s(&dcontext));
            assert_close(&format!("dqkv {what}"), &got[1], &dqkv, 5e-5);
        }
    }
}
