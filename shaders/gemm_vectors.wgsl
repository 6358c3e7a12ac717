// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for software Vulkan from 2026 on, which gathers a vector in a dozen cycles and unrolls loops over arrays. A
// workgroup is one vector of 8 lanes; each lane computes ROWS rows x 8 columns, which live in the first-level cache. The
// more rows, the fewer gathers a multiplication: at 64 rows, one in 32. The lanes hold 8 columns of A, one each, and hand
// them round by broadcasts.
//
// B's rows, as stored, have to be a multiple of four long. gemm_c.wgsl comes before this file.

override ROWS: u32; // 16 or 32
override TWICE: bool; // 2 ROWS rows of C instead of ROWS

@group(0) @binding(0) var<storage, read> a: array<Element>; // f32 or f16, as the host says
@group(0) @binding(1) var<storage, read> b: array<vec4<Element>>;

// Four columns of eight rows of op(B).
struct Block {
    y0: vec4<f32>, y1: vec4<f32>, y2: vec4<f32>, y3: vec4<f32>, y4: vec4<f32>, y5: vec4<f32>, y6: vec4<f32>, y7: vec4<f32>,
}

// Eight elements of a row of op(A), each in every lane.
struct Row {
    x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>, x6: vec4<f32>, x7: vec4<f32>,
}

// Beyond the end of B the last rows and columns are repeated; what comes of them is multiplied by 0, or not stored.
fn load_block(k: u32, column: u32) -> Block {
    if TRANS_B {
        let stride = sizes.k / 4u;
        let starts = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(sizes.n - 1u)) * stride;
        let p = starts + k / 4u;
        let q = starts + min(k / 4u + 1u, stride - 1u);
        let upper = transpose(mat4x4<f32>(
            vec4<f32>(b[p.x]), vec4<f32>(b[p.y]), vec4<f32>(b[p.z]), vec4<f32>(b[p.w]),
        ));
        let lower = transpose(mat4x4<f32>(
            vec4<f32>(b[q.x]), vec4<f32>(b[q.y]), vec4<f32>(b[q.z]), vec4<f32>(b[q.w]),
        ));
        return Block(upper[0], upper[1], upper[2], upper[3], lower[0], lower[1], lower[2], lower[3]);
    }
    let stride = sizes.n / 4u;
    let at = min(column / 4u, stride - 1u);
    let last = sizes.k - 1u;
    return Block(
        vec4<f32>(b[min(k, last) * stride + at]),
        vec4<f32>(b[min(k + 1u, last) * stride + at]),
        vec4<f32>(b[min(k + 2u, last) * stride + at]),
        vec4<f32>(b[min(k + 3u, last) * stride + at]),
        vec4<f32>(b[min(k + 4u, last) * stride + at]),
        vec4<f32>(b[min(k + 5u, last) * stride + at]),
        vec4<f32>(b[min(k + 6u, last) * stride + at]),
        vec4<f32>(b[min(k + 7u, last) * stride + at]),
    );
}

// Row `row` of op(A) from column k - lane on: each lane loads one element, 0 beyond the last column.
fn load_row(row: u32, k: u32, is_inside: bool) -> Row {
    // Rows beyond the end repeat the last one: their results are not stored.
    let r = min(row, sizes.m - 1u);
    let x = select(0.0, f32(a[select(r * sizes.k + k, k * sizes.m + r, TRANS_A)]), is_inside);
    return Row(
        vec4<f32>(subgroupBroadcast(x, 0u)),
        vec4<f32>(subgroupBroadcast(x, 1u)),
        vec4<f32>(subgroupBroadcast(x, 2u)),
        vec4<f32>(subgroupBroadcast(x, 3u)),
        vec4<f32>(subgroupBroadcast(x, 4u)),
        vec4<f32>(subgroupBroadcast(x, 5u)),
        vec4<f32>(subgroupBroadcast(x, 6u)),
        vec4<f32>(subgroupBroadcast(x, 7u)),
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
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let row = group.y * select(ROWS, 2u * ROWS, TWICE);
    let column = group.x * 64u + thread * 8u;
    // Arrays of more than 32 are not taken apart into registers.
    var left: array<vec4<f32>, 32>;
    var right: array<vec4<f32>, 32>;
    var lower_left: array<vec4<f32>, 32>;
    var lower_right: array<vec4<f32>, 32>;
    for (var i = 0u; i < ROWS; i++) {
        left[i] = vec4<f32>();
        right[i] = vec4<f32>();
        lower_left[i] = vec4<f32>();
        lower_right[i] = vec4<f32>();
    }
    for (var k = 0u; k < sizes.k; k += 8u) {
        let y = load_block(k, column);
        let z = load_block(k, column + 4u);
        let mine = k + (lane & 7u);
        let inside = mine < sizes.k;
        let l = min(mine, sizes.k - 1u);
        for (var i = 0u; i < ROWS; i++) {
            let x = load_row(row + i, l, inside);
            left[i] = add(left[i], x, y);
            right[i] = add(right[i], x, z);
        }
        if TWICE {
            for (var i = 0u; i < ROWS; i++) {
                let x = load_row(row + ROWS + i, l, inside);
                lower_left[i] = add(lower_left[i], x, y);
                lower_right[i] = add(lower_right[i], x, z);
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        store(row + i, column, left[i]);
        store(row + i, column + 4u, right[i]);
    }
    if TWICE {
        for (var i = 0u; i < ROWS; i++) {
            store(row + ROWS + i, column, lower_left[i]);
            store(row + ROWS + i, column + 4u, lower_right[i]);
        }
    }
}
