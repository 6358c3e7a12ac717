// The attention of attention.wgsl for software Vulkan, and heads of a multiple of 8 numbers.
//
// There a workgroup that waits at barriers is slow, and so is a load: it is a gather. Here a workgroup is one vector of 8
// lanes, and a lane owns a row whole, or two: its scores, their sum and all of its result, so that no lane waits for another
// or adds with it. What it walks along comes some rows at a time, a lane holding one number of each, and is handed round by
// broadcasts.
//
// The same arithmetic, in the order of the sequence; but softmax's largest score is known after each 8 keys, not after 128.

struct Sizes { blocks: u32, heads: u32, head_size: u32, scale: f32, site: u32, threshold: u32, kept: f32 }
var<immediate> sizes: Sizes;

override DROPOUT = false;
override HEAD_SIZE: u32; // a multiple of 8, at most 64

const LOWEST = -3.4e38;

@group(0) @binding(0) var<storage, read> blocks: array<vec4<u32>>; // first row, rows (at most 16), start and end of the sequence
@group(0) @binding(1) var<storage, read> qkv: array<f32>; // [tokens, 3 heads head_size]: all Q, all K, all V

// One row's numbers of a lane, four by four.
alias Numbers = array<vec4<f32>, 16>;

// Of this workgroup: its block, its head, and where that head's part of a row begins.
struct Place { block: vec4<u32>, head: u32, at: u32, hidden: u32, is_inside: bool }

fn place(group: vec3<u32>, groups: vec3<u32>) -> Place {
    let index = group.y * groups.x + group.x;
    let is_inside = index < sizes.blocks;
    return Place(
        blocks[min(index, sizes.blocks - 1u)],
        group.z,
        group.z * HEAD_SIZE,
        sizes.heads * HEAD_SIZE,
        is_inside,
    );
}

// The two rows of a lane. Rows beyond the block's repeat its last one; what comes of them is not stored.
fn rows_of(block: vec4<u32>, lane: u32) -> vec2<u32> {
    return min(vec2<u32>(lane, lane + 8u), vec2<u32>(block.y - 1u)) + block.x;
}

// Four places side by side.
fn next(at: u32) -> vec4<u32> {
    return vec4<u32>(at, at + 1u, at + 2u, at + 3u);
}

// Element `lane` of four rows, from `first` on, that begin `stride` apart; rows beyond the last one repeat it.
fn four(first: u32, last: u32, stride: u32, at: u32) -> vec4<u32> {
    return min(next(first), vec4<u32>(last)) * stride + at;
}

fn load(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(qkv[at.x], qkv[at.y], qkv[at.z], qkv[at.w]);
}

// Products of 8 numbers of a row with the same 8 of four rows, whose lanes hold one number of each.
fn add_products(sums: vec4<f32>, low: vec4<f32>, high: vec4<f32>, others: vec4<f32>) -> vec4<f32> {
    var s = fma(vec4<f32>(low.x), subgroupBroadcast(others, 0u), sums);
    s = fma(vec4<f32>(low.y), subgroupBroadcast(others, 1u), s);
    s = fma(vec4<f32>(low.z), subgroupBroadcast(others, 2u), s);
    s = fma(vec4<f32>(low.w), subgroupBroadcast(others, 3u), s);
    s = fma(vec4<f32>(high.x), subgroupBroadcast(others, 4u), s);
    s = fma(vec4<f32>(high.y), subgroupBroadcast(others, 5u), s);
    s = fma(vec4<f32>(high.z), subgroupBroadcast(others, 6u), s);
    return fma(vec4<f32>(high.w), subgroupBroadcast(others, 7u), s);
}

fn add_product(sum: f32, weights: vec4<f32>, others: vec4<f32>) -> f32 {
    return fma(weights.w, others.w, fma(weights.z, others.z, fma(weights.y, others.y, fma(weights.x, others.x, sum))));
}

// To numbers 0 to 3 of 8, those of four rows, each times its weight.
fn add_low(sums: vec4<f32>, weights: vec4<f32>, others: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        add_product(sums.x, weights, subgroupBroadcast(others, 0u)),
        add_product(sums.y, weights, subgroupBroadcast(others, 1u)),
        add_product(sums.z, weights, subgroupBroadcast(others, 2u)),
        add_product(sums.w, weights, subgroupBroadcast(others, 3u)),
    );
}

// To numbers 4 to 7.
fn add_high(sums: vec4<f32>, weights: vec4<f32>, others: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        add_product(sums.x, weights, subgroupBroadcast(others, 4u)),
        add_product(sums.y, weights, subgroupBroadcast(others, 5u)),
        add_product(sums.z, weights, subgroupBroadcast(others, 6u)),
        add_product(sums.w, weights, subgroupBroadcast(others, 7u)),
    );
}

fn largest_of(a: vec4<f32>, b: vec4<f32>) -> f32 {
    let m = max(a, b);
    return max(max(m.x, m.y), max(m.z, m.w));
}

fn sum_of(a: vec4<f32>, b: vec4<f32>) -> f32 {
    let s = a + b;
    return (s.x + s.y) + (s.z + s.w);
}

// What dropout multiplies probabilities with: of a query token's key, for four places in its sequence.
fn kept_of_keys(key: u32, head: u32, first: u32) -> vec4<f32> {
    let at = head * 65536u + first;
    return vec4<f32>(
        dropout(key, sizes.site, at, sizes.threshold, sizes.kept),
        dropout(key, sizes.site, at + 1u, sizes.threshold, sizes.kept),
        dropout(key, sizes.site, at + 2u, sizes.threshold, sizes.kept),
        dropout(key, sizes.site, at + 3u, sizes.threshold, sizes.kept),
    );
}

// The same of four query tokens' keys, for one place.
fn kept_of_queries(keys: vec4<u32>, head: u32, place: u32) -> vec4<f32> {
    let at = head * 65536u + place;
    return vec4<f32>(
        dropout(keys.x, sizes.site, at, sizes.threshold, sizes.kept),
        dropout(keys.y, sizes.site, at, sizes.threshold, sizes.kept),
        dropout(keys.z, sizes.site, at, sizes.threshold, sizes.kept),
        dropout(keys.w, sizes.site, at, sizes.threshold, sizes.kept),
    );
}

// Whether the four from `first` on are inside.
fn inside(first: u32, end: u32) -> vec4<bool> {
    return next(first) < vec4<u32>(end);
}

@group(0) @binding(2) var<storage, read_write> context: array<f32>; // [tokens, heads head_size]
@group(0) @binding(3) var<storage, read_write> lse: array<f32>; // [tokens, heads]
@group(0) @binding(4) var<storage, read> keys_forward: array<u32>; // [tokens]: dropout's

@compute @workgroup_size(8)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let here = place(group, groups);
    if !here.is_inside {
        return;
    }
    let stride = 3u * here.hidden;
    let rows = rows_of(here.block, lane);
    let last = here.block.w - 1u;
    var q: Numbers;
    var r: Numbers;
    var o: Numbers;
    var p: Numbers;
    for (var i = 0u; i < HEAD_SIZE / 4u; i++) {
        let x = rows.x * stride + here.at + 4u * i;
        let y = rows.y * stride + here.at + 4u * i;
        q[i] = sizes.scale * load(next(x));
        r[i] = sizes.scale * load(next(y));
        o[i] = vec4<f32>();
        p[i] = vec4<f32>();
    }
    var largest = vec2<f32>(LOWEST);
    var total = vec2<f32>();
    for (var start = here.block.z; start < here.block.w; start += 8u) {
        let k_low = four(start, last, stride, here.hidden + here.at + lane);
        let k_high = four(start + 4u, last, stride, here.hidden + here.at + lane);
        var q_low = vec4<f32>();
        var q_high = vec4<f32>();
        var r_low = vec4<f32>();
        var r_high = vec4<f32>();
        for (var i = 0u; i < HEAD_SIZE / 8u; i++) {
            let low = load(k_low + 8u * i);
            let high = load(k_high + 8u * i);
            q_low = add_products(q_low, q[2u * i], q[2u * i + 1u], low);
            r_low = add_products(r_low, r[2u * i], r[2u * i + 1u], low);
            q_high = add_products(q_high, q[2u * i], q[2u * i + 1u], high);
            r_high = add_products(r_high, r[2u * i], r[2u * i + 1u], high);
        }
        let is_low = inside(start, here.block.w);
        let is_high = inside(start + 4u, here.block.w);
        q_low = select(vec4<f32>(LOWEST), q_low, is_low);
        r_low = select(vec4<f32>(LOWEST), r_low, is_low);
        q_high = select(vec4<f32>(LOWEST), q_high, is_high);
        r_high = select(vec4<f32>(LOWEST), r_high, is_high);
        let m = max(largest, vec2<f32>(largest_of(q_low, q_high), largest_of(r_low, r_high)));
        let rescale = exp(largest - m);
        largest = m;
        q_low = select(vec4<f32>(), exp(q_low - m.x), is_low);
        q_high = select(vec4<f32>(), exp(q_high - m.x), is_high);
        r_low = select(vec4<f32>(), exp(r_low - m.y), is_low);
        r_high = select(vec4<f32>(), exp(r_high - m.y), is_high);
        total = fma(total, rescale, vec2<f32>(sum_of(q_low, q_high), sum_of(r_low, r_high)));
        if DROPOUT {
            let first = start - here.block.z;
            let keys = vec2<u32>(keys_forward[rows.x], keys_forward[rows.y]);
            q_low *= kept_of_keys(keys.x, here.head, first);
            q_high *= kept_of_keys(keys.x, here.head, first + 4u);
            r_low *= kept_of_keys(keys.y, here.head, first);
            r_high *= kept_of_keys(keys.y, here.head, first + 4u);
        }
        for (var i = 0u; i < HEAD_SIZE / 8u; i++) {
            let low = load(k_low + here.hidden + 8u * i);
            let high = load(k_high + here.hidden + 8u * i);
            o[2u * i] = add_low(add_low(o[2u * i] * rescale.x, q_low, low), q_high, high);
            o[2u * i + 1u] = add_high(add_high(o[2u * i + 1u] * rescale.x, q_low, low), q_high, high);
            p[2u * i] = add_low(add_low(p[2u * i] * rescale.y, r_low, low), r_high, high);
            p[2u * i + 1u] = add_high(add_high(p[2u * i + 1u] * rescale.y, r_low, low), r_high, high);
        }
    }
    if lane < here.block.y {
        lse[rows.x * sizes.heads + here.head] = largest.x + log(total.x);
        for (var i = 0u; i < HEAD_SIZE / 4u; i++) {
            put(rows.x * here.hidden + here.at + 4u * i, o[i] / total.x);
        }
    }
    if lane + 8u < here.block.y {
        lse[rows.y * sizes.heads + here.head] = largest.y + log(total.y);
        for (var i = 0u; i < HEAD_SIZE / 4u; i++) {
            put(rows.y * here.hidden + here.at + 4u * i, p[i] / total.y);
        }
    }
}

fn put(at: u32, value: vec4<f32>) {
    context[at] = value.x;
    context[at + 1u] = value.y;
    context[at + 2u] = value.z;
    context[at + 3u] = value.w;
}

@group(0) @binding(2) var<storage, read> context_in: array<f32>;
@group(0) @binding(3) var<storage, read> lse_in: array<f32>;
@group(0) @binding(4) var<storage, read> dcontext: array<f32>; // [tokens, heads head_size]
@group(0) @binding(5) var<storage, read_write> delta: array<f32>; // [tokens, heads]
@group(0) @binding(6) var<storage, read_write> dqkv: array<f32>; // as qkv
@group(0) @binding(7) var<storage, read> keys_query: array<u32>;

fn load_context(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(context_in[at.x], context_in[at.y], context_in[at.z], context_in[at.w]);
}

fn load_dcontext(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(dcontext[at.x], dcontext[at.y], dcontext[at.z], dcontext[at.w]);
}

fn put_dqkv(at: u32, value: vec4<f32>) {
    dqkv[at] = value.x;
    dqkv[at + 1u] = value.y;
    dqkv[at + 2u] = value.z;
    dqkv[at + 3u] = value.w;
}

// Writes dQ and delta.
@compute @workgroup_size(8)
fn backward_query(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let here = place(group, groups);
    if !here.is_inside {
        return;
    }
    let stride = 3u * here.hidden;
    let rows = rows_of(here.block, lane);
    let last = here.block.w - 1u;
    var q: Numbers;
    var r: Numbers;
    var do_q: Numbers;
    var do_r: Numbers;
    var dq: Numbers;
    var dr: Numbers;
    var deltas = vec2<f32>();
    for (var i = 0u; i < HEAD_SIZE / 4u; i++) {
        let x = rows.x * stride + here.at + 4u * i;
        let y = rows.y * stride + here.at + 4u * i;
        q[i] = load(next(x));
        r[i] = load(next(y));
        let u = rows.x * here.hidden + here.at + 4u * i;
        let v = rows.y * here.hidden + here.at + 4u * i;
        do_q[i] = load_dcontext(next(u));
        do_r[i] = load_dcontext(next(v));
        deltas = vec2<f32>(
            add_product(deltas.x, do_q[i], load_context(next(u))),
            add_product(deltas.y, do_r[i], load_context(next(v))),
        );
        dq[i] = vec4<f32>();
        dr[i] = vec4<f32>();
    }
    let lses = vec2<f32>(lse_in[rows.x * sizes.heads + here.head], lse_in[rows.y * sizes.heads + here.head]);
    for (var start = here.block.z; start < here.block.w; start += 8u) {
        let k_low = four(start, last, stride, here.hidden + here.at + lane);
        let k_high = four(start + 4u, last, stride, here.hidden + here.at + lane);
        var q_low = vec4<f32>();
        var q_high = vec4<f32>();
        var r_low = vec4<f32>();
        var r_high = vec4<f32>();
        var dp_q_low = vec4<f32>();
        var dp_q_high = vec4<f32>();
        var dp_r_low = vec4<f32>();
        var dp_r_high = vec4<f32>();
        for (var i = 0u; i < HEAD_SIZE / 8u; i++) {
            let low = load(k_low + 8u * i);
            let high = load(k_high + 8u * i);
            q_low = add_products(q_low, q[2u * i], q[2u * i + 1u], low);
            r_low = add_products(r_low, r[2u * i], r[2u * i + 1u], low);
            q_high = add_products(q_high, q[2u * i], q[2u * i + 1u], high);
            r_high = add_products(r_high, r[2u * i], r[2u * i + 1u], high);
            let v_low = load(k_low + here.hidden + 8u * i);
            let v_high = load(k_high + here.hidden + 8u * i);
            dp_q_low = add_products(dp_q_low, do_q[2u * i], do_q[2u * i + 1u], v_low);
            dp_r_low = add_products(dp_r_low, do_r[2u * i], do_r[2u * i + 1u], v_low);
            dp_q_high = add_products(dp_q_high, do_q[2u * i], do_q[2u * i + 1u], v_high);
            dp_r_high = add_products(dp_r_high, do_r[2u * i], do_r[2u * i + 1u], v_high);
        }
        if DROPOUT {
            let first = start - here.block.z;
            let keys = vec2<u32>(keys_query[rows.x], keys_query[rows.y]);
            dp_q_low *= kept_of_keys(keys.x, here.head, first);
            dp_q_high *= kept_of_keys(keys.x, here.head, first + 4u);
            dp_r_low *= kept_of_keys(keys.y, here.head, first);
            dp_r_high *= kept_of_keys(keys.y, here.head, first + 4u);
        }
        let is_low = inside(start, here.block.w);
        let is_high = inside(start + 4u, here.block.w);
        q_low = exp(fma(q_low, vec4<f32>(sizes.scale), vec4<f32>(-lses.x))) * (dp_q_low - deltas.x) * sizes.scale;
        q_high = exp(fma(q_high, vec4<f32>(sizes.scale), vec4<f32>(-lses.x))) * (dp_q_high - deltas.x) * sizes.scale;
        r_low = exp(fma(r_low, vec4<f32>(sizes.scale), vec4<f32>(-lses.y))) * (dp_r_low - deltas.y) * sizes.scale;
        r_high = exp(fma(r_high, vec4<f32>(sizes.scale), vec4<f32>(-lses.y))) * (dp_r_high - deltas.y) * sizes.scale;
        q_low = select(vec4<f32>(), q_low, is_low);
        r_low = select(vec4<f32>(), r_low, is_low);
        q_high = select(vec4<f32>(), q_high, is_high);
        r_high = select(vec4<f32>(), r_high, is_high);
        for (var i = 0u; i < HEAD_SIZE / 8u; i++) {
            let low = load(k_low + 8u * i);
            let high = load(k_high + 8u * i);
            dq[2u * i] = add_low(add_low(dq[2u * i], q_low, low), q_high, high);
            dq[2u * i + 1u] = add_high(add_high(dq[2u * i + 1u], q_low, low), q_high, high);
            dr[2u * i] = add_low(add_low(dr[2u * i], r_low, low), r_high, high);
            dr[2u * i + 1u] = add_high(add_high(dr[2u * i + 1u], r_low, low), r_high, high);
        }
    }
    if lane < here.block.y {
        delta[rows.x * sizes.heads + here.head] = deltas.x;
        for (var i = 0u; i < HEAD_SIZE / 4u; i++) {
            put_dqkv(rows.x * stride + here.at + 4u * i, dq[i]);
        }
    }
    if lane + 8u < here.block.y {
        delta[rows.y * sizes.heads + here.head] = deltas.y;
        for (var i = 0u; i < HEAD_SIZE / 4u; i++) {
            put_dqkv(rows.y * stride + here.at + 4u * i, dr[i]);
        }
    }
}

@group(0) @binding(2) var<storage, read> lse_key: array<f32>;
@group(0) @binding(3) var<storage, read> delta_in: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv_key: array<f32>;
@group(0) @binding(6) var<storage, read> keys_key: array<u32>;

fn put_dqkv_key(at: u32, value: vec4<f32>) {
    dqkv_key[at] = value.x;
    dqkv_key[at + 1u] = value.y;
    dqkv_key[at + 2u] = value.z;
    dqkv_key[at + 3u] = value.w;
}

// Writes dK and dV. Here a lane's row is a key, and what it walks along are queries. One row a lane: two would be eight
// arrays.
@compute @workgroup_size(8)
fn backward_key(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let here = place(group, groups);
    if !here.is_inside {
        return;
    }
    let stride = 3u * here.hidden;
    let last = here.block.w - 1u;
    for (var half = 0u; half < here.block.y; half += 8u) {
        let row = here.block.x + min(half + lane, here.block.y - 1u);
        var k: Numbers;
        var v: Numbers;
        var dk: Numbers;
        var dv: Numbers;
        for (var i = 0u; i < HEAD_SIZE / 4u; i++) {
            let x = row * stride + here.hidden + here.at + 4u * i;
            let y = x + here.hidden;
            k[i] = load(next(x));
            v[i] = load(next(y));
            dk[i] = vec4<f32>();
            dv[i] = vec4<f32>();
        }
        for (var start = here.block.z; start < here.block.w; start += 4u) {
            let queries = four(start, last, stride, here.at + lane);
            let gradients = four(start, last, here.hidden, here.at + lane);
            var s = vec4<f32>();
            var dp = vec4<f32>();
            for (var i = 0u; i < HEAD_SIZE / 8u; i++) {
                s = add_products(s, k[2u * i], k[2u * i + 1u], load(queries + 8u * i));
                dp = add_products(dp, v[2u * i], v[2u * i + 1u], load_dcontext(gradients + 8u * i));
            }
            let l = four(start, last, sizes.heads, here.head);
            let lses = vec4<f32>(lse_key[l.x], lse_key[l.y], lse_key[l.z], lse_key[l.w]);
            let deltas = vec4<f32>(delta_in[l.x], delta_in[l.y], delta_in[l.z], delta_in[l.w]);
            var probability = exp(fma(s, vec4<f32>(sizes.scale), -lses));
            probability = select(vec4<f32>(), probability, inside(start, here.block.w));
            var mask = vec4<f32>(1.0);
            if DROPOUT {
                let t = four(start, last, 1u, 0u);
                let keys = vec4<u32>(keys_key[t.x], keys_key[t.y], keys_key[t.z], keys_key[t.w]);
                mask = kept_of_queries(keys, here.head, row - here.block.z);
            }
            let g = probability * (dp * mask - deltas) * sizes.scale;
            probability *= mask;
            for (var i = 0u; i < HEAD_SIZE / 8u; i++) {
                let q = load(queries + 8u * i);
                let d = load_dcontext(gradients + 8u * i);
                dk[2u * i] = add_low(dk[2u * i], g, q);
                dk[2u * i + 1u] = add_high(dk[2u * i + 1u], g, q);
                dv[2u * i] = add_low(dv[2u * i], probability, d);
                dv[2u * i + 1u] = add_high(dv[2u * i + 1u], probability, d);
            }
        }
        if half + lane < here.block.y {
            for (var i = 0u; i < HEAD_SIZE / 4u; i++) {
                let x = row * stride + here.hidden + here.at + 4u * i;
                put_dqkv_key(x, dk[i]);
                put_dqkv_key(x + here.hidden, dv[i]);
            }
        }
    }
}
