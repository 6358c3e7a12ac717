//! What the C tests force, in debug builds only; not in the header.

use super::failure::{call, retto_error};
use super::gpu::retto_gpu;
use super::handle;
use super::status::retto_status;

/// cbindgen:ignore
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_test_panic(error: *mut *mut retto_error) -> retto_status {
    call(error, || panic!("forced by a test"))
}

/// How many handles are in use: what a program forgot to free is reachable still, and no leak to a sanitizer.
///
/// cbindgen:ignore
#[unsafe(no_mangle)]
pub extern "C" fn retto_test_handles() -> usize {
    handle::in_use()
}

/// cbindgen:ignore
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_test_lose_device(gpu: *const retto_gpu, error: *mut *mut retto_error) -> retto_status {
    call(error, || {
        handle::get(gpu)?.gpu.lose();
        Ok(())
    })
}
