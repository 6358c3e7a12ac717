// What the GEMM kernels of one vector of lanes share that hand A round by broadcasts: gemm_vectors.wgsl, gemm_sixes.wgsl, gemm_turns.wgsl
// and gemm_eights.wgsl.
// long_u64.wgsl or long_words.wgsl comes before this file.

// Four columns of eight rows of op(B).
struct Block {
    y0: vec4<f32>, y1: vec4<f32>, y2: vec4<f32>, y3: vec4<f32>, y4: vec4<f32>, y5: vec4<f32>, y6: vec4<f32>, y7: vec4<f32>,
}

// Two columns of eight rows of op(B).
struct Two {
    y0: vec2<f32>, y1: vec2<f32>, y2: vec2<f32>, y3: vec2<f32>, y4: vec2<f32>, y5: vec2<f32>, y6: vec2<f32>, y7: vec2<f32>,
}

// Of sixteen rows.
struct Blocks { first: Block, second: Block }

// Eight elements of a row of op(A), each in every lane.
struct Row {
    x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, x4: vec4<f32>, x5: vec4<f32>, x6: vec4<f32>, x7: vec4<f32>,
}

struct Rows { even: Row, odd: Row }

// One element of each lane, handed to all of them.
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

fn add_eight(sum: vec4<f32>, x: Row, b: Block) -> vec4<f32> {
    let s = fma(x.x3, b.y3, fma(x.x2, b.y2, fma(x.x1, b.y1, fma(x.x0, b.y0, sum))));
    return fma(x.x7, b.y7, fma(x.x6, b.y6, fma(x.x5, b.y5, fma(x.x4, b.y4, s))));
}

fn add_two(sum: vec2<f32>, x: Row, b: Two) -> vec2<f32> {
    let s = fma(x.x3.xy, b.y3, fma(x.x2.xy, b.y2, fma(x.x1.xy, b.y1, fma(x.x0.xy, b.y0, sum))));
    return fma(x.x7.xy, b.y7, fma(x.x6.xy, b.y6, fma(x.x5.xy, b.y5, fma(x.x4.xy, b.y4, s))));
}

fn pair(bits: Long) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(low(bits)), bitcast<f32>(high(bits)));
}
