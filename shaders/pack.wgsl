// y = the rows of x[rows, columns] in f16 or int8, and behind them a scale for each row: x is nearly scale * y.
//
// A row takes `words` words: two or four elements each, the first in the lowest bits, with zeros behind the last; their number is
// even. In f16 the scale is the power of two by which the largest becomes 2^14 to 2^15, half of the largest f16 there is, so that
// nothing overflows and little is too small; in int8 a 127th of the largest. gemm_b_packed.wgsl and embedding.wgsl read this.
// f16.wgsl comes before this file.

override BITS: u32; // of an element: 16 or 8
override THREADS: u32 = 64u; // of a workgroup; 8 on software adapters

struct Sizes { rows: u32, columns: u32, words: u32 }
var<immediate> sizes: Sizes;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

var<workgroup> largest: array<f32, THREADS>;

fn element(row: u32, column: u32) -> f32 {
    return select(0.0, x[row * sizes.columns + min(column, sizes.columns - 1u)], column < sizes.columns);
}

@compute @workgroup_size(THREADS)
fn pack(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= sizes.rows {
        return;
    }
    var own = 0.0;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        own = max(own, abs(x[row * sizes.columns + i]));
    }
    largest[thread] = own;
    workgroupBarrier();
    own = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        own = max(own, largest[i]);
    }
    // Not so small that it would be flushed to zero, or its inverse overflow.
    own = max(own, 1e-30);
    var scale = own / 127.0;
    var inverse = 0.0;
    if BITS == 16u {
        let power = (bitcast<u32>(own) & 0x7f800000u) - (14u << 23u);
        scale = bitcast<f32>(power);
        // Of a power of two it is exact, as a quotient need not be.
        inverse = bitcast<f32>((254u << 23u) - power);
    }
    for (var i = thread; i < sizes.words; i += THREADS) {
        if BITS == 16u {
            let at = 2u * i;
            y[row * sizes.words + i] =
                f16_bits(element(row, at) * inverse) | (f16_bits(element(row, at + 1u) * inverse) << 16u);
        } else {
            let at = 4u * i;
            let four = vec4<f32>(element(row, at), element(row, at + 1u), element(row, at + 2u), element(row, at + 3u));
            let whole = vec4<u32>(vec4<i32>(clamp(round(four / scale), vec4<f32>(-127.0), vec4<f32>(127.0)))) & vec4<u32>(255u);
            y[row * sizes.words + i] = whole.x | (whole.y << 8u) | (whole.z << 16u) | (whole.w << 24u);
        }
    }
    if thread == 0u {
        y[sizes.rows * sizes.words + row] = bitcast<u32>(scale);
    }
}
