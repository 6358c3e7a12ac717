// The same of B, where it is no packed weight.

@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;

fn four_of_b(line: u32, length: u32, at: u32) -> vec4<f32> {
    return b[(line * length + at) / 4u];
}
