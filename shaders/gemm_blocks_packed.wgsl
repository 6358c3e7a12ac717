// How gemm_blocks.wgsl reads four elements of a row of B where it is a weight as pack.wgsl writes it: B^T, and behind all rows a
// scale for each. A row has an even number of words, and zeros at its end. packed.wgsl comes before this.

@group(0) @binding(1) var<storage, read> b: array<u32>;

fn four_of_b(line: u32, length: u32, at: u32) -> vec4<f32> {
    let first = line * words_of_a_row(length) + word_of(at);
    if BITS == 16u {
        return vec4<f32>(unpack2x16float(b[first]), unpack2x16float(b[first + 1u]));
    }
    let word = bitcast<i32>(b[first]);
    return vec4<f32>(vec4<i32>((word << 24u) >> 24u, (word << 16u) >> 24u, (word << 8u) >> 24u, word >> 24u));
}

fn scaled(sum: f32, column: u32) -> f32 {
    return sum * bitcast<f32>(b[sizes.n * words_of_a_row(sizes.k) + column]);
}
