// Sums over a workgroup.

// Of a workgroup; 8 on software adapters. More than 32: of kernels with exactly that many, Apple's compiler is said to leave out barriers
// (KhronosGroup/MoltenVK#2711).
override THREADS: u32 = 64u;
var<workgroup> partial: array<vec2<f32>, THREADS>;

// The sum over all threads, in thread order. Every thread adds all of them: one barrier, and cheaper than a tree.
fn reduce(thread: u32, value: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    partial[thread] = value;
    workgroupBarrier();
    var sum = vec2<f32>();
    for (var i = 0u; i < THREADS; i++) {
        sum += partial[i];
    }
    return sum;
}
