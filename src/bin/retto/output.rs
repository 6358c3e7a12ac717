//! Printing that fails as an error, not as a panic.

use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use retto::Interval;

use crate::Result;

/// Whether it is another process that tells.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Whether stdout is a file that was asked for.
static GIVEN_AWAY: AtomicBool = AtomicBool::new(false);

/// From now on what would be printed there is told on stderr.
pub(crate) fn give_away_stdout() {
    GIVEN_AWAY.store(true, Ordering::Relaxed);
}

/// Leaves all telling to another process.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "there is no other"))]
pub(crate) fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

pub(crate) fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// Writes a line to stdout.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<()> {
    if is_silent() {
        return Ok(());
    }
    if GIVEN_AWAY.load(Ordering::Relaxed) {
        note(text);
        return Ok(());
    }
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Writes a line to stderr. A failure is ignored: there is nowhere left to tell it, and the work goes on.
pub(crate) fn note(text: impl std::fmt::Display) {
    if !is_silent() {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// A bar on a terminal, hidden elsewhere and where another process tells. Its length is set when it is known.
pub(crate) fn bar(template: &str) -> ProgressBar {
    // Hidden by indicatif itself where stderr is not a terminal.
    let bar = if is_silent() { ProgressBar::hidden() } else { ProgressBar::new(0) };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Shows what is done, of how many, while `work` tells. It is not for ending it: that Ctrl-C does.
pub(crate) fn counting<T>(what: &str, work: impl FnOnce(&mut dyn FnMut(usize, usize) -> ControlFlow<()>) -> T) -> T {
    let bar = bar(&format!("{{wide_bar}} {{pos}}/{{len}} {what}  {{eta}} left"));
    let result = work(&mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    result
}

/// Writes a value as JSON to stdout.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// An error as the one line that scripts look for.
pub(crate) fn one_line(error: &dyn Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A figure with its bounds; with signs, where it is a difference.
pub(crate) fn interval(interval: Interval, signed: bool) -> String {
    let Interval { value, low, high } = interval;
    if signed { format!("{value:+.3} [{low:+.3}, {high:+.3}]") } else { format!("{value:.3} [{low:.3}, {high:.3}]") }
}

/// Fewer groups than these say too little for an interval.
pub(crate) const FEW: usize = 10;

/// What is to be said then.
pub(crate) fn few(groups: usize, kind: &str) -> String {
    format!("note: {groups} {kind} are few: the intervals are too narrow to rely on")
}

/// A figure of the base model, of the adapted one, and their difference, in columns.
pub(crate) fn sides([base, adapted, difference]: [Interval; 3]) -> String {
    let cell = |of| interval(of, false);
    format!("{:<24}{:<24}{}", cell(base), cell(adapted), interval(difference, true))
}

/// Whether the reader of our output has seen enough (`retto fill … | head -1`).
pub(crate) fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
