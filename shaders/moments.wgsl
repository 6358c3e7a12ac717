// What LayerNorm takes of a row: the mean of s, and 1 / sqrt(var(s) + eps).
//
// What includes this has `s_at(row, i)`, and, as s may be dear to compute, a place for each: `hold(at, s)` and `held(at)`, at row * columns + i.
// reduce.wgsl comes before.

fn moments(row: u32, thread: u32) -> vec2<f32> {
    let n = f32(sizes.columns);
    let base = row * sizes.columns;
    var sum = 0.0;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let s = s_at(row, i);
        hold(base + i, s);
        sum += s;
    }
    let mean = reduce(thread, vec2<f32>(sum, 0.0)).x / n;
    // The variance from the differences, not from the mean of squares, which cancels.
    var squares = 0.0;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let d = held(base + i) - mean;
        squares += d * d;
    }
    return vec2<f32>(mean, inverseSqrt(reduce(thread, vec2<f32>(squares, 0.0)).x / n + sizes.eps));
}
