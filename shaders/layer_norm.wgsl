// s = drop(x) (+ residual);  normalized = (s - mean(s)) * rstd,  rstd = 1 / sqrt(var(s) + eps);  y = gamma * normalized + beta
// mean and (biased) variance over the columns of each row.
//
// drop(x) is x, or with DROPOUT what random.wgsl leaves of it; a row is a token. That, reduce.wgsl and moments.wgsl come before this.
//
// backward:  g = gamma * dy;  ds = rstd * (g - mean(g) - normalized * mean(g * normalized));  dresidual = ds,  dx = drop(ds)
// backward_parameters, for each block of rows:  dgamma = sum of dy * normalized,  dbeta = sum of dy

struct Sizes { rows: u32, columns: u32, eps: f32, rows_per_block: u32, site: u32, threshold: u32, kept: f32 }
var<immediate> sizes: Sizes;

override RESIDUAL: bool;
override DROPOUT: bool;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> residual: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> normalized: array<f32>;
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;
@group(0) @binding(7) var<storage, read> keys: array<u32>; // [rows]

fn s_at(row: u32, i: u32) -> f32 {
    let at = row * sizes.columns + i;
    var s = x[at];
    if DROPOUT {
        s *= dropout(keys[row], sizes.site, i, sizes.threshold, sizes.kept);
    }
    if RESIDUAL {
        s += residual[at];
    }
    return s;
}

fn hold(at: u32, s: f32) {
    normalized[at] = s;
}

fn held(at: u32) -> f32 {
    return normalized[at];
}

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
    let base = row * sizes.columns;
    let m = moments(row, thread);
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let z = (normalized[base + i] - m.x) * m.y;
        normalized[base + i] = z;
        y[base + i] = fma(gamma[i], z, beta[i]);
    }
    if thread == 0u {
        rstd[row] = m.y;
    }
}

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> gamma_in: array<f32>;
@group(0) @binding(2) var<storage, read> normalized_in: array<f32>;
@group(0) @binding(3) var<storage, read> rstd_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> ds: array<f32>;

// mean(g) and mean(g * normalized) of a row
fn means(base: u32, thread: u32) -> vec2<f32> {
    var sums = vec2<f32>();
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let g = gamma_in[i] * dy[base + i];
        sums += vec2<f32>(g, g * normalized_in[base + i]);
    }
    return reduce(thread, sums) / f32(sizes.columns);
}

fn ds_at(base: u32, i: u32, r: f32, mean: vec2<f32>) -> f32 {
    return r * (gamma_in[i] * dy[base + i] - mean.x - normalized_in[base + i] * mean.y);
}

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
    let mean = means(base, thread);
    let r = rstd_in[row];
    for (var i = thread; i < sizes.columns; i += THREADS) {
        ds[base + i] = ds_at(base, i, r, mean);
    }
}

@group(0) @binding(5) var<storage, read> keys_in: array<u32>; // [rows]
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(THREADS)
fn backward_dropout(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= sizes.rows {
        return;
    }
    let base = row * sizes.columns;
    let mean = means(base, thread);
    let r = rstd_in[row];
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let d = ds_at(base, i, r, mean);
        ds[base + i] = d;
        dx[base + i] = d * dropout(keys_in[row], sizes.site, i, sizes.threshold, sizes.kept);
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
