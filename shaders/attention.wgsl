// Self-attention of packed sequences. For each sequence and head, with Q, K, V the [length, head_size] parts of qkv:
//   P = softmax(scale Q K^T),  context = P V,  lse = log(sum of exp(scale Q K^T)) of each row
// backward, with delta = rowsum(dcontext * context):
//   P = exp(scale Q K^T - lse),  dS = scale P * (dcontext V^T - delta)
//   dQ = dS K,  dK = dS^T Q,  dV = P^T dcontext
//
// P is never stored. A workgroup takes a block of up to four rows of one sequence and one head, and walks along the other
// side of P in pieces of 128. One thread owns a whole dot product, then one column of the result. Heads wider than 64
// are split over workgroups, each of which computes the scores again.

// With dropout, context = (P * M) V, where M is 0 or 1 / (1 - p); backward, dcontext V^T is multiplied by M, and dV takes
// (P * M)^T. delta stays the same sum.
//
// Of the list, blocks from `first` to before `end` are taken.
struct Sizes { first: u32, end: u32, heads: u32, head_size: u32, scale: f32, site: u32, threshold: u32, kept: f32 }
var<immediate> sizes: Sizes;

override DROPOUT = false;

const ROWS = 4u;
const PIECE = 128u;
const LANES = 16u; // threads that reduce one row
const LOWEST = -3.4e38;

@group(0) @binding(0) var<storage, read> blocks: array<vec4<u32>>; // first row, rows, start and end of the sequence
@group(0) @binding(1) var<storage, read> qkv: array<f32>; // [tokens, 3 heads head_size]: all Q, all K, all V

var<workgroup> scores: array<f32, 512>; // [ROWS, PIECE]
// Of all rows of a block at once: one load for four.
var<workgroup> p: array<vec4<f32>, PIECE>;
var<workgroup> ds: array<vec4<f32>, PIECE>;
var<workgroup> part: array<f32, 64>;
var<workgroup> row_value: array<f32, 4>;

fn reduce_sum(thread: u32, value: f32) -> f32 {
    workgroupBarrier();
    part[thread] = value;
    workgroupBarrier();
    var sum = 0.0;
    let first = thread / LANES * LANES;
    for (var i = 0u; i < LANES; i++) {
        sum += part[first + i];
    }
    return sum;
}

fn reduce_max(thread: u32, value: f32) -> f32 {
    workgroupBarrier();
    part[thread] = value;
    workgroupBarrier();
    var largest = LOWEST;
    let first = thread / LANES * LANES;
    for (var i = 0u; i < LANES; i++) {
        largest = max(largest, part[first + i]);
    }
    return largest;
}

// Of the query token, for the key at this place in its sequence.
fn kept(key: u32, head: u32, place: u32) -> f32 {
    return dropout(key, sizes.site, head * 65536u + place, sizes.threshold, sizes.kept);
}

@group(0) @binding(2) var<storage, read_write> context: array<f32>; // [tokens, heads head_size]
@group(0) @binding(3) var<storage, read_write> lse: array<f32>; // [tokens, heads]
@group(0) @binding(4) var<storage, read> keys_forward: array<u32>; // [tokens]: dropout's

@compute @workgroup_size(64)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = sizes.first + group.y * groups.x + group.x;
    if index >= sizes.end {
        return;
    }
    let block = blocks[index];
    let hidden = sizes.heads * sizes.head_size;
    let slices = (sizes.head_size + 63u) / 64u;
    let head = group.z / slices;
    let q0 = head * sizes.head_size;
    let k0 = hidden + q0;
    let v0 = k0 + hidden;
    let stride = 3u * hidden;
    let last = block.x + block.y - 1u;
    // The row this thread reduces, and the column of the result it owns.
    let row = thread / LANES;
    let lane = thread % LANES;
    let column = (group.z % slices) * 64u + thread;

    var acc = vec4<f32>();
    var largest = LOWEST;
    var total = 0.0;
    for (var start = block.z; start < block.w; start += PIECE) {
        let count = min(PIECE, block.w - start);
        for (var j = thread; j < count; j += 64u) {
            let key = (start + j) * stride + k0;
            var s = vec4<f32>();
            let at0 = block.x * stride + q0;
            let at1 = min(block.x + 1u, last) * stride + q0;
            let at2 = min(block.x + 2u, last) * stride + q0;
            let at3 = min(block.x + 3u, last) * stride + q0;
            for (var d = 0u; d < sizes.head_size; d++) {
                s = fma(vec4<f32>(qkv[at0 + d], qkv[at1 + d], qkv[at2 + d], qkv[at3 + d]), vec4<f32>(qkv[key + d]), s);
            }
            s *= sizes.scale;
            scores[j] = s.x;
            scores[PIECE + j] = s.y;
            scores[2u * PIECE + j] = s.z;
            scores[3u * PIECE + j] = s.w;
        }
        workgroupBarrier();
        var m = largest;
        for (var j = lane; j < count; j += LANES) {
            m = max(m, scores[row * PIECE + j]);
        }
        m = reduce_max(thread, m);
        var sum = 0.0;
        for (var j = lane; j < count; j += LANES) {
            let e = exp(scores[row * PIECE + j] - m);
            scores[row * PIECE + j] = e;
            if DROPOUT {
                scores[row * PIECE + j] = e * kept(keys_forward[min(block.x + row, last)], head, start + j - block.z);
            }
            sum += e;
        }
        let rescale = exp(largest - m);
        largest = m;
        if lane == 0u {
            row_value[row] = rescale;
        }
        total = total * rescale + reduce_sum(thread, sum);
        for (var j = thread; j < count; j += 64u) {
            p[j] = vec4<f32>(scores[j], scores[PIECE + j], scores[2u * PIECE + j], scores[3u * PIECE + j]);
        }
        workgroupBarrier();
        if column < sizes.head_size {
            acc *= vec4<f32>(row_value[0], row_value[1], row_value[2], row_value[3]);
            for (var j = 0u; j < count; j++) {
                acc = fma(p[j], vec4<f32>(qkv[(start + j) * stride + v0 + column]), acc);
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        row_value[row] = total;
        if row < block.y && group.z % slices == 0u {
            lse[(block.x + row) * sizes.heads + head] = largest + log(total);
        }
    }
    workgroupBarrier();
    if column < sizes.head_size {
        for (var r = 0u; r < block.y; r++) {
            context[(block.x + r) * hidden + q0 + column] = acc[r] / row_value[r];
        }
    }
}

@group(0) @binding(2) var<storage, read> context_in: array<f32>;
@group(0) @binding(3) var<storage, read> lse_in: array<f32>;
@group(0) @binding(4) var<storage, read> dcontext: array<f32>; // [tokens, heads head_size]
@group(0) @binding(5) var<storage, read_write> delta: array<f32>; // [tokens, heads]
@group(0) @binding(6) var<storage, read_write> dqkv: array<f32>; // as qkv
@group(0) @binding(7) var<storage, read> keys_query: array<u32>;

// Writes dQ and delta.
@compute @workgroup_size(64)
fn backward_query(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = sizes.first + group.y * groups.x + group.x;
    if index >= sizes.end {
        return;
    }
    let block = blocks[index];
    let hidden = sizes.heads * sizes.head_size;
    let slices = (sizes.head_size + 63u) / 64u;
    let head = group.z / slices;
    let q0 = head * sizes.head_size;
    let k0 = hidden + q0;
    let v0 = k0 + hidden;
    let stride = 3u * hidden;
    let last = block.x + block.y - 1u;
    let row = thread / LANES;
    let lane = thread % LANES;
    let column = (group.z % slices) * 64u + thread;

    let mine = min(block.x + row, last);
    var product = 0.0;
    for (var d = lane; d < sizes.head_size; d += LANES) {
        let at = mine * hidden + q0 + d;
        product += dcontext[at] * context_in[at];
    }
    product = reduce_sum(thread, product);
    if lane == 0u {
        row_value[row] = product;
        if row < block.y && group.z % slices == 0u {
            delta[mine * sizes.heads + head] = product;
        }
    }
    workgroupBarrier();
    let deltas = vec4<f32>(row_value[0], row_value[1], row_value[2], row_value[3]);
    let rows = min(vec4<u32>(block.x, block.x + 1u, block.x + 2u, block.x + 3u), vec4<u32>(last));
    let l = rows * sizes.heads + head;
    let lses = vec4<f32>(lse_in[l.x], lse_in[l.y], lse_in[l.z], lse_in[l.w]);
    let q = rows * stride + q0;
    let o = rows * hidden + q0;

    var acc = vec4<f32>();
    for (var start = block.z; start < block.w; start += PIECE) {
        let count = min(PIECE, block.w - start);
        for (var j = thread; j < count; j += 64u) {
            let key = (start + j) * stride + k0;
            let value = (start + j) * stride + v0;
            var s = vec4<f32>();
            var dp = vec4<f32>();
            for (var d = 0u; d < sizes.head_size; d++) {
                let qs = vec4<f32>(qkv[q.x + d], qkv[q.y + d], qkv[q.z + d], qkv[q.w + d]);
                let dos = vec4<f32>(dcontext[o.x + d], dcontext[o.y + d], dcontext[o.z + d], dcontext[o.w + d]);
                s = fma(qs, vec4<f32>(qkv[key + d]), s);
                dp = fma(dos, vec4<f32>(qkv[value + d]), dp);
            }
            if DROPOUT {
                let place = start + j - block.z;
                dp *= vec4<f32>(
                    kept(keys_query[rows.x], head, place),
                    kept(keys_query[rows.y], head, place),
                    kept(keys_query[rows.z], head, place),
                    kept(keys_query[rows.w], head, place),
                );
            }
            let g = exp(s * sizes.scale - lses) * (dp - deltas) * sizes.scale;
            ds[j] = g;
        }
        workgroupBarrier();
        if column < sizes.head_size {
            for (var j = 0u; j < count; j++) {
                acc = fma(ds[j], vec4<f32>(qkv[(start + j) * stride + k0 + column]), acc);
            }
        }
        workgroupBarrier();
    }
    if column < sizes.head_size {
        for (var r = 0u; r < block.y; r++) {
            dqkv[(block.x + r) * stride + q0 + column] = acc[r];
        }
    }
}

@group(0) @binding(2) var<storage, read> lse_key: array<f32>;
@group(0) @binding(3) var<storage, read> delta_in: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv_key: array<f32>;
@group(0) @binding(6) var<storage, read> keys_key: array<u32>;

// Writes dK and dV. Here the block's rows are keys, and the pieces run over the queries.
@compute @workgroup_size(64)
fn backward_key(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = sizes.first + group.y * groups.x + group.x;
    if index >= sizes.end {
        return;
    }
    let block = blocks[index];
    let hidden = sizes.heads * sizes.head_size;
    let slices = (sizes.head_size + 63u) / 64u;
    let head = group.z / slices;
    let q0 = head * sizes.head_size;
    let k0 = hidden + q0;
    let v0 = k0 + hidden;
    let stride = 3u * hidden;
    let last = block.x + block.y - 1u;
    let column = (group.z % slices) * 64u + thread;
    let rows = min(vec4<u32>(block.x, block.x + 1u, block.x + 2u, block.x + 3u), vec4<u32>(last)) * stride;
    let k = rows + k0;
    let v = rows + v0;

    var dk = vec4<f32>();
    var dv = vec4<f32>();
    for (var start = block.z; start < block.w; start += PIECE) {
        let count = min(PIECE, block.w - start);
        for (var j = thread; j < count; j += 64u) {
            let query = (start + j) * stride + q0;
            let o = (start + j) * hidden + q0;
            var s = vec4<f32>();
            var dp = vec4<f32>();
            for (var d = 0u; d < sizes.head_size; d++) {
                let ks = vec4<f32>(qkv[k.x + d], qkv[k.y + d], qkv[k.z + d], qkv[k.w + d]);
                let vs = vec4<f32>(qkv[v.x + d], qkv[v.y + d], qkv[v.z + d], qkv[v.w + d]);
                s = fma(ks, vec4<f32>(qkv[query + d]), s);
                dp = fma(vs, vec4<f32>(dcontext[o + d]), dp);
            }
            let l = (start + j) * sizes.heads + head;
            var probability = exp(s * sizes.scale - lse_key[l]);
            var mask = vec4<f32>(1.0);
            if DROPOUT {
                let key = keys_key[start + j];
                let place = block.x - block.z;
                mask = vec4<f32>(
                    kept(key, head, place),
                    kept(key, head, place + 1u),
                    kept(key, head, place + 2u),
                    kept(key, head, place + 3u),
                );
            }
            let g = probability * (dp * mask - delta_in[l]) * sizes.scale;
            probability *= mask;
            p[j] = probability;
            ds[j] = g;
        }
        workgroupBarrier();
        if column < sizes.head_size {
            for (var j = 0u; j < count; j++) {
                dv = fma(p[j], vec4<f32>(dcontext[(start + j) * hidden + q0 + column]), dv);
                dk = fma(ds[j], vec4<f32>(qkv[(start + j) * stride + q0 + column]), dk);
            }
        }
        workgroupBarrier();
    }
    if column < sizes.head_size {
        for (var r = 0u; r < block.y; r++) {
            dqkv_key[(block.x + r) * stride + k0 + column] = dk[r];
            dqkv_key[(block.x + r) * stride + v0 + column] = dv[r];
        }
    }
}
