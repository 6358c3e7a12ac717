//! The adapters of this machine, and which of them is taken.

use std::path::PathBuf;

use super::waiting::now;
use crate::error::{Error, Result};

/// One adapter of this machine, as [`Gpu::adapters`](crate::Gpu::adapters) lists it.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Adapter {
    /// Its place in the list; what [`Gpu::open`](crate::Gpu::open) takes.
    pub index: usize,
    /// The name the driver gives.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    #[serde(rename = "type")]
    pub device_type: &'static str,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Driver name and version, for example `llvmpipe, Mesa 25.0.7`; with Metal the system's, `macOS 15.1`.
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

impl Adapter {
    /// Whether shaders run on the CPU, and kernels are chosen accordingly.
    pub(crate) fn is_software(&self) -> bool {
        // So that what GPUs do can be tested where there is none: `make test-as-gpu`.
        #[cfg(feature = "bench")]
        if std::env::var_os("RETTO_AS_GPU").is_some() {
            return false;
        }
        self.device_type == "cpu"
    }

    /// The major version of Mesa, whose drivers name it.
    pub(crate) fn mesa_version(&self) -> Option<u32> {
        let version = self.driver.split("Mesa ").nth(1)?;
        version.split('.').next()?.parse().ok()
    }
}

/// What kind of adapter is wanted where a machine has several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PowerPreference {
    /// The fastest: discrete before integrated.
    #[default]
    HighPerformance,
    /// The one that spares the battery: integrated before discrete.
    LowPower,
}

/// Which adapter [`Gpu::open_with`](crate::Gpu::open_with) opens, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// The adapter with this index in [`Gpu::adapters`](crate::Gpu::adapters); without, the preferences below choose.
    pub adapter: Option<usize>,
    /// The adapter with this index, or the one whose name contains this text (in any case), as a user gives it to a program;
    /// not beside `adapter`.
    pub name: Option<String>,
    /// What kind is wanted.
    pub power_preference: PowerPreference,
    /// Whether an adapter that is software on the CPU may be taken, where there is no other.
    pub allow_software: bool,
    /// A folder for compiled shaders, which make the next start faster where the driver can keep them (Vulkan), and for which
    /// kernels were measured to be the fastest here. Created if need be; its files are made again when they do not fit.
    pub cache_dir: Option<PathBuf>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            adapter: None,
            name: None,
            power_preference: PowerPreference::default(),
            allow_software: true,
            cache_dir: None,
        }
    }
}

impl GpuOptions {
    /// Where an adapter stands in the order of preference; `None` for one that is not to be taken.
    fn rank(&self, adapter: &Adapter) -> Option<usize> {
        let low_power = self.power_preference == PowerPreference::LowPower;
        match adapter.device_type {
            "discrete" => Some(if low_power { 1 } else { 0 }),
            "integrated" => Some(if low_power { 0 } else { 1 }),
            "virtual" => Some(2),
            "cpu" => self.allow_software.then_some(4),
            _ => Some(3),
        }
    }

    /// The adapters these options choose, the best first.
    pub(super) fn choose(&self) -> Result<Vec<(wgpu::Adapter, Adapter)>> {
        match (&self.name, self.adapter) {
            (Some(name), None) => return Ok(vec![named(name)?]),
            (Some(_), Some(_)) => {
                let reason = "an adapter is named by its index or by its name, not by both";
                return Err(Error::InvalidArgument(reason.into()));
            }
            (None, _) => {}
        }
        let adapters = enumerate();
        let Some(index) = self.adapter else {
            let ranked = adapters.into_iter().filter_map(|adapter| Some((self.rank(&adapter.1)?, adapter)));
            let mut ranked: Vec<_> = ranked.collect();
            ranked.sort_by_key(|(rank, _)| *rank);
            return Ok(ranked.into_iter().map(|(_, adapter)| adapter).collect());
        };
        Ok(vec![find(adapters, &index.to_string(), |adapter| adapter.index == index)?])
    }
}

/// The adapter with this index, or the one whose name contains this text.
pub(super) fn named(wanted: &str) -> Result<(wgpu::Adapter, Adapter)> {
    let adapters = enumerate();
    let index: Option<usize> = wanted.trim().parse().ok().filter(|&index| index < adapters.len());
    let name = wanted.trim().to_lowercase();
    let matches = |a: &Adapter| index.map_or(is_named(&a.name.to_lowercase(), &name), |index| a.index == index);
    find(adapters, wanted, |adapter| !name.is_empty() && matches(adapter))
}

/// Whether that is a part of a name. `4090` may be, a whole number of it; but `1` is the index of an adapter that is not there.
fn is_named(name: &str, part: &str) -> bool {
    match part.bytes().all(|byte| byte.is_ascii_digit()) {
        true => part.len() > 2 && name.split(|c: char| !c.is_ascii_digit()).any(|number| number == part),
        false => name.contains(part),
    }
}

fn find(
    adapters: Vec<(wgpu::Adapter, Adapter)>,
    wanted: &str,
    matches: impl Fn(&Adapter) -> bool,
) -> Result<(wgpu::Adapter, Adapter)> {
    if adapters.is_empty() {
        return Err(Error::NoAdapter);
    }
    let listed = adapters.iter().map(|(_, a)| format!("{}: {} ({})", a.index, a.name, a.backend));
    let available = listed.collect::<Vec<_>>().join("; ");
    let mut found: Vec<_> = adapters.into_iter().filter(|(_, adapter)| matches(adapter)).collect();
    // One GPU seen through two backends has one name twice: the first backend is taken.
    found.dedup_by(|b, a| a.1.name == b.1.name && a.1.backend != b.1.backend);
    match (found.pop(), found.is_empty()) {
        (Some(adapter), true) => Ok(adapter),
        _ => Err(Error::AdapterNotFound { wanted: wanted.to_owned(), available }),
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    // Validation layers only where asked for by wgpu's own variables: they are not on users' machines.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    wgpu::Instance::new(descriptor)
}

pub(super) fn enumerate() -> Vec<(wgpu::Adapter, Adapter)> {
    let adapters = now(instance().enumerate_adapters(wgpu::Backends::PRIMARY));
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
    let mut driver = driver.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    if driver.is_empty() && cfg!(target_vendor = "apple") {
        // Metal's comes with the system, and wgpu says nothing of it.
        let system = std::fs::read_to_string("/System/Library/CoreServices/SystemVersion.plist");
        driver = system.ok().as_deref().and_then(version_of_system).unwrap_or_default();
    }
    let listed = Adapter {
        index,
        name: info.name.clone(),
        device_type,
        backend: info.backend.to_string(),
        driver,
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

/// Name and version, from the property list in which Apple's systems have them.
fn version_of_system(list: &str) -> Option<String> {
    let value = |key: &str| {
        let rest = list.split_once(&format!("<key>{key}</key>"))?.1;
        Some(rest.split_once("<string>")?.1.split_once("</string>")?.0.trim())
    };
    Some(format!("{} {}", value("ProductName")?, value("ProductVersion")?))
}

/// Edges of the square matrices that subgroups can multiply together, f16 by f16 with sums in f32.
pub(super) fn cooperative_edges(adapter: &wgpu::Adapter) -> Vec<u32> {
    let needed =
        wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
    if !adapter.features().contains(needed) {
        return Vec::new();
    }
    let all = adapter.cooperative_matrix_properties().into_iter();
    let fits = all.filter(|p| p.m_size == p.n_size && p.n_size == p.k_size);
    let fits = fits.filter(|p| p.ab_type == wgpu::CooperativeScalarType::F16);
    let mut edges: Vec<u32> =
        fits.filter(|p| p.cr_type == wgpu::CooperativeScalarType::F32).map(|p| p.m_size).collect();
    edges.sort_unstable();
    edges.dedup();
    edges
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

#[cfg(test)]
mod tests {
    use super::{is_named, version_of_system};

    #[test]
    fn a_number_is_an_index_or_a_whole_number_of_a_name() {
        let name = "nvidia geforce rtx 4090 (a100-sxm4-80gb)";
        for (part, is) in [("4090", true), ("a100", true), ("rtx", true), ("1", false), ("40", false), ("409", false)] {
            assert_eq!(is_named(name, part), is, "{part}");
        }
    }

    #[test]
    fn a_system_says_its_name_and_version() {
        let list = "<plist version=\"1.0\">\n<dict>\n\t<key>ProductCopyright</key>\n\t<string>1983-2026</string>\n\t<key>ProductName</key>\n\t\
                    <string>macOS</string>\n\t<key>ProductVersion</key>\n\t<string>15.1</string>\n</dict>\n</plist>\n";
        assert_eq!(version_of_system(list).as_deref(), Some("macOS 15.1"));
        assert_eq!(version_of_system("<key>ProductName</key>"), None);
    }

    /// `make test-as-gpu` would else be the usual tests again: it says by a variable of its own what it means.
    #[test]
    fn what_gpus_take_is_taken_where_that_is_asked_for() {
        let adapter = crate::gpu::test_gpu().adapter().clone();
        let is_meant = std::env::var_os("RETTO_EXPECTS_GPU").is_some();
        assert_eq!(adapter.is_software(), adapter.device_type == "cpu" && !is_meant);
    }
}
