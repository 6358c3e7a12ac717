//! Files read where they lie.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file into memory.
#[allow(unsafe_code, reason = "the memory-mapping line")]
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: another process that truncates or rewrites the file while it is mapped would be undefined behaviour; no
    // format can rule that out. This crate replaces weights and caches by renaming, never in place.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}
