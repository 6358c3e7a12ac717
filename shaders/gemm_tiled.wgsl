// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The portable variant: a workgroup computes a 64 x 64 tile of C, each of its 256 threads 4 x 4 of it, from tiles of A
// and B staged through workgroup memory 16 deep. A's tile is stored with a stride of 65, so that the threads of one
// column fall into different banks. The host puts before this file how B is read, and what becomes of a sum.

override TRANS_A: bool; // A is stored [k, m]
override TRANS_B: bool; // B is stored [n, k]
override BIAS: bool; // bias[n] is added
override ACCUMULATE: bool; // C += instead of C =

struct Sizes { m: u32, n: u32, k: u32 }

@group(0) @binding(0) var<storage, read> a: array<Element>; // f32 or f16, as the host says
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
var<immediate> sizes: Sizes;

const TILE = 64u;
const DEPTH = 16u;
const STRIDE = 65u;

var<workgroup> tile_a: array<f32, 1040>; // [DEPTH, STRIDE]: k-major
var<workgroup> tile_b: array<f32, 1040>;

@compute @workgroup_size(256)
fn gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row0 = group.y * TILE;
    let column0 = group.x * TILE;
    let row = (thread / 16u) * 4u;
    let column = (thread % 16u) * 4u;
    var acc: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i++) {
        acc[i] = vec4<f32>();
    }
    for (var k0 = 0u; k0 < sizes.k; k0 += DEPTH) {
        for (var i = thread; i < TILE * DEPTH; i += 256u) {
            // Neighbouring threads read neighbouring elements, whichever way the matrix is stored.
            var x = i / DEPTH;
            var k = i % DEPTH;
            if TRANS_A {
                x = i % TILE;
                k = i / TILE;
            }
            var value = 0.0;
            if row0 + x < sizes.m && k0 + k < sizes.k {
                value = f32(a[select((row0 + x) * sizes.k + k0 + k, (k0 + k) * sizes.m + row0 + x, TRANS_A)]);
            }
            tile_a[k * STRIDE + x] = value;

            x = i % TILE;
            k = i / TILE;
            if TRANS_B {
                x = i / DEPTH;
                k = i % DEPTH;
            }
            value = 0.0;
            if column0 + x < sizes.n && k0 + k < sizes.k {
                value = load_b(k0 + k, column0 + x);
            }
            tile_b[k * STRIDE + x] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let at = k * STRIDE + column;
            let y = vec4<f32>(tile_b[at], tile_b[at + 1u], tile_b[at + 2u], tile_b[at + 3u]);
            for (var i = 0u; i < 4u; i++) {
                acc[i] = fma(vec4<f32>(tile_a[k * STRIDE + row + i]), y, acc[i]);
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            let r = row0 + row + i;
            let s = column0 + column + j;
            if r < sizes.m && s < sizes.n {
                var value = scaled(acc[i][j], s);
                if BIAS {
                    value += bias[s];
                }
                if ACCUMULATE {
                    value += c[r * sizes.n + s];
                }
                c[r * sizes.n + s] = activated(value);
            }
        }
    }
}
