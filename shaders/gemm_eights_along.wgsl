// How gemm_eights.wgsl loads B where it is stored transposed: eight numbers of a row at a time. Rows have to be a multiple of eight long.

@group(0) @binding(1) var<storage, read> b: array<vec4<u64>>; // eight f32

fn load_eight(at: u32) -> mat2x4<f32> {
    let bits = b[at / 8u];
    return mat2x4<f32>(vec4<f32>(pair(bits.x), pair(bits.y)), vec4<f32>(pair(bits.z), pair(bits.w)));
}

// Four columns of eight rows of op(B). Columns beyond the end repeat the last one, and are not stored.
fn load_block(k: u32, column: u32) -> Block {
    let starts = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(sizes.n - 1u)) * sizes.k + k;
    return block_of(load_eight(starts.x), load_eight(starts.y), load_eight(starts.z), load_eight(starts.w));
}
