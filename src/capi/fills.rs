//! Answers to fill-mask queries.

use std::ffi::{CString, c_char};

use super::failure::{c_string, call, retto_error};
use super::gpu::at;
use super::handle::{self, Opaque};
use super::input::{Out, OutStruct, Versioned, versioned};
use super::status::retto_status;
use crate::fill::Fill;

/// The answers for one or more texts: for each text, for each of its masks, the likeliest tokens, best first.
pub struct retto_fills {
    _private: [u8; 0],
}

/// One answer for one mask. Set struct_size to sizeof(retto_fill) before it is filled. Texts are UTF-8 that ends in NUL, and
/// their lengths leave it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_fill {
    pub struct_size: u32,
    /// The token's id.
    pub token: u32,
    /// Its probability among the whole vocabulary.
    pub score: f32,
    pub reserved: u32,
    /// Its text, as transformers shows it: a piece that goes on from the one before begins with "##".
    pub token_str: *const c_char,
    pub token_str_length: usize,
    /// The text with this token in the mask's place, as transformers shows it: put together again from tokens, not the text that was
    /// given. An uncased model's is in lower case; spaces, line breaks and punctuation are set anew; what the vocabulary does not
    /// have is left out; with several masks the others, [CLS] and [SEP] are in it. To put an answer into a text of your own,
    /// replace the mask there by token_str.
    pub sequence: *const c_char,
    pub sequence_length: usize,
}
versioned!(retto_fill, |zero| zero);

pub(super) struct Answer {
    token: u32,
    score: f32,
    token_str: CString,
    sequence: CString,
}

/// By text, mask and rank.
pub(super) struct Answers(Vec<Vec<Vec<Answer>>>);

impl Answers {
    pub(super) fn new(answers: Vec<Vec<Vec<Fill>>>) -> Self {
        let answer = |fill: Fill| Answer {
            token: fill.token,
            score: fill.score,
            token_str: c_string(fill.token_str),
            sequence: c_string(fill.sequence),
        };
        let of_mask = |fills: Vec<Fill>| fills.into_iter().map(answer).collect();
        let of_text = |masks: Vec<Vec<Fill>>| masks.into_iter().map(of_mask).collect();
        Self(answers.into_iter().map(of_text).collect())
    }
}

impl Opaque for retto_fills {
    type Object = Answers;
    const NAME: &'static str = "retto_fills";
}

/// How many texts were asked about; 0 for NULL or freed answers. Any thread; does not block, as all of these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_fills_text_count(fills: *const retto_fills) -> usize {
    handle::get(fills).map_or(0, |fills| fills.0.len())
}

/// How many masks text number `text` has. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_fills_mask_count(
    fills: *const retto_fills,
    text: usize,
    count: *mut usize,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let fills = handle::get(fills)?;
        let out = Out::new("count", count)?;
        // SAFETY: the caller gives the address of a number.
        unsafe { out.write(at(&fills.0, text, "texts")?.len()) };
        Ok(())
    })
}

/// How many answers there are for mask number `mask` of text number `text`: top_k, or the whole vocabulary if that is less.
/// Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_fills_count(
    fills: *const retto_fills,
    text: usize,
    mask: usize,
    count: *mut usize,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let fills = handle::get(fills)?;
        let out = Out::new("count", count)?;
        let masks = at(&fills.0, text, "texts")?;
        // SAFETY: the caller gives the address of a number.
        unsafe { out.write(at(masks, mask, "masks")?.len()) };
        Ok(())
    })
}

/// Fills `fill` with the answer at `rank` (0 is the best); RETTO_OUT_OF_RANGE names the index that is beyond the end. Its texts
/// are valid until the answers are freed. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_fills_get(
    fills: *const retto_fills,
    text: usize,
    mask: usize,
    rank: usize,
    fill: *mut retto_fill,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let fills = handle::get(fills)?;
        // SAFETY: the header says how `fill` is given.
        let out = unsafe { OutStruct::new(fill)? };
        let answers = at(at(&fills.0, text, "texts")?, mask, "masks")?;
        let answer = at(answers, rank, "answers")?;
        out.write(&retto_fill {
            struct_size: 0,
            token: answer.token,
            score: answer.score,
            reserved: 0,
            token_str: answer.token_str.as_ptr(),
            token_str_length: answer.token_str.as_bytes().len(),
            sequence: answer.sequence.as_ptr(),
            sequence_length: answer.sequence.as_bytes().len(),
        });
        Ok(())
    })
}

/// Frees answers. NULL is allowed. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_fills_free(fills: *mut retto_fills) -> retto_status {
    handle::free(fills)
}
