//! Handles: numbers that are looked up.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use super::failure::{Failure, Result, call};
use super::status::retto_status;

/// A type that C knows by name only, and what stands behind it.
pub(super) trait Opaque {
    type Object: Any + Send + Sync;
    const NAME: &'static str;
}

type Table = HashMap<usize, Arc<dyn Any + Send + Sync>>;

static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(RwLock::default);
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// A new handle. Its number is not given again, so that one that was freed is known as such.
pub(super) fn insert<O: Opaque>(object: O::Object) -> *mut O {
    // Steps of 16 keep the look of an aligned pointer, which some debuggers and tagging schemes rely on.
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let id = loop {
        let id = NEXT.fetch_add(1, Ordering::Relaxed) << 4;
        // Where addresses have 32 bits, numbers begin again after a quarter of a thousand million: not with those in use, nor NULL.
        if id != 0 && !table.contains_key(&id) {
            break id;
        }
    };
    table.insert(id, Arc::new(object));
    std::ptr::without_provenance_mut(id)
}

/// What stands behind a handle. It stays alive as long as the `Arc`, whatever is freed meanwhile.
pub(super) fn get<O: Opaque>(handle: *const O) -> Result<Arc<O::Object>> {
    if handle.is_null() {
        return Err(Failure::new(retto_status::RETTO_INVALID_ARGUMENT, format!("{} is NULL", O::NAME)));
    }
    let found = TABLE.read().unwrap_or_else(PoisonError::into_inner).get(&handle.addr()).cloned();
    found.and_then(|object| object.downcast().ok()).ok_or_else(unknown::<O>)
}

/// How many there are.
#[cfg(debug_assertions)]
pub(super) fn in_use() -> usize {
    TABLE.read().unwrap_or_else(PoisonError::into_inner).len()
}

fn unknown<O: Opaque>() -> Failure {
    let reason = format!("not a {}, or one that was freed", O::NAME);
    Failure::new(retto_status::RETTO_INVALID_HANDLE, reason)
}

/// Takes a handle out of the table. NULL is nothing to do.
pub(super) fn free<O: Opaque>(handle: *mut O) -> retto_status {
    call(std::ptr::null_mut(), || {
        if handle.is_null() {
            return Ok(());
        }
        get(handle)?;
        // Dropped after the lock is given back: that may take a while.
        let object = TABLE.write().unwrap_or_else(PoisonError::into_inner).remove(&handle.addr());
        object.map(drop).ok_or_else(unknown::<O>)
    })
}
