// s = x (+ residual);  normalized = (s - mean(s)) * rstd,  rstd = 1 / sqrt(var(s) + eps);  y = gamma * normalized + beta
// mean and (biased) variance over the columns of each row.
//
// backward:  g = gamma * dy;  dx = rstd * (g - mean(g) - normalized * mean(g * normalized))        (dresidual = dx)
// backward_parameters, for each block of rows:  dgamma = sum of dy * normalized,  dbeta = sum of dy

struct Sizes { rows: u32, columns: u32, eps: f32, rows_per_block: u32 }
var<immediate> sizes: Sizes;

override RESIDUAL: bool;

// Of a workgroup; 8 on software adapters. More than 32: of kernels with exactly that many, Apple's compiler is said to leave out barriers
// (KhronosGroup/MoltenVK#2711).
override THREADS: u32 = 64u;
var<workgroup> partial: array<vec2<f32>, THREADS>;

// The sum over all threads, in thread order. Every thread adds all of them: one barrier, and cheaper than a tree.
fn reduce(thread: u32, value: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    partial[thread] = value;
    workgroupBarrier();
    var sum = vec2<f32>();
    for (var i = 0u; i < THREADS; i++) {
        sum += partial[i];
    }
    return sum;
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> residual: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> normalized: array<f32>;
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= sizes.rows {
        return;
    }
    let n = f32(sizes.columns);
    let base = row * sizes.columns;
    var sum = 0.0;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        var s = x[base + i];
        if RESIDUAL {
            s += residual[base + i];
        }
        normalized[base + i] = s;
        sum += s;
    }
    let mean = reduce(thread, vec2<f32>(sum, 0.0)).x / n;
    // The variance from the differences, not from the mean of squares, which cancels.
    var squares = 0.0;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let d = normalized[base + i] - mean;
        squares += d * d;
    }
    let r = inverseSqrt(reduce(thread, vec2<f32>(squares, 0.0)).x / n + sizes.eps);
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let z = (normalized[base + i] - mean) * r;
        normalized[base + i] = z;
        y[base + i] = fma(gamma[i], z, beta[i]);
    }
    if thread == 0u {
        rstd[row] = r;
    }
}

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> gamma_in: array<f32>;
@group(0) @binding(2) var<storage, read> normalized_in: array<f32>;
@group(0) @binding(3) var<storage, read> rstd_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(THREADS)
fn backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= sizes.rows {
        return;
    }
    let base = row * sizes.columns;
    var sums = vec2<f32>();
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let g = gamma_in[i] * dy[base + i];
        sums += vec2<f32>(g, g * normalized_in[base + i]);
    }
    let means = reduce(thread, sums) / f32(sizes.columns);
    let r = rstd_in[row];
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let g = gamma_in[i] * dy[base + i];
        dx[base + i] = r * (g - means.x - normalized_in[base + i] * means.y);
    }
}

@group(0) @binding(1) var<storage, read> normalized_rows: array<f32>;
@group(0) @binding(2) var<storage, read_write> dgamma: array<f32>; // [blocks, columns]
@group(0) @binding(3) var<storage, read_write> dbeta: array<f32>; // [blocks, columns]

@compute @workgroup_size(THREADS)
fn backward_parameters(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let start = group.y * sizes.rows_per_block;
    let end = min(start + sizes.rows_per_block, sizes.rows);
    let beyond = min(group.x * 64u + 64u, sizes.columns);
    for (var column = group.x * 64u + thread; column < beyond; column += THREADS) {
        var sums = vec2<f32>();
        for (var row = start; row < end; row++) {
            let d = dy[row * sizes.columns + column];
            sums += vec2<f32>(d * normalized_rows[row * sizes.columns + column], d);
        }
        dgamma[group.y * sizes.columns + column] = sums.x;
        dbeta[group.y * sizes.columns + column] = sums.y;
    }
}
