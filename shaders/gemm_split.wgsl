// C = A B^T (+ bias), or C += A B^T.   A: [m, k], B: [n, k], C: [m, n]
//
// The variant for the few rows of a fill on GPUs, where a tile's workgroups are too few to read B at the speed of its memory. So here
// four columns are a workgroup's, and its threads take the depth in turns, four elements each; then they add up what they have,
// in a fixed order, which is not that of the other kernels. gemm_c.wgsl comes before this file, and how four elements of A and of
// B are read and what becomes of a sum.
//
// There is no branch between reading and multiplying: compilers wait at each for what was read before. So what is beyond an end is
// read from within, and counts as zero, or is not written.

override ROWS: u32; // 4, 8, 12 or 16

const THREADS = 64u;
const STEP = 4u * THREADS; // of the depth, between two fours of a thread

// Rows that are added up at a time: with more, workgroup memory would be what there are few workgroups for on AMD's GPUs.
const GROUP = 4u;
// A sum of four columns for each of them and thread.
var<workgroup> parts: array<vec4<f32>, GROUP * THREADS>;

// What a thread has of B, on its way at once: nothing else hides how long that takes. A column of a matrix is one element of the
// depth of each of four columns of op(B).
struct Fetched { w0: mat4x4<f32>, w1: mat4x4<f32>, w2: mat4x4<f32> }

fn inside(at: u32) -> u32 {
    return min(at, sizes.k - 4u);
}

fn weights(column: u32, at: u32) -> mat4x4<f32> {
    let last = sizes.n - 1u;
    let place = inside(at);
    let counts = vec4<f32>(select(0.0, 1.0, at < sizes.k));
    let w0 = four_of_b(column, sizes.k, place) * counts;
    let w1 = four_of_b(min(column + 1u, last), sizes.k, place) * counts;
    let w2 = four_of_b(min(column + 2u, last), sizes.k, place) * counts;
    let w3 = four_of_b(min(column + 3u, last), sizes.k, place) * counts;
    return mat4x4<f32>(
        vec4<f32>(w0.x, w1.x, w2.x, w3.x),
        vec4<f32>(w0.y, w1.y, w2.y, w3.y),
        vec4<f32>(w0.z, w1.z, w2.z, w3.z),
        vec4<f32>(w0.w, w1.w, w2.w, w3.w),
    );
}

fn add_four(sum: vec4<f32>, x: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
    let two = fma(vec4<f32>(x.y), w[1], fma(vec4<f32>(x.x), w[0], sum));
    return fma(vec4<f32>(x.w), w[3], fma(vec4<f32>(x.z), w[2], two));
}

fn add_row(sum: vec4<f32>, row: u32, at: u32, fetched: Fetched) -> vec4<f32> {
    let line = min(row, sizes.m - 1u);
    let x0 = four_of_a(line, at);
    let x1 = four_of_a(line, inside(at + STEP));
    let x2 = four_of_a(line, inside(at + 2u * STEP));
    return add_four(add_four(add_four(sum, x0, fetched.w0), x1, fetched.w1), x2, fetched.w2);
}

// Four rows' sums, and what a thread's fours add to them.
fn add(sums: mat4x4<f32>, row: u32, at: u32, fetched: Fetched) -> mat4x4<f32> {
    return mat4x4<f32>(
        add_row(sums[0], row, at, fetched),
        add_row(sums[1], row + 1u, at, fetched),
        add_row(sums[2], row + 2u, at, fetched),
        add_row(sums[3], row + 3u, at, fetched),
    );
}

// The sum of four parts, that far from each other.
fn gathered(at: u32, distance: u32) -> vec4<f32> {
    return (parts[at] + parts[at + distance]) + (parts[at + 2u * distance] + parts[at + 3u * distance]);
}

// What all threads have of four rows, added up and written.
fn finish(row: u32, column: u32, thread: u32, sums: mat4x4<f32>) {
    parts[thread] = sums[0];
    parts[THREADS + thread] = sums[1];
    parts[2u * THREADS + thread] = sums[2];
    parts[3u * THREADS + thread] = sums[3];
    workgroupBarrier();
    // 64 parts become 16, 4 and one. A part is read by one thread, which writes to one of those that it read.
    let first = thread / 16u * THREADS + thread % 16u;
    parts[first] = gathered(first, 16u);
    workgroupBarrier();
    if thread < 16u {
        let second = thread / 4u * THREADS + thread % 4u;
        parts[second] = gathered(second, 4u);
    }
    workgroupBarrier();
    if thread < GROUP {
        store(row + thread, column, gathered(thread * THREADS, 1u));
    }
    // Before the next rows' parts are written.
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row0 = group.y * ROWS;
    let column0 = group.x * 4u;
    var s0 = mat4x4<f32>();
    var s1 = mat4x4<f32>();
    var s2 = mat4x4<f32>();
    var s3 = mat4x4<f32>();
    for (var at = 4u * thread; at < sizes.k; at += 3u * STEP) {
        let fetched = Fetched(weights(column0, at), weights(column0, at + STEP), weights(column0, at + 2u * STEP));
        s0 = add(s0, row0, at, fetched);
        if ROWS >= 8u {
            s1 = add(s1, row0 + 4u, at, fetched);
        }
        if ROWS >= 12u {
            s2 = add(s2, row0 + 8u, at, fetched);
        }
        if ROWS == 16u {
            s3 = add(s3, row0 + 12u, at, fetched);
        }
    }
    finish(row0, column0, thread, s0);
    if ROWS >= 8u {
        finish(row0 + 4u, column0, thread, s1);
    }
    if ROWS >= 12u {
        finish(row0 + 8u, column0, thread, s2);
    }
    if ROWS == 16u {
        finish(row0 + 12u, column0, thread, s3);
    }
}
