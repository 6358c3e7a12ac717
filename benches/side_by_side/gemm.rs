//! Linear layers alone, beside what the adapter can do at most.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::measures::{Measured, Options, Shape, take_turns};
use crate::report::{Cell, Sample, Table};

/// How many calls a peer on a GPU makes before it waits, as one alone is mostly the wait for it: so many that all their outputs, which burn holds,
/// are a gigabyte at most.
fn calls_on_gpus([m, n, _]: [u64; 3]) -> u64 {
    ((1 << 30) / (4 * m * n)).clamp(1, 50)
}

/// GFLOP/s of `y = x W^T + b`, and each of Retto's kernels beside the one that is chosen; the same in f16.
pub fn gemm(base: &Shape, options: &Options) -> Vec<Table> {
    let mut shapes = vec![[256, 768, 768]];
    for m in [12, 128, 1024] {
        shapes.extend([[m, 768, 768], [m, 3072, 768], [m, 768, 3072], [m, 30_522, 768]]);
    }
    let kernels = [[12, 768, 768], [32, 768, 768], [256, 768, 768], [128, 3072, 768]];
    let mut halves = vec![[256, 768, 768], [1024, 3072, 768]];
    if !options.on_cpu {
        shapes.push(LARGE);
        halves.push(LARGE);
    }
    let single = beside_peers(base, options, "f32", &shapes);
    let half = beside_peers(base, options, "f16", &halves);
    let singles = by_kernel(base, options, "f32", &kernels);
    vec![single, singles, half, by_kernel(base, options, "f16", &halves)]
}

/// That a GPU is at its best with.
const LARGE: [u64; 3] = [4096, 4096, 4096];

fn beside_peers(base: &Shape, options: &Options, dtype: &str, shapes: &[[u64; 3]]) -> Table {
    let mut peers = vec![
        options.retto(base),
        options.transformers("torch", base),
        options.python("onnxruntime", base, &["--peer", "onnxruntime"]),
        options.burn(base),
    ];
    let mut table = Table::of(format!("GEMM in {dtype}, x[m,k] W[n,k]^T + b"), "GFLOP/s", &peers);
    let (mut ceiling, mut rows) = (Vec::new(), Vec::new());
    for &shape in shapes {
        let mut requests: Vec<(usize, Value)> = (0..peers.len()).map(|i| (i, request(shape, dtype))).collect();
        // Retto's worker finds a number by itself.
        for (_, (_, request)) in peers.iter().zip(&mut requests).skip(1).filter(|(peer, _)| peer.is_on_gpu()) {
            request["calls"] = json!(calls_on_gpus(shape));
        }
        // Beside each of the rows, as what else the machine does meets it, too.
        requests.push((0, json!({ "task": "ceiling" })));
        let mut measured = take_turns(&mut peers, &requests, options);
        if let Some(Ok((seconds, _))) = measured.pop() {
            ceiling.extend(seconds.map(|s| 1e-9 / s).values().iter().copied());
        }
        rows.push((shape, measured));
    }
    let ceiling = (!ceiling.is_empty()).then(|| Sample::new(ceiling));
    let best = ceiling.as_ref().map_or(f64::NAN, |sample| sample.quantile(1.0));
    let mut cells = vec![ceiling.map(Cell::new).ok_or_else(|| "it measured nothing".to_owned())];
    cells.extend(peers.iter().skip(1).map(|peer| Err(peer.no_figure("a ceiling of Retto's adapter"))));
    table.row("multiply-adds of f32 on registers", cells);
    for (shape, measured) in rows {
        let cells = measured.into_iter().map(|result| {
            rates(shape, result).map(|(rate, answer)| {
                let note =
                    answer["tiling"].as_str().map(|tiling| format!(" {:.0} % {tiling}", rate.median() * 100.0 / best));
                Cell::noted(rate, note.unwrap_or_default())
            })
        });
        table.row(name(shape), cells.collect());
    }
    table
}

fn by_kernel(base: &Shape, options: &Options, dtype: &str, shapes: &[[u64; 3]]) -> Table {
    let mut retto = [options.retto(base)];
    let mut known: Vec<Vec<String>> = Vec::new();
    for &shape in shapes {
        let mut request = request(shape, dtype);
        request["task"] = json!("tilings");
        let names = retto[0].ask(&request).map(|answer| answer["tilings"].clone()).unwrap_or_default();
        known.push(serde_json::from_value(names).unwrap_or_default());
    }
    let mut all: Vec<String> = Vec::new();
    for name in known.iter().flatten() {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    let mut table = Table::new(format!("Retto's kernels in {dtype} on this adapter"), "GFLOP/s", &all);
    for (&shape, names) in shapes.iter().zip(known) {
        let by = |tiling: &String| {
            let mut request = request(shape, dtype);
            request["tiling"] = json!(tiling);
            (0, request)
        };
        let requests: Vec<(usize, Value)> = names.iter().map(by).collect();
        let mut measured: BTreeMap<String, Measured> =
            names.into_iter().zip(take_turns(&mut retto, &requests, options)).collect();
        let cells = all.iter().map(|tiling| {
            let result = measured.remove(tiling).unwrap_or_else(|| Err("not for this shape".into()));
            rates(shape, result).map(|(rate, _)| Cell::new(rate))
        });
        table.row(name(shape), cells.collect());
    }
    table
}

fn request([m, n, k]: [u64; 3], dtype: &str) -> Value {
    json!({ "task": "gemm", "m": m, "n": n, "k": k, "dtype": dtype })
}

fn name([m, n, k]: [u64; 3]) -> String {
    format!("{m} x {n} x {k}")
}

fn rates(shape: [u64; 3], measured: Measured) -> Result<(Sample, Value), String> {
    let flops = 2.0 * shape.map(|n| n as f64).iter().product::<f64>();
    measured.map(|(seconds, answer)| (seconds.map(|s| flops / s / 1e9), answer))
}
