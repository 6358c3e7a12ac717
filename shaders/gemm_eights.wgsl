// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for software Vulkan of the years before 2026. There a load is a loop over the lanes, of a hundred instructions for one
// number and not many more for four of 64 bits, and arrays with a running index are gathered and scattered likewise. So A is
// read eight numbers at a time, B likewise or four, and every array is written out as variables. A workgroup is one vector of 8
// lanes and computes 8 x 32 or 16 x 32 of C, each lane 4 columns; the lanes hold one or two 8 x 8 pieces of A, and hand them round by
// broadcasts: a row each, or, where A is stored transposed, a column.
//
// A's rows, as stored, have to be a multiple of eight long. Before this file come gemm_c.wgsl, gemm_vectors_block.wgsl, and how B is
// loaded: gemm_eights_along.wgsl, gemm_eights_across.wgsl or gemm_eights_packed.wgsl.

override TWICE: bool; // 16 rows instead of 8

@group(0) @binding(0) var<storage, read> a: array<vec4<u64>>; // eight f32

struct Eight { x0: f32, x1: f32, x2: f32, x3: f32, x4: f32, x5: f32, x6: f32, x7: f32 }

fn pair(bits: u64) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(u32(bits)), bitcast<f32>(u32(bits >> 32u)));
}

// What this lane has of eight rows of op(A) from `row` on and eight columns from `k` on: a row, or a column where A is stored
// transposed. Rows beyond the end repeat others, and are not stored; columns beyond it are 0.
fn load_a(row: u32, k: u32, lane: u32) -> Eight {
    var at = (min(row + lane, sizes.m - 1u) * sizes.k + k) / 8u;
    if TRANS_A {
        at = (min(k + lane, sizes.k - 1u) * sizes.m + min(row, sizes.m - 8u)) / 8u;
    }
    let bits = a[at];
    var p = vec4<f32>(pair(bits.x), pair(bits.y));
    var q = vec4<f32>(pair(bits.z), pair(bits.w));
    if TRANS_A {
        let inside = k + lane < sizes.k;
        p = select(vec4<f32>(), p, inside);
        q = select(vec4<f32>(), q, inside);
    }
    return Eight(p.x, p.y, p.z, p.w, q.x, q.y, q.z, q.w);
}

fn row0(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.x0);
    }
    return Row(
        vec4<f32>(subgroupBroadcast(x.x0, 0u)),
        vec4<f32>(subgroupBroadcast(x.x1, 0u)),
        vec4<f32>(subgroupBroadcast(x.x2, 0u)),
        vec4<f32>(subgroupBroadcast(x.x3, 0u)),
        vec4<f32>(subgroupBroadcast(x.x4, 0u)),
        vec4<f32>(subgroupBroadcast(x.x5, 0u)),
        vec4<f32>(subgroupBroadcast(x.x6, 0u)),
        vec4<f32>(subgroupBroadcast(x.x7, 0u)),
    );
}

fn row1(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.x1);
    }
    return Row(
        vec4<f32>(subgroupBroadcast(x.x0, 1u)),
        vec4<f32>(subgroupBroadcast(x.x1, 1u)),
        vec4<f32>(subgroupBroadcast(x.x2, 1u)),
        vec4<f32>(subgroupBroadcast(x.x3, 1u)),
        vec4<f32>(subgroupBroadcast(x.x4, 1u)),
        vec4<f32>(subgroupBroadcast(x.x5, 1u)),
        vec4<f32>(subgroupBroadcast(x.x6, 1u)),
        vec4<f32>(subgroupBroadcast(x.x7, 1u)),
    );
}

fn row2(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.x2);
    }
    return Row(
        vec4<f32>(subgroupBroadcast(x.x0, 2u)),
        vec4<f32>(subgroupBroadcast(x.x1, 2u)),
        vec4<f32>(subgroupBroadcast(x.x2, 2u)),
        vec4<f32>(subgroupBroadcast(x.x3, 2u)),
        vec4<f32>(subgroupBroadcast(x.x4, 2u)),
        vec4<f32>(subgroupBroadcast(x.x5, 2u)),
        vec4<f32>(subgroupBroadcast(x.x6, 2u)),
        vec4<f32>(subgroupBroadcast(x.x7, 2u)),
    );
}

fn row3(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.x3);
    }
    return Row(
        vec4<f32>(subgroupBroadcast(x.x0, 3u)),
        vec4<f32>(subgroupBroadcast(x.x1, 3u)),
        vec4<f32>(subgroupBroadcast(x.x2, 3u)),
        vec4<f32>(subgroupBroadcast(x.x3, 3u)),
        vec4<f32>(subgroupBroadcast(x.x4, 3u)),
        vec4<f32>(subgroupBroadcast(x.x5, 3u)),
        vec4<f32>(subgroupBroadcast(x.x6, 3u)),
        vec4<f32>(subgroupBroadcast(x.x7, 3u)),
    );
}

fn row4(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.x4);
    }
    return Row(
        vec4<f32>(subgroupBroadcast(x.x0, 4u)),
        vec4<f32>(subgroupBroadcast(x.x1, 4u)),
        vec4<f32>(subgroupBroadcast(x.x2, 4u)),
        vec4<f32>(subgroupBroadcast(x.x3, 4u)),
        vec4<f32>(subgroupBroadcast(x.x4, 4u)),
        vec4<f32>(subgroupBroadcast(x.x5, 4u)),
        vec4<f32>(subgroupBroadcast(x.x6, 4u)),
        vec4<f32>(subgroupBroadcast(x.x7, 4u)),
    );
}

fn row5(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.x5);
    }
    return Row(
        vec4<f32>(subgroupBroadcast(x.x0, 5u)),
        vec4<f32>(subgroupBroadcast(x.x1, 5u)),
        vec4<f32>(subgroupBroadcast(x.x2, 5u)),
        vec4<f32>(subgroupBroadcast(x.x3, 5u)),
        vec4<f32>(subgroupBroadcast(x.x4, 5u)),
        vec4<f32>(subgroupBroadcast(x.x5, 5u)),
        vec4<f32>(subgroupBroadcast(x.x6, 5u)),
        vec4<f32>(subgroupBroadcast(x.x7, 5u)),
    );
}

fn row6(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.x6);
    }
    return Row(
        vec4<f32>(subgroupBroadcast(x.x0, 6u)),
        vec4<f32>(subgroupBroadcast(x.x1, 6u)),
        vec4<f32>(subgroupBroadcast(x.x2, 6u)),
        vec4<f32>(subgroupBroadcast(x.x3, 6u)),
        vec4<f32>(subgroupBroadcast(x.x4, 6u)),
        vec4<f32>(subgroupBroadcast(x.x5, 6u)),
        vec4<f32>(subgroupBroadcast(x.x6, 6u)),
        vec4<f32>(subgroupBroadcast(x.x7, 6u)),
    );
}

fn row7(x: Eight) -> Row {
    if TRANS_A {
        return spread_one(x.x7);
    }
    return Row(
        vec4<f32>(subgroupBroadcast(x.x0, 7u)),
        vec4<f32>(subgroupBroadcast(x.x1, 7u)),
        vec4<f32>(subgroupBroadcast(x.x2, 7u)),
        vec4<f32>(subgroupBroadcast(x.x3, 7u)),
        vec4<f32>(subgroupBroadcast(x.x4, 7u)),
        vec4<f32>(subgroupBroadcast(x.x5, 7u)),
        vec4<f32>(subgroupBroadcast(x.x6, 7u)),
        vec4<f32>(subgroupBroadcast(x.x7, 7u)),
    );
}

fn add(sum: vec4<f32>, x: Row, b: Block) -> vec4<f32> {
    let s = fma(x.x3, b.y3, fma(x.x2, b.y2, fma(x.x1, b.y1, fma(x.x0, b.y0, sum))));
    return fma(x.x7, b.y7, fma(x.x6, b.y6, fma(x.x5, b.y5, fma(x.x4, b.y4, s))));
}

@compute @workgroup_size(8)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    let lane = invocation & 7u;
    let row = group.y * select(8u, 16u, TWICE);
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
        c0 = add(c0, row0(upper), y);
        c1 = add(c1, row1(upper), y);
        c2 = add(c2, row2(upper), y);
        c3 = add(c3, row3(upper), y);
        c4 = add(c4, row4(upper), y);
        c5 = add(c5, row5(upper), y);
        c6 = add(c6, row6(upper), y);
        c7 = add(c7, row7(upper), y);
        if TWICE {
            let lower = load_a(row + 8u, k, lane);
            c8 = add(c8, row0(lower), y);
            c9 = add(c9, row1(lower), y);
            c10 = add(c10, row2(lower), y);
            c11 = add(c11, row3(lower), y);
            c12 = add(c12, row4(lower), y);
            c13 = add(c13, row5(lower), y);
            c14 = add(c14, row6(lower), y);
            c15 = add(c15, row7(lower), y);
        }
    }
    store(row, column, c0);
    store(row + 1u, column, c1);
    store(row + 2u, column, c2);
    store(row + 3u, column, c3);
    store(row + 4u, column, c4);
    store(row + 5u, column, c5);
    store(row + 6u, column, c6);
    store(row + 7u, column, c7);
    if TWICE {
        store(row + 8u, column, c8);
        store(row + 9u, column, c9);
        store(row + 10u, column, c10);
        store(row + 11u, column, c11);
        store(row + 12u, column, c12);
        store(row + 13u, column, c13);
        store(row + 14u, column, c14);
        store(row + 15u, column, c15);
    }
}
