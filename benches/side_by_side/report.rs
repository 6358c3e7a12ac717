//! What was measured: a table for people, and the same as JSON.

use serde_json::{Value, json};

use crate::peer::Peer;

/// Runs of one figure of one program.
#[derive(Clone)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// By nearest rank.
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub fn values(&self) -> &[f64] {
        &self.0
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self::new(self.0.iter().map(|&x| f(x)).collect())
    }
}

/// A table: each cell a figure with its spread, or the reason why there is none.
pub struct Table {
    title: String,
    unit: &'static str,
    columns: Vec<String>,
    /// What the columns' programs say of themselves.
    programs: Vec<Value>,
    rows: Vec<(String, Vec<Result<Cell, String>>)>,
}

#[derive(Clone)]
pub struct Cell {
    sample: Sample,
    /// Said behind the figure.
    note: String,
}

impl Cell {
    pub fn new(sample: Sample) -> Self {
        Self { sample, note: String::new() }
    }

    pub fn noted(sample: Sample, note: impl Into<String>) -> Self {
        Self { sample, note: note.into() }
    }
}

impl Table {
    pub fn new(title: impl Into<String>, unit: &'static str, columns: &[String]) -> Self {
        Self { title: title.into(), unit, columns: columns.to_vec(), programs: Vec::new(), rows: Vec::new() }
    }

    /// With a column for each program.
    pub fn of(title: impl Into<String>, unit: &'static str, peers: &[Peer]) -> Self {
        let labels: Vec<String> = peers.iter().map(|peer| peer.label.clone()).collect();
        Self { programs: peers.iter().map(Peer::about).collect(), ..Self::new(title, unit, &labels) }
    }

    pub fn with_programs(self, programs: &[Value]) -> Self {
        Self { programs: programs.to_vec(), ..self }
    }

    /// The names and versions of its programs.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.programs.iter().filter_map(|about| about["name"].as_str())
    }

    /// Why nothing stands in a column, if it is the same everywhere.
    fn absent(&self, column: usize) -> Option<&str> {
        let mut reasons = self.rows.iter().map(|(_, cells)| cells[column].as_ref().err());
        let first = reasons.next()??;
        reasons.all(|reason| reason == Some(first)).then_some(first)
    }

    pub fn row(&mut self, name: impl Into<String>, cells: Vec<Result<Cell, String>>) {
        self.rows.push((name.into(), cells));
    }

    pub fn print(&self) {
        println!("\n{} [{}]: median (5 % - 95 %)", self.title, self.unit);
        let mut reasons = Vec::new();
        let absent: Vec<Option<&str>> = (0..self.columns.len()).map(|column| self.absent(column)).collect();
        let shown: Vec<bool> = absent.iter().map(Option::is_none).collect();
        let text: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|(name, cells)| {
                let mut texts = vec![name.clone()];
                for (cell, _) in cells.iter().zip(&shown).filter(|(_, shown)| **shown) {
                    texts.push(match cell {
                        Ok(Cell { sample, note }) => {
                            let [low, middle, high] = [0.05, 0.5, 0.95].map(|q| short(sample.quantile(q)));
                            format!("{middle} ({low} - {high}){note}")
                        }
                        Err(reason) => {
                            let at = reasons.iter().position(|r| r == reason).unwrap_or_else(|| {
                                reasons.push(reason.clone());
                                reasons.len() - 1
                            });
                            format!("- [{}]", at + 1)
                        }
                    });
                }
                texts
            })
            .collect();
        let columns = self.columns.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(column, _)| column.clone());
        let header: Vec<String> = std::iter::once(String::new()).chain(columns).collect();
        let widths: Vec<usize> = (0..header.len())
            .map(|i| {
                text.iter().chain([&header]).filter_map(|row| row.get(i)).map(|s| s.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in std::iter::once(&header).chain(&text) {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(s, &w)| format!("{s:<w$}")).collect();
            println!("  {}", cells.join("   ").trim_end());
        }
        for (i, reason) in reasons.iter().enumerate() {
            println!("  [{}] {reason}", i + 1);
        }
        let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
        for (column, reason) in self.columns.iter().zip(&absent) {
            let Some(reason) = *reason else { continue };
            match by_reason.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, columns)) => columns.push(column),
                None => by_reason.push((reason, vec![column])),
            }
        }
        for (reason, columns) in by_reason {
            println!("  nothing of {}: {reason}", columns.join("; "));
        }
    }

    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(name, cells)| {
                let cells: serde_json::Map<String, Value> = self
                    .columns
                    .iter()
                    .zip(cells)
                    .map(|(column, cell)| {
                        let value = match cell {
                            Ok(Cell { sample, note }) => json!({
                                "median": sample.median(), "p5": sample.quantile(0.05), "p95": sample.quantile(0.95),
                                "runs": sample.0.len(), "note": note.trim(),
                            }),
                            Err(reason) => json!({ "absent": reason }),
                        };
                        (column.clone(), value)
                    })
                    .collect();
                json!({ "name": name, "cells": cells })
            })
            .collect();
        let programs: serde_json::Map<String, Value> =
            self.columns.iter().cloned().zip(self.programs.iter().cloned()).collect();
        json!({ "title": self.title, "unit": self.unit, "programs": programs, "rows": rows })
    }
}

/// Three significant digits.
fn short(x: f64) -> String {
    let digits = (2 - x.abs().max(1e-9).log10().floor() as i64).clamp(0, 6) as usize;
    format!("{x:.digits$}")
}

/// The exponent of y ~ x^e, by least squares on logarithms.
pub fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let n = logs.len() as f64;
    let (mean_x, mean_y) = (logs.iter().map(|p| p.0).sum::<f64>() / n, logs.iter().map(|p| p.1).sum::<f64>() / n);
    let covariance: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    covariance / logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>()
}
