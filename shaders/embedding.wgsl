// forward:  y[t, :] = word[input_ids[t], :] + position[position_ids[t], :] + token_type[token_type_ids[t], :]
// forward_normalized:  y[t, :] = the LayerNorm of that, see layer_norm.wgsl
// sum_rows: target[ids[u], :] (= or +=) sum of x[rows[j], :] over j in starts[u] .. starts[u + 1]
//
// The gradient of a table is sum_rows over the tokens of each id, listed by the host: every row of the table is written by
// one workgroup, in a fixed order, with no atomics.

struct Sizes { rows: u32, columns: u32, vocabulary: u32, eps: f32 } // the last two for `forward` and `forward_normalized`
var<immediate> sizes: Sizes;

@group(0) @binding(0) var<storage, read> ids_of_tokens: array<u32>; // [3, rows]: input_ids, position_ids, token_type_ids
@group(0) @binding(1) var<storage, read> word: array<u32>; // f32, or packed
@group(0) @binding(2) var<storage, read> position: array<f32>;
@group(0) @binding(3) var<storage, read> token_type: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

override BITS: u32 = 32u; // of an element of `word`; 16 and 8 as packed.wgsl reads them, which comes before this, as do reduce.wgsl and moments.wgsl

// A packed row's scale lies behind all rows.
fn load_word(id: u32, i: u32) -> f32 {
    if BITS == 32u {
        return bitcast<f32>(word[id * sizes.columns + i]);
    }
    let words = words_of_a_row(sizes.columns);
    return bitcast<f32>(word[sizes.vocabulary * words + id]) * unpacked(word[id * words + word_of(i)], i);
}

// Element i of token t's sum.
fn s_at(t: u32, i: u32) -> f32 {
    let p = ids_of_tokens[sizes.rows + t] * sizes.columns;
    let k = ids_of_tokens[2u * sizes.rows + t] * sizes.columns;
    return load_word(ids_of_tokens[t], i) + position[p + i] + token_type[k + i];
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
    for (var i = thread; i < sizes.columns; i += THREADS) {
        y[t * sizes.columns + i] = s_at(t, i);
    }
}

@group(0) @binding(5) var<storage, read> gamma: array<f32>;
@group(0) @binding(6) var<storage, read> beta: array<f32>;

fn hold(at: u32, s: f32) {
    y[at] = s;
}

fn held(at: u32) -> f32 {
    return y[at];
}

@compute @workgroup_size(THREADS)
fn forward_normalized(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let t = group.y * groups.x + group.x;
    if t >= sizes.rows {
        return;
    }
    let base = t * sizes.columns;
    let m = moments(t, thread);
    for (var i = thread; i < sizes.columns; i += THREADS) {
        y[base + i] = fma(gamma[i], (y[base + i] - m.x) * m.y, beta[i]);
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
