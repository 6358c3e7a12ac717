//! BERT: config, checkpoint, parameters, and the network as forward and backward pairs.

mod adapter;
mod attention;
mod bert;
mod checkpoint;
mod config;
mod device_batch;
mod dtype;
mod embedding_loss;
mod embeddings;
mod encoder_layer;
mod feed_forward;
mod layers;
mod lora;
mod mlm_head;
mod modules;
mod open;
mod parameters;
mod pooling;
mod preload;
mod queries;
mod save;

pub(crate) use bert::{Bert, Done, TrainOptions};
pub(crate) use checkpoint::Checkpoint;
pub use config::{BertConfig, HiddenAct};
pub use dtype::Dtype;
pub use embedding_loss::{DistanceMetric, EmbeddingLoss, EmbeddingObjective};
pub use lora::LoraConfig;
pub(crate) use mlm_head::stats_of;
pub(crate) use modules::{MODULES_FILE, Module, read_json};
pub use open::{Model, NamedValues};
pub(crate) use parameters::{Gradients, Parameter, in_memory_order, zeros_like};
pub use pooling::Pooling;
pub(crate) use save::{FolderLock, names, staging_in, write_tensors};
