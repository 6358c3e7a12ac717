//! Which kernels a computation spends its time in: each dispatch is run by itself and waited for.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::device::lock;
use super::kernel::Kernel;

/// Dispatches and their time, by `file::entry`.
pub type Profile = BTreeMap<String, (u64, Duration)>;

static CURRENT: Mutex<Option<Profile>> = Mutex::new(None);

/// Begins a profile of all that is dispatched in this process.
pub fn start() {
    *lock(&CURRENT) = Some(Profile::new());
}

/// Ends the profile; empty where none was begun.
pub fn finish() -> Profile {
    lock(&CURRENT).take().unwrap_or_default()
}

pub(super) fn is_on() -> bool {
    lock(&CURRENT).is_some()
}

pub(super) fn add(kernel: &Kernel, time: Duration) {
    if let Some(profile) = lock(&CURRENT).as_mut() {
        let entry = profile.entry(format!("{}::{}", kernel.file, kernel.entry)).or_default();
        entry.0 += 1;
        entry.1 += time;
    }
}
