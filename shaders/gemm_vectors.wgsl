// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for software Vulkan from 2026 on, which gathers a vector in a dozen cycles and unrolls loops over arrays. A
// workgroup is one vector of 8 lanes; each lane computes ROWS rows x 8 columns, which live in the first-level cache. The
// more rows, the fewer gathers a multiplication. The lanes hold 8 columns of two rows of A, and hand them round by broadcasts.
//
// gemm_c.wgsl, gemm_c_later.wgsl and gemm_touch.wgsl come before this file, and what loads A and B: gemm_vectors_single.wgsl; or
// gemm_vectors_rows.wgsl and one of gemm_vectors_pairs.wgsl and gemm_vectors_packed.wgsl.

override ROWS: u32; // at most 32, and even
override TWICE: bool; // 2 ROWS rows of C instead of ROWS

const COLUMNS = 8u; // of a lane
const ROWS_OF_B = 16u; // in a round

fn add(sum: vec4<f32>, x: Row, w: Row, b: Blocks) -> vec4<f32> {
    return add_eight(add_eight(sum, x, b.first), w, b.second);
}

@compute @workgroup_size(8)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let row = group.y * select(ROWS, 2u * ROWS, TWICE);
    var column = group.x * 64u + thread * 8u;
    // Arrays of more than 32 are not taken apart into registers.
    var left: array<vec4<f32>, 32>;
    var right: array<vec4<f32>, 32>;
    var lower_left: array<vec4<f32>, 32>;
    var lower_right: array<vec4<f32>, 32>;
    for (var i = 0u; i < ROWS; i++) {
        left[i] = vec4<f32>();
        right[i] = vec4<f32>();
        lower_left[i] = vec4<f32>();
        lower_right[i] = vec4<f32>();
    }
    // 16 at a time: a sum is loaded and stored once for 16 products, and of B's rows a whole line of the cache is read at once.
    var touched = 0u;
    for (var k = 0u; k < sizes.k; k += 16u) {
        touched |= touch(k, group.x * 64u, column, lane & 7u);
        let y = load_blocks(k, column);
        let z = load_blocks(k, column + 4u);
        for (var i = 0u; i < ROWS; i += 2u) {
            let x = load_rows(row + i, k, lane & 7u);
            let w = load_rows(row + i, k + 8u, lane & 7u);
            left[i] = add(left[i], x.even, w.even, y);
            right[i] = add(right[i], x.even, w.even, z);
            left[i + 1u] = add(left[i + 1u], x.odd, w.odd, y);
            right[i + 1u] = add(right[i + 1u], x.odd, w.odd, z);
        }
        if TWICE {
            for (var i = 0u; i < ROWS; i += 2u) {
                let x = load_rows(row + ROWS + i, k, lane & 7u);
                let w = load_rows(row + ROWS + i, k + 8u, lane & 7u);
                lower_left[i] = add(lower_left[i], x.even, w.even, y);
                lower_right[i] = add(lower_right[i], x.even, w.even, z);
                lower_left[i + 1u] = add(lower_left[i + 1u], x.odd, w.odd, y);
                lower_right[i + 1u] = add(lower_right[i + 1u], x.odd, w.odd, z);
            }
        }
    }
    column += nothing_of(touched);
    for (var i = 0u; i < ROWS; i++) {
        store_sums(row + i, column, left[i]);
        store_sums(row + i, column + 4u, right[i]);
    }
    if TWICE {
        for (var i = 0u; i < ROWS; i++) {
            store_sums(row + ROWS + i, column, lower_left[i]);
            store_sums(row + ROWS + i, column + 4u, lower_right[i]);
        }
    }
    finish(row, row + select(ROWS, 2u * ROWS, TWICE), column);
}
