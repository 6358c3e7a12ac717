//! Models and what they are asked.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;

use super::failure::{Result, c_string, call, retto_error};
use super::fills::{Answers, retto_fills};
use super::gpu::retto_gpu;
use super::handle::{self, Opaque};
use super::input::{self, Out, OutStruct, Versioned, invalid, retto_string, versioned};
use super::progress::{counting, retto_count_callback};
use super::status::retto_status;
use crate::gpu::Gpu;
use crate::model::{Dtype, Model};
use crate::train::EvaluationOptions;

/// What weights are made of: four bytes each, two, or one.
pub const RETTO_DTYPE_FLOAT32: u32 = 0;
pub const RETTO_DTYPE_FLOAT16: u32 = 1;
pub const RETTO_DTYPE_INT8: u32 = 2;

/// A model. It never changes: any number of threads may query one at once, and it may be freed while they do, whose calls then
/// end as they would have.
pub struct retto_model {
    _private: [u8; 0],
}

/// What is known of a model. Set struct_size to sizeof(retto_model_info) before it is filled. Texts are UTF-8 that ends in
/// NUL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_model_info {
    pub struct_size: u32,
    /// Whether it can fill and score blanks: 0 for an encoder without a masked-language-model head, until it is adapted.
    pub has_mlm_head: u32,
    /// The name of its folder; "retto-tiny" for the bundled one.
    pub name: *const c_char,
    /// What stands for a blank in a text, for example "[MASK]".
    pub mask_token: *const c_char,
    /// Weights, counted once where they are shared.
    pub num_parameters: u64,
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    pub intermediate_size: u32,
    /// The longest text in tokens, special tokens included.
    pub max_position_embeddings: u32,
    /// RETTO_DTYPE_FLOAT32 and so on: what its matrices are kept in.
    pub dtype: u32,
    pub reserved: u32,
}
versioned!(retto_model_info, |zero| zero);

/// How held-out lines are masked and scored. Set it up with retto_evaluation_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_evaluation_options {
    pub struct_size: u32,
    /// Whether words are masked whole. Default 0.
    pub whole_word_mask: u32,
    /// The share of tokens that are masked. Default 0.15.
    pub mlm_probability: f64,
    /// Of the masked tokens, how many become the mask token. Default 0.8.
    pub mask_replace_prob: f64,
    /// Of the masked tokens, how many become a random one; the rest stay. Default 0.1.
    pub random_replace_prob: f64,
    /// Lines in a batch. Default 32.
    pub per_device_eval_batch_size: u32,
    /// Longer lines are cut to this many tokens. 0, the default: the model's longest.
    pub max_seq_length: u32,
    /// The same seed gives every model with the same tokenizer the same blanks. Default 42.
    pub seed: u64,
    /// Is told of batches that are done. Default NULL.
    pub on_progress: retto_count_callback,
    pub user_data: *mut c_void,
}
versioned!(retto_evaluation_options, |zero| {
    let defaults = EvaluationOptions::default();
    retto_evaluation_options {
        whole_word_mask: defaults.whole_word_mask.into(),
        mlm_probability: defaults.mlm_probability,
        mask_replace_prob: defaults.mask_replace_prob,
        random_replace_prob: defaults.random_replace_prob,
        per_device_eval_batch_size: defaults.per_device_eval_batch_size as u32,
        seed: defaults.seed,
        ..zero
    }
});

/// What an evaluation found. Set struct_size to sizeof(retto_evaluation) before it is filled.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_evaluation {
    pub struct_size: u32,
    pub reserved: u32,
    /// Mean cross entropy of the masked tokens, in nats.
    pub loss: f64,
    /// exp(loss)
    pub perplexity: f64,
    /// The share of masked tokens that the model thought likeliest.
    pub top1_accuracy: f64,
    /// The share of masked tokens among the ten the model thought likeliest.
    pub top10_accuracy: f64,
    /// How many tokens were masked.
    pub masked_tokens: u64,
}
versioned!(retto_evaluation, |zero| zero);

/// Where one particular word stands among a model's answers. Set struct_size to sizeof(retto_gold_rank) before it is filled.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_gold_rank {
    pub struct_size: u32,
    /// The word's token.
    pub token: u32,
    /// 1 for the likeliest token of the vocabulary.
    pub rank: u64,
    /// Its probability among the whole vocabulary.
    pub score: f32,
    pub reserved: u32,
}
versioned!(retto_gold_rank, |zero| zero);

pub(super) struct OpenModel {
    pub(super) model: Model,
    name: CString,
    mask_token: CString,
}

impl Opaque for retto_model {
    type Object = OpenModel;
    const NAME: &'static str = "retto_model";
}

impl OpenModel {
    pub(super) fn new(model: Model, name: &str) -> Self {
        let mask_token = c_string(model.tokenizer().mask_token());
        Self { model, name: c_string(name), mask_token }
    }

    /// The name of what is adapted from this model.
    pub(super) fn name(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }
}

/// What opening a folder is, whatever of it is asked for.
///
/// # Safety
/// As the header says: `path` holds as many bytes as `path_length` says, and `model` is the address of a pointer.
unsafe fn open(
    gpu: *const retto_gpu,
    path: *const c_char,
    path_length: usize,
    model: *mut *mut retto_model,
    open: impl FnOnce(&Gpu, &str) -> Result<Model>,
) -> Result<()> {
    let gpu = handle::get(gpu)?;
    let out = Out::new("model", model)?;
    // SAFETY: as the caller promises.
    let folder = unsafe { input::path("path", path, path_length)? };
    let opened = OpenModel::new(open(&gpu.gpu, folder)?, &folder_name(folder));
    // SAFETY: likewise.
    unsafe { out.write(handle::insert(opened)) };
    Ok(())
}

fn dtype_of(dtype: u32) -> Result<Dtype> {
    match dtype {
        RETTO_DTYPE_FLOAT32 => Ok(Dtype::Float32),
        RETTO_DTYPE_FLOAT16 => Ok(Dtype::Float16),
        RETTO_DTYPE_INT8 => Ok(Dtype::Int8),
        other => Err(invalid(format!("dtype is {other}"))),
    }
}

/// The last part of a path, with `.` and `..` resolved.
fn folder_name(folder: &str) -> String {
    let path = std::fs::canonicalize(folder).unwrap_or_else(|_| Path::new(folder).to_owned());
    path.file_name().map_or_else(|| folder.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Opens a model's folder in Hugging Face's layout: config.json, model.safetensors or shards of it, tokenizer.json or
/// vocab.txt. Free it with retto_model_free. Any thread; blocks while the weights are read and uploaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_open(
    gpu: *const retto_gpu,
    path: *const c_char,
    path_length: usize,
    model: *mut *mut retto_model,
    error: *mut *mut retto_error,
) -> retto_status {
    // SAFETY: as the header says.
    call(error, || unsafe { open(gpu, path, path_length, model, |gpu, folder| Ok(Model::open(gpu, folder)?)) })
}

/// Opens a model's folder with matrices of this RETTO_DTYPE: as retto_model_to_dtype makes them, without the memory for more than a few
/// of them in float32; otherwise as retto_model_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_open_with_dtype(
    gpu: *const retto_gpu,
    path: *const c_char,
    path_length: usize,
    dtype: u32,
    model: *mut *mut retto_model,
    error: *mut *mut retto_error,
) -> retto_status {
    let with_dtype = |gpu: &Gpu, folder: &str| Ok(Model::open_with_dtype(gpu, folder, dtype_of(dtype)?)?);
    // SAFETY: as the header says.
    call(error, || unsafe { open(gpu, path, path_length, model, with_dtype) })
}

/// Opens a model's folder with a low-rank adapter in PEFT's format added to its weights; otherwise as retto_model_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_open_with_adapter(
    gpu: *const retto_gpu,
    path: *const c_char,
    path_length: usize,
    adapter_path: *const c_char,
    adapter_path_length: usize,
    model: *mut *mut retto_model,
    error: *mut *mut retto_error,
) -> retto_status {
    let with_adapter = |gpu: &Gpu, folder: &str| {
        // SAFETY: the header says how text is given.
        let adapter = unsafe { input::path("adapter_path", adapter_path, adapter_path_length)? };
        Ok(Model::open_with_adapter(gpu, folder, adapter)?)
    };
    // SAFETY: as the header says.
    call(error, || unsafe { open(gpu, path, path_length, model, with_adapter) })
}

/// Opens the model that is part of the library, where it was built with one; otherwise RETTO_UNSUPPORTED. Free it with
/// retto_model_free. Any thread; blocks while the weights are uploaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_open_default(
    gpu: *const retto_gpu,
    model: *mut *mut retto_model,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let gpu = handle::get(gpu)?;
        let out = Out::new("model", model)?;
        let model = OpenModel::new(bundled(&gpu.gpu)?, "retto-tiny");
        // SAFETY: the caller gives the address of a pointer.
        unsafe { out.write(handle::insert(model)) };
        Ok(())
    })
}

#[cfg(feature = "default-model")]
fn bundled(gpu: &Gpu) -> Result<Model> {
    Ok(Model::open_default(gpu)?)
}

#[cfg(not(feature = "default-model"))]
fn bundled(_: &Gpu) -> Result<Model> {
    let reason = "this library was built without a model: open one with retto_model_open";
    Err(super::failure::Failure::new(retto_status::RETTO_UNSUPPORTED, reason))
}

/// A copy of a model whose matrices are of this RETTO_DTYPE: in float16 and int8 they take half or a quarter of the GPU's memory, for
/// nearly the same answers. The model itself may be freed, and its memory then is. A copy in float16 or int8 is for queries: to train
/// or save it, or to make another type of it, is RETTO_UNSUPPORTED. Free it with retto_model_free. Any thread; blocks while it is made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_to_dtype(
    model: *const retto_model,
    dtype: u32,
    copy: *mut *mut retto_model,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let model = handle::get(model)?;
        let out = Out::new("copy", copy)?;
        let copy = OpenModel::new(model.model.to_dtype(dtype_of(dtype)?)?, &model.name());
        // SAFETY: the caller gives the address of a pointer.
        unsafe { out.write(handle::insert(copy)) };
        Ok(())
    })
}

/// Fills `info`. Its texts are valid until the model is freed. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_get_info(
    model: *const retto_model,
    info: *mut retto_model_info,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let model = handle::get(model)?;
        // SAFETY: the header says how `info` is given.
        let out = unsafe { OutStruct::new(info)? };
        let config = model.model.config();
        out.write(&retto_model_info {
            struct_size: 0,
            has_mlm_head: model.model.has_mlm_head().into(),
            name: model.name.as_ptr(),
            mask_token: model.mask_token.as_ptr(),
            num_parameters: model.model.num_parameters() as u64,
            vocab_size: config.vocab_size as u32,
            hidden_size: config.hidden_size as u32,
            num_hidden_layers: config.num_hidden_layers as u32,
            num_attention_heads: config.num_attention_heads as u32,
            intermediate_size: config.intermediate_size as u32,
            max_position_embeddings: config.max_position_embeddings as u32,
            dtype: match model.model.dtype() {
                Dtype::Float32 => RETTO_DTYPE_FLOAT32,
                Dtype::Float16 => RETTO_DTYPE_FLOAT16,
                Dtype::Int8 => RETTO_DTYPE_INT8,
            },
            reserved: 0,
        });
        Ok(())
    })
}

/// Compiles what queries need, so that the first one takes no longer than those after it; and keeps it, where the gpu was given
/// a cache_dir. Any thread; blocks, for seconds on a first start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_warm_up(model: *const retto_model, error: *mut *mut retto_error) -> retto_status {
    call(error, || Ok(handle::get(model)?.model.warm_up()?))
}

/// The `top_k` likeliest tokens for each mask of one text, best first. Masks are answered independently, each with the others
/// still masked. Free the answers with retto_fills_free. Any thread, several at once; blocks until the GPU has answered, which
/// comes after a training step that is on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_fill_mask(
    model: *const retto_model,
    text: *const c_char,
    text_length: usize,
    top_k: usize,
    fills: *mut *mut retto_fills,
    error: *mut *mut retto_error,
) -> retto_status {
    let text = retto_string { data: text, length: text_length };
    // SAFETY: one text is a list of one; and as for the caller.
    unsafe { retto_model_fill_mask_batch(model, &text, 1, top_k, fills, error) }
}

/// As retto_model_fill_mask does for one, for several texts at once, which is faster than one by one; blocks until all are answered. If one
/// text is at fault, none is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_fill_mask_batch(
    model: *const retto_model,
    texts: *const retto_string,
    text_count: usize,
    top_k: usize,
    fills: *mut *mut retto_fills,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let model = handle::get(model)?;
        let out = Out::new("fills", fills)?;
        // SAFETY: the header says how texts are given.
        let texts = unsafe { input::texts("texts", texts, text_count)? };
        let answers = Answers::new(model.model.fill_mask_batch(&texts, top_k)?);
        // SAFETY: the caller gives the address of a pointer.
        unsafe { out.write(handle::insert(answers)) };
        Ok(())
    })
}

/// Where the word `gold` stands among the answers for the one mask of a text. RETTO_INVALID_ARGUMENT where the text has several
/// masks, or the word is not one token of the vocabulary. Any thread; blocks as retto_model_fill_mask.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_rank_gold(
    model: *const retto_model,
    text: *const c_char,
    text_length: usize,
    gold: *const c_char,
    gold_length: usize,
    rank: *mut retto_gold_rank,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let model = handle::get(model)?;
        // SAFETY: the header says how these are given.
        let (out, text, gold) = unsafe {
            (OutStruct::new(rank)?, input::text("text", text, text_length)?, input::text("gold", gold, gold_length)?)
        };
        let found = model.model.rank_gold(text, gold)?;
        let (token, rank, score) = (found.token, found.rank as u64, found.score);
        out.write(&retto_gold_rank { struct_size: 0, token, rank, score, reserved: 0 });
        Ok(())
    })
}

/// Sets options to their defaults: retto_evaluation_options_init(&options, sizeof options). Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_evaluation_options_init(
    options: *mut retto_evaluation_options,
    struct_size: usize,
) -> retto_status {
    // SAFETY: the caller gives the size.
    call(std::ptr::null_mut(), || unsafe { input::init(options, struct_size) })
}

/// Masks held-out lines, always in the same way, and measures how they are filled. NULL options are the defaults. Any thread;
/// blocks until all lines are done, or the options' callback ends it: RETTO_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_evaluate(
    model: *const retto_model,
    lines: *const retto_string,
    line_count: usize,
    options: *const retto_evaluation_options,
    evaluation: *mut retto_evaluation,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let model = handle::get(model)?;
        // SAFETY: the header says how these are given.
        let (out, lines, given) =
            unsafe { (OutStruct::new(evaluation)?, input::texts("lines", lines, line_count)?, input::read(options)?) };
        if lines.is_empty() {
            return Err(invalid("there are no lines to evaluate"));
        }
        let options = EvaluationOptions {
            mlm_probability: given.mlm_probability,
            mask_replace_prob: given.mask_replace_prob,
            random_replace_prob: given.random_replace_prob,
            whole_word_mask: given.whole_word_mask != 0,
            static_mask: false,
            per_device_eval_batch_size: given.per_device_eval_batch_size as usize,
            max_seq_length: (given.max_seq_length != 0).then_some(given.max_seq_length as usize),
            seed: given.seed,
        };
        let observe = counting(given.on_progress, given.user_data);
        let found = model.model.evaluate_with(&lines, &options, observe)?;
        out.write(&retto_evaluation {
            struct_size: 0,
            reserved: 0,
            loss: found.loss,
            perplexity: found.perplexity,
            top1_accuracy: found.top1_accuracy,
            top10_accuracy: found.top10_accuracy,
            masked_tokens: found.masked_tokens as u64,
        });
        Ok(())
    })
}

/// Writes a folder that retto and transformers open: all of it or nothing, over a model that was there. The names of a model's files are
/// its own: config.json, model*.safetensors, tokenizer*.json, vocab.txt, special_tokens_map.json and added_tokens.json of before are
/// replaced or, if this model has none, removed; other files stay. Any thread; blocks while the weights are read back and
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_save(
    model: *const retto_model,
    path: *const c_char,
    path_length: usize,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let model = handle::get(model)?;
        // SAFETY: the header says how text is given.
        let folder = unsafe { input::path("path", path, path_length)? };
        Ok(model.model.save(folder)?)
    })
}

/// Frees a model. NULL is allowed. Queries of other threads that are under way end as they would have; a trainer made of it lives
/// on. Any thread; it may block as retto_gpu_free may.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_model_free(model: *mut retto_model) -> retto_status {
    handle::free(model)
}
