//! Memory of a device: what is held, made and given back.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::device::{Gpu, lock};
use super::waiting::now;
use crate::error::{Error, Result};

impl Gpu {
    /// Bytes of GPU memory held: parameters, activations, and the workspaces kept for the next call.
    pub fn memory_in_use(&self) -> u64 {
        self.inner.memory_in_use.load(Ordering::Relaxed)
    }

    /// The most bytes of GPU memory held at a time since this `Gpu` was opened.
    pub fn peak_memory_in_use(&self) -> u64 {
        self.inner.peak_memory_in_use.load(Ordering::Relaxed)
    }

    /// Gives back the workspaces kept for the next call. They are made again when needed.
    pub fn trim(&self) {
        let buffers = lock(&self.inner.pool).drain();
        let released: HashSet<u64> = buffers.iter().map(|buffer| buffer.id).collect();
        let bytes: u64 = buffers.iter().map(|buffer| buffer.capacity).sum();
        self.inner.memory_in_use.fetch_sub(bytes, Ordering::Relaxed);
        self.inner.forget_bind_groups(&released);
    }

    /// Every buffer of the crate is made here.
    pub(super) fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor) -> Result<wgpu::Buffer> {
        let attempt = || {
            #[cfg(test)]
            if self.is_scarce() {
                return None;
            }
            let scope = self.inner.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            let buffer = self.inner.device.create_buffer(descriptor);
            now(scope.pop()).is_none().then_some(buffer)
        };
        let buffer = attempt().or_else(|| {
            // Workspaces kept for batches of other lengths may be in the way.
            self.trim();
            self.flush().ok().and_then(|()| attempt())
        });
        self.check()?;
        if buffer.is_none() {
            self.hear_of_loss();
            self.check()?;
        }
        buffer.ok_or_else(|| Error::OutOfMemory { bytes: descriptor.size, in_use: self.memory_in_use() })
    }

    /// Has attempts to make a buffer fail, as if there was no memory: of the next ones these, counted from 0.
    #[cfg(test)]
    pub(crate) fn be_scarce(&self, attempts: std::ops::Range<usize>) {
        *lock(&self.inner.scarce) = attempts;
    }

    /// Whether they have all been made.
    #[cfg(test)]
    pub(crate) fn was_scarce(&self) -> bool {
        lock(&self.inner.scarce).end == 0
    }

    /// Of one attempt.
    #[cfg(test)]
    fn is_scarce(&self) -> bool {
        let scarce = &mut *lock(&self.inner.scarce);
        let fails = scarce.start == 0 && scarce.end > 0;
        *scarce = scarce.start.saturating_sub(1)..scarce.end.saturating_sub(1);
        fails
    }
}
