// forward: y = f(x);  backward: dx = dy f'(x)
//
// gelu:     f(x) = x Phi(x) = x (1 + erf(x / sqrt 2)) / 2               f'(x) = Phi(x) + x phi(x)
// gelu_new: f(x) = x (1 + tanh u) / 2,  u = sqrt(2 / pi) (x + 0.044715 x^3)
// relu:     f(x) = max(x, 0)

override KIND: u32; // 0 gelu, 1 gelu_new, 2 relu
override THREADS: u32 = 256u; // of a workgroup; 8 on software adapters

const BLOCK = 1024u; // elements of a workgroup

struct Sizes { len: u32 }
var<immediate> sizes: Sizes;

const SQRT_HALF = 0.7071067811865476;
const SQRT_2_OVER_PI = 0.7978845608028654;
const INVERSE_SQRT_2_PI = 0.3989422804014327;

// Abramowitz and Stegun 7.1.26: absolute error at most 1.5e-7. exp(-x^2) underflows to 0 for large x and never overflows.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - p * exp(-x * x));
}

// Some drivers compute tanh from exp(2 x), which overflows to inf / inf; at 10 it is 1 in f32.
fn safe_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -10.0, 10.0));
}

fn f(x: f32) -> f32 {
    if KIND == 0u {
        return 0.5 * x * (1.0 + erf(x * SQRT_HALF));
    }
    if KIND == 1u {
        return 0.5 * x * (1.0 + safe_tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)));
    }
    return max(x, 0.0);
}

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
        y[i] = f(x[i]);
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
