// y = x in f16, two in a word. What f16 cannot hold becomes an infinity, so that a scale that is too large is noticed:
// the conversions of WGSL may give anything there.

struct Params { len: u32 }
var<immediate> params: Params;

override THREADS: u32 = 256u; // of a workgroup; 8 on software adapters
const BLOCK = 1024u; // words of a workgroup

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

fn bits(value: f32) -> u32 {
    // By its bits: compilers that take all numbers for finite may turn a comparison round, and NaN into a number.
    let magnitude = bitcast<u32>(value) & 0x7fffffffu;
    // From 65520 on the nearest f16 is infinite.
    if magnitude < 0x477ff000u {
        return pack2x16float(vec2<f32>(clamp(value, -65504.0, 65504.0), 0.0)) & 0xffffu;
    }
    let sign = (bitcast<u32>(value) >> 16u) & 0x8000u;
    return sign | select(0x7e00u, 0x7c00u, magnitude <= 0x7f800000u);
}

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
        var packed = bits(x[at]);
        if at + 1u < params.len {
            packed |= bits(x[at + 1u]) << 16u;
        }
        y[word] = packed;
    }
}
