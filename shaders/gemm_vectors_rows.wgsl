// How gemm_vectors.wgsl loads A, two numbers at a time: on most CPUs a gather of 64 bits a lane costs what one of 32 bits does. A's
// rows, as stored, have to be of even length.

@group(0) @binding(0) var<storage, read> a: array<Long>; // pairs of f32

// Two rows of op(A) from column k on, `row` being even. Beyond the last column they are 0; rows beyond the end repeat the last
// ones, and are not stored.
fn load_rows(row: u32, k: u32, lane: u32) -> Rows {
    return load_rows_after(row, k, lane, 0u);
}

// The same, not before `after` is known, which is 0.
fn load_rows_after(row: u32, k: u32, lane: u32, after: u32) -> Rows {
    if TRANS_A {
        // A lane has one column of both rows, which lie side by side.
        let p = pair(a[min(k + lane, sizes.k - 1u) * (sizes.m / 2u) + min(row, sizes.m - 2u) / 2u + after]);
        let x = select(vec2<f32>(), p, k + lane < sizes.k);
        return Rows(spread_one(x.x), spread_one(x.y));
    }
    // A lane has two columns of one row: the first four lanes the even one's.
    let columns = sizes.k / 2u;
    let at = k / 2u + (lane & 3u);
    let p = pair(a[min(row + (lane >> 2u), sizes.m - 1u) * columns + min(at, columns - 1u) + after]);
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
