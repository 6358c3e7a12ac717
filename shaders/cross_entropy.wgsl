// For each row with label c:  loss = log(sum of exp(logits)) - logits[c],  rank = how many logits come before logits[c]
// With GRADIENT, the logits are overwritten by the gradient of scale * loss:  (softmax(logits) - onehot(c)) * scale
//
// Ties are broken towards the smaller id, as torch.topk on a sorted tie would list them.

override GRADIENT: bool;

struct Sizes { rows: u32, columns: u32, scale: f32, first_row: u32 }
var<immediate> sizes: Sizes;

@group(0) @binding(0) var<storage, read> labels: array<u32>; // [rows of all chunks]
@group(0) @binding(1) var<storage, read_write> logits: array<f32>; // [rows, columns]
@group(0) @binding(2) var<storage, read_write> stats: array<vec2<f32>>; // [rows of all chunks]: loss, rank

override THREADS: u32 = 64u; // of a workgroup; 8 on software adapters
var<workgroup> partial: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn cross_entropy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= sizes.rows {
        return;
    }
    let base = row * sizes.columns;
    let label = labels[sizes.first_row + row];
    let wanted = logits[base + label];

    var largest = wanted;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        largest = max(largest, logits[base + i]);
    }
    partial[thread] = vec2<f32>(largest, 0.0);
    workgroupBarrier();
    for (var i = 0u; i < THREADS; i++) {
        largest = max(largest, partial[i].x);
    }
    workgroupBarrier();

    var sums = vec2<f32>(); // of exp, and of logits that rank before the label's
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let z = logits[base + i];
        let before = z > wanted || (z == wanted && i < label);
        sums += vec2<f32>(exp(z - largest), select(0.0, 1.0, before));
    }
    partial[thread] = sums;
    workgroupBarrier();
    sums = vec2<f32>();
    for (var i = 0u; i < THREADS; i++) {
        sums += partial[i];
    }
    if thread == 0u {
        stats[sizes.first_row + row] = vec2<f32>(log(sums.x) + (largest - wanted), sums.y);
    }
    if GRADIENT {
        // All have read the label's logit, which one of them overwrites.
        storageBarrier();
        let factor = sizes.scale / sums.x;
        for (var i = thread; i < sizes.columns; i += THREADS) {
            let p = exp(logits[base + i] - largest) * factor;
            logits[base + i] = p - select(0.0, sizes.scale, i == label);
        }
    }
}
