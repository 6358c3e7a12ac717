//! Sentence and section embeddings.

use std::ffi::{c_char, c_void};

use super::failure::{call, retto_error};
use super::handle::{self, Opaque};
use super::input::{self, Out, OutStruct, Versioned, invalid, retto_string, versioned};
use super::model::retto_model;
use super::progress::{counting, retto_count_callback};
use super::status::retto_status;
use crate::embed::{EmbedOptions, Embeddings};
use crate::model::Pooling;

/// How the vectors of a text's tokens become one: their mean, that of the first token, or the largest value of each column.
pub const RETTO_POOLING_MEAN: u32 = 0;
pub const RETTO_POOLING_CLS: u32 = 1;
pub const RETTO_POOLING_MAX: u32 = 2;

/// How texts are embedded. Set it up with retto_embed_options_init, and have it read from a model's folder with
/// retto_embed_options_open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_embed_options {
    pub struct_size: u32,
    /// RETTO_POOLING_MEAN, the default, and so on.
    pub pooling: u32,
    /// Whether vectors are scaled to a 2-norm of 1. Default 0.
    pub normalize: u32,
    /// Longest text in tokens; longer ones are cut. 0, the default: the model's longest.
    pub max_seq_length: u32,
    /// Whether a text that would be cut is refused (RETTO_TOO_LONG) instead. Default 0.
    pub strict: u32,
    /// Whether texts are put into lower case before they are tokenized. Default 0.
    pub do_lower_case: u32,
    /// Is told of texts that are done. Default NULL.
    pub on_progress: retto_count_callback,
    pub user_data: *mut c_void,
}
versioned!(retto_embed_options, |zero| zero);

/// One vector for each text.
pub struct retto_embeddings {
    _private: [u8; 0],
}

impl Opaque for retto_embeddings {
    type Object = Embeddings;
    const NAME: &'static str = "retto_embeddings";
}

/// Sets options to their defaults: retto_embed_options_init(&options, sizeof options). Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_embed_options_init(
    options: *mut retto_embed_options,
    struct_size: usize,
) -> retto_status {
    // SAFETY: the caller gives the size.
    call(std::ptr::null_mut(), || unsafe { input::init(options, struct_size) })
}

/// Fills options with what the folder of a sentence-transformers model says, and no callback; of any other model's, with the
/// defaults, but that max_seq_length is what its tokenizer says, where that says so. Set struct_size before. RETTO_UNSUPPORTED for
/// parts this library does not have. Any thread; blocks while small files are read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_embed_options_open(
    folder: *const c_char,
    folder_length: usize,
    options: *mut retto_embed_options,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        // SAFETY: the header says how these are given.
        let (out, folder) = unsafe { (OutStruct::new(options)?, input::path("folder", folder, folder_length)?) };
        let found = EmbedOptions::open(folder)?;
        out.write(&retto_embed_options {
            struct_size: 0,
            pooling: match found.pooling {
                Pooling::Mean => RETTO_POOLING_MEAN,
                Pooling::Cls => RETTO_POOLING_CLS,
                Pooling::Max => RETTO_POOLING_MAX,
            },
            normalize: u32::from(found.normalize),
            max_seq_length: u32::try_from(found.max_seq_length.unwrap_or(0)).unwrap_or(u32::MAX),
            strict: u32::from(found.strict),
            do_lower_case: u32::from(found.do_lower_case),
            ..Versioned::defaults()
        });
        Ok(())
    })
}

/// One vector for each text. Lines of a text are joined by the separator token. NULL options are the defaults. Free the vectors
/// with retto_embeddings_free. Any thread, several at once; blocks until all are done or the options' callback ends it: RETTO_CANCELLED.
/// Each pass comes after a training step that is on the GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_embed(
    model: *const retto_model,
    texts: *const retto_string,
    text_count: usize,
    options: *const retto_embed_options,
    embeddings: *mut *mut retto_embeddings,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let model = handle::get(model)?;
        let out = Out::new("embeddings", embeddings)?;
        // SAFETY: the header says how these are given.
        let (texts, given) = unsafe { (input::texts("texts", texts, text_count)?, input::read(options)?) };
        let options = EmbedOptions {
            pooling: match given.pooling {
                RETTO_POOLING_MEAN => Pooling::Mean,
                RETTO_POOLING_CLS => Pooling::Cls,
                RETTO_POOLING_MAX => Pooling::Max,
                other => return Err(invalid(format!("pooling is {other}"))),
            },
            normalize: given.normalize != 0,
            max_seq_length: (given.max_seq_length != 0).then_some(given.max_seq_length as usize),
            strict: given.strict != 0,
            do_lower_case: given.do_lower_case != 0,
        };
        let computed = model.model.embed_with(&texts, &options, counting(given.on_progress, given.user_data))?;
        // SAFETY: the caller gives the address of a pointer.
        unsafe { out.write(handle::insert(computed)) };
        Ok(())
    })
}

/// How many vectors there are; 0 for NULL or freed ones. Any thread; does not block, as all of these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_embeddings_count(embeddings: *const retto_embeddings) -> usize {
    handle::get(embeddings).map_or(0, |embeddings| embeddings.len())
}

/// Numbers in a vector; 0 for NULL or freed ones. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_embeddings_dimension(embeddings: *const retto_embeddings) -> usize {
    handle::get(embeddings).map_or(0, |embeddings| embeddings.dimension())
}

/// How many texts were longer than the longest sequence, and cut; 0 for NULL or freed ones. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_embeddings_truncated(embeddings: *const retto_embeddings) -> usize {
    handle::get(embeddings).map_or(0, |embeddings| embeddings.truncated())
}

/// All numbers, a vector after another, in the order of the texts: count times dimension of them, valid until the embeddings
/// are freed. NULL for NULL or freed ones, and where there is no vector. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_embeddings_values(embeddings: *const retto_embeddings) -> *const f32 {
    match handle::get(embeddings) {
        Ok(embeddings) if !embeddings.is_empty() => embeddings.values().as_ptr(),
        _ => std::ptr::null(),
    }
}

/// Frees embeddings. NULL is allowed. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_embeddings_free(embeddings: *mut retto_embeddings) -> retto_status {
    handle::free(embeddings)
}
