// How gemm_split.wgsl reads A: four elements of a row at once, so that rows have to be of a length that is a multiple of four.

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;

fn four_of_a(row: u32, at: u32) -> vec4<f32> {
    return a[(row * sizes.k + at) / 4u];
}
