//! BERT on any GPU: fill blanks, and adapt the model to the words of one domain, without CUDA, Python or a server.
//!
//! ```no_run
//! # fn main() -> retto::Result<()> {
//! let gpu = retto::Gpu::open_default()?;
//! let base = retto::Model::open(&gpu, "models/retto-tiny")?;
//! let before = base.fill_mask("lipstick stains on the [MASK]", 10)?;
//!
//! let lines = retto::read_lines(&["lyrics.txt".into()])?;
//! // The default rate is transformers', for models of BERT-base's size; small ones take a higher one.
//! let arguments = retto::TrainingArguments { learning_rate: 1e-3, ..Default::default() };
//! let mut trainer = retto::Trainer::new(&base, arguments)?;
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
//! # Threads
//! Everything blocks until it is done: opening a GPU or a model for up to seconds, queries for milliseconds, training for as long as it takes. So
//! keep it off a thread that draws or polls futures (`std::thread`, `spawn_blocking`). [`Gpu`], [`Model`], [`Dataset`] and [`Tokenizer`] are
//! `Send` and `Sync`: any number of threads may ask one model, as `Arc<Model>` say. A [`Trainer`] is `Send`, and the model it was made of may be
//! asked meanwhile; a query then waits for what the step has given the GPU before it. A model that was trained on since is had by
//! [`Trainer::snapshot`], between the steps of a [`TrainingRun`]. Long calls can be ended from where they tell how far they are.
//!
//! # Texts of several lines
//! [`Model::embed`] and what `prepare` makes of sections and windows put the separator token between lines. For [`Model::fill_mask`],
//! [`Model::evaluate`] and [`Trainer::train`] a text is one line, in which a line break is a space; write `[SEP]` where a model that was adapted
//! to sections is to see one.
//!
//! # Versions
//! Options (`TrainingArguments`, `EmbedOptions` and so on) gain fields in minor versions: make them with `..Default::default()`. So do events and
//! errors: match them with `..`.
//!
//! # Cargo features
//! - `default-model`: embeds the small model of `models/retto-tiny`, which then opens with `Model::open_default`.
//! - `prepare`: reads lyrics formats, JSON Lines and CSV, plain or compressed, and writes token caches: `prepare`, `load_corpus`, `read_corpus` and
//!   their options, `Triplets::read_json_lines`.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As the crate's documentation has it.
    #[test]
    fn what_threads_may_have() {
        fn share<T: Send + Sync>() {}
        fn send<T: Send>() {}
        share::<Gpu>();
        share::<Model>();
        share::<Dataset>();
        share::<Triplets>();
        share::<Tokenizer>();
        share::<Error>();
        send::<Trainer>();
        send::<TrainingRun>();
    }
}
