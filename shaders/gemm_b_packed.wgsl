// The same where B is a weight as pack.wgsl writes it: B^T, and behind all rows a scale for each. packed.wgsl comes before this.

@group(0) @binding(1) var<storage, read> b: array<u32>;

fn load_b(k: u32, column: u32) -> f32 {
    return unpacked(b[column * words_of_a_row(sizes.k) + word_of(k)], k);
}

fn scaled(sum: f32, column: u32) -> f32 {
    return sum * bitcast<f32>(b[sizes.n * words_of_a_row(sizes.k) + column]);
}
