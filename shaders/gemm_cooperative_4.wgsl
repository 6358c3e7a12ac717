// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for cooperative matrices, of which a subgroup computes 4 x 4: two products for each that is loaded.
// gemm_cooperative.wgsl comes before this file.

@compute @workgroup_size(WIDTH)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    let row0 = group.y * TILE;
    let column0 = group.x * TILE;
    // Four subgroups, where their size is the expected one. A driver may take another: fewer go round again, more only stage.
    for (var first = 0u; first < 4u; first += subgroups) {
        let part = first + subgroup;
        let row = (part / 2u) * SPAN * EDGE;
        let column = (part % 2u) * SPAN * EDGE;
        var c00 = MatrixC();
        var c01 = MatrixC();
        var c02 = MatrixC();
        var c03 = MatrixC();
        var c10 = MatrixC();
        var c11 = MatrixC();
        var c12 = MatrixC();
        var c13 = MatrixC();
        var c20 = MatrixC();
        var c21 = MatrixC();
        var c22 = MatrixC();
        var c23 = MatrixC();
        var c30 = MatrixC();
        var c31 = MatrixC();
        var c32 = MatrixC();
        var c33 = MatrixC();
        for (var k0 = 0u; k0 < sizes.k; k0 += DEPTH) {
            stage_a(thread, row0, k0);
            stage_b(thread, column0, k0);
            workgroupBarrier();
            for (var idle = part >= 4u; !idle; idle = true) {
                for (var k = 0u; k < DEPTH; k += EDGE) {
                    let b0 = matrix_b(k, column);
                    let b1 = matrix_b(k, column + EDGE);
                    let b2 = matrix_b(k, column + 2u * EDGE);
                    let b3 = matrix_b(k, column + 3u * EDGE);
                    let a0 = matrix_a(row, k);
                    c00 = coopMultiplyAdd(a0, b0, c00);
                    c01 = coopMultiplyAdd(a0, b1, c01);
                    c02 = coopMultiplyAdd(a0, b2, c02);
                    c03 = coopMultiplyAdd(a0, b3, c03);
                    let a1 = matrix_a(row + EDGE, k);
                    c10 = coopMultiplyAdd(a1, b0, c10);
                    c11 = coopMultiplyAdd(a1, b1, c11);
                    c12 = coopMultiplyAdd(a1, b2, c12);
                    c13 = coopMultiplyAdd(a1, b3, c13);
                    let a2 = matrix_a(row + 2u * EDGE, k);
                    c20 = coopMultiplyAdd(a2, b0, c20);
                    c21 = coopMultiplyAdd(a2, b1, c21);
                    c22 = coopMultiplyAdd(a2, b2, c22);
                    c23 = coopMultiplyAdd(a2, b3, c23);
                    let a3 = matrix_a(row + 3u * EDGE, k);
                    c30 = coopMultiplyAdd(a3, b0, c30);
                    c31 = coopMultiplyAdd(a3, b1, c31);
                    c32 = coopMultiplyAdd(a3, b2, c32);
                    c33 = coopMultiplyAdd(a3, b3, c33);
                }
            }
            workgroupBarrier();
        }
        let place = Place(row0 + row, column0 + column, part, lane, lanes);
        store(c00, place, 0u, 0u);
        store(c01, place, 0u, EDGE);
        store(c02, place, 0u, 2u * EDGE);
        store(c03, place, 0u, 3u * EDGE);
        store(c10, place, EDGE, 0u);
        store(c11, place, EDGE, EDGE);
        store(c12, place, EDGE, 2u * EDGE);
        store(c13, place, EDGE, 3u * EDGE);
        store(c20, place, 2u * EDGE, 0u);
        store(c21, place, 2u * EDGE, EDGE);
        store(c22, place, 2u * EDGE, 2u * EDGE);
        store(c23, place, 2u * EDGE, 3u * EDGE);
        store(c30, place, 3u * EDGE, 0u);
        store(c31, place, 3u * EDGE, EDGE);
        store(c32, place, 3u * EDGE, 2u * EDGE);
        store(c33, place, 3u * EDGE, 3u * EDGE);
    }
}
