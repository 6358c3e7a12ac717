//! What `retto downstream` found, as a part of a page. It is made from the JSON, so that a page may be made later.

use std::path::Path;

use maud::{Markup, html};
use retto::Interval;
use serde_json::Value;

use crate::Result;
use crate::output::FEW;
use crate::page::{frame, settings, table};

/// The figures by their names in JSON, and whether more is better.
const ROWS: [(&str, &str, bool); 5] = [
    ("Loss of held-out triplets", "loss", false),
    ("Triplets told right", "accuracy", true),
    ("Section of the same song nearest", "recall_at_1", true),
    ("One of the ten nearest", "recall_at_10", true),
    ("Mean reciprocal rank", "mrr", true),
];

/// What `--output` wrote.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let results: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if interval(&results["results"]["after"]["difference"]["loss"]).is_none() {
        return Err(format!("{}: not what `retto downstream --output` writes", path.display()).into());
    }
    Ok(results)
}

fn interval(value: &Value) -> Option<Interval> {
    let number = |name: &str| value[name].as_f64();
    Some(Interval { value: number("value")?, low: number("low")?, high: number("high")? })
}

fn stage(id: &str, stage: &Value, enough: bool) -> Markup {
    let rows = ROWS.into_iter().filter_map(|(name, figure, more_is_better)| {
        let of = |side: &str| interval(&stage[side][figure]);
        Some((name, [of("base")?, of("adapted")?, of("difference")?], more_is_better))
    });
    table(id, rows, enough)
}

pub(crate) fn section(results: &Value) -> Markup {
    let found = &results["results"];
    let runs = found["runs"].as_array().map_or(&[][..], Vec::as_slice);
    let given = found["queries"] == 0;
    let enough = found["groups"].as_u64().is_none_or(|groups| groups >= FEW as u64);
    let text = |name: &str| results["settings"][name].as_str().unwrap_or_default().to_owned();
    html! {
        h2 { "A task built on both" }
        p.soft {
            "Base: " (text("base")) ". Adapted: " (text("adapted")) ". "
            @if given {
                "Both were trained to tell what belongs together, " (runs.len()) " times each, with the same seeds and the same "
                (found["train_triplets"]) " triplets an epoch; then asked about " (found["triplets"]) " held-out triplets."
            } @else {
                "Both were trained to tell sections of one song from those of others, " (runs.len()) " times each, with the same seeds \
                 and the same " (found["train_triplets"]) " triplets an epoch; then asked about " (found["triplets"]) " triplets and "
                (found["queries"]) " sections of " (found["groups"]) " held-out songs."
            }
            @if results["settings"]["seen_by_adapted"] == true {
                " The adapted model had been trained on these data before, so it looks better here than it is."
            }
            @if results["settings"]["seen_by_base"] == true {
                " The base model had been trained on these data before, so it looks better here than it is."
            }
        }
        h3 { "Before that training" }
        div.wide { (stage("before", &found["before"], enough)) }
        h3 { "After it" }
        div.wide { (stage("after", &found["after"], enough && runs.len() > 1)) }
        p.soft {
            "In brackets: 95 % confidence intervals, resampled over " @if given { "anchors" } @else { "songs" }
            @if runs.len() > 1 { " and, after the training, over seeds" } "; those of the difference are paired."
            @if runs.len() == 1 {
                " There was one training of each model: how much trainings differ by their seeds is not in the intervals."
            }
            @if !enough { " There are only " (found["groups"]) ": the intervals are too narrow to rely on." }
        }
        details {
            summary { "Each seed" }
            div.wide {
                table #runs {
                    thead { tr { th { "Seed" } th.n { "Base: loss" } th.n { "right" } th.n { "Adapted: loss" } th.n { "right" } } }
                    tbody {
                        @for run in runs {
                            tr {
                                td { (run["seed"]) }
                                @for side in ["base", "adapted"] {
                                    @for figure in [0, 1] {
                                        td.n { (format!("{:.4}", run[side][figure].as_f64().unwrap_or(f64::NAN))) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        (settings("Task", &results["settings"]))
    }
}

pub(crate) fn page(results: &Value) -> String {
    let title = "A task built on the base and on the adapted model";
    let settings = &results["settings"];
    let text = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
    let body = html! {
        h1 { (title) }
        p.soft {
            "Data: " (text("data")) ". Trained on " (text("adapter")) " with retto " (env!("CARGO_PKG_VERSION")) "."
        }
        (section(results))
    };
    frame(title, body)
}
