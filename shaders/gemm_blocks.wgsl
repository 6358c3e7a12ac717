// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for GPUs, in blocks of several sizes. A workgroup of DOWN x ACROSS threads computes a tile of C, each thread HEIGHT
// rows and WIDTH columns of it, from tiles of A and B that are staged through workgroup memory, DEPTH deep. Matrices are read in
// pairs: see gemm_fours.wgsl, which comes before this file, as do how B is read and what becomes of a sum.

override TRANS_A: bool; // A is stored [k, m]
override TRANS_B: bool; // B is stored [n, k]
override BIAS: bool; // bias[n] is added
override ACCUMULATE: bool; // C += instead of C =
override DOWN: u32;
override ACROSS: u32;
override HEIGHT: u32; // at most 8
override WIDTH: u32; // 4 or 8
override DEPTH: u32; // a multiple of 8

override THREADS = DOWN * ACROSS;
override ROWS = DOWN * HEIGHT;
override COLUMNS = ACROSS * WIDTH;
// Four more, so that two threads of each of sixteen rows, which write four lines apart, hit 32 different banks; and a multiple
// of four, so that four columns can be read at once.
override STRIDE_A = ROWS + 4u;
override STRIDE_B = COLUMNS + 4u;

struct Sizes { m: u32, n: u32, k: u32 }

@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<immediate> sizes: Sizes;

var<workgroup> tile_a: array<f32, DEPTH * STRIDE_A>; // [DEPTH, ROWS]
var<workgroup> tile_b: array<f32, DEPTH * STRIDE_B>; // [DEPTH, COLUMNS]

fn stage_a(thread: u32, row0: u32, k0: u32) {
    for (var i = thread; i < ROWS * DEPTH / 4u; i += THREADS) {
        var four = vec4<f32>();
        if TRANS_A {
            let at = by_depth(i, ROWS);
            if row0 + at.x < sizes.m && k0 + at.y < sizes.k {
                four = four_of_a(k0 + at.y, sizes.m, row0 + at.x);
            }
            let to = at.y * STRIDE_A + at.x;
            tile_a[to] = four.x;
            tile_a[to + 1u] = four.y;
            tile_a[to + 2u] = four.z;
            tile_a[to + 3u] = four.w;
        } else {
            let at = by_rows(i, ROWS);
            if row0 + at.x < sizes.m && k0 + at.y < sizes.k {
                four = four_of_a(row0 + at.x, sizes.k, k0 + at.y);
            }
            let to = at.y * STRIDE_A + at.x;
            tile_a[to] = four.x;
            tile_a[to + STRIDE_A] = four.y;
            tile_a[to + 2u * STRIDE_A] = four.z;
            tile_a[to + 3u * STRIDE_A] = four.w;
        }
    }
}

fn stage_b(thread: u32, column0: u32, k0: u32) {
    for (var i = thread; i < COLUMNS * DEPTH / 4u; i += THREADS) {
        var four = vec4<f32>();
        if TRANS_B {
            let at = by_rows(i, COLUMNS);
            if column0 + at.x < sizes.n && k0 + at.y < sizes.k {
                four = four_of_b(column0 + at.x, sizes.k, k0 + at.y);
            }
            let to = at.y * STRIDE_B + at.x;
            tile_b[to] = four.x;
            tile_b[to + STRIDE_B] = four.y;
            tile_b[to + 2u * STRIDE_B] = four.z;
            tile_b[to + 3u * STRIDE_B] = four.w;
        } else {
            let at = by_depth(i, COLUMNS);
            if column0 + at.x < sizes.n && k0 + at.y < sizes.k {
                four = four_of_b(k0 + at.y, sizes.n, column0 + at.x);
            }
            let to = at.y * STRIDE_B + at.x;
            tile_b[to] = four.x;
            tile_b[to + 1u] = four.y;
            tile_b[to + 2u] = four.z;
            tile_b[to + 3u] = four.w;
        }
    }
}

fn store(row: u32, column: u32, sums: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if row < sizes.m && column + j < sizes.n {
            let at = row * sizes.n + column + j;
            var value = scaled(sums[j], column + j);
            if BIAS {
                value += bias[column + j];
            }
            if ACCUMULATE {
                value += c[at];
            }
            c[at] = activated(value);
        }
    }
}

@compute @workgroup_size(THREADS)
fn gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row0 = group.y * ROWS;
    let column0 = group.x * COLUMNS;
    // A thread's rows lie together, and its columns in fours: neighbouring threads read neighbouring fours.
    let row = thread / ACROSS * HEIGHT;
    let column = thread % ACROSS * 4u;
    var left: array<vec4<f32>, 8>;
    var right: array<vec4<f32>, 8>;
    for (var i = 0u; i < HEIGHT; i++) {
        left[i] = vec4<f32>();
        right[i] = vec4<f32>();
    }
    for (var k0 = 0u; k0 < sizes.k; k0 += DEPTH) {
        stage_a(thread, row0, k0);
        stage_b(thread, column0, k0);
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let at = k * STRIDE_B + column;
            let y = vec4<f32>(tile_b[at], tile_b[at + 1u], tile_b[at + 2u], tile_b[at + 3u]);
            var z = vec4<f32>();
            if WIDTH == 8u {
                let further = at + 4u * ACROSS;
                z = vec4<f32>(tile_b[further], tile_b[further + 1u], tile_b[further + 2u], tile_b[further + 3u]);
            }
            for (var i = 0u; i < HEIGHT; i++) {
                let x = vec4<f32>(tile_a[k * STRIDE_A + row + i]);
                left[i] = fma(x, y, left[i]);
                if WIDTH == 8u {
                    right[i] = fma(x, z, right[i]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < HEIGHT; i++) {
        store(row0 + row + i, column0 + column, left[i]);
        if WIDTH == 8u {
            store(row0 + row + i, column0 + column + 4u * ACROSS, right[i]);
        }
    }
}
