//! Masked-language-model training and its evaluation.

mod arguments;
mod evaluate;
mod metrics;
mod resume;
mod trainer;

pub use arguments::{SchedulerType, TrainingArguments};
pub use evaluate::{Evaluation, EvaluationOptions};
pub use metrics::{METRICS_FILE, MetricsFile};
pub use trainer::{StepReport, TrainEvent, TrainOutput, Trainer};
