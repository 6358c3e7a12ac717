// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for software Vulkan of the years before 2026. There a load is a loop over the lanes, of a hundred instructions for one
// number and not many more for four of 64 bits, and arrays with a running index are gathered and scattered likewise. So A is
// read eight numbers at a time, B likewise or four, and every array is written out as variables. A workgroup is one vector of 8
// lanes and computes 8, 12 or 16 rows x 32 columns of C, each lane 4 columns; the lanes hold one or two 8 x 8 pieces of A, and hand them
// round by broadcasts: a row each, or, where A is stored transposed, a column. All loads of a round come before its products: what
// is in registers while one of the loops over the lanes runs is stored for it, and read again.
//
// A's rows, as stored, have to be a multiple of eight long. Before this file come gemm_c.wgsl, gemm_c_later.wgsl,
// gemm_vectors_block.wgsl, and how B is loaded: gemm_eights_along.wgsl, gemm_eights_across.wgsl or gemm_eights_packed.wgsl.

override ROWS: u32; // 8, 12 or 16

const COLUMNS = 4u; // of a lane

@group(0) @binding(0) var<storage, read> a: array<vec4<u64>>; // eight f32

struct Eight { low: vec4<f32>, high: vec4<f32> }

// What this lane has of eight rows of op(A) from `row` on and eight columns from `k` on: a row, or a column where A is stored
// transposed. Rows beyond the end repeat others, and are not stored; columns beyond it are 0.
fn load_a(row: u32, k: u32, lane: u32) -> Eight {
    var at = (min(row + lane, sizes.m - 1u) * sizes.k + k) / 8u;
    if TRANS_A {
        at = (min(k + lane, sizes.k - 1u) * sizes.m + min(row, sizes.m - 8u)) / 8u;
    }
    let bits = a[at];
    let x = Eight(vec4<f32>(pair(bits.x), pair(bits.y)), vec4<f32>(pair(bits.z), pair(bits.w)));
    if TRANS_A {
        let inside = k + lane < sizes.k;
        return Eight(select(vec4<f32>(), x.low, inside), select(vec4<f32>(), x.high, inside));
    }
    return x;
}

fn row_of(low: vec4<f32>, high: vec4<f32>) -> Row {
    return Row(
        vec4<f32>(low.x), vec4<f32>(low.y), vec4<f32>(low.z), vec4<f32>(low.w),
        vec4<f32>(high.x), vec4<f32>(high.y), vec4<f32>(high.z), vec4<f32>(high.w),
    );
}

fn row0(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.low.x);
    }
    return row_of(subgroupBroadcast(x.low, 0u), subgroupBroadcast(x.high, 0u));
}

fn row1(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.low.y);
    }
    return row_of(subgroupBroadcast(x.low, 1u), subgroupBroadcast(x.high, 1u));
}

fn row2(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.low.z);
    }
    return row_of(subgroupBroadcast(x.low, 2u), subgroupBroadcast(x.high, 2u));
}

fn row3(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.low.w);
    }
    return row_of(subgroupBroadcast(x.low, 3u), subgroupBroadcast(x.high, 3u));
}

fn row4(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.high.x);
    }
    return row_of(subgroupBroadcast(x.low, 4u), subgroupBroadcast(x.high, 4u));
}

fn row5(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.high.y);
    }
    return row_of(subgroupBroadcast(x.low, 5u), subgroupBroadcast(x.high, 5u));
}

fn row6(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.high.z);
    }
    return row_of(subgroupBroadcast(x.low, 6u), subgroupBroadcast(x.high, 6u));
}

fn row7(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.high.w);
    }
    return row_of(subgroupBroadcast(x.low, 7u), subgroupBroadcast(x.high, 7u));
}

// Four columns, of each of which there are eight rows.
fn block_of(p: mat2x4<f32>, q: mat2x4<f32>, r: mat2x4<f32>, s: mat2x4<f32>) -> Block {
    let upper = transpose(mat4x4<f32>(p[0], q[0], r[0], s[0]));
    let lower = transpose(mat4x4<f32>(p[1], q[1], r[1], s[1]));
    return Block(upper[0], upper[1], upper[2], upper[3], lower[0], lower[1], lower[2], lower[3]);
}

@compute @workgroup_size(8)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    let lane = invocation & 7u;
    let row = group.y * ROWS;
    let column = group.x * 32u + thread * 4u;
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
        let y = load_block(k, column);
        let upper = load_a(row, k, lane);
        var lower: Eight;
        if ROWS > 8u {
            lower = load_a(row + 8u, k, lane);
        }
        c0 = add_eight(c0, row0(upper), y);
        c1 = add_eight(c1, row1(upper), y);
        c2 = add_eight(c2, row2(upper), y);
        c3 = add_eight(c3, row3(upper), y);
        c4 = add_eight(c4, row4(upper), y);
        c5 = add_eight(c5, row5(upper), y);
        c6 = add_eight(c6, row6(upper), y);
        c7 = add_eight(c7, row7(upper), y);
        if ROWS > 8u {
            c8 = add_eight(c8, row0(lower), y);
            c9 = add_eight(c9, row1(lower), y);
            c10 = add_eight(c10, row2(lower), y);
            c11 = add_eight(c11, row3(lower), y);
        }
        if ROWS > 12u {
            c12 = add_eight(c12, row4(lower), y);
            c13 = add_eight(c13, row5(lower), y);
            c14 = add_eight(c14, row6(lower), y);
            c15 = add_eight(c15, row7(lower), y);
        }
    }
    store_sums(row, column, c0);
    store_sums(row + 1u, column, c1);
    store_sums(row + 2u, column, c2);
    store_sums(row + 3u, column, c3);
    store_sums(row + 4u, column, c4);
    store_sums(row + 5u, column, c5);
    store_sums(row + 6u, column, c6);
    store_sums(row + 7u, column, c7);
    if ROWS > 8u {
        store_sums(row + 8u, column, c8);
        store_sums(row + 9u, column, c9);
        store_sums(row + 10u, column, c10);
        store_sums(row + 11u, column, c11);
    }
    if ROWS > 12u {
        store_sums(row + 12u, column, c12);
        store_sums(row + 13u, column, c13);
        store_sums(row + 14u, column, c14);
        store_sums(row + 15u, column, c15);
    }
    finish(row, row + ROWS, column);
}
