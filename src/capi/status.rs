//! Status codes.

use std::ffi::{CStr, c_char};

use crate::error::Error;

/// What a call came to. A number keeps its meaning for ever; new ones are added at the end, so treat one you do not know as a
/// failure.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum retto_status {
    /// Done.
    RETTO_OK = 0,
    /// An argument or option is NULL that must not be, or out of range.
    RETTO_INVALID_ARGUMENT = 1,
    /// A file or folder could not be read or written.
    RETTO_IO = 2,
    /// A checkpoint that is malformed, incomplete, or disagrees with its config.
    RETTO_BAD_CHECKPOINT = 3,
    /// Valid, but of a kind this build or this adapter does not run.
    RETTO_UNSUPPORTED = 4,
    /// No adapter was found, or none that matches.
    RETTO_NO_ADAPTER = 5,
    /// Something needs more than this adapter allows.
    RETTO_DEVICE_LIMIT = 6,
    /// The adapter's memory is exhausted, or would be.
    RETTO_GPU_OUT_OF_MEMORY = 7,
    /// The device was lost (driver reset, unplugged). Every later call on the same retto_gpu, and on what was made with it,
    /// answers the same: free them and open a new one.
    RETTO_DEVICE_LOST = 8,
    /// A callback ended what was going on, or retto_trainer_cancel. Of a run, what was trained so far is there, and
    /// retto_trainer_resume goes on with it.
    RETTO_CANCELLED = 9,
    /// The handle is in use by another thread, or by the call whose callback this is.
    RETTO_BUSY = 10,
    /// A defect of this library. The process is unharmed; do not use the handle again but to free it.
    RETTO_PANIC = 11,
    /// The header and the library, or a struct_size, do not fit.
    RETTO_ABI_MISMATCH = 12,
    /// The handle was freed, or is not one of this kind.
    RETTO_INVALID_HANDLE = 13,
    /// Text that is not UTF-8.
    RETTO_INVALID_UTF8 = 14,
    /// An index beyond the end.
    RETTO_OUT_OF_RANGE = 15,
    /// Not now: a run that is over, lines for a run that has begun.
    RETTO_WRONG_STATE = 16,
    /// A tokenizer that is missing, malformed, or does not fit the model.
    RETTO_BAD_TOKENIZER = 17,
    /// The checkpoint is an encoder without a masked-language-model head: adapt it first.
    RETTO_NO_MLM_HEAD = 18,
    /// A text to be filled holds no mask.
    RETTO_NO_MASK = 19,
    /// A text has more tokens than the model has positions.
    RETTO_TOO_LONG = 20,
    /// Not a single usable line of text.
    RETTO_EMPTY_CORPUS = 21,
    /// A file of text that cannot be used.
    RETTO_BAD_DATA = 22,
    /// A loss or gradient was not finite. The step changed nothing: lower the learning rate.
    RETTO_DIVERGED = 23,
    /// The driver refused an operation. Every later call on the same retto_gpu answers the same.
    RETTO_GPU_ERROR = 24,
    /// Of several devices that train together one could not go on, or they no longer had the same weights. They and their models can be used;
    /// resume the run from a checkpoint with a new trainer.
    RETTO_RANK_FAILED = 25,
    /// A score, loss or vector is not finite: the model's weights are too large, or damaged.
    RETTO_NOT_FINITE = 26,
    /// The checkpoint is of a run with other options, lines or models. Begin anew, in another folder, or give what that run began with.
    RETTO_OTHER_RUN = 27,
    /// Another run, of this process or of another, writes its checkpoints into the folder.
    RETTO_FOLDER_IN_USE = 28,
}

use retto_status::*;

impl From<&Error> for retto_status {
    fn from(error: &Error) -> Self {
        match error {
            Error::NoAdapter | Error::AdapterNotFound { .. } => RETTO_NO_ADAPTER,
            Error::DeviceLimit { .. } => RETTO_DEVICE_LIMIT,
            Error::OutOfMemory { .. } | Error::WouldNotFit { .. } => RETTO_GPU_OUT_OF_MEMORY,
            Error::DeviceLost(_) => RETTO_DEVICE_LOST,
            Error::RankFailed(_) => RETTO_RANK_FAILED,
            Error::Gpu(_) => RETTO_GPU_ERROR,
            Error::Io { .. } => RETTO_IO,
            Error::BadCheckpoint { .. } => RETTO_BAD_CHECKPOINT,
            Error::Unsupported(_) => RETTO_UNSUPPORTED,
            Error::BadTokenizer { .. } => RETTO_BAD_TOKENIZER,
            Error::NoMlmHead => RETTO_NO_MLM_HEAD,
            Error::NoMask { .. } => RETTO_NO_MASK,
            Error::TooLong { .. } => RETTO_TOO_LONG,
            Error::EmptyCorpus { .. } => RETTO_EMPTY_CORPUS,
            Error::BadData { .. } => RETTO_BAD_DATA,
            Error::NotUtf8 { .. } => RETTO_INVALID_UTF8,
            Error::InvalidArgument(_) => RETTO_INVALID_ARGUMENT,
            Error::Diverged { .. } => RETTO_DIVERGED,
            Error::Cancelled => RETTO_CANCELLED,
            Error::NotFinite { .. } => RETTO_NOT_FINITE,
            Error::OtherRun(_) => RETTO_OTHER_RUN,
            Error::FolderInUse { .. } => RETTO_FOLDER_IN_USE,
        }
    }
}

/// Every status with its name, in the order of their numbers.
const NAMES: [(retto_status, &CStr); 29] = [
    (RETTO_OK, c"RETTO_OK"),
    (RETTO_INVALID_ARGUMENT, c"RETTO_INVALID_ARGUMENT"),
    (RETTO_IO, c"RETTO_IO"),
    (RETTO_BAD_CHECKPOINT, c"RETTO_BAD_CHECKPOINT"),
    (RETTO_UNSUPPORTED, c"RETTO_UNSUPPORTED"),
    (RETTO_NO_ADAPTER, c"RETTO_NO_ADAPTER"),
    (RETTO_DEVICE_LIMIT, c"RETTO_DEVICE_LIMIT"),
    (RETTO_GPU_OUT_OF_MEMORY, c"RETTO_GPU_OUT_OF_MEMORY"),
    (RETTO_DEVICE_LOST, c"RETTO_DEVICE_LOST"),
    (RETTO_CANCELLED, c"RETTO_CANCELLED"),
    (RETTO_BUSY, c"RETTO_BUSY"),
    (RETTO_PANIC, c"RETTO_PANIC"),
    (RETTO_ABI_MISMATCH, c"RETTO_ABI_MISMATCH"),
    (RETTO_INVALID_HANDLE, c"RETTO_INVALID_HANDLE"),
    (RETTO_INVALID_UTF8, c"RETTO_INVALID_UTF8"),
    (RETTO_OUT_OF_RANGE, c"RETTO_OUT_OF_RANGE"),
    (RETTO_WRONG_STATE, c"RETTO_WRONG_STATE"),
    (RETTO_BAD_TOKENIZER, c"RETTO_BAD_TOKENIZER"),
    (RETTO_NO_MLM_HEAD, c"RETTO_NO_MLM_HEAD"),
    (RETTO_NO_MASK, c"RETTO_NO_MASK"),
    (RETTO_TOO_LONG, c"RETTO_TOO_LONG"),
    (RETTO_EMPTY_CORPUS, c"RETTO_EMPTY_CORPUS"),
    (RETTO_BAD_DATA, c"RETTO_BAD_DATA"),
    (RETTO_DIVERGED, c"RETTO_DIVERGED"),
    (RETTO_GPU_ERROR, c"RETTO_GPU_ERROR"),
    (RETTO_RANK_FAILED, c"RETTO_RANK_FAILED"),
    (RETTO_NOT_FINITE, c"RETTO_NOT_FINITE"),
    (RETTO_OTHER_RUN, c"RETTO_OTHER_RUN"),
    (RETTO_FOLDER_IN_USE, c"RETTO_FOLDER_IN_USE"),
];

/// The name of a status, for example "RETTO_NO_MASK", or "unknown" for a number that is none. Static; never NULL. Any thread; does not block.
#[unsafe(no_mangle)]
pub extern "C" fn retto_status_name(status: i32) -> *const c_char {
    let found = usize::try_from(status).ok().and_then(|status| NAMES.get(status));
    found.map_or(c"unknown", |(_, name)| name).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        for (number, (status, name)) in NAMES.iter().enumerate() {
            assert_eq!(*status as usize, number);
            assert_eq!(format!("{status:?}"), name.to_str().unwrap());
        }
        // All that the header has.
        let header = include_str!("../../include/retto.h");
        let statuses = header.split("enum retto_status").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
        let in_header = statuses.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "));
        let in_header: Vec<(&str, i32)> = in_header.map(|(name, number)| (name, number.parse().unwrap())).collect();
        assert!(in_header.len() > 25 && in_header.len() == NAMES.len(), "{in_header:?}");
        for (name, number) in in_header {
            // SAFETY: a static string.
            let said = unsafe { CStr::from_ptr(retto_status_name(number)) };
            assert_eq!(said.to_str().unwrap(), name);
        }
    }
}
