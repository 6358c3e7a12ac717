//! Training, of the masked language model or of embeddings, and its evaluation.

mod align;
mod arguments;
mod batches;
mod checks;
mod data;
mod evaluate;
mod evaluate_triplets;
mod events;
mod forecast;
mod judge;
mod keep;
mod metrics;
#[cfg(feature = "mpi")]
mod mpi;
mod output_lock;
mod parallel;
mod ranks;
mod resume;
mod run;
mod run_state;
mod trainer;
mod training_run;

#[cfg(feature = "mpi")]
pub use self::mpi::Mpi;
#[cfg(all(feature = "bench", feature = "mpi"))]
pub(crate) use self::mpi::sums_of_processes;
pub use arguments::{CommHook, Objective, SchedulerType, TrainingArguments};
#[cfg(feature = "capi")]
pub(crate) use data::Data;
pub use evaluate::{Evaluation, EvaluationOptions};
pub use evaluate_triplets::{Retrieval, TripletEvaluation, TripletEvaluationOptions};
pub use events::{StepReport, TrainEvent, TrainOutput};
pub use forecast::Forecast;
pub use metrics::{METRICS_FILE, MetricsFile};
#[cfg(feature = "bench")]
pub(crate) use parallel::sums_of_threads;
#[cfg(feature = "capi")]
pub(crate) use run_state::Run;
pub use trainer::Trainer;
pub use training_run::TrainingRun;
