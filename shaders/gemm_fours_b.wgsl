// The same of B, where it is no packed weight. gemm_fours.wgsl comes before this.

@group(0) @binding(1) var<storage, read> b: array<Pair>;

fn four_of_b(line: u32, length: u32, at: u32) -> Four {
    let first = (line * length + at) / 2u;
    var further = Two();
    if at + 2u < length {
        further = Two(b[first + 1u]);
    }
    return Four(Two(b[first]), further);
}
