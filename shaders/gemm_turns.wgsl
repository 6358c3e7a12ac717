// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// gemm_sixes.wgsl for CPUs of 16 vector registers, where each lane computes ROWS rows x 4 columns, and two rows take their turn after
// the other. A compiler left to itself puts all loads of a round before all products, and those of one row of B after those of another:
// then each of some hundred sums is read and stored for each product. Here the address of what is read of A depends on the sums of the
// rows before, so that these are done by then, and their eight sums stay in registers. Where a gather is a branch and a
// load a lane, as on AMD's, that is long: a round is 23 KiB of instructions with 24 rows. So much is read one right behind the other there
// that gemm_touch.wgsl's words would only be more of it.
//
// gemm_c.wgsl, gemm_c_later.wgsl, gemm_touch.wgsl, gemm_vectors_block.wgsl and gemm_vectors_rows.wgsl come before this file, and what loads B:
// gemm_sixes_pairs.wgsl or gemm_sixes_packed.wgsl.

override ROWS: u32; // at most 32, and even

const COLUMNS = 4u; // of a lane
const ROWS_OF_B = 8u; // in a round

fn bits(p: vec2<f32>, q: vec2<f32>, r: vec2<f32>, s: vec2<f32>) -> u32 {
    let all = bitcast<vec2<u32>>(p) | bitcast<vec2<u32>>(q) | bitcast<vec2<u32>>(r) | bitcast<vec2<u32>>(s);
    return all.x | all.y;
}

@compute @workgroup_size(8)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let row = group.y * ROWS;
    let column = group.x * 32u + thread * 4u;
    // Arrays of more than 32 are not taken apart into registers.
    var left: array<vec2<f32>, 32>;
    var right: array<vec2<f32>, 32>;
    for (var i = 0u; i < ROWS; i++) {
        left[i] = vec2<f32>();
        right[i] = vec2<f32>();
    }
    for (var k = 0u; k < sizes.k; k += 8u) {
        let y = load_two(k, column);
        let z = load_two(k, column + 2u);
        var after = 0u;
        for (var i = 0u; i < ROWS; i += 2u) {
            let x = load_rows_after(row + i, k, lane & 7u, after);
            left[i] = add_two(left[i], x.even, y);
            right[i] = add_two(right[i], x.even, z);
            left[i + 1u] = add_two(left[i + 1u], x.odd, y);
            right[i + 1u] = add_two(right[i + 1u], x.odd, z);
            after = nothing_of(bits(left[i], right[i], left[i + 1u], right[i + 1u]));
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < 2u; j++) {
            store_sum(row + i, column + j, left[i][j]);
            store_sum(row + i, column + 2u + j, right[i][j]);
        }
    }
    finish(row, row + ROWS, column);
}
