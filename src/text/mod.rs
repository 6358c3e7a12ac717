//! Text: tokenizer, corpora, masking, packed batches. Knows no GPU.

mod batch;
mod corpus;
mod masking;
mod settings;
mod tokenizer;
mod vocabulary;

pub use batch::PackedBatch;
pub(crate) use corpus::{Examples, SHORTEST};
pub use corpus::{read_lines, text_files};
pub(crate) use masking::{Masking, Purpose, shuffled};
pub(crate) use tokenizer::TOKENIZER_FILES;
pub use tokenizer::Tokenizer;
pub use vocabulary::WordPieceOptions;
