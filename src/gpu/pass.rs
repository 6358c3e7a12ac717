//! Records dispatches and copies, then submits them: once, or in parts.

use std::sync::{Arc, OnceLock};

use super::device::{Bound, Gpu, lock};
use super::download::{Download, SEAL, Seals};
use super::kernel::{Kernel, Style};
use super::tensor::Tensor;
use super::workspaces::Workspaces;
use crate::error::{Error, Result};

/// A list of dispatches being recorded. Nothing runs before [`Pass::submit`], but the parts of a long one, which are submitted by themselves.
///
/// Dispatches run in the order they were recorded, each seeing what the earlier ones wrote. A workspace dropped while
/// recording may serve a later dispatch of the same pass, and once the pass is submitted another pass, which never reads what this one
/// left there: see [`Workspaces`]. Uploads are therefore copies inside the pass, never queue writes.
pub(crate) struct Pass<'g> {
    gpu: &'g Gpu,
    // Before `encoder`: an open compute pass has to end first.
    compute: Option<wgpu::ComputePass<'static>>,
    encoder: wgpu::CommandEncoder,
    staging: Vec<Staging>,
    /// Set when it is submitted, for its downloads to wait for.
    submission: Arc<OnceLock<wgpu::SubmissionIndex>>,
    /// What says that it was carried out.
    seals: Seals,
    /// The last of what the latest dispatch had bound.
    latest: Option<(wgpu::Buffer, Bound)>,
    /// Floating-point operations of GEMMs, and what attention counts as, so far.
    work: u64,
    /// After how many of them a part is submitted by itself; `None`: never.
    pub(crate) part_after: Option<u64>,
    /// Whether linear layers multiply in f16.
    pub(crate) half: bool,
    /// Whether their sums may be those of several parts, and so depend in their last bits on how many rows there are. For fills: what is
    /// trained, what judges that, and vectors, which are compared with others, come to the same bits whatever kernel was chosen.
    pub(crate) split_sums: bool,
    /// How its kernels are compiled: the adapter's, but in tests.
    pub(crate) style: Style,
    /// Shared with the other parts of one that is submitted in several.
    workspaces: Arc<Workspaces>,
    /// Every workspace handed out, so that tests can look beyond their ends.
    #[cfg(test)]
    pub(crate) handed_out: Vec<Tensor>,
    /// In which respects `style` makes a difference to any kernel that was recorded.
    #[cfg(test)]
    pub(crate) differing: Style,
}

/// What unit tests put into the unused end of a workspace: no kernel may change it.
#[cfg(test)]
pub(crate) const GUARD: u32 = 0x7fc0_dead;

/// Values on their way to the device: many small arrays in one buffer, as making one takes longer than filling it.
struct Staging {
    /// Mapped for writing.
    buffer: wgpu::Buffer,
    bytes: Vec<u8>,
}

impl Staging {
    /// Before the commands that read it are submitted. Only here is mapped memory held, and not for long: a device that is lost meanwhile
    /// may take it away.
    fn leave(self, gpu: &Gpu) -> Result<()> {
        match self.buffer.get_mapped_range_mut(..self.bytes.len() as u64) {
            Ok(mut view) => view.copy_from_slice(&self.bytes),
            Err(error) => return Err(gpu.failed(error)),
        }
        self.buffer.unmap();
        Ok(())
    }
}

/// Bytes of such a buffer, at least: what a query of a hundred tokens uploads.
const STAGED: usize = 16 << 10;

/// Floating-point operations after which a GPU is handed what was recorded. Systems take one for hung that is busy with one submission for
/// two seconds or more (Windows), and a slow one may do a tenth of a million million in a second; on a fast one that many take a few
/// milliseconds. GEMMs and attention are counted, which are most of it.
const PART: u64 = 50_000_000_000;

/// So that tests are submitted in many parts, too: `make test-as-gpu`.
#[cfg(feature = "bench")]
fn part(gpu: &Gpu) -> u64 {
    if gpu.adapter().device_type == "cpu" { 100_000 } else { PART }
}

#[cfg(not(feature = "bench"))]
fn part(_: &Gpu) -> u64 {
    PART
}

impl<'g> Pass<'g> {
    pub(crate) fn new(gpu: &'g Gpu) -> Self {
        let encoder = gpu.inner.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        Self {
            gpu,
            compute: None,
            encoder,
            staging: Vec::new(),
            submission: Arc::default(),
            seals: Seals::new(gpu),
            latest: None,
            work: 0,
            part_after: (!gpu.is_software()).then_some(part(gpu)),
            half: false,
            split_sums: false,
            style: gpu.style(),
            workspaces: Workspaces::new(gpu),
            #[cfg(test)]
            handed_out: Vec::new(),
            #[cfg(test)]
            differing: Style { narrow: false, in_words: false, in_integers: false },
        }
    }

    /// Submits what is recorded, and goes on with a further part, which may read what this one left in workspaces.
    pub(crate) fn part(&mut self) -> Result<()> {
        self.seal(true)?;
        let seals = self.seals.next(self.gpu);
        let mut next = Self {
            seals,
            workspaces: Arc::clone(&self.workspaces),
            half: self.half,
            split_sums: self.split_sums,
            style: self.style,
            part_after: self.part_after,
            ..Self::new(self.gpu)
        };
        #[cfg(test)]
        {
            next.handed_out.append(&mut self.handed_out);
            next.differing = self.differing;
        }
        std::mem::swap(self, &mut next);
        next.hand_over()
    }

    /// As if a part had been handed over that the driver did not carry out.
    #[cfg(test)]
    pub(super) fn forget_part(&mut self) {
        self.seals.chain(self.gpu, &self.workspaces, true).unwrap();
        self.seals = self.seals.next(self.gpu);
    }

    /// Counts what was recorded, and submits it as a part where it has become so much.
    pub(crate) fn worked(&mut self, operations: u64) -> Result<()> {
        self.work += operations;
        match self.part_after.is_some_and(|limit| self.work >= limit.saturating_mul(self.seals.growth()))
            && self.seals.have_room()
        {
            true => self.part(),
            false => Ok(()),
        }
    }

    pub(crate) fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// A workspace of this shape, with unspecified contents.
    ///
    /// In unit tests the contents are NaN, so that an output no kernel wrote is seen.
    pub(crate) fn alloc(&mut self, shape: &[usize]) -> Result<Tensor> {
        #[cfg(test)]
        return self.upload(shape, &vec![f32::NAN; shape.iter().product()]);
        #[cfg(not(test))]
        Tensor::workspace(self.gpu, shape, &self.workspaces)
    }

    /// A workspace holding these values, visible to what is recorded after this call.
    pub(crate) fn upload<T: bytemuck::NoUninit>(&mut self, shape: &[usize], values: &[T]) -> Result<Tensor> {
        let tensor = Tensor::workspace(self.gpu, shape, &self.workspaces)?;
        assert_eq!(size_of_val(values) as u64, tensor.len() as u64 * 4);
        let bytes: &[u8] = bytemuck::cast_slice(values);
        #[cfg(test)]
        let bytes = &self.guarded(&tensor, bytes)[..];
        if !bytes.is_empty() {
            let at = self.stage(bytes)?;
            self.compute = None;
            let Staging { buffer, .. } = &self.staging[self.staging.len() - 1];
            let (target, len) = (tensor.buffer(), bytes.len() as u64);
            self.encoder.copy_buffer_to_buffer(buffer, at, &target.buffer, tensor.offset(), len);
        }
        Ok(tensor)
    }

    /// Puts bytes into the latest buffer on its way to the device, or a new one. Returns where they begin.
    fn stage(&mut self, bytes: &[u8]) -> Result<u64> {
        let room = |staging: &Staging| staging.buffer.size() as usize - staging.bytes.len();
        if self.staging.last().is_none_or(|staging| room(staging) < bytes.len()) {
            let buffer = self.gpu.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: bytes.len().max(STAGED) as u64,
                usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::MAP_WRITE,
                mapped_at_creation: true,
            })?;
            self.staging.push(Staging { buffer, bytes: Vec::new() });
        }
        let index = self.staging.len() - 1;
        let staged = &mut self.staging[index].bytes;
        let at = staged.len();
        staged.extend_from_slice(bytes);
        Ok(at as u64)
    }

    /// The values with guards behind them, up to the end of the tensor's buffer.
    #[cfg(test)]
    fn guarded(&mut self, tensor: &Tensor, values: &[u8]) -> Vec<u8> {
        self.handed_out.push(tensor.clone());
        let rest = tensor.whole().len() - values.len() / 4;
        [values, bytemuck::cast_slice(&vec![GUARD; rest])].concat()
    }

    /// Writes zeros.
    pub(crate) fn clear(&mut self, tensor: &Tensor) {
        self.compute = None;
        self.encoder.clear_buffer(&tensor.buffer().buffer, tensor.offset(), Some(tensor.bytes()));
    }

    /// Copies all of `from` over `to`, which has the same shape.
    pub(crate) fn copy(&mut self, from: &Tensor, to: &Tensor) {
        assert!(from.shape() == to.shape() && from.packing().is_none() && to.packing().is_none());
        self.copy_bytes(from, 0, to, 0, from.bytes());
    }

    /// Copies `rows` rows of one matrix to another with as many columns.
    pub(crate) fn copy_rows(&mut self, from: &Tensor, from_row: usize, to: &Tensor, to_row: usize, rows: usize) {
        assert!(
            from.packing().is_none()
                && from.columns() == to.columns()
                && from_row + rows <= from.rows()
                && to_row + rows <= to.rows()
        );
        let row = from.columns() as u64 * 4;
        self.copy_bytes(from, from_row as u64 * row, to, to_row as u64 * row, rows as u64 * row);
    }

    fn copy_bytes(&mut self, from: &Tensor, at: u64, to: &Tensor, to_at: u64, bytes: u64) {
        self.compute = None;
        let (at, to_at) = (from.offset() + at, to.offset() + to_at);
        self.encoder.copy_buffer_to_buffer(&from.buffer().buffer, at, &to.buffer().buffer, to_at, bytes);
    }

    /// Records `kernel` with `tensors` as its bindings 0, 1, ... and `params` as its immediates.
    ///
    /// A grid with a zero does nothing.
    pub(crate) fn dispatch<P: bytemuck::NoUninit>(
        &mut self,
        kernel: &'static Kernel,
        variant: usize,
        tensors: &[&Tensor],
        params: &P,
        grid: [usize; 3],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        if !kernel.packs {
            tensors.iter().try_for_each(|tensor| refuse_packed(tensor))?;
        }
        let limit = self.gpu.inner.limits.max_compute_workgroups_per_dimension as usize;
        if let Some(&needed) = grid.iter().find(|&&n| n > limit) {
            return Err(Error::DeviceLimit {
                what: format!("a dispatch of {}::{}", kernel.file, kernel.entry),
                needed: needed as u64,
                limit_name: "maxComputeWorkgroupsPerDimension",
                limit: limit as u64,
            });
        }
        #[cfg(test)]
        {
            self.differing.narrow |= kernel.narrows;
            self.differing.in_words |= kernel.in_words.is_some();
        }
        let limit = self.gpu.inner.limits.max_storage_buffer_binding_size;
        let bindings: Vec<_> = tensors.iter().map(|tensor| tensor.binding(limit)).collect();
        self.latest = bindings.last().map(|&(buffer, bound)| (buffer.clone(), bound));
        self.record(kernel, variant, &bindings, bytemuck::bytes_of(params), grid)?;
        #[cfg(feature = "bench")]
        self.profile(kernel)?;
        Ok(())
    }

    /// Has a kernel compiled that is going to be dispatched.
    pub(crate) fn compile(&self, kernel: &Kernel, variant: usize) -> Result<()> {
        self.gpu.pipeline(kernel, variant, self.style).map(drop)
    }

    fn record(
        &mut self,
        kernel: &'static Kernel,
        variant: usize,
        bindings: &[(&wgpu::Buffer, Bound)],
        params: &[u8],
        grid: [usize; 3],
    ) -> Result<()> {
        let pipeline = self.gpu.pipeline(kernel, variant, self.style)?;
        let group = self.bind_group(kernel, variant, &pipeline, bindings);
        let compute = self.compute.get_or_insert_with(|| {
            self.encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime()
        });
        compute.set_pipeline(&pipeline);
        compute.set_bind_group(0, &group, &[]);
        if !params.is_empty() {
            compute.set_immediates(0, params);
        }
        compute.dispatch_workgroups(grid[0] as u32, grid[1] as u32, grid[2] as u32);
        Ok(())
    }

    /// Where a profile is being taken, runs what was recorded so far and books its time to this kernel.
    #[cfg(feature = "bench")]
    fn profile(&mut self, kernel: &Kernel) -> Result<()> {
        if !super::profile::is_on() {
            return Ok(());
        }
        self.compute = None;
        self.staging.drain(..).try_for_each(|staging| staging.leave(self.gpu))?;
        let fresh = self.gpu.inner.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        let recorded = std::mem::replace(&mut self.encoder, fresh).finish();
        let began = std::time::Instant::now();
        self.gpu.inner.queue.submit([recorded]);
        self.gpu.wait()?;
        super::profile::add(kernel, began.elapsed());
        Ok(())
    }

    fn bind_group(
        &self,
        kernel: &Kernel,
        variant: usize,
        pipeline: &wgpu::ComputePipeline,
        bindings: &[(&wgpu::Buffer, Bound)],
    ) -> wgpu::BindGroup {
        let inner = &self.gpu.inner;
        let key = (kernel.key(variant, self.style), bindings.iter().map(|(_, bound)| *bound).collect::<Vec<_>>());
        let mut cache = lock(&inner.bind_groups);
        if let Some(group) = cache.groups.get(&key) {
            return group.clone();
        }
        let entries: Vec<_> = (0..)
            .zip(bindings)
            .map(|(binding, &(buffer, bound))| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: bound.offset,
                    size: std::num::NonZeroU64::new(bound.bytes),
                }),
            })
            .collect();
        let group = inner.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.file),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        // Long runs over many batch shapes: starting over is cheaper than remembering which were used last.
        if cache.groups.len() >= 8192 {
            cache.groups.clear();
        }
        cache.groups.insert(key, group.clone());
        group
    }

    /// Copies a tensor towards the host. Read it after [`Pass::submit`].
    pub(crate) fn download(&mut self, tensor: &Tensor) -> Result<Download> {
        refuse_packed(tensor)?;
        self.compute = None;
        let buffer = self.gpu.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: tensor.bytes() + self.seals.bytes(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        })?;
        self.encoder.copy_buffer_to_buffer(&tensor.buffer().buffer, tensor.offset(), &buffer, 0, tensor.bytes());
        self.seals.expect(&buffer, tensor.bytes());
        let (submission, end) = (self.submission.clone(), tensor.bytes() as usize);
        Ok(Download { buffer, submission, len: tensor.len(), end, seals: self.seals.wanted() })
    }

    /// Whoever finds the seals of a pass' parts knows that all before them were carried out.
    fn seal(&mut self, goes_on: bool) -> Result<()> {
        if !goes_on && !self.seals.are_expected() {
            return Ok(());
        }
        let limit = self.gpu.inner.limits.max_storage_buffer_binding_size;
        let chain = self.seals.chain(self.gpu, &self.workspaces, goes_on)?;
        let (buffer, bound) = match self.latest.take() {
            Some(latest) => latest,
            // Nothing was dispatched: anything.
            None => {
                let other = Tensor::workspace(self.gpu, &[1], &self.workspaces)?;
                let (buffer, bound) = other.binding(limit);
                (buffer.clone(), bound)
            }
        };
        let params = self.seals.params();
        self.record(&SEAL, 0, &[chain.binding(limit), (&buffer, bound)], bytemuck::bytes_of(&params), [1; 3])?;
        self.compute = None;
        self.seals.record(&mut self.encoder);
        Ok(())
    }

    /// Hands everything recorded to the GPU. Does not wait.
    pub(crate) fn submit(self) -> Result<()> {
        let workspaces = Arc::clone(&self.workspaces);
        self.hand_over()?;
        workspaces.release();
        Ok(())
    }

    /// [`Pass::submit`] of what makes weights, which stay on the GPU: where a driver does not tell what it did not carry out (see
    /// [`Download::wait`]), later passes would not, either, and answer from zeros. So there it is waited for and looked into now.
    pub(crate) fn submit_kept(mut self) -> Result<()> {
        if !self.gpu.conceals_refusals() {
            return self.submit();
        }
        let gpu = self.gpu;
        let nothing = self.alloc(&[1])?;
        let proof = self.download(&nothing)?;
        self.submit()?;
        proof.wait::<u32>(gpu).map(drop)
    }

    fn hand_over(mut self) -> Result<()> {
        self.seal(false)?;
        let Self { gpu, compute, encoder, staging, submission, .. } = self;
        drop(compute);
        staging.into_iter().try_for_each(|staging| staging.leave(gpu))?;
        let index = gpu.inner.queue.submit([encoder.finish()]);
        let _ = submission.set(index);
        gpu.check()
    }
}

/// Weights for queries are read by the kernels made for them, and by nothing that would take them for f32.
fn refuse_packed(tensor: &Tensor) -> Result<()> {
    match tensor.packing() {
        None => Ok(()),
        Some(packing) => Err(Error::Unsupported(format!(
            "reading weights in {packing} as if they were float32: they are for queries alone; take the model in float32"
        ))),
    }
}

/// A grid of `groups` workgroups folded into two dimensions, so that it stays under 65,535 in each. The shader forms
/// its index as `y * num_workgroups.x + x` and stops beyond the end.
pub(crate) fn spread(groups: usize) -> [usize; 3] {
    // In unit tests so that all shaders are seen to find their place.
    let x = groups.min(if cfg!(test) { 3 } else { 32_768 });
    [x, groups.div_ceil(x.max(1)), 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear::{Forward, forward};

    #[test]
    fn what_is_submitted_in_parts_comes_to_the_same_bits() {
        let gpu = crate::gpu::test_gpu();
        let run = |part_after| {
            let mut pass = Pass::new(&gpu);
            pass.part_after = part_after;
            let values: Vec<f32> = (0..64).map(|i| (i % 7) as f32 - 3.0).collect();
            let mut x = pass.upload(&[8, 8], &values).unwrap();
            let (weight, bias) = (pass.upload(&[8, 8], &values).unwrap(), pass.upload(&[8], &[0.5f32; 8]).unwrap());
            for _ in 0..5 {
                let layer = Forward { x: &x, weight: &weight, bias: &bias, activation: None };
                x = forward(&mut pass, layer).unwrap();
            }
            let download = pass.download(&x).unwrap();
            pass.submit().unwrap();
            download.wait::<f32>(&gpu).unwrap()
        };
        assert_eq!(run(Some(1)), run(None));
        assert!(run(None).iter().any(|value| *value != 0.0));
    }

    /// A pass that was recorded earlier and is submitted between two parts of another leaves these their workspaces.
    #[test]
    fn a_pass_that_waits_to_be_submitted_writes_to_no_other_passs_workspaces() {
        let gpu = crate::gpu::test_gpu();
        gpu.trim();
        let mut waiting = Pass::new(&gpu);
        waiting.upload(&[64], &[1f32; 64]).unwrap();
        waiting.handed_out.clear();
        let mut pass = Pass::new(&gpu);
        let tensor = pass.upload(&[64], &[2f32; 64]).unwrap();
        pass.part().unwrap();
        waiting.submit().unwrap();
        let download = pass.download(&tensor).unwrap();
        pass.submit().unwrap();
        assert_eq!(download.wait::<f32>(&gpu).unwrap(), [2.0; 64]);
    }
}
