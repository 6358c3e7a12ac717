// forward: y = f(x);  backward: dx = dy f'(x).   f is in activated.wgsl, which comes before this file. Of gelu, f'(x) = Phi(x) + x phi(x).

override THREADS: u32 = 256u; // of a workgroup; 8 on software adapters

const BLOCK = 1024u; // elements of a workgroup

struct Sizes { len: u32 }
var<immediate> sizes: Sizes;

const INVERSE_SQRT_2_PI = 0.3989422804014327;

fn df(x: f32) -> f32 {
    if KIND == 0u {
        return 0.5 * (1.0 + erf(x * SQRT_HALF)) + x * INVERSE_SQRT_2_PI * exp(-0.5 * x * x);
    }
    if KIND == 1u {
        let th = safe_tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x));
        return 0.5 * (1.0 + th) + 0.5 * x * (1.0 - th * th) * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x * x);
    }
    return select(0.0, 1.0, x > 0.0);
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first = (group.y * groups.x + group.x) * BLOCK;
    let end = min(first + BLOCK, sizes.len);
    for (var i = first + thread; i < end; i += THREADS) {
        y[i] = activated(x[i]);
    }
}

@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(THREADS)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first = (group.y * groups.x + group.x) * BLOCK;
    let end = min(first + BLOCK, sizes.len);
    for (var i = first + thread; i < end; i += THREADS) {
        dx[i] = dy[i] * df(x[i]);
    }
}
