//! Adapters, and the one that is opened.

use std::ffi::{CString, c_char};

use super::failure::{Failure, Result, c_string, call, retto_error};
use super::handle::{self, Opaque};
use super::input::{self, NUL_TERMINATED, Out, OutStruct, Versioned, invalid, versioned};
use super::status::retto_status;
use crate::gpu::{Adapter, Gpu, GpuOptions, PowerPreference};

/// A list of adapters.
pub struct retto_adapters {
    _private: [u8; 0],
}

/// An adapter, opened. Any number of threads may use it. Models and trainers made with it keep what they need of it, so that
/// it may be freed before they are.
pub struct retto_gpu {
    _private: [u8; 0],
}

/// An adapter's type.
pub const RETTO_ADAPTER_OTHER: u32 = 0;
pub const RETTO_ADAPTER_DISCRETE: u32 = 1;
pub const RETTO_ADAPTER_INTEGRATED: u32 = 2;
pub const RETTO_ADAPTER_VIRTUAL: u32 = 3;
/// Software on the CPU.
pub const RETTO_ADAPTER_CPU: u32 = 4;

/// What is known of an adapter. Set struct_size to sizeof(retto_adapter_info) before it is filled. Texts are UTF-8 that ends
/// in NUL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_adapter_info {
    pub struct_size: u32,
    /// Its place in the list, which retto_gpu_options.adapter_index takes.
    pub index: u32,
    /// RETTO_ADAPTER_DISCRETE and so on.
    pub adapter_type: u32,
    /// Whether shaders may use f16, which fp16 training needs.
    pub shader_f16: u32,
    /// The name the driver gives.
    pub name: *const c_char,
    /// "vulkan", "metal" or "dx12".
    pub backend: *const c_char,
    /// Driver name and version.
    pub driver: *const c_char,
    /// Bytes of memory; 0 where the driver does not tell.
    pub memory_bytes: u64,
    /// Bytes of the largest buffer binding: the largest parameter a model may have here.
    pub max_storage_buffer_binding_size: u64,
    /// Bytes of the largest buffer.
    pub max_buffer_size: u64,
}
versioned!(retto_adapter_info, |zero| zero);

/// What kind of adapter is wanted where there are several.
pub const RETTO_POWER_HIGH_PERFORMANCE: u32 = 0;
pub const RETTO_POWER_LOW: u32 = 1;

/// Which adapter is opened, and how. Set it up with retto_gpu_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_gpu_options {
    pub struct_size: u32,
    /// The adapter with this index in the list; -1, the default: the preferences below choose.
    pub adapter_index: i32,
    /// RETTO_POWER_HIGH_PERFORMANCE, the default: discrete before integrated. RETTO_POWER_LOW: the other way round.
    pub power_preference: u32,
    /// Whether an adapter that is software on the CPU may be taken where there is no other. Default 1.
    pub allow_software: u32,
    /// A folder for compiled shaders, which make the next start faster where the driver can keep them. Created if need be. NULL,
    /// the default: nothing is kept.
    pub cache_dir: *const c_char,
    /// Default RETTO_NUL_TERMINATED. 0: as if it were NULL.
    pub cache_dir_length: usize,
}
versioned!(retto_gpu_options, |zero| retto_gpu_options {
    adapter_index: -1,
    allow_software: 1,
    cache_dir_length: NUL_TERMINATED,
    ..zero
});

/// An adapter with its texts as C reads them.
pub(super) struct Listed {
    adapter: Adapter,
    name: CString,
    backend: CString,
    driver: CString,
}

impl Listed {
    fn new(adapter: Adapter) -> Self {
        let [name, backend, driver] = [&adapter.name, &adapter.backend, &adapter.driver].map(c_string);
        Self { adapter, name, backend, driver }
    }

    fn info(&self) -> retto_adapter_info {
        let adapter = &self.adapter;
        retto_adapter_info {
            struct_size: 0,
            index: adapter.index as u32,
            adapter_type: match adapter.device_type {
                "discrete" => RETTO_ADAPTER_DISCRETE,
                "integrated" => RETTO_ADAPTER_INTEGRATED,
                "virtual" => RETTO_ADAPTER_VIRTUAL,
                "cpu" => RETTO_ADAPTER_CPU,
                _ => RETTO_ADAPTER_OTHER,
            },
            shader_f16: adapter.shader_f16.into(),
            name: self.name.as_ptr(),
            backend: self.backend.as_ptr(),
            driver: self.driver.as_ptr(),
            memory_bytes: adapter.memory_bytes.unwrap_or(0),
            max_storage_buffer_binding_size: adapter.max_storage_buffer_binding_size,
            max_buffer_size: adapter.max_buffer_size,
        }
    }
}

pub(super) struct OpenGpu {
    pub(super) gpu: Gpu,
    listed: Listed,
}

impl Opaque for retto_adapters {
    type Object = Vec<Listed>;
    const NAME: &'static str = "retto_adapters";
}

impl Opaque for retto_gpu {
    type Object = OpenGpu;
    const NAME: &'static str = "retto_gpu";
}

/// Lists the adapters of this machine; an empty list where there is none. Free it with retto_adapters_free. Any thread; blocks
/// while drivers are asked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_adapters_list(
    adapters: *mut *mut retto_adapters,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let out = Out::new("adapters", adapters)?;
        let listed = Gpu::adapters().into_iter().map(Listed::new).collect();
        // SAFETY: the caller gives the address of a pointer.
        unsafe { out.write(handle::insert(listed)) };
        Ok(())
    })
}

/// How many adapters are in the list; 0 for NULL or a freed list. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_adapters_count(adapters: *const retto_adapters) -> usize {
    handle::get(adapters).map_or(0, |adapters| adapters.len())
}

/// Fills `info` with the adapter at `index`; RETTO_OUT_OF_RANGE beyond the end. Its texts are valid until the list is freed.
/// Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_adapters_get(
    adapters: *const retto_adapters,
    index: usize,
    info: *mut retto_adapter_info,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let adapters = handle::get(adapters)?;
        // SAFETY: the header says how `info` is given.
        let out = unsafe { OutStruct::new(info)? };
        out.write(&at(&adapters, index, "adapters")?.info());
        Ok(())
    })
}

/// The value at a caller's index.
pub(super) fn at<'l, T>(list: &'l [T], index: usize, what: &str) -> Result<&'l T> {
    list.get(index).ok_or_else(|| {
        let reason = format!("index {index} of {} {what}", list.len());
        Failure::new(retto_status::RETTO_OUT_OF_RANGE, reason)
    })
}

/// Frees a list. NULL is allowed. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_adapters_free(adapters: *mut retto_adapters) -> retto_status {
    handle::free(adapters)
}

/// Sets options to their defaults: retto_gpu_options_init(&options, sizeof options). Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_gpu_options_init(options: *mut retto_gpu_options, struct_size: usize) -> retto_status {
    // SAFETY: the caller gives the size.
    call(std::ptr::null_mut(), || unsafe { input::init(options, struct_size) })
}

/// Opens an adapter; NULL options are the defaults. RETTO_NO_ADAPTER where there is none, or none that is allowed. Free it with
/// retto_gpu_free. Any thread; blocks for the driver, some 0.1 to 1 s.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_gpu_open(
    options: *const retto_gpu_options,
    gpu: *mut *mut retto_gpu,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let out = Out::new("gpu", gpu)?;
        // SAFETY: the header says how options are given.
        let given = unsafe { input::read(options)? };
        // SAFETY: likewise.
        let cache_dir = unsafe { input::optional_text("cache_dir", given.cache_dir, given.cache_dir_length)? };
        let options = GpuOptions {
            name: None,
            adapter: match given.adapter_index {
                -1 => None,
                index => Some(usize::try_from(index).map_err(|_| invalid(format!("adapter_index is {index}")))?),
            },
            power_preference: match given.power_preference {
                RETTO_POWER_HIGH_PERFORMANCE => PowerPreference::HighPerformance,
                RETTO_POWER_LOW => PowerPreference::LowPower,
                other => return Err(invalid(format!("power_preference is {other}"))),
            },
            allow_software: given.allow_software != 0,
            cache_dir: cache_dir.filter(|folder| !folder.is_empty()).map(Into::into),
        };
        let gpu = Gpu::open_with(&options)?;
        let listed = Listed::new(gpu.adapter().clone());
        // SAFETY: the caller gives the address of a pointer.
        unsafe { out.write(handle::insert(OpenGpu { gpu, listed })) };
        Ok(())
    })
}

/// Fills `info` with the adapter that was opened. Its texts are valid until the gpu is freed. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_gpu_adapter(
    gpu: *const retto_gpu,
    info: *mut retto_adapter_info,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let gpu = handle::get(gpu)?;
        // SAFETY: the header says how `info` is given.
        unsafe { OutStruct::new(info)? }.write(&gpu.listed.info());
        Ok(())
    })
}

/// Bytes of GPU memory held by everything that was made with this gpu: weights, activations, and the workspaces kept for the
/// next call. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_gpu_memory_in_use(
    gpu: *const retto_gpu,
    bytes: *mut u64,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let gpu = handle::get(gpu)?;
        // SAFETY: the caller gives the address of a number.
        unsafe { Out::new("bytes", bytes)?.write(gpu.gpu.memory_in_use()) };
        Ok(())
    })
}

/// Gives back the workspaces kept for the next call; they are made again when needed. Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_gpu_trim(gpu: *const retto_gpu, error: *mut *mut retto_error) -> retto_status {
    call(error, || {
        handle::get(gpu)?.gpu.trim();
        Ok(())
    })
}

/// Frees a gpu. NULL is allowed. Models and trainers made with it live on. Any thread; what is freed last of a gpu and all that was
/// made with it blocks until the GPU has done what it was given and the driver's cache is written, where there is a cache_dir.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_gpu_free(gpu: *mut retto_gpu) -> retto_status {
    handle::free(gpu)
}
