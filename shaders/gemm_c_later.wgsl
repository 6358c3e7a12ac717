// How C is written where a kernel's loops over rows are unrolled: its sums first, as they are; then what becomes of them, in a loop
// that is compiled once instead of for every row. An invocation reads only what it wrote. gemm_c.wgsl comes before this file.

// One element of C, if it is inside.
fn store_sum(row: u32, column: u32, sum: f32) {
    if row < sizes.m && column < sizes.n {
        let at = row * sizes.n + column;
        var value = sum;
        if ACCUMULATE {
            value += c[at];
        }
        c[at] = value;
    }
}

// Four columns of one row of C, as far as they are inside.
fn store_sums(row: u32, column: u32, sums: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        store_sum(row, column + j, sums[j]);
    }
}

// Bias and activation for COLUMNS columns of the rows from `row` to before `end`, as far as they are inside.
fn finish(row: u32, end: u32, column: u32) {
    if !BIAS {
        return;
    }
    for (var i = row; i < min(end, sizes.m); i++) {
        for (var j = 0u; j < COLUMNS; j++) {
            if column + j < sizes.n {
                let at = i * sizes.n + column + j;
                c[at] = activated(scaled(c[at], column + j) + bias[column + j]);
            }
        }
    }
}
