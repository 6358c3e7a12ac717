//! Text: tokenizer, corpora, token caches, masking, packed batches. Knows no GPU.

#[cfg(feature = "prepare")]
mod assemble;
mod batch;
#[cfg(feature = "prepare")]
mod cache;
mod corpus;
mod dataset;
mod masking;
#[cfg(feature = "prepare")]
mod prepare;
pub(crate) mod random;
#[cfg(feature = "prepare")]
pub(crate) mod readers;
mod settings;
mod tokenizer;
mod triplets;
mod vocabulary;

pub use batch::PackedBatch;
#[cfg(feature = "prepare")]
pub(crate) use corpus::is_of_a_model;
pub use corpus::{read_lines, text_files};
pub use dataset::Dataset;
pub(crate) use dataset::{ASKED, SHORTEST};
pub(crate) use masking::{Masked, Masking};
#[cfg(feature = "prepare")]
pub use prepare::{
    Counts, PrepareEvent, PrepareOptions, Prepared, StaticMask, Unit, load_corpus, prepare, read_corpus,
};
pub(crate) use random::{Purpose, shuffle, shuffled};
pub(crate) use tokenizer::TOKENIZER_FILES;
pub use tokenizer::Tokenizer;
pub use triplets::Triplets;
pub(crate) use triplets::{Triplet, TripletBatch};
pub use vocabulary::WordPieceOptions;
