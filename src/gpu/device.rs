//! One adapter, opened: its limits, its memory, its pipelines, and what it says when something goes wrong.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// One adapter of this machine, as [`Gpu::adapters`] lists it.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Adapter {
    /// Its place in the list; what [`Gpu::open`] takes.
    pub index: usize,
    /// The name the driver gives.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    #[serde(rename = "type")]
    pub device_type: &'static str,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Driver name and version, for example `llvmpipe, Mesa 25.0.7`.
    pub driver: String,
    /// Bytes of the largest memory the adapter calls its own, where its driver tells: with Vulkan.
    pub memory_bytes: Option<u64>,
    /// Largest single buffer binding in bytes: the largest parameter a model may have here.
    pub max_storage_buffer_binding_size: u64,
    /// Largest buffer in bytes.
    pub max_buffer_size: u64,
    /// Bytes of workgroup memory.
    pub max_compute_workgroup_storage_size: u32,
    /// Threads in a workgroup.
    pub max_compute_invocations_per_workgroup: u32,
    /// Whether subgroup operations can be used, and the sizes of a subgroup.
    pub subgroup: bool,
    /// Smallest subgroup.
    pub subgroup_min_size: u32,
    /// Largest subgroup.
    pub subgroup_max_size: u32,
    /// Whether shaders may use f16.
    pub shader_f16: bool,
    /// Whether wgpu offers cooperative matrices here.
    pub cooperative_matrix: bool,
}

/// An opened adapter. Cheap to clone; every clone is the same device. `Send + Sync`.
///
/// ```no_run
/// # fn main() -> retto::Result<()> {
/// let gpu = retto::Gpu::open_default()?;
/// println!("{gpu}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Gpu {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) adapter: Adapter,
    pub(super) limits: wgpu::Limits,
    pub(super) features: wgpu::Features,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, Arc<wgpu::ComputePipeline>>>,
    pub(super) bind_groups: Mutex<BindGroups>,
    /// Buffers no tensor holds any more, by capacity in bytes.
    pub(super) pool: Mutex<HashMap<u64, Vec<Buffer>>>,
    pub(super) memory_in_use: AtomicU64,
    pub(super) next_buffer_id: AtomicU64,
    fault: Arc<Mutex<Option<Fault>>>,
}

/// What a pipeline was compiled from: file, entry point, and the index of its override values.
pub(super) type PipelineKey = (&'static str, &'static str, usize);

/// A GPU buffer with what the pool and the bind-group cache need to know of it.
pub(super) struct Buffer {
    pub(super) buffer: wgpu::Buffer,
    /// Unique within its `Gpu`, never reused.
    pub(super) id: u64,
    pub(super) capacity: u64,
}

/// Bind groups kept between calls. A bind group holds its buffers, so those of a released buffer are dropped with it.
#[derive(Default)]
pub(super) struct BindGroups {
    pub(super) groups: HashMap<(PipelineKey, Vec<(u64, u64)>), wgpu::BindGroup>,
}

#[derive(Clone)]
enum Fault {
    Lost(String),
    Other(String),
}

/// A panic in another thread must not poison this one: everything guarded stays consistent between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    // Validation layers only where asked for by wgpu's own variables: they are not on users' machines.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    wgpu::Instance::new(descriptor)
}

fn enumerate() -> Vec<(wgpu::Adapter, Adapter)> {
    let adapters = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::PRIMARY));
    adapters.into_iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

fn describe(index: usize, adapter: wgpu::Adapter) -> (wgpu::Adapter, Adapter) {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let device_type = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "cpu",
        wgpu::DeviceType::Other => "other",
    };
    let driver = [info.driver.as_str(), info.driver_info.as_str()];
    let driver: Vec<&str> = driver.into_iter().filter(|part| !part.is_empty()).collect();
    let listed = Adapter {
        index,
        name: info.name.clone(),
        device_type,
        backend: info.backend.to_string(),
        driver: driver.join(", "),
        memory_bytes: memory_bytes(&adapter),
        max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
        max_buffer_size: limits.max_buffer_size,
        max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
        subgroup: features.contains(wgpu::Features::SUBGROUP),
        subgroup_min_size: info.subgroup_min_size,
        subgroup_max_size: info.subgroup_max_size,
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        cooperative_matrix: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    };
    (adapter, listed)
}

/// Only Vulkan's memory can be asked for through wgpu.
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
#[allow(unsafe_code, reason = "wgpu itself has no way to ask")]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handles are used while `hal` keeps them alive, for a query that changes nothing.
    let properties = unsafe {
        let hal = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = hal.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(hal.raw_physical_device())
    };
    let heaps = properties.memory_heaps.iter().take(properties.memory_heap_count as usize);
    // VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    heaps.filter(|heap| heap.flags.as_raw() & 1 != 0).map(|heap| heap.size).max()
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}

impl Gpu {
    /// The adapters of this machine. Empty where there is none.
    pub fn adapters() -> Vec<Adapter> {
        enumerate().into_iter().map(|(_, listed)| listed).collect()
    }

    /// Opens the most capable adapter: discrete before integrated before virtual before software.
    ///
    /// # Errors
    /// [`Error::NoAdapter`]; [`Error::Gpu`] where the driver refuses.
    pub fn open_default() -> Result<Self> {
        let rank = |adapter: &Adapter| match adapter.device_type {
            "discrete" => 0,
            "integrated" => 1,
            "virtual" => 2,
            "cpu" => 4,
            _ => 3,
        };
        let best = enumerate().into_iter().min_by_key(|(_, listed)| rank(listed)).ok_or(Error::NoAdapter)?;
        Self::from_adapter(best)
    }

    /// Opens the adapter with this index, or the one whose name contains this text (in any case).
    ///
    /// # Errors
    /// [`Error::AdapterNotFound`] where none or several match; otherwise as [`Gpu::open_default`].
    pub fn open(wanted: &str) -> Result<Self> {
        let adapters = enumerate();
        if adapters.is_empty() {
            return Err(Error::NoAdapter);
        }
        let listed = adapters.iter().map(|(_, a)| format!("{}: {} ({})", a.index, a.name, a.backend));
        let available = listed.collect::<Vec<_>>().join("; ");
        let index: Option<usize> = wanted.trim().parse().ok();
        let name = wanted.trim().to_lowercase();
        let matches = |a: &Adapter| index.map_or(a.name.to_lowercase().contains(&name), |index| a.index == index);
        let mut found: Vec<_> = adapters.into_iter().filter(|(_, a)| !name.is_empty() && matches(a)).collect();
        // One GPU seen through two backends has one name twice: the first backend is taken.
        found.dedup_by(|b, a| a.1.name == b.1.name && a.1.backend != b.1.backend);
        match (found.pop(), found.is_empty()) {
            (Some(adapter), true) => Self::from_adapter(adapter),
            _ => Err(Error::AdapterNotFound { wanted: wanted.to_owned(), available }),
        }
    }

    fn from_adapter((adapter, listed): (wgpu::Adapter, Adapter)) -> Result<Self> {
        let supported = adapter.limits();
        // WebGPU's defaults, so that what runs here runs anywhere; only sizes of buffers are raised to what there is.
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: supported.max_storage_buffer_binding_size,
            max_buffer_size: supported.max_buffer_size,
            max_immediate_size: MAX_IMMEDIATE_SIZE,
            ..wgpu::Limits::default()
        };
        let wanted = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
        let features = wgpu::Features::IMMEDIATES | (adapter.features() & wanted);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("retto"),
            required_features: features,
            required_limits: limits.clone(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|error| Error::Gpu(format!("cannot open {}: {error}", listed.name)))?;

        let fault = Arc::new(Mutex::new(None));
        let on_error = Arc::clone(&fault);
        // wgpu's default is to panic.
        device.on_uncaptured_error(Arc::new(move |error| {
            lock(&on_error).get_or_insert(Fault::Other(error.to_string()));
        }));
        let on_lost = Arc::clone(&fault);
        device.set_device_lost_callback(move |_, message| *lock(&on_lost) = Some(Fault::Lost(message)));

        let inner = Inner {
            device,
            queue,
            adapter: listed,
            limits,
            features,
            pipelines: Mutex::default(),
            bind_groups: Mutex::default(),
            pool: Mutex::default(),
            memory_in_use: AtomicU64::new(0),
            next_buffer_id: AtomicU64::new(0),
            fault,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The adapter this device was opened on.
    pub fn adapter(&self) -> &Adapter {
        &self.inner.adapter
    }

    /// Bytes of GPU memory held: parameters, activations, and the workspaces kept for the next call.
    pub fn memory_in_use(&self) -> u64 {
        self.inner.memory_in_use.load(Ordering::Relaxed)
    }

    /// Gives back the workspaces kept for the next call. They are made again when needed.
    pub fn trim(&self) {
        let buffers: Vec<Buffer> = lock(&self.inner.pool).drain().flat_map(|(_, buffers)| buffers).collect();
        let released: std::collections::HashSet<u64> = buffers.iter().map(|buffer| buffer.id).collect();
        let bytes: u64 = buffers.iter().map(|buffer| buffer.capacity).sum();
        self.inner.memory_in_use.fetch_sub(bytes, Ordering::Relaxed);
        self.inner.forget_bind_groups(&released);
    }

    pub(crate) fn has_subgroups(&self) -> bool {
        self.inner.features.contains(wgpu::Features::SUBGROUP)
    }

    pub(crate) fn has_f16(&self) -> bool {
        self.inner.features.contains(wgpu::Features::SHADER_F16)
    }

    /// The first error that no caller was told of by other means, if any. It stays: another thread's call may have been the
    /// one that asked, and its own results would be wrong in silence.
    pub(super) fn check(&self) -> Result<()> {
        match lock(&self.inner.fault).clone() {
            None => Ok(()),
            Some(Fault::Lost(message)) => Err(Error::DeviceLost(message)),
            Some(Fault::Other(message)) => Err(Error::Gpu(message)),
        }
    }

    /// Sends queued writes on their way and waits, so that the driver's staging memory is free again.
    pub(crate) fn flush(&self) -> Result<()> {
        self.inner.queue.submit([]);
        self.wait()
    }

    /// Every buffer of the crate is made here.
    pub(super) fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor) -> Result<wgpu::Buffer> {
        let attempt = || {
            let scope = self.inner.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            let buffer = self.inner.device.create_buffer(descriptor);
            pollster::block_on(scope.pop()).is_none().then_some(buffer)
        };
        let buffer = attempt().or_else(|| {
            // Workspaces kept for batches of other lengths may be in the way.
            self.trim();
            self.flush().ok().and_then(|()| attempt())
        });
        self.check()?;
        buffer.ok_or_else(|| Error::OutOfMemory { bytes: descriptor.size, in_use: self.memory_in_use() })
    }

    /// Waits until everything submitted so far is done.
    pub(crate) fn wait(&self) -> Result<()> {
        let polled = self.inner.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled.map(|_| ()).map_err(|error| Error::Gpu(error.to_string()))
    }
}

/// Bytes of the sizes and scalars each dispatch carries; WebGPU's own proposal gives at least 64.
const MAX_IMMEDIATE_SIZE: u32 = 64;

impl Inner {
    pub(super) fn forget_bind_groups(&self, released: &std::collections::HashSet<u64>) {
        lock(&self.bind_groups).groups.retain(|(_, buffers), _| !buffers.iter().any(|(id, _)| released.contains(id)));
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adapter = self.adapter();
        write!(f, "{} ({}, {})", adapter.name, adapter.backend, adapter.driver)
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("adapter", self.adapter()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Pass, Tensor};

    #[test]
    fn a_lost_device_is_an_error_and_stays_one() {
        let gpu = Gpu::open(&crate::gpu::test_gpu().adapter().index.to_string()).unwrap();
        let tensor = Tensor::persistent(&gpu, &[4], "a tensor").unwrap();
        gpu.inner.device.destroy();
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
    fn adapters_are_opened_by_index_or_part_of_their_name() {
        let adapter = crate::gpu::test_gpu().adapter().clone();
        let part: String = adapter.name.chars().take(4).collect::<String>().to_uppercase();
        assert_eq!(Gpu::open(&adapter.index.to_string()).unwrap().adapter().name, adapter.name);
        if Gpu::adapters().iter().filter(|other| other.name.to_uppercase().contains(&part)).count() == 1 {
            assert_eq!(Gpu::open(&part).unwrap().adapter().index, adapter.index);
        }
        for wanted in ["", " ", "no such adapter", "4711"] {
            match Gpu::open(wanted) {
                Err(Error::AdapterNotFound { available, .. }) => assert!(available.contains(&adapter.name)),
                other => panic!("{wanted:?}: {other:?}"),
            }
        }
    }
}
