// How gemm_vectors.wgsl loads A and B, a number of A and four of B at a time. B's rows, as stored, have to be a multiple of
// four long.

@group(0) @binding(0) var<storage, read> a: array<Element>; // f32 or f16, as the host says
@group(0) @binding(1) var<storage, read> b: array<vec4<Element>>;

const LINE = 32u; // of f16

fn word_of_b(k: u32, column: u32) -> u32 {
    let r = min(k, sizes.k - 1u);
    let s = min(column, sizes.n - 1u);
    return bitcast<u32>(f32(b[select(r * sizes.n + s, s * sizes.k + r, TRANS_B) / 4u].x));
}

fn load_blocks(k: u32, column: u32) -> Blocks {
    return Blocks(load_block(k, column), load_block(k + 8u, column));
}

// Beyond the end of B the last rows and columns are repeated; what comes of them is multiplied by 0, or not stored.
fn load_block(k: u32, column: u32) -> Block {
    if TRANS_B {
        let stride = sizes.k / 4u;
        let starts = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(sizes.n - 1u)) * stride;
        let p = starts + min(k / 4u, stride - 1u);
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
    return spread_one(x);
}

// Two rows of op(A) from column k on.
fn load_rows(row: u32, k: u32, lane: u32) -> Rows {
    let inside = k + lane < sizes.k;
    let l = min(k + lane, sizes.k - 1u);
    return Rows(load_row(row, l, inside), load_row(row + 1u, l, inside));
}
