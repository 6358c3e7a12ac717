// How gemm_eights.wgsl loads B where it is stored as it is: four numbers of a row at a time. Rows have to be a multiple of four long.

@group(0) @binding(1) var<storage, read> b: array<vec2<u64>>; // four f32

fn load_four(at: u32) -> vec4<f32> {
    let bits = b[at / 4u];
    return vec4<f32>(pair(bits.x), pair(bits.y));
}

// Four columns of eight rows of op(B). Beyond the end of B the last rows and columns are repeated; what comes of them is
// multiplied by 0, or not stored.
fn load_block(k: u32, column: u32) -> Block {
    let s = min(column, sizes.n - 4u);
    let last = sizes.k - 1u;
    return Block(
        load_four(min(k, last) * sizes.n + s),
        load_four(min(k + 1u, last) * sizes.n + s),
        load_four(min(k + 2u, last) * sizes.n + s),
        load_four(min(k + 3u, last) * sizes.n + s),
        load_four(min(k + 4u, last) * sizes.n + s),
        load_four(min(k + 5u, last) * sizes.n + s),
        load_four(min(k + 6u, last) * sizes.n + s),
        load_four(min(k + 7u, last) * sizes.n + s),
    );
}
