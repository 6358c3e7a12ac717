// sum_of_squares: partial[first + block] = sum of g^2 over each block of 16,384 elements
// clip:           norm = unscale * sqrt(sum of all partials),  state = (norm, unscale * min(1, max_norm / (norm + 1e-6)))
//                 unscale is 1 / s where the gradients are s times as large as they should be, as f16 wants them
// adamw:          see adamw_params.wgsl, which comes before this file

const SUM_BLOCK = 16384u; // elements of a workgroup that sums
var<workgroup> sums: array<f32, THREADS>;

@group(0) @binding(0) var<storage, read> gradient: array<f32>;
@group(0) @binding(1) var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(THREADS)
fn sum_of_squares(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = group.y * groups.x + group.x;
    if block * SUM_BLOCK >= params.len {
        return;
    }
    let end = min(block * SUM_BLOCK + SUM_BLOCK, params.len);
    var sum = 0.0;
    for (var i = block * SUM_BLOCK + thread; i < end; i += THREADS) {
        sum = fma(gradient[i], gradient[i], sum);
    }
    sums[thread] = sum;
    workgroupBarrier();
    if thread == 0u {
        sum = 0.0;
        for (var i = 0u; i < THREADS; i++) {
            sum += sums[i];
        }
        partial[params.first + block] = sum;
    }
}

@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> state: array<f32>; // norm, coefficient

@compute @workgroup_size(THREADS)
fn clip(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    for (var i = thread; i < params.len; i += THREADS) {
        sum += partials[i];
    }
    sums[thread] = sum;
    workgroupBarrier();
    if thread == 0u {
        sum = 0.0;
        for (var i = 0u; i < THREADS; i++) {
            sum += sums[i];
        }
        let norm = sqrt(sum) * params.unscale;
        state[0] = norm;
        // A maximum of 0 means no clipping, as in TrainingArguments.
        state[1] = params.unscale * select(1.0, min(1.0, params.max_norm / (norm + 1e-6)), params.max_norm > 0.0);
    }
}

@group(0) @binding(1) var<storage, read> clipping: array<f32>;
@group(0) @binding(2) var<storage, read_write> value: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(THREADS)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // The exponent of infinity and NaN, as bits: drivers may assume that floats are finite.
    if (bitcast<u32>(clipping[0]) & 0x7f800000u) == 0x7f800000u {
        return;
    }
    let coefficient = clipping[1];
    let first = (group.y * groups.x + group.x) * BLOCK;
    let end = min(first + BLOCK, params.len);
    for (var i = first + thread; i < end; i += THREADS) {
        let g = gradient[i] * coefficient;
        let m1 = params.beta1 * m[i] + params.one_minus_beta1 * g;
        let v1 = params.beta2 * v[i] + params.one_minus_beta2 * g * g;
        m[i] = m1;
        v[i] = v1;
        value[i] = value[i] * params.decay - params.step_size * m1 / (sqrt(v1) / params.sqrt_correction2 + params.eps);
    }
}
