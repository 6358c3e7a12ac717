//! Errors on their way to C, and the wall no panic passes.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::handle::{self, Opaque};
use super::input::Out;
use super::status::retto_status;
use crate::error::Error;

/// Why a call failed, in words. Made by the library where a call is given the address of a `retto_error *`, freed by the
/// caller with retto_error_free.
pub struct retto_error {
    _private: [u8; 0],
}

pub(super) struct Failure {
    pub(super) status: retto_status,
    message: CString,
}

impl Opaque for retto_error {
    type Object = Failure;
    const NAME: &'static str = "retto_error";
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(super) fn new(status: retto_status, message: impl Into<String>) -> Self {
        Self { status, message: c_string(message) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new((&error).into(), error.to_string())
    }
}

/// Text as C reads it. A NUL inside would end it early.
pub(super) fn c_string(text: impl Into<String>) -> CString {
    CString::new(text.into().replace('\0', "\u{fffd}")).unwrap_or_default()
}

thread_local! {
    /// Whether this thread is inside a call from C.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A panic inside a call is an answer, and the host's stderr is not ours: the default hook would write there.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match INSIDE.try_with(Cell::get) {
            Ok(true) => ::log::error!("{info}"),
            // Started by such a call: all of this crate's threads are named so.
            _ if std::thread::current().name().is_some_and(|name| name.starts_with("retto-")) => {
                ::log::error!("{info}")
            }
            _ => before(info),
        }));
    });
}

/// Runs what a function of the interface does, and answers for it.
pub(super) fn call(error: *mut *mut retto_error, body: impl FnOnce() -> Result<()>) -> retto_status {
    quiet_panics();
    let outer = INSIDE.replace(true);
    // What a panic left half done is behind locks, which remember it.
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(payload) => Some(Failure::new(retto_status::RETTO_PANIC, format!("a defect of retto: {}", words(payload)))),
    };
    INSIDE.set(outer);
    let Some(failure) = failure else { return retto_status::RETTO_OK };
    let status = failure.status;
    if let Some(out) = Out::optional(error) {
        // SAFETY: the caller gives the address of a pointer or NULL.
        unsafe { out.write(handle::insert::<retto_error>(failure)) };
    }
    status
}

fn words(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    // Dropping an unknown payload could panic again.
    std::mem::forget(payload);
    text.unwrap_or_else(|| "a panic without words".into())
}

/// The status the call returned; RETTO_INVALID_ARGUMENT for NULL, RETTO_INVALID_HANDLE for a freed error. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_error_status(error: *const retto_error) -> retto_status {
    handle::get(error).map_or_else(|failure| failure.status, |failure| failure.status)
}

/// What happened, in English, as UTF-8 that ends in NUL; it names the file, value or limit at fault. Valid until the error is
/// freed. Never NULL: for NULL or a freed error it is an empty string. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_error_message(error: *const retto_error) -> *const c_char {
    // The table keeps the text where it is.
    handle::get(error).map_or(c"".as_ptr(), |failure| failure.message.as_ptr())
}

/// Frees an error. NULL is allowed, and a second time does no harm. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_error_free(error: *mut retto_error) -> retto_status {
    handle::free(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        let mut error = std::ptr::null_mut();
        let status = call(&mut error, || panic!("for {}", "testing"));
        assert_eq!(status, retto_status::RETTO_PANIC);
        // SAFETY: `error` is a handle, and the message lives as long.
        let message = unsafe { std::ffi::CStr::from_ptr(retto_error_message(error)) };
        assert!(message.to_str().unwrap().ends_with("for testing"), "{message:?}");
        assert_eq!(handle::free(error), retto_status::RETTO_OK);
        assert_eq!(handle::free(error), retto_status::RETTO_INVALID_HANDLE);
        assert_eq!(call(std::ptr::null_mut(), || panic!()), retto_status::RETTO_PANIC);
    }
}
