// y = x * mask / (1 - p), row by row; a row is a token. The gradient of x is the same of that of y.

struct Params { rows: u32, columns: u32, site: u32, threshold: u32, kept: f32 }
var<immediate> params: Params;

override THREADS: u32 = 64u; // of a workgroup; 8 on software adapters

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> keys: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [rows, columns]

@compute @workgroup_size(THREADS)
fn apply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let key = keys[row];
    for (var column = thread; column < params.columns; column += THREADS) {
        let at = row * params.columns + column;
        y[at] = x[at] * dropout(key, params.site, column, params.threshold, params.kept);
    }
}
