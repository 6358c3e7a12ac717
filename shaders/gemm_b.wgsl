// How GEMM kernels read one element of op(B), from column `column` and row `k`. The host says what an element is.

@group(0) @binding(1) var<storage, read> b: array<Element>;

fn load_b(k: u32, column: u32) -> f32 {
    return f32(b[select(k * sizes.n + column, column * sizes.k + k, TRANS_B)]);
}
