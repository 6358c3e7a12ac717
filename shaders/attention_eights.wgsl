// The attention of attention.wgsl for software Vulkan, and heads of 32 or 64 numbers.
//
// There a load is a gather, or until 2026 a loop over the lanes, whatever its width, and a barrier a switch between vectors. Here a workgroup is one vector of 8
// lanes and takes four rows of one sequence and one head. Of each a lane holds eight numbers; what is on the other side of P comes
// eight rows at a time, a lane owning one, to multiply with all four, which are handed round by broadcasts. Results are
// held as the rows are: a lane has eight columns.
//
// The same arithmetic, but that sums over a row are taken in pieces of eight, and softmax's largest score is known after each 8 keys.

// Of the list, blocks from `first` to before `end` are taken.
struct Sizes { first: u32, end: u32, heads: u32, head_size: u32, scale: f32, site: u32, threshold: u32, kept: f32 }
var<immediate> sizes: Sizes;

override DROPOUT = false;
override HEAD_SIZE: u32; // 32 or 64

const LOWEST = -3.4e38;

@group(0) @binding(0) var<storage, read> blocks: array<vec4<u32>>; // first row, rows (at most 4), start and end of the sequence
@group(0) @binding(1) var<storage, read> qkv: array<vec4<u64>>; // eight f32; [tokens, 3 heads head_size]: all Q, all K, all V

struct Eight { low: vec4<f32>, high: vec4<f32> }

// A lane's eight numbers of four rows.
struct Rows { r0: Eight, r1: Eight, r2: Eight, r3: Eight }

// All numbers of one row.
struct Whole { e0: Eight, e1: Eight, e2: Eight, e3: Eight, e4: Eight, e5: Eight, e6: Eight, e7: Eight }

fn pair(bits: u64) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(u32(bits)), bitcast<f32>(u32(bits >> 32u)));
}

fn eight(bits: vec4<u64>) -> Eight {
    return Eight(vec4<f32>(pair(bits.x), pair(bits.y)), vec4<f32>(pair(bits.z), pair(bits.w)));
}

fn whole_of_qkv(at: u32) -> Whole {
    let i = at / 8u;
    var x: Whole;
    x.e0 = eight(qkv[i]);
    x.e1 = eight(qkv[i + 1u]);
    x.e2 = eight(qkv[i + 2u]);
    x.e3 = eight(qkv[i + 3u]);
    if HEAD_SIZE == 64u {
        x.e4 = eight(qkv[i + 4u]);
        x.e5 = eight(qkv[i + 5u]);
        x.e6 = eight(qkv[i + 6u]);
        x.e7 = eight(qkv[i + 7u]);
    }
    return x;
}

fn rows_of_qkv(at: vec4<u32>) -> Rows {
    return Rows(eight(qkv[at.x / 8u]), eight(qkv[at.y / 8u]), eight(qkv[at.z / 8u]), eight(qkv[at.w / 8u]));
}

fn add_product(sum: f32, low: vec4<f32>, high: vec4<f32>, x: Eight) -> f32 {
    let s = fma(low.w, x.low.w, fma(low.z, x.low.z, fma(low.y, x.low.y, fma(low.x, x.low.x, sum))));
    return fma(high.w, x.high.w, fma(high.z, x.high.z, fma(high.y, x.high.y, fma(high.x, x.high.x, s))));
}

// Products of four rows, as the lanes hold them, with the one this lane has whole.
fn products(rows: Rows, x: Whole) -> vec4<f32> {
    var s = vec4<f32>();
    s.x = add_product(s.x, subgroupBroadcast(rows.r0.low, 0u), subgroupBroadcast(rows.r0.high, 0u), x.e0);
    s.y = add_product(s.y, subgroupBroadcast(rows.r1.low, 0u), subgroupBroadcast(rows.r1.high, 0u), x.e0);
    s.z = add_product(s.z, subgroupBroadcast(rows.r2.low, 0u), subgroupBroadcast(rows.r2.high, 0u), x.e0);
    s.w = add_product(s.w, subgroupBroadcast(rows.r3.low, 0u), subgroupBroadcast(rows.r3.high, 0u), x.e0);
    s.x = add_product(s.x, subgroupBroadcast(rows.r0.low, 1u), subgroupBroadcast(rows.r0.high, 1u), x.e1);
    s.y = add_product(s.y, subgroupBroadcast(rows.r1.low, 1u), subgroupBroadcast(rows.r1.high, 1u), x.e1);
    s.z = add_product(s.z, subgroupBroadcast(rows.r2.low, 1u), subgroupBroadcast(rows.r2.high, 1u), x.e1);
    s.w = add_product(s.w, subgroupBroadcast(rows.r3.low, 1u), subgroupBroadcast(rows.r3.high, 1u), x.e1);
    s.x = add_product(s.x, subgroupBroadcast(rows.r0.low, 2u), subgroupBroadcast(rows.r0.high, 2u), x.e2);
    s.y = add_product(s.y, subgroupBroadcast(rows.r1.low, 2u), subgroupBroadcast(rows.r1.high, 2u), x.e2);
    s.z = add_product(s.z, subgroupBroadcast(rows.r2.low, 2u), subgroupBroadcast(rows.r2.high, 2u), x.e2);
    s.w = add_product(s.w, subgroupBroadcast(rows.r3.low, 2u), subgroupBroadcast(rows.r3.high, 2u), x.e2);
    s.x = add_product(s.x, subgroupBroadcast(rows.r0.low, 3u), subgroupBroadcast(rows.r0.high, 3u), x.e3);
    s.y = add_product(s.y, subgroupBroadcast(rows.r1.low, 3u), subgroupBroadcast(rows.r1.high, 3u), x.e3);
    s.z = add_product(s.z, subgroupBroadcast(rows.r2.low, 3u), subgroupBroadcast(rows.r2.high, 3u), x.e3);
    s.w = add_product(s.w, subgroupBroadcast(rows.r3.low, 3u), subgroupBroadcast(rows.r3.high, 3u), x.e3);
    if HEAD_SIZE == 64u {
        s.x = add_product(s.x, subgroupBroadcast(rows.r0.low, 4u), subgroupBroadcast(rows.r0.high, 4u), x.e4);
        s.y = add_product(s.y, subgroupBroadcast(rows.r1.low, 4u), subgroupBroadcast(rows.r1.high, 4u), x.e4);
        s.z = add_product(s.z, subgroupBroadcast(rows.r2.low, 4u), subgroupBroadcast(rows.r2.high, 4u), x.e4);
        s.w = add_product(s.w, subgroupBroadcast(rows.r3.low, 4u), subgroupBroadcast(rows.r3.high, 4u), x.e4);
        s.x = add_product(s.x, subgroupBroadcast(rows.r0.low, 5u), subgroupBroadcast(rows.r0.high, 5u), x.e5);
        s.y = add_product(s.y, subgroupBroadcast(rows.r1.low, 5u), subgroupBroadcast(rows.r1.high, 5u), x.e5);
        s.z = add_product(s.z, subgroupBroadcast(rows.r2.low, 5u), subgroupBroadcast(rows.r2.high, 5u), x.e5);
        s.w = add_product(s.w, subgroupBroadcast(rows.r3.low, 5u), subgroupBroadcast(rows.r3.high, 5u), x.e5);
        s.x = add_product(s.x, subgroupBroadcast(rows.r0.low, 6u), subgroupBroadcast(rows.r0.high, 6u), x.e6);
        s.y = add_product(s.y, subgroupBroadcast(rows.r1.low, 6u), subgroupBroadcast(rows.r1.high, 6u), x.e6);
        s.z = add_product(s.z, subgroupBroadcast(rows.r2.low, 6u), subgroupBroadcast(rows.r2.high, 6u), x.e6);
        s.w = add_product(s.w, subgroupBroadcast(rows.r3.low, 6u), subgroupBroadcast(rows.r3.high, 6u), x.e6);
        s.x = add_product(s.x, subgroupBroadcast(rows.r0.low, 7u), subgroupBroadcast(rows.r0.high, 7u), x.e7);
        s.y = add_product(s.y, subgroupBroadcast(rows.r1.low, 7u), subgroupBroadcast(rows.r1.high, 7u), x.e7);
        s.z = add_product(s.z, subgroupBroadcast(rows.r2.low, 7u), subgroupBroadcast(rows.r2.high, 7u), x.e7);
        s.w = add_product(s.w, subgroupBroadcast(rows.r3.low, 7u), subgroupBroadcast(rows.r3.high, 7u), x.e7);
    }
    return s;
}

fn add_row(sums: Eight, weight: f32, x: Eight) -> Eight {
    return Eight(fma(vec4<f32>(weight), x.low, sums.low), fma(vec4<f32>(weight), x.high, sums.high));
}

fn add_rows(sums: Rows, weights: vec4<f32>, x: Eight) -> Rows {
    return Rows(
        add_row(sums.r0, weights.x, x),
        add_row(sums.r1, weights.y, x),
        add_row(sums.r2, weights.z, x),
        add_row(sums.r3, weights.w, x),
    );
}

// Eight rows of qkv, `stride` apart and none beyond the last, each times the weights that the lane of its number has.
fn add_weighted(sums: Rows, weights: vec4<f32>, first: u32, last: u32, stride: u32, at: u32) -> Rows {
    let s0 = add_rows(sums, subgroupBroadcast(weights, 0u), eight(qkv[(first * stride + at) / 8u]));
    let s1 = add_rows(s0, subgroupBroadcast(weights, 1u), eight(qkv[(min(first + 1u, last) * stride + at) / 8u]));
    let s2 = add_rows(s1, subgroupBroadcast(weights, 2u), eight(qkv[(min(first + 2u, last) * stride + at) / 8u]));
    let s3 = add_rows(s2, subgroupBroadcast(weights, 3u), eight(qkv[(min(first + 3u, last) * stride + at) / 8u]));
    let s4 = add_rows(s3, subgroupBroadcast(weights, 4u), eight(qkv[(min(first + 4u, last) * stride + at) / 8u]));
    let s5 = add_rows(s4, subgroupBroadcast(weights, 5u), eight(qkv[(min(first + 5u, last) * stride + at) / 8u]));
    let s6 = add_rows(s5, subgroupBroadcast(weights, 6u), eight(qkv[(min(first + 6u, last) * stride + at) / 8u]));
    let s7 = add_rows(s6, subgroupBroadcast(weights, 7u), eight(qkv[(min(first + 7u, last) * stride + at) / 8u]));
    return s7;
}

fn times(x: Eight, factor: f32) -> Eight {
    return Eight(x.low * factor, x.high * factor);
}

// Of this workgroup: its rows, its head, and which numbers of it the lane holds. Where a head has fewer eights than there are lanes, the
// others hold the last one, too, and store nothing.
struct Place { block: vec4<u32>, rows: vec4<u32>, head: u32, at: u32, mine: u32, hidden: u32, holds: bool, is_inside: bool }

fn place(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> Place {
    let index = sizes.first + group.y * groups.x + group.x;
    let block = blocks[min(index, sizes.end - 1u)];
    let rows = min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(block.y - 1u)) + block.x;
    let at = group.z * HEAD_SIZE;
    let mine = at + min(lane * 8u, HEAD_SIZE - 8u);
    return Place(block, rows, group.z, at, mine, sizes.heads * HEAD_SIZE, lane * 8u < HEAD_SIZE, index < sizes.end);
}

// Of the query token, for the key at this place in its sequence.
fn kept(key: u32, head: u32, place: u32) -> f32 {
    return dropout(key, sizes.site, head * 65536u + place, sizes.threshold, sizes.kept);
}

@group(0) @binding(2) var<storage, read_write> context: array<vec4<f32>>; // [tokens, heads head_size]
@group(0) @binding(3) var<storage, read_write> lse: array<f32>; // [tokens, heads]
@group(0) @binding(4) var<storage, read> keys_forward: array<u32>; // [tokens]: dropout's

fn store_context(p: Place, r: u32, sums: Eight, total: f32) {
    if p.holds && r < p.block.y {
        let to = ((p.block.x + r) * p.hidden + p.mine) / 4u;
        context[to] = sums.low / total;
        context[to + 1u] = sums.high / total;
    }
}

@compute @workgroup_size(8)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = place(group, groups, lane);
    if !p.is_inside {
        return;
    }
    let stride = 3u * p.hidden;
    let last = p.block.w - 1u;
    let q = rows_of_qkv(p.rows * stride + p.mine);
    var sums: Rows;
    var largest = vec4<f32>(LOWEST);
    var total = vec4<f32>();
    for (var start = p.block.z; start < p.block.w; start += 8u) {
        let is_key = start + lane < p.block.w;
        let scores = products(q, whole_of_qkv(min(start + lane, last) * stride + p.hidden + p.at)) * sizes.scale;
        let m = max(largest, subgroupMax(select(vec4<f32>(LOWEST), scores, is_key)));
        var e = select(vec4<f32>(), exp(scores - m), is_key);
        let rescale = exp(largest - m);
        largest = m;
        total = total * rescale + subgroupAdd(e);
        if DROPOUT {
            let place = start + lane - p.block.z;
            e *= vec4<f32>(
                kept(keys_forward[p.rows.x], p.head, place),
                kept(keys_forward[p.rows.y], p.head, place),
                kept(keys_forward[p.rows.z], p.head, place),
                kept(keys_forward[p.rows.w], p.head, place),
            );
        }
        sums = Rows(
            times(sums.r0, rescale.x),
            times(sums.r1, rescale.y),
            times(sums.r2, rescale.z),
            times(sums.r3, rescale.w),
        );
        sums = add_weighted(sums, e, start, last, stride, 2u * p.hidden + p.mine);
    }
    store_context(p, 0u, sums.r0, total.x);
    store_context(p, 1u, sums.r1, total.y);
    store_context(p, 2u, sums.r2, total.z);
    store_context(p, 3u, sums.r3, total.w);
    // A lane a row.
    if lane < p.block.y {
        lse[(p.block.x + lane) * sizes.heads + p.head] = largest[lane] + log(total[lane]);
    }
}

@group(0) @binding(2) var<storage, read> context_in: array<vec4<u64>>;
@group(0) @binding(3) var<storage, read> lse_in: array<f32>;
@group(0) @binding(4) var<storage, read> dcontext: array<vec4<u64>>; // [tokens, heads head_size]
@group(0) @binding(5) var<storage, read_write> delta: array<f32>; // [tokens, heads]
@group(0) @binding(6) var<storage, read_write> dqkv: array<vec4<f32>>; // as qkv
@group(0) @binding(7) var<storage, read> keys_query: array<u32>;

fn rows_of_dcontext(at: vec4<u32>) -> Rows {
    return Rows(
        eight(dcontext[at.x / 8u]),
        eight(dcontext[at.y / 8u]),
        eight(dcontext[at.z / 8u]),
        eight(dcontext[at.w / 8u]),
    );
}

fn product_with_context(row: Eight, at: u32) -> f32 {
    let x = eight(context_in[at / 8u]);
    return add_product(0.0, row.low, row.high, x);
}

fn store_query(p: Place, r: u32, sums: Eight) {
    if p.holds && r < p.block.y {
        let to = ((p.block.x + r) * 3u * p.hidden + p.mine) / 4u;
        dqkv[to] = sums.low;
        dqkv[to + 1u] = sums.high;
    }
}

// Writes dQ and delta.
@compute @workgroup_size(8)
fn backward_query(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = place(group, groups, lane);
    if !p.is_inside {
        return;
    }
    let stride = 3u * p.hidden;
    let last = p.block.w - 1u;
    let q = rows_of_qkv(p.rows * stride + p.mine);
    let at = p.rows * p.hidden + p.mine;
    let d = rows_of_dcontext(at);
    let own = vec4<f32>(
        product_with_context(d.r0, at.x),
        product_with_context(d.r1, at.y),
        product_with_context(d.r2, at.z),
        product_with_context(d.r3, at.w),
    );
    let deltas = subgroupAdd(select(vec4<f32>(), own, p.holds));
    if lane < p.block.y {
        delta[(p.block.x + lane) * sizes.heads + p.head] = deltas[lane];
    }
    let l = p.rows * sizes.heads + p.head;
    let lses = vec4<f32>(lse_in[l.x], lse_in[l.y], lse_in[l.z], lse_in[l.w]);
    var sums: Rows;
    for (var start = p.block.z; start < p.block.w; start += 8u) {
        let key = min(start + lane, last) * stride + p.hidden + p.at;
        let scores = products(q, whole_of_qkv(key)) * sizes.scale;
        var dp = products(d, whole_of_qkv(key + p.hidden));
        if DROPOUT {
            let place = start + lane - p.block.z;
            dp *= vec4<f32>(
                kept(keys_query[p.rows.x], p.head, place),
                kept(keys_query[p.rows.y], p.head, place),
                kept(keys_query[p.rows.z], p.head, place),
                kept(keys_query[p.rows.w], p.head, place),
            );
        }
        let g = exp(scores - lses) * (dp - deltas) * sizes.scale;
        let weights = select(vec4<f32>(), g, start + lane < p.block.w);
        sums = add_weighted(sums, weights, start, last, stride, p.hidden + p.mine);
    }
    store_query(p, 0u, sums.r0);
    store_query(p, 1u, sums.r1);
    store_query(p, 2u, sums.r2);
    store_query(p, 3u, sums.r3);
}

@group(0) @binding(2) var<storage, read> lse_key: array<f32>;
@group(0) @binding(3) var<storage, read> delta_in: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv_key: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> keys_key: array<u32>;

fn whole_of_dcontext(at: u32) -> Whole {
    let i = at / 8u;
    var x: Whole;
    x.e0 = eight(dcontext[i]);
    x.e1 = eight(dcontext[i + 1u]);
    x.e2 = eight(dcontext[i + 2u]);
    x.e3 = eight(dcontext[i + 3u]);
    if HEAD_SIZE == 64u {
        x.e4 = eight(dcontext[i + 4u]);
        x.e5 = eight(dcontext[i + 5u]);
        x.e6 = eight(dcontext[i + 6u]);
        x.e7 = eight(dcontext[i + 7u]);
    }
    return x;
}

fn add_weighted_dcontext(sums: Rows, weights: vec4<f32>, first: u32, last: u32, stride: u32, at: u32) -> Rows {
    let s0 = add_rows(sums, subgroupBroadcast(weights, 0u), eight(dcontext[(first * stride + at) / 8u]));
    let s1 = add_rows(s0, subgroupBroadcast(weights, 1u), eight(dcontext[(min(first + 1u, last) * stride + at) / 8u]));
    let s2 = add_rows(s1, subgroupBroadcast(weights, 2u), eight(dcontext[(min(first + 2u, last) * stride + at) / 8u]));
    let s3 = add_rows(s2, subgroupBroadcast(weights, 3u), eight(dcontext[(min(first + 3u, last) * stride + at) / 8u]));
    let s4 = add_rows(s3, subgroupBroadcast(weights, 4u), eight(dcontext[(min(first + 4u, last) * stride + at) / 8u]));
    let s5 = add_rows(s4, subgroupBroadcast(weights, 5u), eight(dcontext[(min(first + 5u, last) * stride + at) / 8u]));
    let s6 = add_rows(s5, subgroupBroadcast(weights, 6u), eight(dcontext[(min(first + 6u, last) * stride + at) / 8u]));
    let s7 = add_rows(s6, subgroupBroadcast(weights, 7u), eight(dcontext[(min(first + 7u, last) * stride + at) / 8u]));
    return s7;
}

fn store_key(p: Place, r: u32, dk: Eight, dv: Eight) {
    if p.holds && r < p.block.y {
        let k = ((p.block.x + r) * 3u * p.hidden + p.hidden + p.mine) / 4u;
        dqkv_key[k] = dk.low;
        dqkv_key[k + 1u] = dk.high;
        let v = k + p.hidden / 4u;
        dqkv_key[v] = dv.low;
        dqkv_key[v + 1u] = dv.high;
    }
}

// Writes dK and dV. Here the block's rows are keys, and a lane owns a query.
@compute @workgroup_size(8)
fn backward_key(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let p = place(group, groups, lane);
    if !p.is_inside {
        return;
    }
    let stride = 3u * p.hidden;
    let last = p.block.w - 1u;
    let k = rows_of_qkv(p.rows * stride + p.hidden + p.mine);
    let v = rows_of_qkv(p.rows * stride + 2u * p.hidden + p.mine);
    var dk: Rows;
    var dv: Rows;
    for (var start = p.block.z; start < p.block.w; start += 8u) {
        let query = min(start + lane, last);
        let scores = products(k, whole_of_qkv(query * stride + p.at)) * sizes.scale;
        let dp = products(v, whole_of_dcontext(query * p.hidden + p.at));
        let l = query * sizes.heads + p.head;
        var probabilities = select(vec4<f32>(), exp(scores - lse_key[l]), start + lane < p.block.w);
        var mask = vec4<f32>(1.0);
        if DROPOUT {
            let key = keys_key[query];
            let place = p.block.x - p.block.z;
            mask = vec4<f32>(
                kept(key, p.head, place),
                kept(key, p.head, place + 1u),
                kept(key, p.head, place + 2u),
                kept(key, p.head, place + 3u),
            );
        }
        let g = probabilities * (dp * mask - delta_in[l]) * sizes.scale;
        dv = add_weighted_dcontext(dv, probabilities * mask, start, last, p.hidden, p.mine);
        dk = add_weighted(dk, g, start, last, stride, p.mine);
    }
    store_key(p, 0u, dk.r0, dv.r0);
    store_key(p, 1u, dk.r1, dv.r1);
    store_key(p, 2u, dk.r2, dv.r2);
    store_key(p, 3u, dk.r3, dv.r3);
}
