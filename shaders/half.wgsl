// y = x in f16, two in a word. What f16 cannot hold becomes an infinity, so that a scale that is too large is noticed.
// f16.wgsl comes before this file.

struct Params { len: u32 }
var<immediate> params: Params;

override THREADS: u32 = 256u; // of a workgroup; 8 on software adapters
const BLOCK = 1024u; // words of a workgroup

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(THREADS)
fn to_half(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first = (group.y * groups.x + group.x) * BLOCK;
    let end = min(first + BLOCK, (params.len + 1u) / 2u);
    for (var word = first + thread; word < end; word += THREADS) {
        let at = word * 2u;
        var packed = f16_bits(x[at]);
        if at + 1u < params.len {
            packed |= f16_bits(x[at + 1u]) << 16u;
        }
        y[word] = packed;
    }
}
