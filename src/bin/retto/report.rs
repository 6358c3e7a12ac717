//! A comparison as one page that needs nothing but itself.

use maud::{Markup, PreEscaped, html};
use retto::{Comparison, Fill, Interval, Kind, Scores, Showcase};
use serde_json::Value;

use crate::downstream_report;
use crate::output::FEW;
use crate::page::{frame, settings, table};

/// What the page shows beside the comparison.
pub(crate) struct Context {
    pub(crate) base: String,
    pub(crate) adapted: String,
    pub(crate) data: String,
    pub(crate) adapter: String,
    /// Options of the comparison.
    pub(crate) options: Value,
    /// Of the run that made the adapted model, where it left them.
    pub(crate) training: Option<Value>,
    /// Whether that was trained on the data.
    pub(crate) seen: bool,
    /// Whether the base model was.
    pub(crate) seen_by_base: bool,
    /// Its losses as SVG.
    pub(crate) curve: Option<String>,
    /// What `retto downstream` wrote of the two.
    pub(crate) downstream: Option<Value>,
}

pub(crate) fn page(comparison: &Comparison, context: &Context) -> String {
    let Comparison { blanks, groups, group_kind, drawn_from, words_of_several_tokens, kinds, .. } = comparison;
    let of = group_kind.name();
    let body = html! {
        h1 { "Base and adapted model compared" }
        p.soft {
            "Base: " (context.base) ". Adapted: " (context.adapted) ". Held-out text: " (context.data) ". "
            (blanks) " blanks from " (groups) " " (of) ", one word at a time; the same for both models. Drawn were "
            (drawn_from) " words of one token, of which these are, and " (words_of_several_tokens)
            " of several tokens, which were passed over."
            @if context.seen {
                " The adapted model was trained on these data, or a part of them, so it looks better here than it is."
            }
            @if context.seen_by_base {
                " The base model was trained on these data, or a part of them, so it looks better here than it is."
            }
        }
        h2 { "In figures" }
        div.wide { (figures(comparison)) }
        p.soft {
            "In brackets: 95 % confidence intervals, resampled over " (of) "; those of the difference are paired."
            @if *groups < FEW { " " (groups) " are few: the intervals are too narrow to rely on." }
        }
        h2 { "How the blanks divide" }
        div.wide {
            table #kinds {
                thead { tr { th { "Kind" } th.n { "Blanks" } th.n { "Share" } } }
                tbody {
                    @for (name, count) in [
                        ("Both right: the word is the first answer of both", kinds.both_right),
                        ("Both wrong: the word is in neither's first ten", kinds.both_wrong),
                        ("Gained: adapted right, base wrong", kinds.gained),
                        ("Lost: base right, adapted wrong", kinds.lost),
                        ("None of these", kinds.other),
                    ] {
                        tr {
                            td { (name) }
                            td.n { (count) }
                            td.n { (format!("{:.1} %", 100.0 * count as f64 / (*blanks).max(1) as f64)) }
                        }
                    }
                }
            }
        }
        @if let Some(curve) = &context.curve {
            h2 { "Losses while adapting" }
            (PreEscaped(curve))
        }
        @if let Some(downstream) = &context.downstream {
            (downstream_report::section(downstream))
        }
        h2 { "Examples, drawn by lot" }
        @for kind in [Kind::Gained, Kind::Lost, Kind::BothRight, Kind::BothWrong] {
            @for (number, case) in comparison.showcases.iter().filter(|case| case.kind == kind).enumerate() {
                (showcase(case, number + 1))
            }
        }
        h2 { "Settings" }
        p.soft { "Compared on " (context.adapter) " with retto " (env!("CARGO_PKG_VERSION")) "." }
        (settings("Comparison", &context.options))
        @if let Some(training) = &context.training {
            (settings("Adaptation", training))
        }
    };
    frame("Base and adapted model compared", body)
}

fn figures(comparison: &Comparison) -> Markup {
    let Comparison { groups, base, adapted, difference, .. } = comparison;
    type Pick = fn(&Scores) -> Interval;
    let rows: [(&str, Pick, bool); 4] = [
        ("Word first", |s| s.top1, true),
        ("Word in the first ten", |s| s.top10, true),
        ("Mean reciprocal rank", |s| s.mrr, true),
        ("Loss (nats)", |s| s.loss, false),
    ];
    let row = |(name, pick, more_is_better): (&'static str, Pick, bool)| {
        (name, [base, adapted, difference].map(pick), more_is_better)
    };
    table("figures", rows.map(row), *groups >= FEW)
}

fn showcase(case: &Showcase, number: usize) -> Markup {
    let kind = match case.kind {
        Kind::BothRight => "Both right",
        Kind::BothWrong => "Both wrong",
        Kind::Gained => "Gained",
        Kind::Lost => "Lost",
        _ => "Other",
    };
    html! {
        section.showcase {
            h3 { (kind) " " (number) ": " span.gold { (case.gold) } }
            blockquote { (case.text) }
            div.pair {
                (answers("Base", &case.base.answers, case.base.rank, &case.gold))
                (answers("Adapted", &case.adapted.answers, case.adapted.rank, &case.gold))
            }
        }
    }
}

fn answers(side: &str, answers: &[Fill], rank: usize, gold: &str) -> Markup {
    html! {
        table {
            thead { tr { th { (side) ", rank " (rank) } th.n { "Score" } } }
            tbody {
                @for fill in answers {
                    tr.gold[fill.token_str == gold] {
                        td { (fill.token_str) }
                        td.n { (format!("{:.4}", fill.score)) }
                    }
                }
            }
        }
    }
}
