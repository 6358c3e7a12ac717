// How gemm_sixes.wgsl loads B in f32, two numbers at a time. Its rows, as stored, have to be of even length.
// gemm_vectors_rows.wgsl and gemm_touch_pairs.wgsl come before this file.

// Eight rows of one column, which is stored as a row.
struct Column { p0: vec2<f32>, p1: vec2<f32>, p2: vec2<f32>, p3: vec2<f32> }

fn load_column(column: u32, k: u32) -> Column {
    let start = min(column, sizes.n - 1u) * (sizes.k / 2u);
    let last = sizes.k / 2u - 1u;
    let at = k / 2u;
    return Column(
        pair(b[start + at]),
        pair(b[start + min(at + 1u, last)]),
        pair(b[start + min(at + 2u, last)]),
        pair(b[start + min(at + 3u, last)]),
    );
}

// Two columns of one row, which is stored as it is; `column` is even.
fn load_pair(k: u32, column: u32) -> vec2<f32> {
    return pair(b[min(k, sizes.k - 1u) * (sizes.n / 2u) + min(column, sizes.n - 2u) / 2u]);
}

// Beyond the end of B the last rows and columns are repeated; what comes of them is multiplied by 0, or not stored.
fn load_two(k: u32, column: u32) -> Two {
    if TRANS_B {
        let p = load_column(column, k);
        let q = load_column(column + 1u, k);
        return Two(
            vec2<f32>(p.p0.x, q.p0.x), vec2<f32>(p.p0.y, q.p0.y), vec2<f32>(p.p1.x, q.p1.x), vec2<f32>(p.p1.y, q.p1.y),
            vec2<f32>(p.p2.x, q.p2.x), vec2<f32>(p.p2.y, q.p2.y), vec2<f32>(p.p3.x, q.p3.x), vec2<f32>(p.p3.y, q.p3.y),
        );
    }
    return Two(
        load_pair(k, column), load_pair(k + 1u, column), load_pair(k + 2u, column), load_pair(k + 3u, column),
        load_pair(k + 4u, column), load_pair(k + 5u, column), load_pair(k + 6u, column), load_pair(k + 7u, column),
    );
}
