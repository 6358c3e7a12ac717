// How gemm_vectors.wgsl loads A and B, two numbers at a time: a gather of 64 bits a lane costs what one of 32 bits does. A's
// rows, as stored, have to be of even length, and B's a multiple of four long.

@group(0) @binding(0) var<storage, read> a: array<u64>; // pairs of f32
@group(0) @binding(1) var<storage, read> b: array<u64>;

fn pair(bits: u64) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(u32(bits)), bitcast<f32>(u32(bits >> 32u)));
}

// Eight rows of one column of op(B), which is stored as a row. All of it at once: the columns of a wide matrix lie so far
// apart that the first-level cache does not keep many of them.
fn load_column(start: u32, k: u32) -> array<vec2<f32>, 4> {
    let last = sizes.k / 2u - 1u;
    let at = k / 2u;
    let p = pair(b[start + at]);
    let q = pair(b[start + min(at + 1u, last)]);
    let r = pair(b[start + min(at + 2u, last)]);
    return array<vec2<f32>, 4>(p, q, r, pair(b[start + min(at + 3u, last)]));
}

// Beyond the end of B the last rows and columns are repeated; what comes of them is multiplied by 0, or not stored.
fn load_block(k: u32, column: u32) -> Block {
    if TRANS_B {
        let starts = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(sizes.n - 1u)) * (sizes.k / 2u);
        let p = load_column(starts.x, k);
        let q = load_column(starts.y, k);
        let r = load_column(starts.z, k);
        let s = load_column(starts.w, k);
        return Block(
            vec4<f32>(p[0].x, q[0].x, r[0].x, s[0].x), vec4<f32>(p[0].y, q[0].y, r[0].y, s[0].y),
            vec4<f32>(p[1].x, q[1].x, r[1].x, s[1].x), vec4<f32>(p[1].y, q[1].y, r[1].y, s[1].y),
            vec4<f32>(p[2].x, q[2].x, r[2].x, s[2].x), vec4<f32>(p[2].y, q[2].y, r[2].y, s[2].y),
            vec4<f32>(p[3].x, q[3].x, r[3].x, s[3].x), vec4<f32>(p[3].y, q[3].y, r[3].y, s[3].y),
        );
    }
    return Block(
        load_four(k, column), load_four(k + 1u, column), load_four(k + 2u, column), load_four(k + 3u, column),
        load_four(k + 4u, column), load_four(k + 5u, column), load_four(k + 6u, column), load_four(k + 7u, column),
    );
}

// Four columns of one row of op(B), which is stored as it is.
fn load_four(k: u32, column: u32) -> vec4<f32> {
    let stride = sizes.n / 2u;
    let at = min(k, sizes.k - 1u) * stride + min(column / 2u, stride - 2u);
    return vec4<f32>(pair(b[at]), pair(b[at + 1u]));
}

// Two rows of op(A) from column k on, `row` being even. Beyond the last column they are 0; rows beyond the end repeat the last
// ones, and are not stored.
fn load_rows(row: u32, k: u32, lane: u32) -> Rows {
    if TRANS_A {
        // A lane has one column of both rows, which lie side by side.
        let p = pair(a[min(k + lane, sizes.k - 1u) * (sizes.m / 2u) + min(row, sizes.m - 2u) / 2u]);
        let x = select(vec2<f32>(), p, k + lane < sizes.k);
        return Rows(spread_one(x.x), spread_one(x.y));
    }
    // A lane has two columns of one row: the first four lanes the even one's.
    let columns = sizes.k / 2u;
    let at = k / 2u + (lane & 3u);
    let p = pair(a[min(row + (lane >> 2u), sizes.m - 1u) * columns + min(at, columns - 1u)]);
    let x = select(vec2<f32>(), p, at < columns);
    let even = Row(
        vec4<f32>(subgroupBroadcast(x.x, 0u)),
        vec4<f32>(subgroupBroadcast(x.y, 0u)),
        vec4<f32>(subgroupBroadcast(x.x, 1u)),
        vec4<f32>(subgroupBroadcast(x.y, 1u)),
        vec4<f32>(subgroupBroadcast(x.x, 2u)),
        vec4<f32>(subgroupBroadcast(x.y, 2u)),
        vec4<f32>(subgroupBroadcast(x.x, 3u)),
        vec4<f32>(subgroupBroadcast(x.y, 3u)),
    );
    let odd = Row(
        vec4<f32>(subgroupBroadcast(x.x, 4u)),
        vec4<f32>(subgroupBroadcast(x.y, 4u)),
        vec4<f32>(subgroupBroadcast(x.x, 5u)),
        vec4<f32>(subgroupBroadcast(x.y, 5u)),
        vec4<f32>(subgroupBroadcast(x.x, 6u)),
        vec4<f32>(subgroupBroadcast(x.y, 6u)),
        vec4<f32>(subgroupBroadcast(x.x, 7u)),
        vec4<f32>(subgroupBroadcast(x.y, 7u)),
    );
    return Rows(even, odd);
}

fn spread_one(x: f32) -> Row {
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
