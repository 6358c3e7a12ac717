// AdamW of four elements at a time, read and written as two words of 64 bits, for lengths that are a multiple of four: on software
// Vulkan a load is a gather, or a loop over the lanes, whatever its width. adamw_params.wgsl comes before this file.

@group(0) @binding(0) var<storage, read> gradient: array<vec2<u64>>;
@group(0) @binding(1) var<storage, read> clipping: array<f32>;
@group(0) @binding(2) var<storage, read_write> value: array<vec2<u64>>;
@group(0) @binding(3) var<storage, read_write> m: array<vec2<u64>>;
@group(0) @binding(4) var<storage, read_write> v: array<vec2<u64>>;

fn two(bits: u64) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(u32(bits)), bitcast<f32>(u32(bits >> 32u)));
}

fn four(bits: vec2<u64>) -> vec4<f32> {
    return vec4<f32>(two(bits.x), two(bits.y));
}

fn bits_of_two(x: vec2<f32>) -> u64 {
    return u64(bitcast<u32>(x.x)) | (u64(bitcast<u32>(x.y)) << 32u);
}

fn bits(x: vec4<f32>) -> vec2<u64> {
    return vec2<u64>(bits_of_two(x.xy), bits_of_two(x.zw));
}

@compute @workgroup_size(THREADS)
fn adamw_fours(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if (bitcast<u32>(clipping[0]) & 0x7f800000u) == 0x7f800000u {
        return;
    }
    let coefficient = clipping[1];
    let first = (group.y * groups.x + group.x) * BLOCK;
    let end = min(first + BLOCK, params.len) / 4u;
    for (var i = first / 4u + thread; i < end; i += THREADS) {
        let g = four(gradient[i]) * coefficient;
        let m1 = params.beta1 * four(m[i]) + params.one_minus_beta1 * g;
        let v1 = params.beta2 * four(v[i]) + params.one_minus_beta2 * g * g;
        m[i] = bits(m1);
        v[i] = bits(v1);
        let step = params.step_size * m1 / (sqrt(v1) / params.sqrt_correction2 + params.eps);
        value[i] = bits(four(value[i]) * params.decay - step);
    }
}
