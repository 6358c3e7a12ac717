//! A comparison as one page that needs nothing but itself.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use retto::{Comparison, Fill, Interval, Kind, Scores, Showcase};
use serde_json::Value;

use crate::downstream_report;
use crate::output::{FEW, interval};

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

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #fff; --soft: #6b6b70; --line: #d9d9de; --mark: #fff1c9;
  --good: #1a7f37; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --paper: #17171a; --soft: #a0a0a8; --line: #3a3a40;
  --mark: #4a3d12; --good: #58c878; --bad: #ff8a80; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); overflow-wrap: break-word }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem }
.soft { color: var(--soft) } .good { color: var(--good) } .bad { color: var(--bad) }
td.n { white-space: nowrap } .wide { overflow-x: auto } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; width: 100% } th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 0 1.5rem }
.gold { background: var(--mark) } blockquote { margin: .3rem 0; padding-left: .8rem; border-left: 3px solid var(--line) }
";

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

/// A whole page.
pub(crate) fn frame(title: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
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

/// Figures of base, adapted and their difference, and whether more is better. Differences are marked where their intervals are `enough` to tell.
pub(crate) fn table(
    id: &str,
    rows: impl IntoIterator<Item = (&'static str, [Interval; 3], bool)>,
    enough: bool,
) -> Markup {
    html! {
        table id=(id) {
            thead { tr { th {} th.n { "Base" } th.n { "Adapted" } th.n { "Difference" } } }
            tbody {
                @for (name, [base, adapted, change], more_is_better) in rows {
                    @let certain = enough && (change.low > 0.0 || change.high < 0.0);
                    @let class = match (certain, (change.value > 0.0) == more_is_better) {
                        (false, _) => "n",
                        (true, true) => "n good",
                        (true, false) => "n bad",
                    };
                    tr {
                        th { (name) }
                        td.n { (interval(base, false)) }
                        td.n { (interval(adapted, false)) }
                        td class=(class) { (interval(change, true)) }
                    }
                }
            }
        }
    }
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

pub(crate) fn settings(title: &str, values: &Value) -> Markup {
    fn text(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        }
    }
    html! {
        details {
            summary { (title) }
            div.wide {
                table {
                    @for (name, value) in values.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                        tr { th { (name) } td { (text(value)) } }
                    }
                }
            }
        }
    }
}
