// How gemm_vectors.wgsl loads B where it is a weight as pack.wgsl writes it. gemm_packed_pairs.wgsl and gemm_vectors_rows.wgsl come
// before this file.

// Sixteen rows of one column of op(B).
struct Column { q0: vec4<f32>, q1: vec4<f32>, q2: vec4<f32>, q3: vec4<f32> }

// Beyond the end of B the last rows and columns are repeated; what comes of them is multiplied by 0, or not stored.
fn load_column(column: u32, k: u32) -> Column {
    let pairs = pairs_of_a_row();
    let start = min(column, sizes.n - 1u) * pairs;
    if BITS == 16u {
        let at = k / 4u;
        return Column(
            four_halves(b[start + at]),
            four_halves(b[start + min(at + 1u, pairs - 1u)]),
            four_halves(b[start + min(at + 2u, pairs - 1u)]),
            four_halves(b[start + min(at + 3u, pairs - 1u)]),
        );
    }
    let x = b[start + k / 8u];
    let y = b[start + min(k / 8u + 1u, pairs - 1u)];
    return Column(four_bytes(low(x)), four_bytes(high(x)), four_bytes(low(y)), four_bytes(high(y)));
}

// Four columns of sixteen rows.
fn load_blocks(k: u32, column: u32) -> Blocks {
    let p = load_column(column, k);
    let q = load_column(column + 1u, k);
    let r = load_column(column + 2u, k);
    let s = load_column(column + 3u, k);
    let m0 = transpose(mat4x4<f32>(p.q0, q.q0, r.q0, s.q0));
    let m1 = transpose(mat4x4<f32>(p.q1, q.q1, r.q1, s.q1));
    let m2 = transpose(mat4x4<f32>(p.q2, q.q2, r.q2, s.q2));
    let m3 = transpose(mat4x4<f32>(p.q3, q.q3, r.q3, s.q3));
    return Blocks(
        Block(m0[0], m0[1], m0[2], m0[3], m1[0], m1[1], m1[2], m1[3]),
        Block(m2[0], m2[1], m2[2], m2[3], m3[0], m3[1], m3[2], m3[3]),
    );
}
