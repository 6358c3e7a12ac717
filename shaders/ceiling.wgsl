// What an adapter could do at most: multiply-adds on registers, ten independent sums a thread, no loads between them.
// 160 flops a thread and round.

override WIDTH: u32 = 8; // threads of a workgroup

struct Sizes { rounds: u32 }
var<immediate> sizes: Sizes;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [WIDTH]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [WIDTH], so that nothing is left out

@compute @workgroup_size(WIDTH)
fn ceiling(@builtin(local_invocation_index) thread: u32) {
    let factor = x[thread];
    var p = vec4<f32>(factor, factor + 1.0, factor + 2.0, factor + 3.0);
    var q = p + 4.0;
    var r = p.xy + 8.0;
    for (var round = 0u; round < sizes.rounds; round++) {
        for (var i = 0u; i < 8u; i++) {
            p = fma(p, vec4<f32>(factor), vec4<f32>(factor));
            q = fma(q, vec4<f32>(factor), vec4<f32>(factor));
            r = fma(r, vec2<f32>(factor), vec2<f32>(factor));
        }
    }
    y[thread] = p.x + p.y + p.z + p.w + q.x + q.y + q.z + q.w + r.x + r.y;
}
