//! The sum of three table lookups, as it is or normalised, and the gradient of a table.

use crate::error::Result;
use crate::gpu::{Constants, Kernel, Packing, Pass, Tensor, spread};

const SOURCE: &str = concat!(
    include_str!("../../shaders/packed.wgsl"),
    include_str!("../../shaders/reduce.wgsl"),
    include_str!("../../shaders/moments.wgsl"),
    include_str!("../../shaders/embedding.wgsl"),
);
const VARIANTS: &[Constants] = &[&[("ACCUMULATE", 0.0)], &[("ACCUMULATE", 1.0)]];
const ELEMENTS: &[Constants] = &[&[("BITS", 32.0)], &[("BITS", 16.0)], &[("BITS", 8.0)]];
pub(crate) static FORWARD: Kernel = Kernel::new("embedding", SOURCE, "forward", ELEMENTS).narrowing().packing();
pub(crate) static FORWARD_NORMALIZED: Kernel =
    Kernel::new("embedding", SOURCE, "forward_normalized", ELEMENTS).narrowing().packing();
pub(crate) static SUM_ROWS: Kernel = Kernel::new("embedding", SOURCE, "sum_rows", VARIANTS).narrowing();
const WRITE: usize = 0;
const ADD: usize = 1;

/// Arrays of [`forward`]: ids of shape \[3, tokens\], those of the words, the positions and the token types; tables of shape \[.., columns\].
#[derive(Clone, Copy)]
pub(crate) struct Forward<'t> {
    pub(crate) ids: &'t Tensor,
    pub(crate) word: &'t Tensor,
    pub(crate) position: &'t Tensor,
    pub(crate) token_type: &'t Tensor,
}

/// The LayerNorm of [`forward_normalized`]: its parameters, \[columns\] each, and what keeps it from dividing by zero.
pub(crate) struct Norm<'t> {
    pub(crate) gamma: &'t Tensor,
    pub(crate) beta: &'t Tensor,
    pub(crate) eps: f32,
}

/// The shader's; the last two not for [`SUM_ROWS`].
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sizes {
    rows: u32,
    columns: u32,
    vocabulary: u32,
    eps: f32,
}

/// The variant of [`FORWARD`] and [`FORWARD_NORMALIZED`] for such a table of words.
pub(crate) fn variant(packing: Option<Packing>) -> usize {
    packing.map_or(0, |packing| 1 + packing as usize)
}

/// Returns the sum of the three rows of each token, \[tokens, columns\]. Ids must be within their tables.
pub(crate) fn forward(pass: &mut Pass, arrays: Forward) -> Result<Tensor> {
    let Forward { ids, word, position, token_type } = arrays;
    let (y, sizes) = output(pass, arrays, 0.0)?;
    let tensors = [ids, word, position, token_type, &y];
    pass.dispatch(&FORWARD, variant(word.packing()), &tensors, &sizes, spread(y.rows()))?;
    Ok(y)
}

/// [`forward`] and the LayerNorm behind it, of which nothing is kept for a backward pass.
pub(crate) fn forward_normalized(pass: &mut Pass, arrays: Forward, norm: Norm) -> Result<Tensor> {
    let Forward { ids, word, position, token_type } = arrays;
    let (y, sizes) = output(pass, arrays, norm.eps)?;
    let tensors = [ids, word, position, token_type, &y, norm.gamma, norm.beta];
    pass.dispatch(&FORWARD_NORMALIZED, variant(word.packing()), &tensors, &sizes, spread(y.rows()))?;
    Ok(y)
}

fn output(pass: &mut Pass, arrays: Forward, eps: f32) -> Result<(Tensor, Sizes)> {
    let y = pass.alloc(&[arrays.ids.columns(), arrays.word.columns()])?;
    let (rows, columns, vocabulary) = (y.rows() as u32, y.columns() as u32, arrays.word.rows() as u32);
    Ok((y, Sizes { rows, columns, vocabulary, eps }))
}

/// Rows one workgroup adds up: longer lists (a frequent token) are cut, summed in parallel, and summed again.
const ROWS_PER_SUM: usize = 64;

/// Which rows of dy belong to each row of a table, in a fixed order. Built by the host, once a batch.
#[derive(Debug)]
pub(crate) struct Occurrences {
    /// Positions of dy, grouped.
    rows: Vec<u32>,
    /// Where each group begins in `rows`; one more than groups.
    starts: Vec<u32>,
    /// The table's row of each group.
    ids: Vec<u32>,
}

impl Occurrences {
    /// Groups positions by id, leaving out those whose id is `ignored` (a table's padding row, which is not trained).
    pub(crate) fn new(ids: &[u32], ignored: Option<u32>) -> Self {
        let mut order: Vec<u32> = (0..ids.len() as u32).filter(|&row| Some(ids[row as usize]) != ignored).collect();
        order.sort_by_key(|&row| ids[row as usize]); // stable: ascending within each id
        Self::grouped(order, |row| ids[row as usize])
    }

    fn grouped(rows: Vec<u32>, id_of: impl Fn(u32) -> u32) -> Self {
        let (mut starts, mut ids) = (Vec::new(), Vec::new());
        for (at, &row) in rows.iter().enumerate() {
            if ids.last() != Some(&id_of(row)) {
                starts.push(at as u32);
                ids.push(id_of(row));
            }
        }
        starts.push(rows.len() as u32);
        Self { rows, starts, ids }
    }

    /// Cuts the groups into pieces of at most [`ROWS_PER_SUM`] rows: the first stage sums each piece into a row of its own,
    /// the second sums the pieces of each group. `None` where every group is short enough already.
    fn split(&self) -> Option<(Self, Self)> {
        let lengths = self.starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        if lengths.clone().all(|length| length <= ROWS_PER_SUM) {
            return None;
        }
        let (mut starts, mut owners) = (Vec::new(), Vec::new());
        for (group, length) in lengths.enumerate() {
            for offset in (0..length).step_by(ROWS_PER_SUM) {
                starts.push(self.starts[group] + offset as u32);
                owners.push(self.ids[group]);
            }
        }
        let pieces = owners.len() as u32;
        starts.push(self.rows.len() as u32);
        let first = Self { rows: self.rows.clone(), starts, ids: (0..pieces).collect() };
        Some((first, Self::grouped((0..pieces).collect(), |piece| owners[piece as usize])))
    }
}

/// dtable\[id, :\] += sum of dy\[row, :\] over the rows where that id occurred.
pub(crate) fn backward(pass: &mut Pass, dy: &Tensor, occurrences: &Occurrences, dtable: &Tensor) -> Result<()> {
    match occurrences.split() {
        None => sum_rows(pass, ADD, dy, occurrences, dtable),
        Some((pieces, groups)) => {
            let partial = pass.alloc(&[pieces.ids.len(), dy.columns()])?;
            sum_rows(pass, WRITE, dy, &pieces, &partial)?;
            backward(pass, &partial, &groups, dtable)
        }
    }
}

fn sum_rows(pass: &mut Pass, variant: usize, x: &Tensor, list: &Occurrences, target: &Tensor) -> Result<()> {
    let groups = list.ids.len();
    let rows = pass.upload(&[list.rows.len()], &list.rows)?;
    let starts = pass.upload(&[groups + 1], &list.starts)?;
    let ids = pass.upload(&[groups], &list.ids)?;
    let params = Sizes { rows: groups as u32, columns: x.columns() as u32, vocabulary: 0, eps: 0.0 };
    pass.dispatch(&SUM_ROWS, variant, &[x, &rows, &starts, &ids, target], &params, spread(groups))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, dot, f64s, random, run};
    use crate::ops::layer_norm::tests::{EPS, twin as layer_norm};
    use crate::ops::pack;

    fn twin(tables: [&[f64]; 3], ids: [&[u32]; 3], columns: usize) -> Vec<f64> {
        let row = |table: &[f64], id: u32, j: usize| table[id as usize * columns + j];
        let at = |t: usize, j: usize| (0..3).map(|k| row(tables[k], ids[k][t], j)).sum::<f64>();
        (0..ids[0].len() * columns).map(|i| at(i / columns, i % columns)).collect()
    }

    fn twin_backward(dy: &[f64], ids: &[u32], rows: usize, columns: usize, ignored: Option<u32>) -> Vec<f64> {
        let mut dtable = vec![0.0; rows * columns];
        for (t, &id) in ids.iter().enumerate().filter(|&(_, &id)| Some(id) != ignored) {
            for j in 0..columns {
                dtable[id as usize * columns + j] += dy[t * columns + j];
            }
        }
        dtable
    }

    #[test]
    fn the_twin_is_right() {
        let ids: [&[u32]; 3] = [&[1, 0, 1, 3], &[0, 1, 2, 0], &[0, 0, 1, 1]];
        let tables = [(8, 1), (6, 2), (4, 3)].map(|(n, seed)| f64s(&random(n, seed)));
        let dy = f64s(&random(8, 4));
        let [word, position, token_type] = &tables;
        let f = |word: &[f64]| dot(&twin([word, position, token_type], ids, 2), &dy);
        assert_gradient("word", f, word, &twin_backward(&dy, ids[0], 4, 2, None));
    }

    #[test]
    fn packed_tables_are_read_as_they_were_written() {
        let gpu = crate::gpu::test_gpu();
        for (tokens, columns, vocabulary) in [(1, 1, 1), (13, 37, 7), (30, 70, 11)] {
            let ids: Vec<u32> = (0..tokens as u32).map(|t| t * 7 % vocabulary as u32).collect();
            let (table, gamma) = (random(vocabulary * columns, 1), random(columns, 2));
            for packing in [Packing::Float16, Packing::Int8] {
                let shape = [vocabulary, columns];
                let words = pack::tests::unpacked(&pack::tests::words(&gpu, &table, shape, packing), shape, packing);
                let got = run(&gpu, |pass| {
                    let table = pass.upload(&shape, &table)?;
                    let word = pack::pack_in(pass, &table, packing, "a table")?;
                    let zeros = pass.upload(&[1, columns], &vec![0f32; columns])?;
                    let ids = pass.upload(&[3, tokens], &[&ids[..], &vec![0; 2 * tokens]].concat())?;
                    let arrays = Forward { ids: &ids, word: &word, position: &zeros, token_type: &zeros };
                    let norm = Norm { gamma: &pass.upload(&[columns], &gamma)?, beta: &zeros, eps: EPS as f32 };
                    Ok(vec![forward(pass, arrays)?, forward_normalized(pass, arrays, norm)?])
                });
                let want: Vec<f64> =
                    (0..tokens * columns).map(|i| words[ids[i / columns] as usize * columns + i % columns]).collect();
                assert_close(&format!("{packing:?}"), &got[0], &want, 1e-6);
                let want = layer_norm(&want, &f64s(&gamma), &vec![0.0; columns]);
                assert_close(&format!("{packing:?}, normalized"), &got[1], &want, 2e-5);
            }
        }
    }

    #[test]
    fn equals_its_twin() {
        let gpu = crate::gpu::test_gpu();
        // One token 5,000 times needs three stages.
        for (tokens, columns, vocabulary) in [(1, 1, 1), (13, 37, 7), (5000, 3, 2), (300, 70, 11)] {
            let ids = |rows: usize, seed| -> Vec<u32> {
                random(tokens, seed).iter().map(|x| ((x + 1.0) / 2.001 * rows as f32) as u32).collect()
            };
            let ids = [ids(vocabulary, 1), ids(40, 2), ids(2, 3)];
            let tables = [(vocabulary, 4), (40, 5), (2, 6)].map(|(rows, seed)| random(rows * columns, seed));
            let dy = random(tokens * columns, 7);
            let norm = [random(columns, 9), random(columns, 10)];
            for ignored in [None, Some(0)] {
                let before = random(vocabulary * columns, 8);
                let got = run(&gpu, |pass| {
                    let word = pass.upload(&[vocabulary, columns], &tables[0])?;
                    let position = pass.upload(&[40, columns], &tables[1])?;
                    let token_type = pass.upload(&[2, columns], &tables[2])?;
                    let all_ids = pass.upload(&[3, tokens], &ids.concat())?;
                    let arrays = Forward { ids: &all_ids, word: &word, position: &position, token_type: &token_type };
                    let y = forward(pass, arrays)?;
                    let [gamma, beta] = [&norm[0], &norm[1]].map(|values| pass.upload(&[columns], values));
                    let norm = Norm { gamma: &gamma?, beta: &beta?, eps: EPS as f32 };
                    let normalized = forward_normalized(pass, arrays, norm)?;
                    let dtable = pass.upload(&[vocabulary, columns], &before)?;
                    let dy = pass.upload(&[tokens, columns], &dy)?;
                    backward(pass, &dy, &Occurrences::new(&ids[0], ignored), &dtable)?;
                    Ok(vec![y, dtable, normalized])
                });
                let tables = tables.each_ref().map(|table| f64s(table));
                let y = twin(tables.each_ref().map(|t| t.as_slice()), ids.each_ref().map(|i| i.as_slice()), columns);
                let sums = twin_backward(&f64s(&dy), &ids[0], vocabulary, columns, ignored);
                let dtable: Vec<f64> = sums.iter().zip(&before).map(|(a, &b)| a + f64::from(b)).collect();
                assert_close("y", &got[0], &y, 1e-6);
                let want = layer_norm(&y, &f64s(&norm[0]), &f64s(&norm[1]));
                assert_close("normalized", &got[2], &want, 2e-5);
                assert_close("dtable", &got[1], &dtable, 1e-5);
            }
        }
    }
}
