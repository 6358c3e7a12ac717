//! Where workspaces come from, and go to when they are dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use super::device::{Buffer, Gpu, Inner, lock};

/// The workspaces of a pass, in however many parts it is submitted. One that is dropped serves what the pass records next, and
/// goes to the common pool when all of the pass has been submitted: passes run in the order in which they are submitted, not in that in
/// which they were recorded. A buffer in the pool that a pass still waits with would be written by it after another pass had taken the
/// buffer, and between two parts of that.
pub(crate) struct Workspaces {
    gpu: Weak<Inner>,
    /// `None` once all is submitted.
    dropped: Mutex<Option<Pool>>,
}

/// Buffers no tensor holds any more, by capacity in bytes.
#[derive(Default)]
pub(super) struct Pool(BTreeMap<u64, Vec<Buffer>>);

impl Pool {
    /// One that has room for so many bytes, and for `spare` times as many at most.
    fn take(&mut self, capacity: u64, spare: u64) -> Option<Buffer> {
        let mut fitting = self.0.range_mut(capacity..=capacity * spare);
        fitting.find_map(|(_, kept)| kept.pop())
    }

    /// In one order, whatever was dropped when: so the next pass of this shape binds the same buffers in the same places.
    fn put(&mut self, buffer: Buffer) {
        let kept = self.0.entry(buffer.capacity).or_default();
        let place = kept.partition_point(|other| other.id > buffer.id);
        kept.insert(place, buffer);
    }

    pub(super) fn drain(&mut self) -> Vec<Buffer> {
        std::mem::take(&mut self.0).into_values().flatten().collect()
    }
}

impl Workspaces {
    pub(crate) fn new(gpu: &Gpu) -> Arc<Self> {
        Arc::new(Self { gpu: Arc::downgrade(&gpu.inner), dropped: Mutex::new(Some(Pool::default())) })
    }

    /// A buffer of at least so many bytes that nobody needs.
    pub(super) fn take(&self, gpu: &Gpu, capacity: u64) -> Option<Buffer> {
        // One that is up to twice as large rather than another one: batches of many lengths would each have their own.
        [1, 2].into_iter().find_map(|spare| {
            let own = lock(&self.dropped).as_mut().and_then(|pool| pool.take(capacity, spare));
            own.or_else(|| lock(&gpu.inner.pool).take(capacity, spare))
        })
    }

    /// Takes back what a tensor of this pass held.
    pub(super) fn put(&self, inner: &Inner, buffer: Buffer) {
        match lock(&self.dropped).as_mut() {
            Some(pool) => pool.put(buffer),
            None => lock(&inner.pool).put(buffer),
        }
    }

    /// All of the pass has been submitted, or never will be.
    pub(super) fn release(&self) {
        let (Some(inner), Some(mut dropped)) = (self.gpu.upgrade(), lock(&self.dropped).take()) else { return };
        let mut pool = lock(&inner.pool);
        dropped.drain().into_iter().for_each(|buffer| pool.put(buffer));
    }
}

impl Drop for Workspaces {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Tensor;

    #[test]
    fn workspaces_are_reused_and_trimmed() {
        let gpu = crate::gpu::test_gpu();
        let pass = Workspaces::new(&gpu);
        let take = |of: &Arc<Workspaces>, len: usize| Tensor::workspace(&gpu, &[len], of).unwrap();
        let first = take(&pass, 1000);
        let id = first.buffer().id;
        drop(first);
        let second = take(&pass, 1001);
        assert_eq!(second.buffer().id, id);
        drop(second);
        // It serves that pass alone, until that ends.
        let other = Workspaces::new(&gpu);
        assert_ne!(take(&other, 1000).buffer().id, id);
        let third = take(&pass, 1000);
        assert_eq!(third.buffer().id, id);
        drop(pass);
        assert_ne!(take(&Workspaces::new(&gpu), 1000).buffer().id, id);
        drop((third, other));
        // The oldest first, whatever was dropped when; and once it is submitted, though something of it still lives.
        let submitted = Workspaces::new(&gpu);
        let all = [(); 2].map(|()| take(&submitted, 1000));
        let ids = [0, 1].map(|i: usize| all[i].buffer().id);
        assert!(ids[0] == id && ids[1] > id);
        let [first, second] = all;
        drop(second);
        submitted.release();
        let next = Workspaces::new(&gpu);
        assert_eq!(take(&next, 1000).buffer().id, ids[1]);
        drop(first);
        assert_eq!(take(&Workspaces::new(&gpu), 1000).buffer().id, id);
        drop(next);
        // For what is up to half as large, too, but not instead of one that fits.
        let smaller = Workspaces::new(&gpu);
        let [half, tiny] = [500, 400].map(|len| take(&smaller, len));
        assert!(ids.contains(&half.buffer().id) && !ids.contains(&tiny.buffer().id));
        drop((half, tiny));
        assert!(!ids.contains(&take(&smaller, 400).buffer().id));
        drop(smaller);
        gpu.trim();
        assert_eq!(gpu.memory_in_use(), 0);
    }
}
