//! Compiled shaders, kept on disk between runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// A driver's pipeline cache, and the file it came from and goes to.
///
/// The file is the driver's own data behind a checksum. It is only ever a saving of time: one that is damaged, or of another
/// driver, is made again, and one that cannot be written is not.
pub(super) struct PipelineCache {
    cache: wgpu::PipelineCache,
    file: PathBuf,
    /// Whether something may have been compiled since it was written.
    used: AtomicBool,
}

/// FNV-1a over the data, in front of them.
const CHECKSUM: usize = 8;

impl PipelineCache {
    /// `None` where the driver has no such cache.
    pub(super) fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Result<Option<Self>> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let key = wgpu::util::pipeline_cache_key(info);
        let Some(key) = key.filter(|_| device.features().contains(wgpu::Features::PIPELINE_CACHE)) else {
            return Ok(None);
        };
        let file = folder.join(key);
        let kept = std::fs::read(&file).ok().and_then(|bytes| checked(&bytes).map(<[u8]>::to_vec));
        Ok(Some(Self { cache: create(device, kept.as_deref()), file, used: AtomicBool::new(false) }))
    }

    /// For a pipeline that is about to be compiled.
    pub(super) fn used(&self) -> &wgpu::PipelineCache {
        self.used.store(true, Ordering::Relaxed);
        &self.cache
    }

    /// Writes the file, if anything was compiled since it last was.
    pub(super) fn save(&self) {
        if self.used.swap(false, Ordering::Relaxed)
            && let Some(data) = self.cache.get_data()
        {
            // Nothing is lost but time where this fails.
            let _ = write(&self.file, &[&checksum(&data), &data]);
        }
    }
}

#[allow(unsafe_code, reason = "wgpu asks that the data be its own, which the checksum tells")]
fn create(device: &wgpu::Device, data: Option<&[u8]>) -> wgpu::PipelineCache {
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("retto"), data, fallback: true };
    // SAFETY: the data were written by `save`, and are as they were then; wgpu checks that they are of its own version, of
    // this device and of its present driver.
    unsafe { device.create_pipeline_cache(&descriptor) }
}

/// FNV-1a.
pub(crate) fn hash(data: &[u8]) -> u64 {
    let fnv = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    data.iter().fold(0xcbf2_9ce4_8422_2325, fnv)
}

fn checksum(data: &[u8]) -> [u8; CHECKSUM] {
    hash(data).to_le_bytes()
}

/// The data of a file that is as it was written.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, data) = bytes.split_at_checked(CHECKSUM)?;
    (sum == checksum(data)).then_some(data)
}

/// Writes the parts of a file that is kept between runs, beside it and then in its place: another process may read or write
/// it at the same time.
pub(super) fn write(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.persist(path)?;
    Ok(())
}
