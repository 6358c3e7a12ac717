// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for GPUs, in blocks of several sizes. A workgroup of DOWN x ACROSS threads computes a tile of C, each thread HEIGHT
// rows and WIDTH columns of it, from tiles of A and B that are staged through workgroup memory, DEPTH deep. Matrices are read in
// pairs: see gemm_fours.wgsl, which comes before this file, as do gemm_c.wgsl, how B is read and what becomes of a sum.

override DOWN: u32;
override ACROSS: u32;
override HEIGHT: u32; // 1, 4 or 8
override WIDTH: u32; // 4 or 8
override DEPTH: u32; // a multiple of 8

override THREADS = DOWN * ACROSS;
override ROWS = DOWN * HEIGHT;
override COLUMNS = ACROSS * WIDTH;
// Fours of a tile that a thread stages: 1, 2 or 4.
override FOURS_A = ROWS * DEPTH / 4u / THREADS;
override FOURS_B = COLUMNS * DEPTH / 4u / THREADS;
// Four more, so that two threads of each of sixteen rows, which write four lines apart, hit 32 different banks; and a multiple
// of four, so that four columns can be read at once.
override STRIDE_A = ROWS + 4u;
override STRIDE_B = COLUMNS + 4u;

var<workgroup> tile_a: array<f32, DEPTH * STRIDE_A>; // [DEPTH, ROWS]
var<workgroup> tile_b: array<f32, DEPTH * STRIDE_B>; // [DEPTH, COLUMNS]

fn fetch_a(i: u32, row0: u32, k0: u32) -> vec4<f32> {
    let at = select(by_rows(i, ROWS), by_depth(i, ROWS), TRANS_A);
    if row0 + at.x >= sizes.m || k0 + at.y >= sizes.k {
        return vec4<f32>();
    }
    if TRANS_A {
        return four_of_a(k0 + at.y, sizes.m, row0 + at.x);
    }
    return four_of_a(row0 + at.x, sizes.k, k0 + at.y);
}

fn fetch_b(i: u32, column0: u32, k0: u32) -> vec4<f32> {
    let at = select(by_depth(i, COLUMNS), by_rows(i, COLUMNS), TRANS_B);
    if column0 + at.x >= sizes.n || k0 + at.y >= sizes.k {
        return vec4<f32>();
    }
    if TRANS_B {
        return four_of_b(column0 + at.x, sizes.k, k0 + at.y);
    }
    return four_of_b(k0 + at.y, sizes.n, column0 + at.x);
}

// Of a row, they go to four places of the depth.
fn put_a(i: u32, four: vec4<f32>) {
    let at = select(by_rows(i, ROWS), by_depth(i, ROWS), TRANS_A);
    let to = at.y * STRIDE_A + at.x;
    let step = select(STRIDE_A, 1u, TRANS_A);
    tile_a[to] = four.x;
    tile_a[to + step] = four.y;
    tile_a[to + 2u * step] = four.z;
    tile_a[to + 3u * step] = four.w;
}

fn put_b(i: u32, four: vec4<f32>) {
    let at = select(by_depth(i, COLUMNS), by_rows(i, COLUMNS), TRANS_B);
    let to = at.y * STRIDE_B + at.x;
    let step = select(1u, STRIDE_B, TRANS_B);
    tile_b[to] = four.x;
    tile_b[to + step] = four.y;
    tile_b[to + 2u * step] = four.z;
    tile_b[to + 3u * step] = four.w;
}

// What a thread has of two tiles on their way.
struct Fetched {
    a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>,
    b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>,
}

fn fetch(thread: u32, row0: u32, column0: u32, k0: u32) -> Fetched {
    var fetched: Fetched;
    fetched.a0 = fetch_a(thread, row0, k0);
    fetched.b0 = fetch_b(thread, column0, k0);
    if FOURS_A >= 2u {
        fetched.a1 = fetch_a(thread + THREADS, row0, k0);
    }
    if FOURS_B >= 2u {
        fetched.b1 = fetch_b(thread + THREADS, column0, k0);
    }
    if FOURS_A == 4u {
        fetched.a2 = fetch_a(thread + 2u * THREADS, row0, k0);
        fetched.a3 = fetch_a(thread + 3u * THREADS, row0, k0);
    }
    if FOURS_B == 4u {
        fetched.b2 = fetch_b(thread + 2u * THREADS, column0, k0);
        fetched.b3 = fetch_b(thread + 3u * THREADS, column0, k0);
    }
    return fetched;
}

fn put(thread: u32, fetched: Fetched) {
    put_a(thread, fetched.a0);
    put_b(thread, fetched.b0);
    if FOURS_A >= 2u {
        put_a(thread + THREADS, fetched.a1);
    }
    if FOURS_B >= 2u {
        put_b(thread + THREADS, fetched.b1);
    }
    if FOURS_A == 4u {
        put_a(thread + 2u * THREADS, fetched.a2);
        put_a(thread + 3u * THREADS, fetched.a3);
    }
    if FOURS_B == 4u {
        put_b(thread + 2u * THREADS, fetched.b2);
        put_b(thread + 3u * THREADS, fetched.b3);
    }
}

fn add_right(x: vec4<f32>, z: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    if WIDTH == 8u {
        return fma(x, z, sum);
    }
    return sum;
}

fn store_row(row: u32, column: u32, sums: vec4<f32>, further: vec4<f32>) {
    store(row, column, sums);
    if WIDTH == 8u {
        store(row, column + 4u * ACROSS, further);
    }
}

@compute @workgroup_size(THREADS)
fn gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row0 = group.y * ROWS;
    let column0 = group.x * COLUMNS;
    // A thread's rows lie together, and its columns in fours: neighbouring threads read neighbouring fours.
    let row = thread / ACROSS * HEIGHT;
    let column = thread % ACROSS * 4u;
    // Rows by name, not in arrays: where a loop over them stayed one, they would be kept in memory.
    var l0 = vec4<f32>();
    var r0 = vec4<f32>();
    var l1 = vec4<f32>();
    var r1 = vec4<f32>();
    var l2 = vec4<f32>();
    var r2 = vec4<f32>();
    var l3 = vec4<f32>();
    var r3 = vec4<f32>();
    var l4 = vec4<f32>();
    var r4 = vec4<f32>();
    var l5 = vec4<f32>();
    var r5 = vec4<f32>();
    var l6 = vec4<f32>();
    var r6 = vec4<f32>();
    var l7 = vec4<f32>();
    var r7 = vec4<f32>();
    // The next tiles are on their way while these are multiplied: with few workgroups, nothing else hides that.
    var next = fetch(thread, row0, column0, 0u);
    for (var k0 = 0u; k0 < sizes.k; k0 += DEPTH) {
        put(thread, next);
        workgroupBarrier();
        // Beyond the end they are zeros.
        next = fetch(thread, row0, column0, k0 + DEPTH);
        for (var k = 0u; k < DEPTH; k++) {
            let at = k * STRIDE_B + column;
            let y = vec4<f32>(tile_b[at], tile_b[at + 1u], tile_b[at + 2u], tile_b[at + 3u]);
            var z = vec4<f32>();
            if WIDTH == 8u {
                let further = at + 4u * ACROSS;
                z = vec4<f32>(tile_b[further], tile_b[further + 1u], tile_b[further + 2u], tile_b[further + 3u]);
            }
            let x = k * STRIDE_A + row;
            let x0 = vec4<f32>(tile_a[x]);
            l0 = fma(x0, y, l0);
            r0 = add_right(x0, z, r0);
            if HEIGHT >= 4u {
                let x1 = vec4<f32>(tile_a[x + 1u]);
                l1 = fma(x1, y, l1);
                r1 = add_right(x1, z, r1);
                let x2 = vec4<f32>(tile_a[x + 2u]);
                l2 = fma(x2, y, l2);
                r2 = add_right(x2, z, r2);
                let x3 = vec4<f32>(tile_a[x + 3u]);
                l3 = fma(x3, y, l3);
                r3 = add_right(x3, z, r3);
            }
            if HEIGHT == 8u {
                let x4 = vec4<f32>(tile_a[x + 4u]);
                l4 = fma(x4, y, l4);
                r4 = add_right(x4, z, r4);
                let x5 = vec4<f32>(tile_a[x + 5u]);
                l5 = fma(x5, y, l5);
                r5 = add_right(x5, z, r5);
                let x6 = vec4<f32>(tile_a[x + 6u]);
                l6 = fma(x6, y, l6);
                r6 = add_right(x6, z, r6);
                let x7 = vec4<f32>(tile_a[x + 7u]);
                l7 = fma(x7, y, l7);
                r7 = add_right(x7, z, r7);
            }
        }
        workgroupBarrier();
    }
    let r = row0 + row;
    let s = column0 + column;
    store_row(r, s, l0, r0);
    if HEIGHT >= 4u {
        store_row(r + 1u, s, l1, r1);
        store_row(r + 2u, s, l2, r2);
        store_row(r + 3u, s, l3, r3);
    }
    if HEIGHT == 8u {
        store_row(r + 4u, s, l4, r4);
        store_row(r + 5u, s, l5, r5);
        store_row(r + 6u, s, l6, r6);
        store_row(r + 7u, s, l7, r7);
    }
}
