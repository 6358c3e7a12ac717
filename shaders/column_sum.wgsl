// y[block, j] (= or +=) sum of x[i, j] over the rows i of each block

struct Sizes { rows: u32, columns: u32, rows_per_block: u32 }
var<immediate> sizes: Sizes;

override ACCUMULATE: bool;
override THREADS: u32 = 64u; // of a workgroup; 8 on software adapters

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn column_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let start = group.y * sizes.rows_per_block;
    let end = min(start + sizes.rows_per_block, sizes.rows);
    let beyond = min(group.x * 64u + 64u, sizes.columns);
    for (var column = group.x * 64u + thread; column < beyond; column += THREADS) {
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
}
