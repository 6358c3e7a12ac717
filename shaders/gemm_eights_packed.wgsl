// How gemm_eights.wgsl loads B where it is a weight as pack.wgsl writes it. gemm_packed_pairs.wgsl comes before this file.

// Eight rows of one column of op(B).
fn load_eight(column: u32, k: u32) -> mat2x4<f32> {
    let start = min(column, sizes.n - 1u) * pairs_of_a_row();
    if BITS == 16u {
        return mat2x4<f32>(four_halves(b[start + k / 4u]), four_halves(b[start + k / 4u + 1u]));
    }
    let x = b[start + k / 8u];
    return mat2x4<f32>(four_bytes(low(x)), four_bytes(high(x)));
}

// Four columns of them. Columns beyond the end repeat the last one, and are not stored.
fn load_block(k: u32, column: u32) -> Block {
    return block_of(
        load_eight(column, k),
        load_eight(column + 1u, k),
        load_eight(column + 2u, k),
        load_eight(column + 3u, k),
    );
}
