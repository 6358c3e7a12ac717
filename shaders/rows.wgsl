// gather:  y[i, :] = x[rows[i], :];  gather_two: the same of two arrays
// scatter: y[rows[i], :] = x[i, :], for rows that are all different

struct Sizes { rows: u32, columns: u32 }
var<immediate> sizes: Sizes;

override THREADS: u32 = 64u; // of a workgroup; 8 on software adapters

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = group.y * groups.x + group.x;
    if i >= sizes.rows {
        return;
    }
    for (var j = thread; j < sizes.columns; j += THREADS) {
        y[i * sizes.columns + j] = x[rows[i] * sizes.columns + j];
    }
}

@group(0) @binding(3) var<storage, read> other: array<f32>;
@group(0) @binding(4) var<storage, read_write> y_of_other: array<f32>;

@compute @workgroup_size(THREADS)
fn gather_two(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = group.y * groups.x + group.x;
    if i >= sizes.rows {
        return;
    }
    for (var j = thread; j < sizes.columns; j += THREADS) {
        y[i * sizes.columns + j] = x[rows[i] * sizes.columns + j];
        y_of_other[i * sizes.columns + j] = other[rows[i] * sizes.columns + j];
    }
}

@compute @workgroup_size(THREADS)
fn scatter(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = group.y * groups.x + group.x;
    if i >= sizes.rows {
        return;
    }
    for (var j = thread; j < sizes.columns; j += THREADS) {
        y[rows[i] * sizes.columns + j] = x[i * sizes.columns + j];
    }
}
