// What GEMM kernels share whose lanes compute four columns at a time: their switches and sizes, and how C is written. The host
// says what becomes of a sum.

override TRANS_A: bool; // A is stored [k, m]
override TRANS_B: bool; // B is stored [n, k]
override BIAS: bool; // bias[n] is added
override ACCUMULATE: bool; // C += instead of C =

struct Sizes { m: u32, n: u32, k: u32 }

@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<immediate> sizes: Sizes;

// Four columns of one row of C, as far as they are inside.
fn store(row: u32, column: u32, sum: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if row < sizes.m && column + j < sizes.n {
            let at = row * sizes.n + column + j;
            var value = scaled(sum[j], column + j);
            if BIAS {
                value += bias[column + j];
            }
            if ACCUMULATE {
                value += c[at];
            }
            c[at] = activated(value);
        }
    }
}
