// sums[first + block] = two sums of hashes of the elements of each block, as 32-bit integers that wrap around. A hash is one of
// an element's bits and of its place. Integers may be added in any order, so the same array gives the same sums on any adapter.
//
// random.wgsl comes before this file.

struct Params { len: u32, first: u32 }
var<immediate> params: Params;

override THREADS: u32 = 256u; // of a workgroup; 8 on software adapters
const BLOCK = 16384u; // elements of a workgroup
var<workgroup> partial: array<vec2<u32>, THREADS>;

@group(0) @binding(0) var<storage, read> x: array<u32>; // f32, as bits
@group(0) @binding(1) var<storage, read_write> sums: array<vec2<u32>>;

@compute @workgroup_size(THREADS)
fn fingerprint(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = group.y * groups.x + group.x;
    if block * BLOCK >= params.len {
        return;
    }
    let end = min(block * BLOCK + BLOCK, params.len);
    var sum = vec2<u32>();
    for (var i = block * BLOCK + thread; i < end; i += THREADS) {
        let hash = pcg(pcg(x[i]) + i);
        sum += vec2<u32>(hash, pcg(hash ^ 0x9e3779b9u));
    }
    partial[thread] = sum;
    workgroupBarrier();
    if thread == 0u {
        sum = vec2<u32>();
        for (var i = 0u; i < THREADS; i++) {
            sum += partial[i];
        }
        sums[params.first + block] = sum;
    }
}
