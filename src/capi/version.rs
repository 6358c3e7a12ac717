//! Versions of header and library.

use std::ffi::c_char;

use super::failure::{Failure, call, retto_error};
use super::status::retto_status;

/// The header's version: a program is compiled against it, and may run with a library of another.
pub const RETTO_VERSION_MAJOR: u32 = 0;
pub const RETTO_VERSION_MINOR: u32 = 1;
pub const RETTO_VERSION_PATCH: u32 = 0;

/// The library's version, as RETTO_VERSION writes it: major * 1000000 + minor * 1000 + patch. Any thread; does not block.
#[unsafe(no_mangle)]
pub extern "C" fn retto_version() -> u32 {
    RETTO_VERSION_MAJOR * 1_000_000 + RETTO_VERSION_MINOR * 1_000 + RETTO_VERSION_PATCH
}

/// The library's version as text, for example "0.1.0". Static; never NULL. Any thread; does not block.
#[unsafe(no_mangle)]
pub extern "C" fn retto_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Whether this library serves a program compiled with the header of `header_version`: call it once, with RETTO_VERSION,
/// before anything else. RETTO_ABI_MISMATCH where the major versions differ or the library is the older one: an old library
/// found in a system folder, for example. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_check_version(header_version: u32, error: *mut *mut retto_error) -> retto_status {
    call(error, || {
        let own = retto_version();
        if header_version / 1_000_000 != RETTO_VERSION_MAJOR || header_version > own {
            let written =
                |version: u32| format!("{}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000);
            let reason = format!("compiled for retto {}, running with {}", written(header_version), written(own));
            return Err(Failure::new(retto_status::RETTO_ABI_MISMATCH, reason));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_crates_version() {
        let header = [RETTO_VERSION_MAJOR, RETTO_VERSION_MINOR, RETTO_VERSION_PATCH].map(|n| n.to_string()).join(".");
        assert_eq!(header, env!("CARGO_PKG_VERSION"));
    }
}
