//! What a run tells: what it will take, and how far it is.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, ProgressBar};
use retto::{Forecast, Gpu, StepReport, TrainEvent};

use crate::output;
use crate::ranks::Ranks;

/// The devices of a run, in words.
pub(crate) fn devices_of_run(gpu: &Gpu, others: &[Gpu], ranks: &Ranks) -> String {
    if ranks.count() > 1 {
        return format!("{} processes, of which this has {gpu}", ranks.count());
    }
    let names = std::iter::once(gpu).chain(others).map(ToString::to_string);
    match others.len() {
        0 => gpu.to_string(),
        n => format!("{} devices: {}", n + 1, names.collect::<Vec<_>>().join(", ")),
    }
}

/// Of several devices, how much of the time goes into their talk.
fn waiting(report: &StepReport) -> String {
    match report.communication_share {
        0.0 => String::new(),
        share => format!("  {:.0} % of it between devices", 100.0 * share),
    }
}

/// What a run will take, in words.
pub(crate) fn announce(forecast: &Forecast) {
    let of = forecast.adapter_bytes.map_or(String::new(), |bytes| format!(" of {}", HumanBytes(bytes)));
    // Of what has no room it is not known.
    let time = match forecast.duration.is_zero() {
        true => String::new(),
        false => format!("about {} for ", HumanDuration(forecast.duration)),
    };
    output::note(format!(
        "{time}{} steps, and {}{of} of GPU memory: {} for weights and optimizer, {} for activations",
        forecast.steps,
        HumanBytes(forecast.state_bytes + forecast.activation_bytes),
        HumanBytes(forecast.state_bytes),
        HumanBytes(forecast.activation_bytes),
    ));
}

/// A bar on a terminal; a line at every log entry elsewhere.
pub(crate) struct Progress {
    pub(crate) bar: ProgressBar,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { bar: output::bar("{wide_bar} {pos}/{len}  {msg}"), terminal: std::io::stderr().is_terminal() }
    }

    pub(crate) fn show(&mut self, event: &TrainEvent) {
        match event {
            TrainEvent::Step(report) => {
                self.bar.set_length(report.max_steps);
                self.bar.set_position(report.step);
                self.bar.set_message(format!(
                    "loss {:.3}  {:.0} tokens/s{}  {} left",
                    report.loss,
                    report.tokens_per_second,
                    waiting(report),
                    HumanDuration(
                        // Years are as good as any longer time.
                        Duration::try_from_secs_f64(report.seconds_left.ceil()).unwrap_or(Duration::from_secs(1 << 32))
                    )
                ));
            }
            TrainEvent::Log { report, loss, .. } if !self.terminal => {
                output::note(format!(
                    "step {}/{}  epoch {:.2}  loss {loss:.4}  {:.0} tokens/s{}  {:.0} s left",
                    report.step,
                    report.max_steps,
                    report.epoch,
                    report.tokens_per_second,
                    waiting(report),
                    report.seconds_left
                ));
            }
            TrainEvent::Evaluating { done, total, .. } => {
                self.bar.set_message(format!("held-out data: {done} of {total}"))
            }
            TrainEvent::Evaluated { evaluation, epoch, .. } => {
                let line = format!(
                    "epoch {epoch:.2}: held-out loss {:.4}, top-1 {:.4}, top-10 {:.4}",
                    evaluation.loss, evaluation.top1_accuracy, evaluation.top10_accuracy
                );
                self.bar.suspend(|| output::note(&line));
            }
            TrainEvent::EvaluatedTriplets { evaluation, epoch, .. } => {
                let line = format!(
                    "epoch {epoch:.2}: held-out loss {:.4}, accuracy {:.4}",
                    evaluation.loss, evaluation.accuracy
                );
                self.bar.suspend(|| output::note(&line));
            }
            _ => {}
        }
    }
}
