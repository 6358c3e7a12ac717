// B as pack.wgsl writes it, read two words at a time: B^T in BITS bits an element, which the host puts before this, as packed.wgsl, too.

@group(0) @binding(1) var<storage, read> b: array<Long>;

// What gemm_touch.wgsl wants to know of it, for the kernels that have that.
const LINE = 512u / BITS;

fn word_of_b(k: u32, column: u32) -> u32 {
    return low(b[min(column, sizes.n - 1u) * pairs_of_a_row() + k * BITS / 64u]);
}

// Two words each.
fn pairs_of_a_row() -> u32 {
    return words_of_a_row(sizes.k) / 2u;
}

fn scaled(sum: f32, column: u32) -> f32 {
    let two = pair(b[sizes.n * pairs_of_a_row() + column / 2u]);
    return sum * two[column % 2u];
}

fn four_halves(bits: Long) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(low(bits)), unpack2x16float(high(bits)));
}

fn four_bytes(bits: u32) -> vec4<f32> {
    let v = bitcast<i32>(bits);
    return vec4<f32>(vec4<i32>((v << 24u) >> 24u, (v << 16u) >> 24u, (v << 8u) >> 24u, v >> 24u));
}
