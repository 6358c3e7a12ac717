//! The one error type of the crate.

use std::path::PathBuf;

/// What went wrong, as something the caller can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter (GPU or software driver) was found on this machine.
    #[error(
        "no GPU adapter found: install a Vulkan, Metal or DX12 driver; on Debian or Ubuntu without a GPU, \
         `apt-get install mesa-vulkan-drivers` gives a software one"
    )]
    NoAdapter,
    /// The adapter that was asked for does not exist, or is named ambiguously.
    #[error("no single adapter matches '{wanted}': available are {available}")]
    #[non_exhaustive]
    AdapterNotFound {
        /// The index or part of a name that was given.
        wanted: String,
        /// The adapters of this machine, `index: name`, separated by `; `.
        available: String,
    },
    /// Something needs more than this adapter allows.
    #[error(
        "{what} needs {needed}, but this adapter's {limit_name} is {limit}: use a smaller batch, shorter sequences, a \
         smaller model or another adapter"
    )]
    #[non_exhaustive]
    DeviceLimit {
        /// What needs it, for example a parameter's name.
        what: String,
        /// How much, in the limit's own unit (bytes for sizes).
        needed: u64,
        /// The limit's name as WebGPU spells it.
        limit_name: &'static str,
        /// The adapter's value.
        limit: u64,
    },
    /// The adapter's memory is exhausted.
    #[error("out of GPU memory while allocating {bytes} bytes ({in_use} bytes in use): use a smaller batch or model")]
    #[non_exhaustive]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes held by this `Gpu` at that time.
        in_use: u64,
    },
    /// A training run that needs more memory than the adapter has, found out before its first step.
    #[error(
        "training would need {needed} bytes of GPU memory, and this adapter has {available}. What would fit: {options}"
    )]
    #[non_exhaustive]
    WouldNotFit {
        /// Bytes of weights, gradients, optimizer and activations, about.
        needed: u64,
        /// The adapter's memory in bytes.
        available: u64,
        /// Changes that would make it fit, separated by `; `.
        options: String,
    },
    /// The device was lost (driver reset, unplugged, suspended). Every later call on the same `Gpu` fails likewise.
    #[error("the GPU device was lost: {0}; open it again")]
    DeviceLost(String),
    /// The driver or wgpu refused an operation: a defect of this crate or of the driver. Results after it cannot be trusted,
    /// so every later call on the same `Gpu` fails likewise.
    #[error("GPU error: {0}")]
    Gpu(String),
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    #[non_exhaustive]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A checkpoint that is malformed, incomplete, or disagrees with its config.
    #[error("{}: {reason}", path.display())]
    #[non_exhaustive]
    BadCheckpoint {
        /// The file (or folder) at fault.
        path: PathBuf,
        /// What is wrong, naming tensor and shapes.
        reason: String,
    },
    /// A valid checkpoint of a kind this crate does not run.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A tokenizer that is missing, malformed, or does not fit the model.
    #[error("{}: {reason}", path.display())]
    #[non_exhaustive]
    BadTokenizer {
        /// The file (or folder) at fault.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint is an encoder without a masked-language-model head, and none has been trained yet.
    #[error("this checkpoint has no masked-language-model head, so it cannot fill or score blanks: adapt it first")]
    NoMlmHead,
    /// A text to be filled holds no mask.
    #[error("no {mask_token} in the text '{text}': put {mask_token} where a word is wanted")]
    #[non_exhaustive]
    NoMask {
        /// The tokenizer's mask token.
        mask_token: String,
        /// The text.
        text: String,
    },
    /// A sequence longer than the model's positions.
    #[error("the text has {tokens} tokens, but at most {max} can be read (with its special tokens): shorten it")]
    #[non_exhaustive]
    TooLong {
        /// Its length in tokens, special tokens included.
        tokens: usize,
        /// The model's `max_position_embeddings`, or the `max_seq_length` that was asked for.
        max: usize,
    },
    /// Training or evaluation data without a single usable line.
    #[error("no usable line of text in {paths}")]
    #[non_exhaustive]
    EmptyCorpus {
        /// The files and folders that were read, separated by `, `.
        paths: String,
    },
    /// A file of text or tokens that cannot be used.
    #[error("{}: {reason}", path.display())]
    #[non_exhaustive]
    BadData {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A text file that is not UTF-8.
    #[error("{}: line {line} is not valid UTF-8: convert the file to UTF-8", path.display())]
    #[non_exhaustive]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first bad line, counted from 1.
        line: usize,
    },
    /// An option or argument out of range.
    #[error("{0}")]
    InvalidArgument(String),
    /// Training produced a loss or gradient that is not finite. The step changed nothing: the parameters are those before it.
    #[error("training diverged at step {step} (loss {loss}, gradient norm {grad_norm}): lower the learning rate")]
    #[non_exhaustive]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// Its loss.
        loss: f32,
        /// Its gradient norm.
        grad_norm: f32,
    },
    /// Of several devices that train together another one failed, or did not answer. A checkpoint written before is whole.
    #[error("training on several devices ended: {0}")]
    RankFailed(String),
    /// The observer of a call broke it off. What the call would have returned, or written, is not there.
    #[error("cancelled")]
    Cancelled,
    /// What a model computed is no number: ranked or counted, it would look like an answer.
    #[error("{what} is not finite: the model's weights are too large, or damaged")]
    #[non_exhaustive]
    NotFinite {
        /// What was computed.
        what: String,
    },
    /// A checkpoint was written by a run with other options, data or models: going on with it would be neither run.
    #[error("cannot resume: {0}")]
    OtherRun(String),
    /// Another run, of this process or of another, writes into a folder.
    #[error("{}: another run writes its checkpoints there: give another folder", folder.display())]
    #[non_exhaustive]
    FolderInUse {
        /// The `output_dir`.
        folder: PathBuf,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An I/O error with the path it happened at.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    pub(crate) fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Error::BadCheckpoint { path: path.into(), reason: reason.into() }
    }

    pub(crate) fn not_finite(what: impl Into<String>) -> Self {
        Error::NotFinite { what: what.into() }
    }

    pub(crate) fn tokenizer(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Error::BadTokenizer { path: path.into(), reason: reason.into() }
    }
}
