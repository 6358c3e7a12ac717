// How gemm_vectors.wgsl loads B in f32, two numbers at a time. Its rows, as stored, have to be a multiple of four long.
// gemm_vectors_rows.wgsl and gemm_touch_pairs.wgsl come before this file.

// Sixteen rows of one column of op(B), which is stored as a row. All of it at once: the columns of a wide matrix lie so far
// apart that the first-level cache does not keep many of them.
struct Column {
    p0: vec2<f32>, p1: vec2<f32>, p2: vec2<f32>, p3: vec2<f32>, p4: vec2<f32>, p5: vec2<f32>, p6: vec2<f32>, p7: vec2<f32>,
}

fn load_column(start: u32, k: u32) -> Column {
    let last = sizes.k / 2u - 1u;
    let at = k / 2u;
    let p0 = pair(b[start + at]);
    let p1 = pair(b[start + min(at + 1u, last)]);
    let p2 = pair(b[start + min(at + 2u, last)]);
    let p3 = pair(b[start + min(at + 3u, last)]);
    let p4 = pair(b[start + min(at + 4u, last)]);
    let p5 = pair(b[start + min(at + 5u, last)]);
    let p6 = pair(b[start + min(at + 6u, last)]);
    return Column(p0, p1, p2, p3, p4, p5, p6, pair(b[start + min(at + 7u, last)]));
}

// Two rows of op(B), of four columns' pairs.
fn interleave(p: vec2<f32>, q: vec2<f32>, r: vec2<f32>, s: vec2<f32>) -> mat2x4<f32> {
    return mat2x4<f32>(p.x, q.x, r.x, s.x, p.y, q.y, r.y, s.y);
}

// Beyond the end of B the last rows and columns are repeated; what comes of them is multiplied by 0, or not stored.
fn load_blocks(k: u32, column: u32) -> Blocks {
    if TRANS_B {
        let starts = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(sizes.n - 1u)) * (sizes.k / 2u);
        let p = load_column(starts.x, k);
        let q = load_column(starts.y, k);
        let r = load_column(starts.z, k);
        let s = load_column(starts.w, k);
        let m0 = interleave(p.p0, q.p0, r.p0, s.p0);
        let m1 = interleave(p.p1, q.p1, r.p1, s.p1);
        let m2 = interleave(p.p2, q.p2, r.p2, s.p2);
        let m3 = interleave(p.p3, q.p3, r.p3, s.p3);
        let m4 = interleave(p.p4, q.p4, r.p4, s.p4);
        let m5 = interleave(p.p5, q.p5, r.p5, s.p5);
        let m6 = interleave(p.p6, q.p6, r.p6, s.p6);
        let m7 = interleave(p.p7, q.p7, r.p7, s.p7);
        return Blocks(
            Block(m0[0], m0[1], m1[0], m1[1], m2[0], m2[1], m3[0], m3[1]),
            Block(m4[0], m4[1], m5[0], m5[1], m6[0], m6[1], m7[0], m7[1]),
        );
    }
    return Blocks(load_block(k, column), load_block(k + 8u, column));
}

fn load_block(k: u32, column: u32) -> Block {
    return Block(
        load_four(k, column), load_four(k + 1u, column), load_four(k + 2u, column), load_four(k + 3u, column),
        load_four(k + 4u, column), load_four(k + 5u, column), load_four(k + 6u, column), load_four(k + 7u, column),
    );
}

// Four columns of one row of op(B), which is stored as it is.
fn load_four(k: u32, column: u32) -> vec4<f32> {
    let stride = sizes.n / 2u;
    let at = min(k, sizes.k - 1u) * stride + min(column / 2u, stride - 2u);
    return vec4<f32>(pair(b[at]), pair(b[at + 1u]));
}
