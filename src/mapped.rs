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

/// Gives back the memory of a part that will hardly be read again: read, it comes from the file anew. Where a system cannot,
/// nothing happens.
#[cfg_attr(unix, allow(unsafe_code, reason = "the other memory-mapping line"))]
pub(crate) fn release(map: &Mmap, part: &[u8]) {
    let offset = (part.as_ptr() as usize).checked_sub(map.as_ptr() as usize);
    let Some(offset) = offset.filter(|offset| offset + part.len() <= map.len()) else { return };
    #[cfg(unix)]
    // SAFETY: the pages belong to a file and are only ever read, so that dropping them changes nothing that is seen.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len()) };
    #[cfg(not(unix))]
    let _ = offset;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_released_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = map(&path).unwrap();
        for part in [0..bytes.len(), 5000..5001, 4096..40_000, 99_999..100_000, 7..7] {
            assert_eq!(map[..], bytes[..]);
            release(&map, &map[part]);
        }
        // Not of this mapping.
        release(&map, &bytes);
        assert_eq!(map[..], bytes[..]);
    }
}
