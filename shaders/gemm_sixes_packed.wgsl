// How gemm_sixes.wgsl loads B where it is a weight as pack.wgsl writes it. gemm_packed_pairs.wgsl and gemm_vectors_rows.wgsl come before
// this file.

// Eight rows of one column of op(B).
struct Column { p: vec4<f32>, q: vec4<f32> }

fn load_column(column: u32, k: u32) -> Column {
    let pairs = pairs_of_a_row();
    let start = min(column, sizes.n - 1u) * pairs;
    if BITS == 16u {
        return Column(four_halves(b[start + k / 4u]), four_halves(b[start + min(k / 4u + 1u, pairs - 1u)]));
    }
    let bytes = b[start + k / 8u];
    return Column(four_bytes(low(bytes)), four_bytes(high(bytes)));
}

// Beyond the end of B the last rows and columns are repeated; what comes of them is multiplied by 0, or not stored.
fn load_two(k: u32, column: u32) -> Two {
    let l = load_column(column, k);
    let r = load_column(column + 1u, k);
    return Two(
        vec2<f32>(l.p.x, r.p.x), vec2<f32>(l.p.y, r.p.y), vec2<f32>(l.p.z, r.p.z), vec2<f32>(l.p.w, r.p.w),
        vec2<f32>(l.q.x, r.q.x), vec2<f32>(l.q.y, r.q.y), vec2<f32>(l.q.z, r.q.z), vec2<f32>(l.q.w, r.q.w),
    );
}
