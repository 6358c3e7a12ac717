// What GEMM kernels of cooperative matrices share: A and B in f16, products and sums in f32.
//
// The host puts before this file what a matrix is: EDGE, and MatrixA, MatrixB and MatrixC of EDGE x EDGE elements; how many of
// them, SPAN x SPAN, a quarter of a workgroup's tile of C has, which a subgroup computes; and how many, PIECES, a tile of A or B
// is deep. Those lie in workgroup memory as A and B are stored, with zeros beyond the ends. gemm_fours.wgsl and
// gemm_fours_b.wgsl come before it, too.

override TRANS_A: bool; // A is stored [k, m]
override TRANS_B: bool; // B is stored [n, k]
override BIAS: bool; // bias[n] is added
override ACCUMULATE: bool; // C += instead of C =
override WIDTH: u32; // threads: four subgroups of the expected size

struct Sizes { m: u32, n: u32, k: u32 }

@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<immediate> sizes: Sizes;

const TILE = 2u * SPAN * EDGE; // rows of C, and columns
const DEPTH = PIECES * EDGE;
// Eight more, so that the rows of a matrix fall into different banks.
override STRIDE_A = select(DEPTH, TILE, TRANS_A) + 8u;
override STRIDE_B = select(TILE, DEPTH, TRANS_B) + 8u;

// TILE is the larger: this is enough for either way to store them.
var<workgroup> tile_a: array<f16, TILE * (DEPTH + 8u)>;
var<workgroup> tile_b: array<f16, TILE * (DEPTH + 8u)>;
var<workgroup> results: array<f32, 4u * EDGE * EDGE>; // a matrix for each quarter

fn stage_a(thread: u32, row0: u32, k0: u32) {
    for (var i = thread; i < TILE * DEPTH / 4u; i += WIDTH) {
        var four = Four();
        let at = select(by_rows(i, TILE), by_depth(i, TILE), TRANS_A);
        if row0 + at.x < sizes.m && k0 + at.y < sizes.k {
            if TRANS_A {
                four = four_of_a(k0 + at.y, sizes.m, row0 + at.x);
            } else {
                four = four_of_a(row0 + at.x, sizes.k, k0 + at.y);
            }
        }
        let to = select(at.x * STRIDE_A + at.y, at.y * STRIDE_A + at.x, TRANS_A);
        tile_a[to] = four.x;
        tile_a[to + 1u] = four.y;
        tile_a[to + 2u] = four.z;
        tile_a[to + 3u] = four.w;
    }
}

fn stage_b(thread: u32, column0: u32, k0: u32) {
    for (var i = thread; i < TILE * DEPTH / 4u; i += WIDTH) {
        var four = Four();
        let at = select(by_depth(i, TILE), by_rows(i, TILE), TRANS_B);
        if column0 + at.x < sizes.n && k0 + at.y < sizes.k {
            if TRANS_B {
                four = four_of_b(column0 + at.x, sizes.k, k0 + at.y);
            } else {
                four = four_of_b(k0 + at.y, sizes.n, column0 + at.x);
            }
        }
        let to = select(at.y * STRIDE_B + at.x, at.x * STRIDE_B + at.y, TRANS_B);
        tile_b[to] = four.x;
        tile_b[to + 1u] = four.y;
        tile_b[to + 2u] = four.z;
        tile_b[to + 3u] = four.w;
    }
}

// The matrix of op(A)'s tile whose upper left corner is there.
fn matrix_a(row: u32, k: u32) -> MatrixA {
    if TRANS_A {
        return coopLoad<MatrixA>(&tile_a[k * STRIDE_A + row], STRIDE_A);
    }
    return coopLoadT<MatrixA>(&tile_a[row * STRIDE_A + k], STRIDE_A);
}

fn matrix_b(k: u32, column: u32) -> MatrixB {
    if TRANS_B {
        return coopLoad<MatrixB>(&tile_b[column * STRIDE_B + k], STRIDE_B);
    }
    return coopLoadT<MatrixB>(&tile_b[k * STRIDE_B + column], STRIDE_B);
}

// Where one subgroup is at work: on which quarter of the tile, of four, and where that lies in C. There is nothing to do for it from
// the fifth on. A loop that ends after one round says so around cooperative operations: naga refuses them in a branch on what it
// cannot see to be the same in all of a workgroup, and it is enough that it is in a subgroup.
struct Place { row: u32, column: u32, part: u32, lane: u32, lanes: u32 }

// A subgroup's matrix goes to C through workgroup memory: it has no elements of its own to add a bias to. Its upper left corner
// is at (row, column) of the subgroup's quarter.
fn store(sums: MatrixC, place: Place, row: u32, column: u32) {
    let first = place.part * EDGE * EDGE;
    for (var idle = place.part >= 4u; !idle; idle = true) {
        coopStoreT(sums, &results[first], EDGE);
    }
    workgroupBarrier();
    if place.part < 4u {
        for (var i = place.lane; i < EDGE * EDGE; i += place.lanes) {
            let r = place.row + row + i / EDGE;
            let s = place.column + column + i % EDGE;
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
    workgroupBarrier();
}
