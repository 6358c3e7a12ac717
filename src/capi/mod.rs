//! The C interface: what `include/retto.h` declares, and the only place that says `extern "C"`.
//!
//! A handle is a number that looks like a pointer: it is looked up, never followed, so that a handle that was freed, or is one
//! of something else, gets an answer. Every call goes through [`failure::call`], which no panic leaves.
//!
//! The doc comments of `pub` items are the header's: `tests/header.rs` makes it from these files.
#![allow(
    unsafe_code,
    non_camel_case_types,
    missing_docs,
    clippy::missing_safety_doc,
    dead_code,
    reason = "the C boundary; what a caller has to keep to stands in the header, and some constants are the header's alone"
)]

mod embed;
mod failure;
mod fills;
mod gpu;
mod handle;
#[cfg(debug_assertions)]
mod hooks;
mod input;
mod log;
mod model;
mod options;
mod progress;
mod running;
mod status;
mod trainer;
mod version;
