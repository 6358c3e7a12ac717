//! A buffer, or a part of one, and a shape.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::device::{Bound, Buffer, Gpu, Inner};
use super::workspaces::Workspaces;
use crate::error::{Error, Result};

/// An array on the GPU: contiguous, row-major, elements of four bytes (f32, or u32 and i32 for ids).
///
/// Cloning shares the buffer. Contents are unspecified until written.
#[derive(Clone)]
pub(crate) struct Tensor {
    storage: Arc<Storage>,
    /// Bytes of the buffer before it, a multiple of [`ALIGNMENT`].
    offset: u64,
    shape: Vec<usize>,
    /// Of a weight for queries, whose elements are smaller: only kernels that say so take it.
    packing: Option<Packing>,
}

/// Elements of fewer than four bytes, each row in whole words, and behind all rows a scale for each: see `shaders/pack.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Float16 = 0,
    Int8 = 1,
}

impl Packing {
    /// Two words are read at once by some kernels: their number is even.
    pub(crate) fn words_of_a_row(self, columns: usize) -> usize {
        let elements_of_a_word = match self {
            Self::Float16 => 2,
            Self::Int8 => 4,
        };
        columns.div_ceil(elements_of_a_word).next_multiple_of(2)
    }

    /// Words of a matrix, an even number too.
    fn words(self, rows: usize, columns: usize) -> usize {
        (rows * (self.words_of_a_row(columns) + 1)).next_multiple_of(2)
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float16 => "float16",
            Self::Int8 => "int8",
        })
    }
}

struct Storage {
    /// `None` only while dropping.
    buffer: Option<Buffer>,
    gpu: Weak<Inner>,
    /// Where the buffer goes when its last tensor is dropped; a parameter's is freed.
    home: Option<Arc<Workspaces>>,
}

/// Bytes of one element.
const ELEMENT: u64 = 4;

/// What WebGPU lets a binding begin at on every adapter.
const ALIGNMENT: u64 = 256;

/// Bytes of several tensors in one buffer, at most: what may be bound on every adapter, so that sums over such buffers are the same on
/// all, and no more than that is kept for one tensor that others share.
const JOINED: u64 = 128 << 20;

impl Tensor {
    /// A workspace of a pass, which gets it back when the last clone is dropped.
    pub(crate) fn workspace(gpu: &Gpu, shape: &[usize], workspaces: &Arc<Workspaces>) -> Result<Self> {
        Self::new(gpu, shape, Some(workspaces), "a workspace")
    }

    /// A parameter or optimizer state, in a buffer of its own, called `what` in errors.
    pub(crate) fn persistent(gpu: &Gpu, shape: &[usize], what: &str) -> Result<Self> {
        Self::new(gpu, shape, None, what)
    }

    /// A matrix for the kernel that packs it, called `what` in errors.
    pub(crate) fn packed(gpu: &Gpu, [rows, columns]: [usize; 2], packing: Packing, what: &str) -> Result<Self> {
        let words = Self::persistent(gpu, &[packing.words(rows, columns)], what)?;
        Ok(Self { shape: vec![rows, columns], packing: Some(packing), ..words })
    }

    fn new(gpu: &Gpu, shape: &[usize], home: Option<&Arc<Workspaces>>, what: &str) -> Result<Self> {
        let bytes = checked_size(gpu, shape, what)?;
        let limits = &gpu.inner.limits;
        let capacity = match home {
            None => bytes,
            Some(_) => size_class(bytes).min(limits.max_buffer_size / ELEMENT * ELEMENT),
        };
        let buffer = match home.and_then(|workspaces| workspaces.take(gpu, capacity)) {
            Some(buffer) => buffer,
            None => allocate(gpu, capacity, false)?,
        };
        Ok(Self::with_buffer(gpu, shape, home.cloned(), buffer))
    }

    /// Persistent tensors of these shapes, called so in errors, all zero: one behind another in buffers of up to 128 MiB, so that what
    /// is done to each element can be done to [`Tensor::runs`] of them. A larger one has a buffer of its own.
    pub(crate) fn joined(gpu: &Gpu, parts: &[(&[usize], String)]) -> Result<Vec<Self>> {
        Self::joined_within(gpu, parts, JOINED)
    }

    fn joined_within(gpu: &Gpu, parts: &[(&[usize], String)], limit: u64) -> Result<Vec<Self>> {
        let mut sizes: Vec<u64> = Vec::new();
        let mut places = Vec::new();
        for (shape, what) in parts {
            let bytes = checked_size(gpu, shape, what)?;
            let padded = bytes.next_multiple_of(ALIGNMENT);
            match sizes.last_mut() {
                Some(size) if *size + padded <= limit => *size += padded,
                _ => sizes.push(if padded <= limit { padded } else { bytes }),
            }
            places.push((sizes.len() - 1, sizes[sizes.len() - 1].saturating_sub(padded)));
        }
        let whole = |&bytes: &u64| {
            Ok(Self::with_buffer(gpu, &[(bytes / ELEMENT) as usize], None, allocate(gpu, bytes, false)?))
        };
        let buffers = sizes.iter().map(whole).collect::<Result<Vec<_>>>()?;
        let part = |((shape, _), (buffer, offset)): (&(&[usize], String), (usize, u64))| Self {
            offset,
            shape: shape.to_vec(),
            ..buffers[buffer].clone()
        };
        Ok(parts.iter().zip(places).map(part).collect())
    }

    /// Whether it begins where the other one ends.
    pub(crate) fn follows(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.storage, &before.storage)
            && self.storage.home.is_none()
            && self.offset == before.offset + before.bytes().next_multiple_of(ALIGNMENT)
    }

    /// All from the beginning of one tensor to the end of another that lies behind it, as one array: with what fills up each of them,
    /// which is zero, and stays so where what is done to zeros gives zeros.
    pub(crate) fn spanning(first: &Self, last: &Self) -> Self {
        assert!(Arc::ptr_eq(&first.storage, &last.storage) && first.packing.is_none());
        let end = match first.storage.home {
            Some(_) => last.offset + last.bytes(),
            None => (last.offset + last.bytes().next_multiple_of(ALIGNMENT)).min(first.buffer().capacity),
        };
        Self { shape: vec![((end - first.offset) / ELEMENT) as usize], ..first.clone() }
    }

    /// The same elements in as few arrays as may be.
    pub(crate) fn runs(tensors: &[&Self]) -> Vec<Self> {
        let runs = tensors.chunk_by(|before, next| next.follows(before));
        runs.map(|run| Self::spanning(run[0], run[run.len() - 1])).collect()
    }

    fn with_buffer(gpu: &Gpu, shape: &[usize], home: Option<Arc<Workspaces>>, buffer: Buffer) -> Self {
        let storage = Storage { buffer: Some(buffer), gpu: Arc::downgrade(&gpu.inner), home };
        Self { storage: Arc::new(storage), offset: 0, shape: shape.to_vec(), packing: None }
    }

    /// Says it has this shape, which may be larger than what it is: to be asked for that, and nothing else.
    pub(crate) fn standing_in_for(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), ..self.clone() }
    }

    /// A parameter whose values are about to be written: see [`Upload`].
    pub(crate) fn upload(gpu: &Gpu, shape: &[usize], what: &str) -> Result<Upload> {
        let mapped = gpu.writes_in_place();
        let bytes = checked_size(gpu, shape, what)?;
        let tensor = Self::with_buffer(gpu, shape, None, allocate(gpu, bytes, mapped)?);
        let view = match mapped {
            true => Some(tensor.buffer().buffer.get_mapped_range_mut(..).map_err(|error| gpu.failed(error))?),
            false => None,
        };
        Ok(Upload { gpu: gpu.clone(), view, tensor })
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn packing(&self) -> Option<Packing> {
        self.packing
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self.packing {
            None => byte_size(&self.shape),
            Some(packing) => byte_size(&[packing.words(self.rows(), self.columns())]),
        }
    }

    /// Rows of a matrix.
    pub(crate) fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Columns of a matrix: the product of all dimensions after the first.
    pub(crate) fn columns(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Whether two tensors are the same memory.
    #[cfg(test)]
    pub(crate) fn same_buffer(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.storage, &other.storage) && self.offset == other.offset
    }

    /// The same buffer to its very end.
    #[cfg(test)]
    pub(crate) fn whole(&self) -> Self {
        let shape = vec![((self.buffer().capacity - self.offset) / ELEMENT) as usize];
        Self { shape, packing: None, ..self.clone() }
    }

    /// What a packed matrix is made of.
    #[cfg(test)]
    pub(crate) fn words(&self) -> Self {
        Self { shape: vec![(self.bytes() / ELEMENT) as usize], packing: None, ..self.clone() }
    }

    /// Where in its buffer it begins, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What a bind group holds of it, where bindings may have up to so many bytes. A workspace's buffer is bound whole where that may be, so
    /// that batches of different lengths share a bind group.
    pub(super) fn binding(&self, limit: u64) -> (&wgpu::Buffer, Bound) {
        let Buffer { buffer, id, capacity } = self.buffer();
        let is_whole = self.storage.home.is_some() && *capacity <= limit;
        let bytes = if is_whole { *capacity } else { self.bytes() };
        (buffer, Bound { buffer: *id, offset: self.offset(), bytes })
    }

    pub(super) fn buffer(&self) -> &Buffer {
        self.storage.buffer.as_ref().expect("a live tensor holds its buffer until it is dropped")
    }

    /// Writes values from element `offset` on, for persistent tensors only: the write takes effect before the next
    /// submit of any thread, so a pooled buffer that another pass still uses would be overwritten too early.
    pub(crate) fn write(&self, gpu: &Gpu, offset: usize, values: &[f32]) -> Result<()> {
        assert!(self.storage.home.is_none() && self.packing.is_none() && offset + values.len() <= self.len());
        gpu.inner.queue.write_buffer(
            &self.buffer().buffer,
            self.offset + offset as u64 * ELEMENT,
            bytemuck::cast_slice(values),
        );
        gpu.check()
    }
}

/// A parameter being filled. Where GPU memory is the host's, values are written where they will stay; elsewhere they go
/// through the driver's staging memory, and are waited for piece by piece, so that it holds no second copy of the whole.
pub(crate) struct Upload {
    gpu: Gpu,
    /// The tensor's own memory, where it is the host's.
    view: Option<wgpu::BufferViewMut>,
    tensor: Tensor,
}

impl Upload {
    /// Into a persistent tensor that is there already.
    pub(crate) fn into(gpu: &Gpu, tensor: Tensor) -> Self {
        Self { gpu: gpu.clone(), view: None, tensor }
    }

    /// Writes values from element `offset` on.
    pub(crate) fn write(&mut self, offset: usize, values: &[f32]) -> Result<()> {
        assert!(offset + values.len() <= self.tensor.len());
        let Some(view) = &mut self.view else {
            self.tensor.write(&self.gpu, offset, values)?;
            return self.gpu.flush();
        };
        let at = offset * ELEMENT as usize;
        view.slice(at..at + size_of_val(values)).copy_from_slice(bytemuck::cast_slice(values));
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Tensor> {
        let Self { gpu, view, tensor } = self;
        if let Some(view) = view {
            drop(view);
            tensor.buffer().buffer.unmap();
        }
        gpu.check().map(|()| tensor)
    }
}

/// Bytes of a tensor called `what`, if this adapter can bind so many.
fn checked_size(gpu: &Gpu, shape: &[usize], what: &str) -> Result<u64> {
    let (bytes, limits) = (byte_size(shape), &gpu.inner.limits);
    if bytes > limits.max_storage_buffer_binding_size {
        return Err(Error::DeviceLimit {
            what: format!("{what} of shape {shape:?}"),
            needed: bytes,
            limit_name: "maxStorageBufferBindingSize",
            limit: limits.max_storage_buffer_binding_size,
        });
    }
    Ok(bytes)
}

/// At least 4 bytes: WebGPU has no empty bindings.
fn byte_size(shape: &[usize]) -> u64 {
    // What is beyond all numbers is beyond all limits.
    let saturating = |bytes: u64, &n: &usize| bytes.saturating_mul(n as u64);
    shape.iter().fold(ELEMENT, saturating).max(ELEMENT)
}

/// Rounds up so that batches of nearly the same length share buffers: eight classes an octave, 12.5 % waste at most.
fn size_class(bytes: u64) -> u64 {
    let step = (bytes.next_power_of_two() / 16).max(256);
    bytes.div_ceil(step) * step
}

fn allocate(gpu: &Gpu, capacity: u64, mapped: bool) -> Result<Buffer> {
    let inner = &gpu.inner;
    if capacity > inner.limits.max_buffer_size {
        return Err(Error::DeviceLimit {
            what: "a buffer".into(),
            needed: capacity,
            limit_name: "maxBufferSize",
            limit: inner.limits.max_buffer_size,
        });
    }
    let mut usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    if mapped {
        usage |= wgpu::BufferUsages::MAP_WRITE;
    }
    let descriptor = wgpu::BufferDescriptor { label: None, size: capacity, usage, mapped_at_creation: mapped };
    let buffer = gpu.create_buffer(&descriptor)?;
    let in_use = inner.memory_in_use.fetch_add(capacity, Ordering::Relaxed) + capacity;
    inner.peak_memory_in_use.fetch_max(in_use, Ordering::Relaxed);
    Ok(Buffer { buffer, id: inner.next_buffer_id.fetch_add(1, Ordering::Relaxed), capacity })
}

impl Drop for Storage {
    fn drop(&mut self) {
        let (Some(buffer), Some(inner)) = (self.buffer.take(), self.gpu.upgrade()) else { return };
        match &self.home {
            Some(workspaces) => workspaces.put(&inner, buffer),
            None => {
                inner.memory_in_use.fetch_sub(buffer.capacity, Ordering::Relaxed);
                inner.forget_bind_groups(&HashSet::from([buffer.id]));
            }
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?}", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_hold_what_they_are_for_and_waste_little() {
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, 93_763_584, 134_217_728]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class - bytes <= (bytes / 8).max(256), "{bytes} -> {class}");
        }
    }

    fn values(gpu: &Gpu, tensor: &Tensor) -> Vec<f32> {
        let mut pass = crate::gpu::Pass::new(gpu);
        let download = pass.download(tensor).unwrap();
        pass.submit().unwrap();
        download.wait(gpu).unwrap()
    }

    #[test]
    fn joined_tensors_lie_one_behind_another_and_are_taken_as_one() {
        let gpu = crate::gpu::test_gpu();
        let parts: Vec<(&[usize], String)> =
            [&[3][..], &[64, 2], &[65], &[1]].into_iter().map(|shape| (shape, "a part".to_owned())).collect();
        let before = gpu.memory_in_use();
        let tensors = Tensor::joined(&gpu, &parts).unwrap();
        assert_eq!(gpu.memory_in_use() - before, 256 + 512 + 512 + 256);
        assert!(tensors.windows(2).all(|pair| pair[1].follows(&pair[0]) && !pair[0].follows(&pair[1])));
        let other = Tensor::persistent(&gpu, &[5], "another").unwrap();
        tensors[2].write(&gpu, 1, &[7.0; 64]).unwrap();
        assert_eq!(values(&gpu, &tensors[2]), [&[0.0][..], &[7.0; 64]].concat());
        let all: Vec<&Tensor> = tensors[..2].iter().chain([&other]).chain(&tensors[2..]).collect();
        let runs = Tensor::runs(&all);
        assert_eq!(runs.iter().map(Tensor::len).collect::<Vec<_>>(), [64 + 128, 5, 128 + 64]);
        assert_eq!(values(&gpu, &runs[0]), [0.0; 192]);
        assert_eq!(values(&gpu, &runs[2]), [&[0.0][..], &[7.0; 64], &[0.0; 127]].concat());
        // A workspace ends where it ends.
        let mut pass = crate::gpu::Pass::new(&gpu);
        let workspace = pass.alloc(&[7]).unwrap();
        assert_eq!(Tensor::runs(&[&workspace, &workspace]).len(), 2);
        assert_eq!(Tensor::runs(&[&workspace])[0].len(), 7);
        drop((all, runs));
        drop((tensors, other));
        gpu.trim();
        assert_eq!(gpu.memory_in_use() - before, workspace.buffer().capacity);
    }

    #[test]
    fn joined_tensors_are_in_several_buffers_where_one_would_be_too_large() {
        let gpu = crate::gpu::test_gpu();
        // Two in one, one that is larger than the limit, and one after it.
        let shapes = [[100], [50], [200], [1]];
        let parts: Vec<(&[usize], String)> = shapes.iter().map(|shape| (&shape[..], "a part".to_owned())).collect();
        let tensors = Tensor::joined_within(&gpu, &parts, 768).unwrap();
        let runs = Tensor::runs(&tensors.iter().collect::<Vec<_>>());
        assert_eq!(runs.iter().map(Tensor::len).collect::<Vec<_>>(), [128 + 64, 200, 64]);
        tensors[2].write(&gpu, 0, &[3.0; 200]).unwrap();
        assert_eq!((values(&gpu, &runs[1]), values(&gpu, &tensors[3])), (vec![3.0; 200], vec![0.0]));
    }

    #[test]
    fn a_tensor_over_the_binding_limit_names_the_limit() {
        let gpu = crate::gpu::test_gpu();
        let limit = gpu.adapter().max_storage_buffer_binding_size;
        let error = Tensor::persistent(&gpu, &[limit as usize / 4 + 1], "bert.x").unwrap_err();
        assert!(matches!(error, Error::DeviceLimit { limit_name: "maxStorageBufferBindingSize", .. }));
        assert!(error.to_string().contains("bert.x"), "{error}");
    }
}
