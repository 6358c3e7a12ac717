//! One adapter, opened: its limits and features, and what is kept of it: pipelines, bind groups, choices.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adapter::{self, Adapter, GpuOptions};
use super::cache::PipelineCache;
use super::choices::Choices;
use super::cpu;
use super::kernel::Style;
use super::waiting::{Fault, now};
use super::workspaces::Pool;
use crate::error::{Error, Result};

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
    cooperative_edges: Vec<u32>,
    style: Style,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, Arc<wgpu::ComputePipeline>>>,
    pub(super) bind_groups: Mutex<BindGroups>,
    pub(super) pool: Mutex<Pool>,
    pub(super) memory_in_use: AtomicU64,
    pub(super) peak_memory_in_use: AtomicU64,
    pub(super) next_buffer_id: AtomicU64,
    next_seal: AtomicU32,
    /// Where compiled shaders are kept.
    pub(super) cache: Option<PipelineCache>,
    /// Where what was measured is kept.
    choices: Option<Choices>,
    /// Names of kernels that are not to be used here.
    refused: Mutex<Vec<String>>,
    /// Whether it was looked at which kernels for f16 compute something else than others do.
    compared: AtomicBool,
    /// What this was opened from.
    source: wgpu::Adapter,
    /// Milliseconds after which a driver that does not answer counts as lost, for each that waits so.
    pub(super) patience: Mutex<Vec<u64>>,
    pub(super) fault: Arc<Mutex<Option<Fault>>>,
    /// Which attempts to make a buffer are to fail.
    #[cfg(test)]
    pub(super) scarce: Mutex<std::ops::Range<usize>>,
    /// Whether waiting is to panic, as wgpu does.
    #[cfg(test)]
    pub(super) fails_to_wait: AtomicBool,
}

/// What a pipeline was compiled from: file, entry point, the index of its override values, and what it takes of a style.
pub(super) type PipelineKey = (&'static str, &'static str, usize, Style);

/// A GPU buffer with what the pool and the bind-group cache need to know of it.
pub(super) struct Buffer {
    pub(super) buffer: wgpu::Buffer,
    /// Unique within its `Gpu`, never reused.
    pub(super) id: u64,
    pub(super) capacity: u64,
}

/// A part of a buffer, in bytes, as a bind group holds it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Bound {
    /// [`Buffer::id`]
    pub(super) buffer: u64,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Bind groups kept between calls. A bind group holds its buffers, so those of a released buffer are dropped with it.
#[derive(Default)]
pub(super) struct BindGroups {
    pub(super) groups: HashMap<(PipelineKey, Vec<Bound>), wgpu::BindGroup>,
}

/// A panic in another thread must not poison this one: everything guarded stays consistent between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// The adapters of this machine. Empty where there is none.
    pub fn adapters() -> Vec<Adapter> {
        adapter::enumerate().into_iter().map(|(_, listed)| listed).collect()
    }

    /// Opens the most capable adapter: discrete before integrated before virtual before software, or the next one where a driver refuses,
    /// which the log tells.
    ///
    /// # Errors
    /// [`Error::NoAdapter`]; [`Error::Gpu`] where all drivers refuse.
    pub fn open_default() -> Result<Self> {
        Self::open_with(&GpuOptions::default())
    }

    /// Opens the adapter that the options choose.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where none is left to choose, [`Error::AdapterNotFound`] for an index or a name there is not, or a
    /// name that several have; [`Error::InvalidArgument`] for both;
    /// [`Error::Io`] for a cache folder that cannot be made; [`Error::Gpu`] where the driver refuses.
    pub fn open_with(options: &GpuOptions) -> Result<Self> {
        let mut first = None;
        // Where none is asked for, by name or index, a driver that refuses is no reason to do without the next one.
        for adapter in options.choose()? {
            let name = adapter.1.name.clone();
            match Self::from_adapter(adapter, options.cache_dir.as_deref()) {
                Err(error @ (Error::Gpu(_) | Error::DeviceLost(_))) => {
                    log::warn!("{name} cannot be used: {error}");
                    first.get_or_insert(error);
                }
                other => return other,
            }
        }
        Err(first.unwrap_or(Error::NoAdapter))
    }

    /// Opens the adapter with this index, or the one whose name contains this text (in any case).
    ///
    /// # Errors
    /// [`Error::AdapterNotFound`] where none or several match; otherwise as [`Gpu::open_default`].
    pub fn open(wanted: &str) -> Result<Self> {
        Self::from_adapter(adapter::named(wanted)?, None)
    }

    fn from_adapter((adapter, listed): (wgpu::Adapter, Adapter), cache_dir: Option<&Path>) -> Result<Self> {
        let supported = adapter.limits();
        let limits = needed(&supported);
        let wanted = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16 | wgpu::Features::SHADER_INT64;
        let mut features = wgpu::Features::IMMEDIATES | (adapter.features() & wanted);
        // On a CPU all memory is the host's: weights are written where they stay. On GPUs such memory may be the slower one.
        if listed.is_software() {
            features |= adapter.features() & wgpu::Features::MAPPABLE_PRIMARY_BUFFERS;
        }
        let cooperative_edges = adapter::cooperative_edges(&adapter);
        if !cooperative_edges.is_empty() {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        if cache_dir.is_some() {
            features |= adapter.features() & wgpu::Features::PIPELINE_CACHE;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("retto"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: experimental(!cooperative_edges.is_empty()),
            ..Default::default()
        };
        let (device, queue) = now(adapter.request_device(&descriptor))
            .map_err(|error| Error::Gpu(format!("cannot open {}: {error}", listed.name)))?;

        let fault = Arc::new(Mutex::new(None));
        let on_error = Arc::clone(&fault);
        // wgpu's default is to panic.
        device.on_uncaptured_error(Arc::new(move |error| {
            lock(&on_error).get_or_insert(Fault::Other(error.to_string()));
        }));
        let on_lost = Arc::clone(&fault);
        device.set_device_lost_callback(move |_, message| *lock(&on_lost) = Some(Fault::Lost(message)));

        let cache = match cache_dir {
            Some(folder) => PipelineCache::open(&device, &adapter.get_info(), folder)?,
            None => None,
        };
        let choices = cache_dir.map(|folder| Choices::open(&listed, folder));
        let downlevel = adapter.get_downlevel_capabilities().flags;
        let style = Style::of(&listed, downlevel.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32));
        let inner = Inner {
            cache,
            refused: Mutex::new(choices.as_ref().map(Choices::refused).unwrap_or_default()),
            compared: AtomicBool::new(false),
            source: adapter,
            choices,
            device,
            queue,
            adapter: listed,
            limits,
            features,
            cooperative_edges,
            style,
            pipelines: Mutex::default(),
            bind_groups: Mutex::default(),
            pool: Mutex::default(),
            memory_in_use: AtomicU64::new(0),
            peak_memory_in_use: AtomicU64::new(0),
            next_buffer_id: AtomicU64::new(0),
            next_seal: AtomicU32::new(1),
            patience: Mutex::default(),
            fault,
            #[cfg(test)]
            scarce: Mutex::default(),
            #[cfg(test)]
            fails_to_wait: Default::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The adapter this device was opened on.
    pub fn adapter(&self) -> &Adapter {
        &self.inner.adapter
    }

    /// Keeps the shaders compiled so far, where a cache folder was given. Otherwise they are kept when the last clone of this
    /// `Gpu` is dropped.
    pub(crate) fn save_cache(&self) {
        self.inner.save_cache();
    }

    /// Whether there is a folder that choices are kept in.
    pub(crate) fn keeps_choices(&self) -> bool {
        self.inner.choices.is_some()
    }

    /// Looks again at what is kept: another device of this process may have been measured meanwhile.
    pub(crate) fn refresh_choices(&self) {
        if let Some(choices) = &self.inner.choices {
            choices.refresh();
            lock(&self.inner.refused).extend(choices.refused());
        }
    }

    /// What is kept of other kernels than those with this hash counts no more, nor what was refused of them.
    pub(crate) fn choose_among(&self, hash: u64) {
        if let Some(choices) = &self.inner.choices {
            let before = choices.refused();
            choices.of_kernels(hash);
            let kept = choices.refused();
            lock(&self.inner.refused).retain(|name| kept.contains(name) || !before.contains(name));
        }
    }

    /// What was once chosen for this.
    pub(crate) fn choice(&self, what: &str) -> Option<String> {
        self.inner.choices.as_ref()?.get(what)
    }

    /// Keeps a choice for this and later runs; without a folder does nothing.
    pub(crate) fn keep_choice(&self, what: &str, name: &str) {
        if let Some(choices) = &self.inner.choices {
            choices.keep(what, name);
        }
    }

    /// Whether a kernel of this name is not to be used here.
    pub(crate) fn refuses(&self, name: &str) -> bool {
        lock(&self.inner.refused).iter().any(|refused| refused == name)
    }

    /// Has a kernel not used here, and if that `lasts` not in later runs either, where there is a folder to keep that in.
    pub(crate) fn refuse(&self, name: &str, why: &str, lasts: bool) {
        log::warn!("{}: {name} is not used: {why}", self.inner.adapter.name);
        lock(&self.inner.refused).push(name.to_owned());
        if let Some(choices) = self.inner.choices.as_ref().filter(|_| lasts) {
            choices.refuse(name, why);
        }
    }

    /// Whether [`Gpu::set_compared`] was said.
    pub(crate) fn has_compared(&self) -> bool {
        self.inner.compared.load(Ordering::Acquire)
    }

    /// Kernels for f16 were compared here with others.
    pub(crate) fn set_compared(&self) {
        self.inner.compared.store(true, Ordering::Release);
    }

    /// A further device of the same adapter, for what may cost a device. It keeps nothing on disk.
    pub(crate) fn another(&self) -> Result<Self> {
        Self::from_adapter((self.inner.source.clone(), self.inner.adapter.clone()), None)
    }

    /// Destroys the device, as if the driver had lost it.
    #[cfg(any(test, all(feature = "capi", debug_assertions)))]
    pub(crate) fn lose(&self) {
        self.inner.device.destroy();
    }

    /// Whether shaders run on the CPU.
    pub(crate) fn is_software(&self) -> bool {
        self.inner.adapter.is_software()
    }

    /// Whether shaders run on a CPU with sixteen vector registers.
    pub(crate) fn has_sixteen_registers(&self) -> bool {
        self.is_software() && cpu::has_sixteen_registers()
    }

    /// Bytes of the first-level cache for instructions of the CPU that shaders run on, where that is known.
    pub(crate) fn instruction_cache(&self) -> Option<usize> {
        cpu::instruction_cache().filter(|_| self.is_software())
    }

    /// How kernels are compiled for this adapter.
    pub(crate) fn style(&self) -> Style {
        self.inner.style
    }

    /// Whether what the driver refused to carry out passes for done: Metal's, by wgpu. In tests it is taken for so everywhere.
    pub(super) fn conceals_refusals(&self) -> bool {
        cfg!(test) || self.inner.adapter.backend == "metal"
    }

    pub(crate) fn has_subgroups(&self) -> bool {
        self.inner.features.contains(wgpu::Features::SUBGROUP)
    }

    pub(crate) fn has_f16(&self) -> bool {
        self.inner.features.contains(wgpu::Features::SHADER_F16)
    }

    pub(crate) fn has_int64(&self) -> bool {
        self.inner.features.contains(wgpu::Features::SHADER_INT64)
    }

    /// Whether buffers of shaders can be mapped for writing.
    pub(crate) fn writes_in_place(&self) -> bool {
        self.inner.features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
    }

    /// Edges of the square matrices that subgroups multiply together, f16 by f16 with sums in f32.
    pub(crate) fn cooperative_edges(&self) -> &[u32] {
        &self.inner.cooperative_edges
    }

    /// A number that no other pass has.
    pub(super) fn next_seal(&self) -> u32 {
        self.inner.next_seal.fetch_add(1, Ordering::Relaxed)
    }
}

#[allow(unsafe_code, reason = "wgpu wants to be told that experiments may be faulty")]
fn experimental(wanted: bool) -> wgpu::ExperimentalFeatures {
    match wanted {
        // SAFETY: of what this lets in only cooperative matrices are used, in four kernels, which the tests compare with their twin.
        true => unsafe { wgpu::ExperimentalFeatures::enabled() },
        false => wgpu::ExperimentalFeatures::disabled(),
    }
}

/// Bytes of the sizes and scalars each dispatch carries; WebGPU's own proposal gives at least 64.
const MAX_IMMEDIATE_SIZE: u32 = 64;

/// WebGPU's defaults of what compute shaders need, so that what runs here runs anywhere; only sizes of buffers are raised to what there is.
/// What is for graphics may be as little as it is: there are adapters with less than the defaults of that.
fn needed(supported: &wgpu::Limits) -> wgpu::Limits {
    let defaults = wgpu::Limits::default();
    wgpu::Limits {
        max_storage_buffer_binding_size: supported.max_storage_buffer_binding_size,
        max_buffer_size: supported.max_buffer_size,
        max_immediate_size: MAX_IMMEDIATE_SIZE,
        max_bind_groups: defaults.max_bind_groups,
        max_bindings_per_bind_group: defaults.max_bindings_per_bind_group,
        max_storage_buffers_per_shader_stage: defaults.max_storage_buffers_per_shader_stage,
        min_storage_buffer_offset_alignment: defaults.min_storage_buffer_offset_alignment,
        max_compute_workgroup_storage_size: defaults.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: defaults.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: defaults.max_compute_workgroup_size_x,
        max_compute_workgroup_size_y: defaults.max_compute_workgroup_size_y,
        max_compute_workgroup_size_z: defaults.max_compute_workgroup_size_z,
        max_compute_workgroups_per_dimension: defaults.max_compute_workgroups_per_dimension,
        ..defaults.or_worse_values_from(supported)
    }
}

impl Inner {
    pub(super) fn forget_bind_groups(&self, released: &std::collections::HashSet<u64>) {
        lock(&self.bind_groups)
            .groups
            .retain(|(_, bound), _| !bound.iter().any(|bound| released.contains(&bound.buffer)));
    }
}

impl Inner {
    fn save_cache(&self) {
        if let Some(cache) = &self.cache {
            cache.save();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.save_cache();
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adapter = self.adapter();
        let driver = if adapter.driver.is_empty() { String::new() } else { format!(", {}", adapter.driver) };
        write!(f, "{} ({}{driver})", adapter.name, adapter.backend)
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
    use crate::gpu::Pass;

    #[test]
    fn a_pipeline_that_cannot_be_made_costs_nothing_else() {
        use crate::gpu::Kernel;
        static BROKEN: Kernel =
            Kernel::plain("broken", "@compute @workgroup_size(1) fn broken() { nothing(); }", "broken");
        let gpu = Gpu::open(&crate::gpu::test_gpu().adapter().index.to_string()).unwrap();
        let mut pass = Pass::new(&gpu);
        let error = pass.dispatch(&BROKEN, 0, &[], &[0u32; 0], [1; 3]).unwrap_err();
        assert!(matches!(&error, Error::Gpu(why) if why.contains("broken::broken")), "{error}");
        assert!(gpu.wait().is_ok());
    }

    #[test]
    fn options_choose_an_adapter_and_a_cache_is_used_again_or_made_again() {
        let index = crate::gpu::test_gpu().adapter().index;
        let folder = tempfile::tempdir().unwrap();
        let cache_dir = folder.path().join("shaders");
        let options = GpuOptions { adapter: Some(index), cache_dir: Some(cache_dir.clone()), ..GpuOptions::default() };
        let run = || {
            let gpu = Gpu::open_with(&options).unwrap();
            let mut pass = Pass::new(&gpu);
            let tensor = pass.upload(&[4], &[1f32, 2.0, 3.0, 4.0]).unwrap();
            let scaled = crate::ops::adamw::clip(&mut pass, &[tensor], 0.0, 1.0).unwrap();
            let download = pass.download(&scaled).unwrap();
            pass.submit().unwrap();
            let norm = download.wait::<f32>(&gpu).unwrap()[0];
            assert!((norm - 30f32.sqrt()).abs() < 1e-5, "{norm}");
            gpu.inner.cache.is_some()
        };
        if run() {
            let files: Vec<_> = std::fs::read_dir(cache_dir).unwrap().map(|file| file.unwrap().path()).collect();
            assert_eq!(files.len(), 1, "{files:?}");
            assert!(run());
            // Damaged, as a full disk leaves it, or anything else: not given to the driver.
            for bytes in [&b"short"[..], &[7; 4096], &std::fs::read(&files[0]).unwrap()[..64]] {
                std::fs::write(&files[0], bytes).unwrap();
                assert!(run());
                assert_ne!(std::fs::read(&files[0]).unwrap(), bytes);
            }
        }
        std::fs::write(folder.path().join("a file"), "").unwrap();
        let options = GpuOptions { cache_dir: Some(folder.path().join("a file")), ..options };
        assert!(matches!(Gpu::open_with(&options), Err(Error::Io { .. })));
        let options = GpuOptions { adapter: Some(4711), ..GpuOptions::default() };
        assert!(matches!(Gpu::open_with(&options), Err(Error::AdapterNotFound { .. })));
        if Gpu::adapters().iter().all(|adapter| adapter.device_type == "cpu") {
            let options = GpuOptions { allow_software: false, ..GpuOptions::default() };
            assert!(matches!(Gpu::open_with(&options), Err(Error::NoAdapter)));
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
