//! The library's log, which is silent until a program asks for it.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::sync::{Once, PoisonError, RwLock};

use log::{LevelFilter, Log, Metadata, Record};

use super::failure::{Failure, c_string, call, retto_error};
use super::input::invalid;
use super::status::retto_status;

/// Takes a line of the log: its level (RETTO_LOG_ERROR and on), where it is from and what it says, both UTF-8 that ends in
/// NUL and lives until the callback returns. It is called on any thread, on several at once, in the middle of the library's work; it must
/// not throw or longjmp, and must not call the library, but for retto_version, retto_version_string and retto_status_name.
pub type retto_log_callback =
    Option<unsafe extern "C" fn(level: u32, target: *const c_char, message: *const c_char, user_data: *mut c_void)>;

/// Log levels: each includes those before it.
pub const RETTO_LOG_OFF: u32 = 0;
pub const RETTO_LOG_ERROR: u32 = 1;
pub const RETTO_LOG_WARN: u32 = 2;
pub const RETTO_LOG_INFO: u32 = 3;
pub const RETTO_LOG_DEBUG: u32 = 4;
pub const RETTO_LOG_TRACE: u32 = 5;

struct Sink {
    callback: unsafe extern "C" fn(u32, *const c_char, *const c_char, *mut c_void),
    user_data: *mut c_void,
}

// SAFETY: the header asks for a callback that may be called on any thread.
unsafe impl Send for Sink {}
// SAFETY: likewise.
unsafe impl Sync for Sink {}

struct Logger;

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

thread_local! {
    /// Whether this thread is inside the callback.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        if CALLING.replace(true) {
            return;
        }
        // Held while the callback runs, so that it is not called any more once retto_log_set has returned.
        if let Some(sink) = &*SINK.read().unwrap_or_else(PoisonError::into_inner) {
            let (target, message) = (c_string(record.target()), c_string(record.args().to_string()));
            // SAFETY: the program gave the two together, and the texts outlive the call.
            unsafe { (sink.callback)(record.level() as u32, target.as_ptr(), message.as_ptr(), sink.user_data) };
        }
        CALLING.set(false);
    }

    fn flush(&self) {}
}

/// Sends the library's log, and that of the GPU layer below it, to a callback: lines of `level` (RETTO_LOG_WARN, say) and
/// above. A NULL callback or RETTO_LOG_OFF ends it; when this returns, the former callback is not called any more. For the
/// whole process; silent by default. `user_data` is handed to the callback and may be NULL.
///
/// Any thread; blocks while a callback is running; from inside it: RETTO_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_log_set(
    callback: retto_log_callback,
    user_data: *mut c_void,
    level: u32,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let filter = LevelFilter::iter().nth(level as usize);
        let filter = filter.ok_or_else(|| invalid(format!("a log level of {level}; it is from 0 to 5")))?;
        if CALLING.get() {
            return Err(Failure::new(retto_status::RETTO_BUSY, "retto_log_set from inside the log callback"));
        }
        static ONCE: Once = Once::new();
        // Where the host is a Rust program with a logger of its own, that one stays.
        ONCE.call_once(|| drop(log::set_logger(&Logger)));
        let sink = callback.map(|callback| Sink { callback, user_data });
        // Both at once: no callback hears another's level.
        let mut current = SINK.write().unwrap_or_else(PoisonError::into_inner);
        log::set_max_level(if sink.is_some() { filter } else { LevelFilter::Off });
        *current = sink.filter(|_| filter != LevelFilter::Off);
        Ok(())
    })
}
