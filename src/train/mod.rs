//! Masked-language-model training and its evaluation.

mod arguments;
mod batches;
mod evaluate;
mod events;
mod forecast;
mod metrics;
mod resume;
mod run;
mod trainer;

pub use arguments::{SchedulerType, TrainingArguments};
pub use evaluate::{Evaluation, EvaluationOptions};
pub use events::{StepReport, TrainEvent, TrainOutput};
pub use forecast::Forecast;
pub use metrics::{METRICS_FILE, MetricsFile};
#[cfg(feature = "capi")]
pub(crate) use run::Run;
pub use trainer::Trainer;
