// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// gemm_vectors.wgsl for many rows on some CPUs, in which what runs again and again has to be short: each lane computes ROWS rows x 6
// columns, eight products a round. With 32 rows a round is 27 KiB of instructions, which the first-level cache for them holds, of 32
// KiB as a rule; with 8 columns and 16 products it is 55 KiB, and fewer of its bytes are executed a nanosecond. Eight products of a
// sum, one waiting for the other, also leave more room for those of other sums in what a CPU looks ahead.
//
// gemm_c.wgsl, gemm_c_later.wgsl, gemm_touch.wgsl, gemm_vectors_block.wgsl and gemm_vectors_rows.wgsl come before this file, and what loads B:
// gemm_sixes_pairs.wgsl or gemm_sixes_packed.wgsl.

override ROWS: u32; // at most 32, and even

const COLUMNS = 6u; // of a lane
const ROWS_OF_B = 8u; // in a round

@compute @workgroup_size(8)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let row = group.y * ROWS;
    var column = group.x * 48u + thread * 6u;
    // Arrays of more than 32 are not taken apart into registers.
    var first: array<vec2<f32>, 32>;
    var second: array<vec2<f32>, 32>;
    var third: array<vec2<f32>, 32>;
    for (var i = 0u; i < ROWS; i++) {
        first[i] = vec2<f32>();
        second[i] = vec2<f32>();
        third[i] = vec2<f32>();
    }
    var touched = 0u;
    for (var k = 0u; k < sizes.k; k += 8u) {
        touched |= touch(k, group.x * 48u, column, lane & 7u);
        let y = load_two(k, column);
        let z = load_two(k, column + 2u);
        let w = load_two(k, column + 4u);
        for (var i = 0u; i < ROWS; i += 2u) {
            let x = load_rows(row + i, k, lane & 7u);
            first[i] = add_two(first[i], x.even, y);
            second[i] = add_two(second[i], x.even, z);
            third[i] = add_two(third[i], x.even, w);
            first[i + 1u] = add_two(first[i + 1u], x.odd, y);
            second[i + 1u] = add_two(second[i + 1u], x.odd, z);
            third[i + 1u] = add_two(third[i + 1u], x.odd, w);
        }
    }
    column += nothing_of(touched);
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < 2u; j++) {
            store_sum(row + i, column + j, first[i][j]);
            store_sum(row + i, column + 2u + j, second[i][j]);
            store_sum(row + i, column + 4u + j, third[i][j]);
        }
    }
    finish(row, row + ROWS, column);
}
