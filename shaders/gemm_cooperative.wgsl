// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for cooperative matrices: A and B in f16, products and sums in f32. The host puts before this file what a
// matrix is: EDGE, and MatrixA, MatrixB and MatrixC of EDGE x EDGE elements. Four subgroups compute a tile of 4 EDGE rows
// and columns, each 2 x 2 matrices of it, from pieces of A and B in workgroup memory, which hold zeros beyond the ends.
// A matrix has no elements of its own to add a bias to, so results go through workgroup memory, too.

override TRANS_A: bool; // A is stored [k, m]
override TRANS_B: bool; // B is stored [n, k]
override BIAS: bool; // bias[n] is added
override ACCUMULATE: bool; // C += instead of C =
override WIDTH: u32; // threads: four subgroups

struct Sizes { m: u32, n: u32, k: u32 }

@group(0) @binding(0) var<storage, read> a: array<f16>;
@group(0) @binding(1) var<storage, read> b: array<f16>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<immediate> sizes: Sizes;

const TILE = 4u * EDGE;
const DEPTH = 2u * EDGE;
// Eight more, so that the rows of a matrix fall into different banks.
const STRIDE_A = DEPTH + 8u;
const STRIDE_B = TILE + 8u;

var<workgroup> tile_a: array<f16, TILE * STRIDE_A>; // [TILE, DEPTH]
var<workgroup> tile_b: array<f16, DEPTH * STRIDE_B>; // [DEPTH, TILE]
var<workgroup> results: array<f32, 4u * EDGE * EDGE>; // a matrix for each subgroup

fn load(thread: u32, row0: u32, column0: u32, k0: u32) {
    for (var i = thread; i < TILE * DEPTH; i += WIDTH) {
        // Neighbouring threads read neighbouring elements, whichever way a matrix is stored.
        var x = i / DEPTH;
        var k = i % DEPTH;
        if TRANS_A {
            x = i % TILE;
            k = i / TILE;
        }
        var value = f16(0.0);
        if row0 + x < sizes.m && k0 + k < sizes.k {
            value = a[select((row0 + x) * sizes.k + k0 + k, (k0 + k) * sizes.m + row0 + x, TRANS_A)];
        }
        tile_a[x * STRIDE_A + k] = value;

        x = i % TILE;
        k = i / TILE;
        if TRANS_B {
            x = i / DEPTH;
            k = i % DEPTH;
        }
        value = f16(0.0);
        if column0 + x < sizes.n && k0 + k < sizes.k {
            value = b[select((k0 + k) * sizes.n + column0 + x, (column0 + x) * sizes.k + k0 + k, TRANS_B)];
        }
        tile_b[k * STRIDE_B + x] = value;
    }
}

// What this subgroup's matrix in `results` has for C; its upper left corner is at (row, column).
fn store(row: u32, column: u32, first: u32, lane: u32) {
    for (var i = lane; i < EDGE * EDGE; i += WIDTH / 4u) {
        let r = row + i / EDGE;
        let s = column + i % EDGE;
        if r < sizes.m && s < sizes.n {
            var value = results[first + i];
            if BIAS {
                value += bias[s];
            }
            if ACCUMULATE {
                value += c[r * sizes.n + s];
            }
            c[r * sizes.n + s] = activated(value);
        }
    }
}

@compute @workgroup_size(WIDTH)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let row0 = group.y * TILE;
    let column0 = group.x * TILE;
    let row = (subgroup / 2u) * 2u * EDGE;
    let column = (subgroup % 2u) * 2u * EDGE;
    var upper_left = MatrixC();
    var upper_right = MatrixC();
    var lower_left = MatrixC();
    var lower_right = MatrixC();
    for (var k0 = 0u; k0 < sizes.k; k0 += DEPTH) {
        load(thread, row0, column0, k0);
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += EDGE) {
            let upper = coopLoadT<MatrixA>(&tile_a[row * STRIDE_A + k], STRIDE_A);
            let lower = coopLoadT<MatrixA>(&tile_a[(row + EDGE) * STRIDE_A + k], STRIDE_A);
            let left = coopLoadT<MatrixB>(&tile_b[k * STRIDE_B + column], STRIDE_B);
            let right = coopLoadT<MatrixB>(&tile_b[k * STRIDE_B + column + EDGE], STRIDE_B);
            upper_left = coopMultiplyAdd(upper, left, upper_left);
            upper_right = coopMultiplyAdd(upper, right, upper_right);
            lower_left = coopMultiplyAdd(lower, left, lower_left);
            lower_right = coopMultiplyAdd(lower, right, lower_right);
        }
        workgroupBarrier();
    }
    let first = subgroup * EDGE * EDGE;
    let r = row0 + row;
    let s = column0 + column;
    coopStoreT(upper_left, &results[first], EDGE);
    workgroupBarrier();
    store(r, s, first, lane);
    workgroupBarrier();
    coopStoreT(upper_right, &results[first], EDGE);
    workgroupBarrier();
    store(r, s + EDGE, first, lane);
    workgroupBarrier();
    coopStoreT(lower_left, &results[first], EDGE);
    workgroupBarrier();
    store(r + EDGE, s, first, lane);
    workgroupBarrier();
    coopStoreT(lower_right, &results[first], EDGE);
    workgroupBarrier();
    store(r + EDGE, s + EDGE, first, lane);
}
