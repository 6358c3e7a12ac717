// B in f32, of which two numbers are read at a time, and what gemm_touch.wgsl wants to know of it.

@group(0) @binding(1) var<storage, read> b: array<Long>; // pairs of f32

const LINE = 16u;

fn word_of_b(k: u32, column: u32) -> u32 {
    let s = min(column, sizes.n - 1u);
    if TRANS_B {
        return low(b[s * (sizes.k / 2u) + k / 2u]);
    }
    return low(b[(min(k, sizes.k - 1u) * sizes.n + s) / 2u]);
}
