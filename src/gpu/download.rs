//! Values on their way back to the host, and how one knows that they were computed.

use std::sync::{Arc, OnceLock};

use super::device::Gpu;
use super::kernel::Kernel;
use super::tensor::Tensor;
use super::workspaces::Workspaces;
use crate::error::Result;

pub(crate) static SEAL: Kernel = Kernel::plain("seal", include_str!("../../shaders/seal.wgsl"), "seal");

/// Bytes of a seal: a number that no other part of a pass has.
const BYTES: u64 = 4;
/// Parts of a pass, at most.
const PARTS: usize = 4096;

/// Values on their way back to the host.
pub(crate) struct Download {
    pub(super) buffer: wgpu::Buffer,
    pub(super) submission: Arc<OnceLock<wgpu::SubmissionIndex>>,
    pub(super) len: usize,
    /// Where the seals begin: an empty tensor has bytes, too.
    pub(super) end: usize,
    /// Of all parts up to that which it is in.
    pub(super) seals: Vec<u32>,
}

impl Download {
    /// Waits for the values, and for nothing that was submitted after them: a query is not kept waiting by a training
    /// step that another thread has queued behind it.
    ///
    /// Not every driver's refusal to carry out what it was handed is told: Metal's, which ends what takes too long, wgpu takes for the end of
    /// the work (<https://github.com/gfx-rs/wgpu/issues/9545>). The values would be zeros, or what was there before; so the seals of this
    /// pass' parts have to be found behind them.
    pub(crate) fn wait<T: bytemuck::Pod>(self, gpu: &Gpu) -> Result<Vec<T>> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        gpu.wait_for(self.submission.get().cloned())?;
        match receiver.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(gpu.failed(error)),
            Err(_) => return Err(gpu.failed("a read from the GPU was dropped")),
        }
        let view = self.buffer.get_mapped_range(..).map_err(|error| gpu.failed(error))?;
        if view[self.end..] != *bytemuck::cast_slice::<u32, u8>(&self.seals) {
            return Err(gpu.lost("its driver did not carry out what it was given"));
        }
        Ok(bytemuck::pod_collect_to_vec(&view[..self.len * 4]))
    }
}

/// What a part of a pass leaves behind, last of all: its seal, for the parts that follow and behind the values of its downloads. It is written by
/// a dispatch, as the work it stands for is: copies a driver may carry out before that, where they have nothing to do with it.
pub(super) struct Seals {
    own: u32,
    /// Of the parts before.
    before: Vec<u32>,
    /// u32 \[PARTS\], or \[1\] where there is but one: those and the own one, as they are carried out.
    chain: Option<Tensor>,
    /// Buffers of downloads, and where their values end.
    downloads: Vec<(wgpu::Buffer, u64)>,
}

/// What the shader is told.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Params {
    place: u32,
    own: u32,
    spoilt: u32,
}

impl Seals {
    pub(super) fn new(gpu: &Gpu) -> Self {
        Self { own: gpu.next_seal(), before: Vec::new(), chain: None, downloads: Vec::new() }
    }

    /// Those of the part after this one.
    pub(super) fn next(&mut self, gpu: &Gpu) -> Self {
        let mut before = std::mem::take(&mut self.before);
        before.push(self.own);
        Self { before, chain: self.chain.take(), ..Self::new(gpu) }
    }

    /// All that have to be found behind a download of this part.
    pub(super) fn wanted(&self) -> Vec<u32> {
        [&self.before[..], &[self.own]].concat()
    }

    /// Bytes of them.
    pub(super) fn bytes(&self) -> u64 {
        (self.before.len() as u64 + 1) * BYTES
    }

    /// How many times as much a part is to have as the first ones: the more of them a pass has, as there is room for so many.
    pub(super) fn growth(&self) -> u64 {
        1 << (self.before.len() / (PARTS / 8))
    }

    /// Whether a pass may be divided further, where it need not be: other parts are asked for.
    pub(super) fn have_room(&self) -> bool {
        self.before.len() < PARTS / 2
    }

    /// Has these written behind the values of a download, which end there.
    pub(super) fn expect(&mut self, download: &wgpu::Buffer, end: u64) {
        self.downloads.push((download.clone(), end));
    }

    /// Whether any download waits for this part's.
    pub(super) fn are_expected(&self) -> bool {
        !self.downloads.is_empty()
    }

    /// Where they are written: one place for all parts of a pass, of which another one follows where it goes on.
    pub(super) fn chain(&mut self, gpu: &Gpu, workspaces: &Arc<Workspaces>, goes_on: bool) -> Result<Tensor> {
        let chain = match self.chain.take() {
            Some(chain) => chain,
            None => Tensor::workspace(gpu, &[if goes_on { PARTS } else { 1 }], workspaces)?,
        };
        Ok(self.chain.insert(chain).clone())
    }

    pub(super) fn params(&self) -> Params {
        Params { place: self.before.len() as u32, own: self.own, spoilt: 0 }
    }

    /// The last commands of the part, behind the dispatch that wrote its own.
    pub(super) fn record(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let (bytes, Some(chain)) = (self.bytes(), &self.chain) else { return };
        for (buffer, end) in self.downloads.drain(..) {
            encoder.copy_buffer_to_buffer(&chain.buffer().buffer, chain.offset(), &buffer, end, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::gpu::Pass;

    #[test]
    fn values_that_were_not_computed_are_no_answer() {
        let open = || Gpu::open(&crate::gpu::test_gpu().adapter().index.to_string()).unwrap();
        let read = |gpu: &Gpu, parts: usize| {
            let mut pass = Pass::new(gpu);
            let tensor = pass.upload(&[4], &[1f32; 4]).unwrap();
            let first = pass.download(&tensor).unwrap();
            (0..parts).for_each(|_| pass.part().unwrap());
            let second = pass.download(&tensor).unwrap();
            pass.submit().unwrap();
            [first, second]
        };
        let gpu = open();
        for parts in [0, 1, 2, 5] {
            for (download, seals) in read(&gpu, parts).into_iter().zip([1, parts + 1]) {
                assert_eq!(download.seals.len(), seals);
                assert_eq!(download.wait::<f32>(&gpu).unwrap(), [1.0; 4]);
            }
        }
        // A part that was not carried out, in the middle, at the beginning, and at the end.
        for missing in 0..3 {
            let gpu = open();
            let mut pass = Pass::new(&gpu);
            let tensor = pass.upload(&[4], &[1f32; 4]).unwrap();
            for part in 0..3 {
                if part == missing {
                    pass.forget_part();
                } else {
                    pass.part().unwrap();
                }
            }
            let download = pass.download(&tensor).unwrap();
            pass.submit().unwrap();
            assert!(matches!(download.wait::<f32>(&gpu), Err(Error::DeviceLost(_))), "{missing}");
        }
        // Nor is what it made kept, of which nothing is read back.
        for missing in [false, true] {
            let gpu = open();
            let kept = Tensor::persistent(&gpu, &[4], "kept").unwrap();
            let mut pass = Pass::new(&gpu);
            let tensor = pass.upload(&[4], &[1f32; 4]).unwrap();
            if missing {
                pass.forget_part();
            }
            pass.copy(&tensor, &kept);
            let submitted = pass.submit_kept();
            assert_eq!(matches!(submitted, Err(Error::DeviceLost(_))), missing, "{submitted:?}");
        }
        // As an earlier pass left it: that of the last part, or of one before.
        for wrong in [2, 1] {
            let gpu = open();
            let [first, mut second] = read(&gpu, 2);
            second.seals[wrong] -= 1;
            assert!(first.wait::<f32>(&gpu).is_ok());
            let answer = second.wait::<f32>(&gpu);
            assert!(matches!(answer, Err(Error::DeviceLost(_))), "{answer:?}");
            assert!(matches!(gpu.wait(), Err(Error::DeviceLost(_))));
        }
    }
}
