// y = factor * x

struct Params { len: u32, factor: f32 }
var<immediate> params: Params;

override THREADS: u32 = 256u; // of a workgroup; 8 on software adapters
const BLOCK = 1024u; // elements of a workgroup

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn scale(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first = (group.y * groups.x + group.x) * BLOCK;
    let end = min(first + BLOCK, params.len);
    for (var i = first + thread; i < end; i += THREADS) {
        y[i] = params.factor * x[i];
    }
}
