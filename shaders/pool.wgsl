// pool: of each sequence's rows of x, y[s, :] = their mean, their first, or their maximum
// normalize: y[s, :] = x[s, :] / max(|x[s, :]|, 1e-12), |.| the 2-norm

override KIND: u32; // 0 mean, 1 first, 2 maximum

struct Sizes { rows: u32, columns: u32 } // sequences, hidden size
var<immediate> sizes: Sizes;

const THREADS = 64u;
var<workgroup> partial: array<f32, 64>;

@group(0) @binding(0) var<storage, read> x: array<f32>; // pool: [tokens, columns]; normalize: [rows, columns]
@group(0) @binding(1) var<storage, read> cu_seqlens: array<u32>; // [rows + 1]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
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
        if KIND != 1u {
            for (var t = start + 1u; t < end; t++) {
                let next = x[t * sizes.columns + i];
                value = select(value + next, max(value, next), KIND == 2u);
            }
        }
        if KIND == 0u {
            value /= f32(end - start);
        }
        y[s * sizes.columns + i] = value;
    }
}

@group(0) @binding(1) var<storage, read_write> normalized: array<f32>; // [rows, columns]

@compute @workgroup_size(64)
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
