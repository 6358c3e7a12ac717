// Triplets of vectors: x holds all anchors, then all positives, then what else there is; anchor and positive of triplet i are
// rows i and triplets + i, and its negative is row negatives[i], or none.
// d(a, b) = |a - b + 1e-6|, as torch's pairwise_distance, or 1 - a.b for vectors of length 1.
//
// choose: negatives[i] = of the rows of other groups than the anchor's the nearest that is farther than the positive; where
//         there is none, the farthest; NONE where there is no other group
// loss: l = max(d(a, p) - d(a, n) + margin, 0); stats[i] = (l, whether the negative is not the farther one), and for `gradient`
//       factors[i] = dl/d(square of the distance) * 2, for both distances, times scale
// gradient: dx = the gradient of the sum of losses times scale

override METRIC: u32; // 0 Euclidean, 1 cosine

struct Sizes { triplets: u32, columns: u32, rows: u32, margin: f32, scale: f32 }
var<immediate> sizes: Sizes;

const THREADS = 64u;
const NONE = 0xffffffffu;
const EPS = 1e-6;
var<workgroup> partial: array<f32, 64>;
var<workgroup> partial_negative: array<f32, 64>;
var<workgroup> farther: array<u32, 64>; // the nearest row beyond the positive that a thread saw
var<workgroup> farthest: array<u32, 64>; // the farthest it saw at all

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, columns]

fn term(a: f32, b: f32) -> f32 {
    if METRIC == 1u {
        return a * b;
    }
    let difference = a - b + EPS;
    return difference * difference;
}

fn distance_of(sum: f32) -> f32 {
    if METRIC == 1u {
        return 1.0 - sum;
    }
    return sqrt(sum);
}

fn distance_between(a: u32, b: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < sizes.columns; i++) {
        sum += term(x[a * sizes.columns + i], x[b * sizes.columns + i]);
    }
    return distance_of(sum);
}

@group(0) @binding(1) var<storage, read> groups_of: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read_write> chosen: array<u32>; // [triplets]

@compute @workgroup_size(64)
fn choose(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let triplet = group.y * groups.x + group.x;
    if triplet >= sizes.triplets {
        return;
    }
    let positive = distance_between(triplet, sizes.triplets + triplet);
    var near = NONE;
    var near_distance = 0.0;
    var far = NONE;
    var far_distance = 0.0;
    for (var row = thread; row < sizes.rows; row += THREADS) {
        if groups_of[row] == groups_of[triplet] {
            continue;
        }
        let distance = distance_between(triplet, row);
        if distance > positive && (near == NONE || distance < near_distance) {
            near = row;
            near_distance = distance;
        }
        if far == NONE || distance > far_distance {
            far = row;
            far_distance = distance;
        }
    }
    partial[thread] = near_distance;
    farther[thread] = near;
    partial_negative[thread] = far_distance;
    farthest[thread] = far;
    workgroupBarrier();
    if thread > 0u {
        return;
    }
    for (var other = 1u; other < THREADS; other++) {
        let row = farther[other];
        let distance = partial[other];
        // Of several at one distance the first row, however they fell to threads.
        if row != NONE && (near == NONE || distance < near_distance || (distance == near_distance && row < near)) {
            near = row;
            near_distance = distance;
        }
        let far_row = farthest[other];
        let beyond = partial_negative[other];
        if far_row != NONE && (far == NONE || beyond > far_distance || (beyond == far_distance && far_row < far)) {
            far = far_row;
            far_distance = beyond;
        }
    }
    chosen[triplet] = select(near, far, near == NONE);
}

@group(0) @binding(1) var<storage, read> negatives: array<u32>; // [triplets]
@group(0) @binding(2) var<storage, read_write> stats: array<f32>; // [triplets, 2]
@group(0) @binding(3) var<storage, read_write> factors: array<f32>; // [triplets, 2]

@compute @workgroup_size(64)
fn loss(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let triplet = group.y * groups.x + group.x;
    if triplet >= sizes.triplets {
        return;
    }
    let negative = negatives[triplet];
    if negative == NONE {
        if thread == 0u {
            stats[2u * triplet] = 0.0;
            stats[2u * triplet + 1u] = 0.0;
            factors[2u * triplet] = 0.0;
            factors[2u * triplet + 1u] = 0.0;
        }
        return;
    }
    var to_positive = 0.0;
    var to_negative = 0.0;
    for (var i = thread; i < sizes.columns; i += THREADS) {
        let anchor = x[triplet * sizes.columns + i];
        to_positive += term(anchor, x[(sizes.triplets + triplet) * sizes.columns + i]);
        to_negative += term(anchor, x[negative * sizes.columns + i]);
    }
    partial[thread] = to_positive;
    partial_negative[thread] = to_negative;
    workgroupBarrier();
    if thread > 0u {
        return;
    }
    for (var other = 1u; other < THREADS; other++) {
        to_positive += partial[other];
        to_negative += partial_negative[other];
    }
    let near = distance_of(to_positive);
    let far = distance_of(to_negative);
    let loss = max(near - far + sizes.margin, 0.0);
    stats[2u * triplet] = loss;
    stats[2u * triplet + 1u] = select(0.0, 1.0, far <= near);
    // The slope of max at 0 is 0, as that of the Euclidean distance is: torch's choices.
    let slope = select(0.0, sizes.scale, loss > 0.0);
    factors[2u * triplet] = slope;
    factors[2u * triplet + 1u] = slope;
    if METRIC == 0u {
        factors[2u * triplet] = select(0.0, slope / near, near > 0.0);
        factors[2u * triplet + 1u] = select(0.0, slope / far, far > 0.0);
    }
}

@group(0) @binding(2) var<storage, read> factors_of: array<f32>; // [triplets, 2]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>; // [rows, columns]

// Of d(a, b), times its factor: by a, and by b.
fn by_first(a: f32, b: f32) -> f32 {
    return select(a - b + EPS, -b, METRIC == 1u);
}

fn by_second(a: f32, b: f32) -> f32 {
    return select(-(a - b + EPS), -a, METRIC == 1u);
}

@compute @workgroup_size(64)
fn gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= sizes.rows {
        return;
    }
    let columns = sizes.columns;
    for (var i = thread; i < columns; i += THREADS) {
        let own = x[row * columns + i];
        var sum = 0.0;
        if row < sizes.triplets {
            let negative = negatives[row];
            if negative != NONE {
                sum = factors_of[2u * row] * by_first(own, x[(sizes.triplets + row) * columns + i])
                    - factors_of[2u * row + 1u] * by_first(own, x[negative * columns + i]);
            }
        } else if row < 2u * sizes.triplets {
            let anchor = row - sizes.triplets;
            sum = factors_of[2u * anchor] * by_second(x[anchor * columns + i], own);
        }
        dx[row * columns + i] = sum;
    }
    // A row may be the negative of many triplets, or of none.
    for (var triplet = 0u; triplet < sizes.triplets; triplet++) {
        if negatives[triplet] != row {
            continue;
        }
        let factor = factors_of[2u * triplet + 1u];
        for (var i = thread; i < columns; i += THREADS) {
            dx[row * columns + i] -= factor * by_second(x[triplet * columns + i], x[row * columns + i]);
        }
    }
}
