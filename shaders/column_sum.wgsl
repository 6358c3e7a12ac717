// y[block, j] (= or +=) sum of x[i, j] over the rows i of each block

struct Sizes { rows: u32, columns: u32, rows_per_block: u32 }
var<immediate> sizes: Sizes;

override ACCUMULATE: bool;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn column_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let column = group.x * 64u + thread;
    if column >= sizes.columns {
        return;
    }
    let start = group.y * sizes.rows_per_block;
    let end = min(start + sizes.rows_per_block, sizes.rows);
    var sum = 0.0;
    for (var row = start; row < end; row++) {
        sum += x[row * sizes.columns + column];
    }
    let at = group.y * sizes.columns + column;
    if ACCUMULATE {
        sum += y[at];
    }
    y[at] = sum;
}
