//! What pages have in common: a frame with its style, tables of figures and of options.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use retto::Interval;
use serde_json::Value;

use crate::output::interval;

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

/// Options, by name.
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
