// C = op(A) op(B) (+ bias), or C += op(A) op(B).   op(A): [m, k], op(B): [k, n], C: [m, n]
//
// The variant for cooperative matrices, of which a subgroup computes 2 x 2. gemm_cooperative.wgsl comes before this file.

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
        var c10 = MatrixC();
        var c11 = MatrixC();
        for (var k0 = 0u; k0 < sizes.k; k0 += DEPTH) {
            stage_a(thread, row0, k0);
            stage_b(thread, column0, k0);
            workgroupBarrier();
            for (var idle = part >= 4u; !idle; idle = true) {
                for (var k = 0u; k < DEPTH; k += EDGE) {
                    let b0 = matrix_b(k, column);
                    let b1 = matrix_b(k, column + EDGE);
                    let a0 = matrix_a(row, k);
                    c00 = coopMultiplyAdd(a0, b0, c00);
                    c01 = coopMultiplyAdd(a0, b1, c01);
                    let a1 = matrix_a(row + EDGE, k);
                    c10 = coopMultiplyAdd(a1, b0, c10);
                    c11 = coopMultiplyAdd(a1, b1, c11);
                }
            }
            workgroupBarrier();
        }
        let place = Place(row0 + row, column0 + column, part, lane, lanes);
        store(c00, place, 0u, 0u);
        store(c01, place, 0u, EDGE);
        store(c10, place, EDGE, 0u);
        store(c11, place, EDGE, EDGE);
    }
}
