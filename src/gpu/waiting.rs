//! Waiting for a device, and what it says when something goes wrong.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::device::{Gpu, lock};
use crate::error::{Error, Result};

/// What no caller was told of by other means.
#[derive(Clone)]
pub(super) enum Fault {
    Lost(String),
    Other(String),
}

/// What a future of wgpu's comes to. Those of native adapters have done their work when they are made; and nothing that belongs to a thread is
/// needed here, as a program that frees or saves while it ends may call from a thread that has none of that any more.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

impl Gpu {
    /// The first error that no caller was told of by other means, if any. It stays: another thread's call may have been the
    /// one that asked, and its own results would be wrong in silence.
    pub(super) fn check(&self) -> Result<()> {
        if matches!(*lock(&self.inner.fault), Some(Fault::Other(_))) {
            self.hear_of_loss();
        }
        match lock(&self.inner.fault).clone() {
            None => Ok(()),
            Some(Fault::Lost(message)) => Err(Error::DeviceLost(message)),
            Some(Fault::Other(message)) => Err(Error::Gpu(message)),
        }
    }

    /// Gives this device up: nothing that it says is to be relied on.
    pub(super) fn lost(&self, why: &str) -> Error {
        lock(&self.inner.fault).get_or_insert_with(|| Fault::Lost(why.to_owned()));
        self.check().err().unwrap_or_else(|| Error::DeviceLost(why.to_owned()))
    }

    /// What an operation that failed with these words is: a lost device shows in all kinds of errors.
    pub(super) fn failed(&self, words: impl fmt::Display) -> Error {
        self.hear_of_loss();
        self.check().err().unwrap_or_else(|| Error::Gpu(words.to_string()))
    }

    /// wgpu tells of a lost device when it is polled.
    pub(super) fn hear_of_loss(&self) {
        let _ = self.poll(wgpu::PollType::Poll);
    }

    /// `None` where wgpu panicked, which it does where a driver loses its device while it is waited for.
    fn poll(&self, how: wgpu::PollType) -> Option<std::result::Result<wgpu::PollStatus, wgpu::PollError>> {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            assert!(!self.inner.fails_to_wait.load(std::sync::atomic::Ordering::Relaxed), "as wgpu does");
            self.inner.device.poll(how)
        }));
        if polled.is_err() {
            lock(&self.inner.fault)
                .get_or_insert_with(|| Fault::Lost("its driver failed while it was waited for".into()));
        }
        polled.ok()
    }

    /// Sends queued writes on their way and waits, so that the driver's staging memory is free again.
    pub(crate) fn flush(&self) -> Result<()> {
        self.inner.queue.submit([]);
        self.wait()
    }

    /// Waits until everything submitted so far is done.
    pub(crate) fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Waits until this submission is done; `None` is the latest.
    pub(super) fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        // Of several that wait, the one with the least.
        let patience = lock(&self.inner.patience).iter().min().copied();
        let timeout = patience.map(Duration::from_millis);
        let polled = self.poll(wgpu::PollType::Wait { submission_index, timeout });
        if matches!(polled, Some(Err(wgpu::PollError::Timeout))) {
            let message = format!("its driver did not answer within {} ms", patience.unwrap_or_default());
            lock(&self.inner.fault).get_or_insert(Fault::Lost(message));
        }
        self.check()?;
        match polled {
            Some(Err(error)) => Err(self.failed(error)),
            _ => Ok(()),
        }
    }
}

/// How long devices are waited for while others wait for them.
#[derive(Default)]
pub(crate) struct Patience(Vec<(Gpu, u64)>);

impl Patience {
    /// A driver that does not answer for so long counts as lost, for all clones of this device, until this is dropped.
    pub(crate) fn limit(&mut self, gpu: &Gpu, patience: Duration) {
        let patience = patience.as_millis().try_into().unwrap_or(u64::MAX);
        lock(&gpu.inner.patience).push(patience);
        self.0.push((gpu.clone(), patience));
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        for (gpu, patience) in self.0.drain(..) {
            let mut limits = lock(&gpu.inner.patience);
            if let Some(at) = limits.iter().position(|limit| *limit == patience) {
                limits.swap_remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::gpu::{Pass, Tensor, spread};
    use crate::ops::scale::{SCALE, scale};

    #[test]
    fn a_lost_device_is_an_error_and_stays_one() {
        let gpu = Gpu::open(&crate::gpu::test_gpu().adapter().index.to_string()).unwrap();
        let tensor = Tensor::persistent(&gpu, &[4], "a tensor").unwrap();
        gpu.lose();
        for _ in 0..2 {
            let mut pass = Pass::new(&gpu);
            let result = match pass.download(&tensor) {
                Ok(download) => pass.submit().and_then(|()| download.wait::<f32>(&gpu)),
                Err(error) => Err(error),
            };
            assert!(matches!(result, Err(Error::DeviceLost(_))), "{result:?}");
            assert!(matches!(Tensor::persistent(&gpu, &[4], "another"), Err(Error::DeviceLost(_))));
        }
    }

    #[test]
    fn a_device_that_is_lost_while_it_is_waited_for_is_an_error_as_well() {
        let gpu = Gpu::open(&crate::gpu::test_gpu().adapter().index.to_string()).unwrap();
        let mut pass = Pass::new(&gpu);
        let tensor = pass.upload(&[4], &[1f32; 4]).unwrap();
        let download = pass.download(&tensor).unwrap();
        pass.submit().unwrap();
        gpu.inner.fails_to_wait.store(true, Ordering::Relaxed);
        let answer = download.wait::<f32>(&gpu);
        gpu.inner.fails_to_wait.store(false, Ordering::Relaxed);
        assert!(matches!(answer, Err(Error::DeviceLost(_))), "{answer:?}");
        assert!(matches!(gpu.wait(), Err(Error::DeviceLost(_))));
    }

    #[test]
    fn a_driver_that_does_not_answer_counts_as_lost() {
        let gpu = crate::gpu::test_gpu();
        let x = Tensor::persistent(&gpu, &[1 << 18], "x").unwrap();
        // Of several the shortest, whichever ends first.
        let [mut earlier, mut patience] = [(); 2].map(|()| Patience::default());
        earlier.limit(&gpu, Duration::from_millis(5000));
        patience.limit(&gpu, Duration::from_millis(1));
        drop(earlier);
        // More and more work, until it takes longer on this adapter, too.
        let answered = |dispatches: u32| {
            let mut pass = Pass::new(&gpu);
            let y = scale(&mut pass, &x, 1.5).unwrap();
            (0..dispatches).for_each(|_| {
                let params = [x.len() as u32, 1.5f32.to_bits()];
                pass.dispatch(&SCALE, 0, &[&x, &y], &params, spread(1024)).unwrap();
            });
            pass.submit().is_ok() && gpu.wait().is_ok()
        };
        assert!((4..17).any(|power| !answered(1 << power)), "no work took a millisecond");
        for _ in 0..2 {
            let error = gpu.wait().unwrap_err();
            assert!(matches!(&error, Error::DeviceLost(why) if why.contains("within 1 ms")), "{error}");
        }
        drop(patience);
        assert!(lock(&gpu.inner.patience).is_empty());
    }
}
