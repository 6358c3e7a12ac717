// forward:  y[t, :] = word[input_ids[t], :] + position[position_ids[t], :] + token_type[token_type_ids[t], :]
// sum_rows: target[ids[u], :] (= or +=) sum of x[rows[j], :] over j in starts[u] .. starts[u + 1]
//
// The gradient of a table is sum_rows over the tokens of each id, listed by the host: every row of the table is written by
// one workgroup, in a fixed order, with no atomics.

struct Sizes { rows: u32, columns: u32, vocabulary: u32 } // the last for `forward`
var<immediate> sizes: Sizes;

override THREADS: u32 = 64u; // of a workgroup; 8 on software adapters

@group(0) @binding(0) var<storage, read> input_ids: array<u32>;
@group(0) @binding(1) var<storage, read> position_ids: array<u32>;
@group(0) @binding(2) var<storage, read> token_type_ids: array<u32>;
@group(0) @binding(3) var<storage, read> word: array<u32>; // f32, or packed
@group(0) @binding(4) var<storage, read> position: array<f32>;
@group(0) @binding(5) var<storage, read> token_type: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

override BITS: u32 = 32u; // of an element of `word`; 16 and 8 as packed.wgsl, which comes before this, reads them

// A packed row's scale lies behind all rows.
fn load_word(id: u32, i: u32) -> f32 {
    if BITS == 32u {
        return bitcast<f32>(word[id * sizes.columns + i]);
    }
    let words = words_of_a_row(sizes.columns);
    return bitcast<f32>(word[sizes.vocabulary * words + id]) * unpacked(word[id * words + word_of(i)], i);
}

@compute @workgroup_size(THREADS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let t = group.y * groups.x + group.x;
    if t >= sizes.rows {
        return;
    }
    let p = position_ids[t] * sizes.columns;
    let k = token_type_ids[t] * sizes.columns;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        y[t * sizes.columns + i] = load_word(input_ids[t], i) + position[p + i] + token_type[k + i];
    }
}

override ACCUMULATE: bool;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> rows: array<u32>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> target_rows: array<f32>;

@compute @workgroup_size(THREADS)
fn sum_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let u = group.y * groups.x + group.x;
    if u >= sizes.rows {
        return;
    }
    let end = starts[u + 1u];
    for (var i = thread; i < sizes.columns; i += THREADS) {
        var sum = 0.0;
        for (var j = starts[u]; j < end; j++) {
            sum += x[rows[j] * sizes.columns + i];
        }
        let at = ids[u] * sizes.columns + i;
        if ACCUMULATE {
            sum += target_rows[at];
        }
        target_rows[at] = sum;
    }
}
