// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for software Vulkan of the years before 2026. There a load takes a hundred instructions, one after another
// for each lane, whatever its width up to 64 bits; arrays with a running index are gathered and scattered likewise, and
// loops over them are not unrolled. So B is read two numbers at a time, and every array is written out as variables. A
// workgroup is one vector of 8 lanes and computes 16 x 32 of C, each lane 16 rows x 4 columns; the lanes hold a 16 x 8
// piece of A, one column each, and hand it round by broadcasts.
//
// B's rows, as stored, have to be of even length. gemm_c.wgsl comes before this file.

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<u64>; // pairs of f32

const ROWS = 16u;

// Four columns of eight rows of op(B).
struct Block {
    y0: vec4<f32>, y1: vec4<f32>, y2: vec4<f32>, y3: vec4<f32>, y4: vec4<f32>, y5: vec4<f32>, y6: vec4<f32>, y7: vec4<f32>,
}

fn pair(at: u32) -> vec2<f32> {
    let bits = b[at];
    return vec2<f32>(bitcast<f32>(u32(bits)), bitcast<f32>(u32(bits >> 32u)));
}

// The row of op(A), of which this lane holds one element; 0 beyond the last column.
fn load_a(row: u32, k: u32, is_inside: bool) -> f32 {
    // Rows beyond the end repeat the last one: their results are not stored.
    let r = min(row, sizes.m - 1u);
    return select(0.0, a[select(r * sizes.k + k, k * sizes.m + r, TRANS_A)], is_inside);
}

// Rows k and k + 1 of op(B), where it is stored transposed: two neighbours of each of four columns.
fn load_two_rows(starts: vec4<u32>, k: u32) -> mat2x4<f32> {
    let at = starts + min(k, sizes.k - 2u) / 2u;
    let p = pair(at.x);
    let q = pair(at.y);
    let r = pair(at.z);
    let s = pair(at.w);
    return mat2x4<f32>(p.x, q.x, r.x, s.x, p.y, q.y, r.y, s.y);
}

fn load_row(k: u32, columns: vec2<u32>) -> vec4<f32> {
    let at = vec2<u32>(min(k, sizes.k - 1u) * sizes.n) + columns;
    return vec4<f32>(pair(at.x / 2u), pair(at.y / 2u));
}

fn load_block(k: u32, starts: vec4<u32>, columns: vec2<u32>) -> Block {
    if TRANS_B {
        let p = load_two_rows(starts, k);
        let q = load_two_rows(starts, k + 2u);
        let r = load_two_rows(starts, k + 4u);
        let s = load_two_rows(starts, k + 6u);
        return Block(p[0], p[1], q[0], q[1], r[0], r[1], s[0], s[1]);
    }
    return Block(
        load_row(k, columns), load_row(k + 1u, columns), load_row(k + 2u, columns), load_row(k + 3u, columns),
        load_row(k + 4u, columns), load_row(k + 5u, columns), load_row(k + 6u, columns), load_row(k + 7u, columns),
    );
}

fn add(sum: vec4<f32>, x: f32, block: Block) -> vec4<f32> {
    var s = fma(vec4<f32>(subgroupBroadcast(x, 0u)), block.y0, sum);
    s = fma(vec4<f32>(subgroupBroadcast(x, 1u)), block.y1, s);
    s = fma(vec4<f32>(subgroupBroadcast(x, 2u)), block.y2, s);
    s = fma(vec4<f32>(subgroupBroadcast(x, 3u)), block.y3, s);
    s = fma(vec4<f32>(subgroupBroadcast(x, 4u)), block.y4, s);
    s = fma(vec4<f32>(subgroupBroadcast(x, 5u)), block.y5, s);
    s = fma(vec4<f32>(subgroupBroadcast(x, 6u)), block.y6, s);
    return fma(vec4<f32>(subgroupBroadcast(x, 7u)), block.y7, s);
}

@compute @workgroup_size(8)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let row = group.y * ROWS;
    let column = group.x * 32u + thread * 4u;
    // Columns beyond the end repeat the last ones. Where B is stored [k, n], n is even, and pairs stay whole.
    let s = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(sizes.n - 1u));
    let starts = s * (sizes.k / 2u);
    let columns = min(vec2<u32>(column, column + 2u), vec2<u32>(max(sizes.n, 2u) - 2u));
    var c0 = vec4<f32>();
    var c1 = vec4<f32>();
    var c2 = vec4<f32>();
    var c3 = vec4<f32>();
    var c4 = vec4<f32>();
    var c5 = vec4<f32>();
    var c6 = vec4<f32>();
    var c7 = vec4<f32>();
    var c8 = vec4<f32>();
    var c9 = vec4<f32>();
    var c10 = vec4<f32>();
    var c11 = vec4<f32>();
    var c12 = vec4<f32>();
    var c13 = vec4<f32>();
    var c14 = vec4<f32>();
    var c15 = vec4<f32>();
    for (var k = 0u; k < sizes.k; k += 8u) {
        let y = load_block(k, starts, columns);
        let mine = k + (lane & 7u);
        let inside = mine < sizes.k;
        let l = min(mine, sizes.k - 1u);
        c0 = add(c0, load_a(row, l, inside), y);
        c1 = add(c1, load_a(row + 1u, l, inside), y);
        c2 = add(c2, load_a(row + 2u, l, inside), y);
        c3 = add(c3, load_a(row + 3u, l, inside), y);
        c4 = add(c4, load_a(row + 4u, l, inside), y);
        c5 = add(c5, load_a(row + 5u, l, inside), y);
        c6 = add(c6, load_a(row + 6u, l, inside), y);
        c7 = add(c7, load_a(row + 7u, l, inside), y);
        c8 = add(c8, load_a(row + 8u, l, inside), y);
        c9 = add(c9, load_a(row + 9u, l, inside), y);
        c10 = add(c10, load_a(row + 10u, l, inside), y);
        c11 = add(c11, load_a(row + 11u, l, inside), y);
        c12 = add(c12, load_a(row + 12u, l, inside), y);
        c13 = add(c13, load_a(row + 13u, l, inside), y);
        c14 = add(c14, load_a(row + 14u, l, inside), y);
        c15 = add(c15, load_a(row + 15u, l, inside), y);
    }
    store(row, column, c0);
    store(row + 1u, column, c1);
    store(row + 2u, column, c2);
    store(row + 3u, column, c3);
    store(row + 4u, column, c4);
    store(row + 5u, column, c5);
    store(row + 6u, column, c6);
    store(row + 7u, column, c7);
    store(row + 8u, column, c8);
    store(row + 9u, column, c9);
    store(row + 10u, column, c10);
    store(row + 11u, column, c11);
    store(row + 12u, column, c12);
    store(row + 13u, column, c13);
    store(row + 14u, column, c14);
    store(row + 15u, column, c15);
}
