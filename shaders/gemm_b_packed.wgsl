// The same where B is a weight as pack.wgsl writes it: B^T in BITS bits an element (which the host puts before this), whole words
// to a row, and behind all rows a scale for each.

@group(0) @binding(1) var<storage, read> b: array<u32>;

fn words_of_a_row() -> u32 {
    let words = select((sizes.k + 3u) / 4u, (sizes.k + 1u) / 2u, BITS == 16u);
    return (words + 1u) / 2u * 2u;
}

fn load_b(k: u32, column: u32) -> f32 {
    let start = column * words_of_a_row();
    if BITS == 16u {
        return unpack2x16float(b[start + k / 2u])[k % 2u];
    }
    return f32(extractBits(bitcast<i32>(b[start + k / 4u]), k % 4u * 8u, 8u));
}

fn scaled(sum: f32, column: u32) -> f32 {
    return sum * bitcast<f32>(b[sizes.n * words_of_a_row() + column]);
}
