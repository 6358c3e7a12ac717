// pool: of each sequence's rows of x, y[s, :] = their mean or their maximum
// pool_backward: dx[t, :] = what dy[s, :] gives each row of the sequence; a maximum's all goes to the first row that has it
// normalize: y[s, :] = x[s, :] / max(|x[s, :]|, 1e-12), |.| the 2-norm
// normalize_backward: dx[s, :] = (dy[s, :] - y[s, :] (y[s, :] . dy[s, :])) / |x[s, :]|, or dy[s, :] / 1e-12 below that norm

override KIND: u32; // 0 mean, 1 maximum

struct Sizes { rows: u32, columns: u32 } // sequences, hidden size
var<immediate> sizes: Sizes;

override THREADS: u32 = 64u; // of a workgroup; 8 on software adapters
var<workgroup> partial: array<f32, THREADS>;

@group(0) @binding(0) var<storage, read> x: array<f32>; // pool: [tokens, columns]; normalize: [rows, columns]
@group(0) @binding(1) var<storage, read> cu_seqlens: array<u32>; // [rows + 1]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [rows, columns]

@compute @workgroup_size(THREADS)
fn pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let s = group.y * groups.x + group.x;
    if s >= sizes.rows {
        return;
    }
    let start = cu_seqlens[s];
    let end = cu_seqlens[s + 1u];
    for (var i = thread; i < sizes.columns; i += THREADS) {
        var value = x[start * sizes.columns + i];
        for (var t = start + 1u; t < end; t++) {
            let next = x[t * sizes.columns + i];
            value = select(value + next, max(value, next), KIND == 1u);
        }
        if KIND == 0u {
            value /= f32(end - start);
        }
        y[s * sizes.columns + i] = value;
    }
}

@group(0) @binding(1) var<storage, read_write> normalized: array<f32>; // [rows, columns]

@compute @workgroup_size(THREADS)
fn normalize(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let s = group.y * groups.x + group.x;
    if s >= sizes.rows {
        return;
    }
    let base = s * sizes.columns;
    var sum = 0.0;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        sum = fma(x[base + i], x[base + i], sum);
    }
    partial[thread] = sum;
    workgroupBarrier();
    sum = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        sum += partial[i];
    }
    let norm = max(sqrt(sum), 1e-12);
    for (var i = thread; i < sizes.columns; i += THREADS) {
        normalized[base + i] = x[base + i] / norm;
    }
}

@group(0) @binding(2) var<storage, read> dy: array<f32>; // [rows, columns]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>; // [tokens, columns]

@compute @workgroup_size(THREADS)
fn pool_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let s = group.y * groups.x + group.x;
    if s >= sizes.rows {
        return;
    }
    let start = cu_seqlens[s];
    let end = cu_seqlens[s + 1u];
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let upstream = dy[s * sizes.columns + i];
        var winner = start;
        if KIND == 1u {
            for (var t = start + 1u; t < end; t++) {
                if x[t * sizes.columns + i] > x[winner * sizes.columns + i] {
                    winner = t;
                }
            }
        }
        for (var t = start; t < end; t++) {
            if KIND == 0u {
                dx[t * sizes.columns + i] = upstream / f32(end - start);
            } else {
                dx[t * sizes.columns + i] = select(0.0, upstream, t == winner);
            }
        }
    }
}

@group(0) @binding(1) var<storage, read> dnormalized: array<f32>; // [rows, columns]
@group(0) @binding(2) var<storage, read_write> dvectors: array<f32>; // [rows, columns]
var<workgroup> partial_product: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn normalize_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let s = group.y * groups.x + group.x;
    if s >= sizes.rows {
        return;
    }
    let base = s * sizes.columns;
    var square = 0.0;
    var product = 0.0;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        square = fma(x[base + i], x[base + i], square);
        product = fma(x[base + i], dnormalized[base + i], product);
    }
    partial[thread] = square;
    partial_product[thread] = product;
    workgroupBarrier();
    square = 0.0;
    product = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        square += partial[i];
        product += partial_product[i];
    }
    let norm = sqrt(square);
    for (var i = thread; i < sizes.columns; i += THREADS) {
        if norm < 1e-12 {
            dvectors[base + i] = dnormalized[base + i] / 1e-12;
        } else {
            dvectors[base + i] = (dnormalized[base + i] - x[base + i] / norm * (product / norm)) / norm;
        }
    }
}
