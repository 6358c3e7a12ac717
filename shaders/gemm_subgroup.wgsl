// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for adapters that execute a subgroup as one vector (software Vulkan above all): no workgroup memory and no
// barrier. A workgroup of 32 threads computes 16 x 128 of C, each thread 16 rows x 4 columns. Eight lanes of a subgroup
// hold a 16 x 8 piece of A, one column each, and hand it round by broadcasts. Subgroups have at least 8 lanes; how
// threads are numbered into subgroups does not matter. The host puts before this file how B is read, and what becomes of a
// sum.

override TRANS_A: bool; // A is stored [k, m]
override TRANS_B: bool; // B is stored [n, k]
override BIAS: bool; // bias[n] is added
override ACCUMULATE: bool; // C += instead of C =

struct Sizes { m: u32, n: u32, k: u32 }

@group(0) @binding(0) var<storage, read> a: array<Element>; // f32 or f16, as the host says
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<immediate> sizes: Sizes;

const ROWS = 16u;
const COLUMNS = 128u;
const DEPTH = 8u;

fn load_a(row: u32, k: u32) -> f32 {
    // Rows beyond the end repeat the last one: their results are not stored.
    let r = min(row, sizes.m - 1u);
    return f32(a[select(r * sizes.k + k, k * sizes.m + r, TRANS_A)]);
}

// Columns 4 x of one row of op(B). `s` holds the four column numbers, the last one repeated beyond the end.
fn load_four(k: u32, s: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(load_b(k, s.x), load_b(k, s.y), load_b(k, s.z), load_b(k, s.w));
}

@compute @workgroup_size(32)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let row0 = group.y * ROWS;
    let column = group.x * COLUMNS + thread * 4u;
    let s = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(sizes.n - 1u));
    var acc: array<vec4<f32>, 16>;
    for (var i = 0u; i < ROWS; i++) {
        acc[i] = vec4<f32>();
    }
    let whole = sizes.k / DEPTH * DEPTH;
    for (var k = 0u; k < whole; k += DEPTH) {
        var y: array<vec4<f32>, 8>;
        for (var j = 0u; j < DEPTH; j++) {
            y[j] = load_four(k + j, s);
        }
        for (var i = 0u; i < ROWS; i++) {
            let x = load_a(row0 + i, k + (lane & 7u));
            var sum = acc[i];
            sum = fma(vec4<f32>(subgroupBroadcast(x, 0u)), y[0], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 1u)), y[1], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 2u)), y[2], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 3u)), y[3], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 4u)), y[4], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 5u)), y[5], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 6u)), y[6], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 7u)), y[7], sum);
            acc[i] = sum;
        }
    }
    for (var k = whole; k < sizes.k; k++) {
        let y = load_four(k, s);
        for (var i = 0u; i < ROWS; i++) {
            acc[i] = fma(vec4<f32>(load_a(row0 + i, k)), y, acc[i]);
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < 4u; j++) {
            let r = row0 + i;
            if r < sizes.m && column + j < sizes.n {
                var value = scaled(acc[i][j], column + j);
                if BIAS {
                    value += bias[column + j];
                }
                if ACCUMULATE {
                    value += c[r * sizes.n + column + j];
                }
                c[r * sizes.n + column + j] = activated(value);
            }
        }
    }
}
