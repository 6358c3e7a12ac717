//! BERT on any GPU: fill blanks, and adapt the model to the words of one domain, without CUDA, Python or a server.
//!
//! ```no_run
//! # fn main() -> retto::Result<()> {
//! let gpu = retto::Gpu::open_default()?;
//! let base = retto::Model::open(&gpu, "models/retto-tiny")?;
//! let before = base.fill_mask("lipstick stains on the [MASK]", 10)?;
//!
//! let lines = retto::read_lines(&["lyrics.txt".into()])?;
//! let mut trainer = retto::Trainer::new(&base, retto::TrainingArguments::default())?;
//! trainer.train(&lines, &[], |_event| std::ops::ControlFlow::Continue(()))?;
//! let adapted = trainer.into_model();
//! let after = adapted.fill_mask("lipstick stains on the [MASK]", 10)?;
//! adapted.save("adapted")?; // a folder transformers loads, too
//! # Ok(())
//! # }
//! ```
//!
//! The network runs as WGSL compute shaders on wgpu: Vulkan, Metal and DX12. Results agree with Hugging Face transformers;
//! the repository's `ARCHITECTURE.md` says how that is proved.
//!
//! # Cargo features
//! - `default-model`: embeds the small model of `models/retto-tiny`, which then opens with `Model::open_default`.
//! - `prepare`: reads lyrics formats, JSON Lines and CSV, plain or compressed, and writes token caches.
//! - `capi`: the C interface of `include/retto.h`, which `make install` builds; nothing for Rust programs.
//! - `cli`: the `retto` command.
//! - `mpi`: training on several machines, in processes that `mpirun` or `srun` starts.
//! - `bench`: what this repository's own benchmark measures with; nothing in it is stable.
//! - `all`: all of these but `mpi`, which needs an MPI.
#![warn(missing_docs)]
#![deny(unsafe_code)]

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
#[cfg(feature = "capi")]
mod capi;
mod compare;
mod downstream;
mod embed;
mod error;
mod files;
mod fill;
mod gpu;
mod interval;
mod mapped;
mod model;
mod ops;
mod text;
mod train;

pub use compare::{CompareOptions, Comparison, GroupKind, Kind, Kinds, Scores, Showcase, Shown, compare, compare_with};
pub use downstream::{
    Downstream, DownstreamEvent, DownstreamFigures, DownstreamOptions, DownstreamRun, DownstreamStage, downstream,
};
pub use embed::{EmbedOptions, Embeddings};
pub use error::{Error, Result};
pub use fill::{Fill, GoldRank};
pub use gpu::{Adapter, Gpu, GpuOptions, PowerPreference};
pub use interval::Interval;
pub use model::{
    BertConfig, DistanceMetric, Dtype, EmbeddingLoss, EmbeddingObjective, HiddenAct, LoraConfig, Model, NamedValues,
    Pooling,
};
#[cfg(feature = "prepare")]
pub use text::{Counts, PrepareEvent, PrepareOptions, Prepared, StaticMask, Unit, load_corpus, prepare, read_corpus};
pub use text::{Dataset, PackedBatch, Tokenizer, Triplets, WordPieceOptions, read_lines, text_files};
#[cfg(feature = "mpi")]
pub use train::Mpi;
pub use train::{
    CommHook, Evaluation, EvaluationOptions, Forecast, METRICS_FILE, MetricsFile, Objective, Retrieval, SchedulerType,
    StepReport, TrainEvent, TrainOutput, Trainer, TrainingArguments, TrainingRun, TripletEvaluation,
    TripletEvaluationOptions,
};
