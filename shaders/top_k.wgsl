// Of each row of logits, what its k largest are found among, and what their softmax takes:
//   found[row] = count, 0; for each of 64 parts its largest logit and the sum of exp(logit - that largest); (id, logit) of the
//   first LIMIT of `count` candidates
//
// A part has every 64th logit. k parts have a logit as large as the k-th largest of the parts' largest, so the k largest of all are at
// least that large: candidates are all that are. They are few, unless many are equal, and lie in an order that depends on
// nothing but the logits: the host sorts them, and asks for the whole row where there are more than LIMIT.

const PARTS = 64u;
const LIMIT = 128u;
const WORDS = 2u + 2u * PARTS + 2u * LIMIT; // of a row of `found`

struct Sizes { rows: u32, columns: u32, k: u32 }
var<immediate> sizes: Sizes;

override THREADS: u32 = 64u; // of a workgroup, at most PARTS; 8 on software adapters

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [rows, columns]
@group(0) @binding(1) var<storage, read_write> found: array<u32>; // [rows, WORDS]

var<workgroup> largest: array<f32, PARTS>;
var<workgroup> counts: array<u32, PARTS>;
var<workgroup> ranks: array<u32, PARTS>;

@compute @workgroup_size(THREADS)
fn top_k(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= sizes.rows {
        return;
    }
    let base = row * sizes.columns;
    let out = row * WORDS;
    for (var part = thread; part < PARTS; part += THREADS) {
        var most = -3.4028234e38;
        for (var i = part; i < sizes.columns; i += PARTS) {
            most = max(most, logits[base + i]);
        }
        var sum = 0.0;
        for (var i = part; i < sizes.columns; i += PARTS) {
            sum += exp(logits[base + i] - most);
        }
        largest[part] = most;
        found[out + 2u + 2u * part] = bitcast<u32>(most);
        found[out + 3u + 2u * part] = bitcast<u32>(sum);
    }
    workgroupBarrier();
    for (var part = thread; part < PARTS; part += THREADS) {
        let own = largest[part];
        var before = 0u;
        for (var other = 0u; other < PARTS; other++) {
            before += u32(largest[other] > own || (largest[other] == own && other < part));
        }
        ranks[part] = before;
    }
    workgroupBarrier();
    // Each thread looks for it by itself: a single number that one thread leaves for all others is read too early by Apple's compiler
    // (gfx-rs/wgpu#4500).
    var least = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        if ranks[part] + 1u == sizes.k {
            least = largest[part];
        }
    }
    for (var part = thread; part < PARTS; part += THREADS) {
        var count = 0u;
        for (var i = part; i < sizes.columns; i += PARTS) {
            count += u32(logits[base + i] >= least);
        }
        counts[part] = count;
    }
    workgroupBarrier();
    for (var part = thread; part < PARTS; part += THREADS) {
        var place = 0u;
        for (var other = 0u; other < part; other++) {
            place += counts[other];
        }
        if part + 1u == PARTS {
            found[out] = place + counts[part];
            found[out + 1u] = 0u;
        }
        // A part without a candidate, as most are, need not be read again.
        if counts[part] > 0u {
            for (var i = part; i < sizes.columns; i += PARTS) {
                let value = logits[base + i];
                if value >= least {
                    if place < LIMIT {
                        found[out + 2u + 2u * PARTS + 2u * place] = i;
                        found[out + 3u + 2u * PARTS + 2u * place] = bitcast<u32>(value);
                    }
                    place += 1u;
                }
            }
        }
    }
}
