//! How time grows with what is asked.

use std::process::Command;

use serde_json::json;

use crate::cold::timed;
use crate::measures::{Options, Shape, alternate, text_of};
use crate::report::{Cell, Sample, Table, exponent};

/// How time grows: with the length of a text, with the number of texts in one call, with the size of a corpus.
pub fn growth(shape: &Shape, options: &Options) -> Vec<Table> {
    let mut peers = vec![options.retto(shape), options.transformers("transformers", shape)];
    let mut tables = Vec::new();
    let lengths = [8, 16, 32, 64, 128, 256, 512];
    let batches = [1, 4, 16, 64, 256];
    for (title, xs, by_length) in [
        (format!("one text by its tokens, {}", shape.name), &lengths[..], true),
        (format!("texts of 12 tokens by their number, {}", shape.name), &batches[..], false),
    ] {
        let mut table = Table::of(title, "ms", &peers);
        let mut points = vec![Vec::new(); peers.len()];
        for &x in xs {
            let texts = if by_length { vec![text_of(x)] } else { vec![text_of(12); x] };
            let results = alternate(&mut peers, &json!({ "task": "fill", "texts": texts, "top_k": 10 }), options);
            let mut cells = Vec::new();
            for (result, points) in results.into_iter().zip(&mut points) {
                cells.push(result.map(|(seconds, _)| {
                    points.push((x as f64, seconds.median()));
                    Cell::new(seconds.map(|s| s * 1e3))
                }));
            }
            table.row(x.to_string(), cells);
        }
        let fitted = points.iter().map(|points| match points.len() {
            0 | 1 => Err("too few points".to_owned()),
            _ => Ok(Cell::new(Sample::new(vec![exponent(points)]))),
        });
        table.row("exponent, fitted", fitted.collect());
        tables.push(table);
    }
    tables.push(preparing(shape, options));
    tables
}

fn preparing(shape: &Shape, options: &Options) -> Table {
    let mut table = Table::new("retto prepare by MB of text", "s", &["retto".to_owned()]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lyrics = std::fs::read(&options.lyrics).unwrap_or_default();
    let mut points = Vec::new();
    for megabytes in [1usize, 4, 16] {
        let corpus = folder.path().join(format!("{megabytes}.txt"));
        let text: Vec<u8> = lyrics.iter().copied().cycle().take(megabytes * 1_000_000).collect();
        std::fs::write(&corpus, text).expect("a corpus");
        let mut runs = Vec::new();
        for _ in 0..options.rounds {
            let mut command = Command::new(env!("CARGO_BIN_EXE_retto"));
            command.args(["prepare", "--data"]).arg(&corpus).arg("--model").arg(&shape.folder);
            command.arg("--output").arg(folder.path().join("cache"));
            runs.push(timed(command).map(|start| start.seconds));
        }
        let runs: Result<Vec<f64>, String> = runs.into_iter().collect();
        if let Ok(runs) = &runs {
            points.push((megabytes as f64, Sample::new(runs.clone()).median()));
        }
        table.row(megabytes.to_string(), vec![runs.map(|runs| Cell::new(Sample::new(runs)))]);
    }
    if points.len() > 1 {
        table.row("exponent, fitted", vec![Ok(Cell::new(Sample::new(vec![exponent(&points)])))]);
    }
    table
}
