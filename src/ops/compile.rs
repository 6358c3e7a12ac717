//! Every kernel that is for GPUs goes through a compiler of GPUs: Mesa's for AMD's, which up to 25.0 compiles for a GPU that it is told to
//! assume. Nothing runs; but what it refuses, and what does not fit into registers, shows here. `make test-compilers`.
#![allow(unsafe_code, reason = "wgpu's lower layer: the upper one opens no device that is a compiler alone")]

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::Command;

use wgpu::hal::{self, Adapter as _, Device as _, Instance as _};

use super::gemm_form::FORMS;
use super::tilings::{Family, TILINGS};
use super::translate::{OTHERS, validator};
use crate::gpu::Kernel;

type Vulkan = hal::api::Vulkan;

/// What the driver's figures of a kernel stand behind, in what the inner test prints.
const KERNEL: &str = "KERNEL ";

/// A family of GPUs, and whether Mesa has cooperative matrices for it: RDNA 2 and 3, and GCN 5, whose subgroups are of 64 lanes alone.
const FAMILIES: [(&str, bool); 3] = [("NAVI21", false), ("NAVI31", true), ("VEGA20", false)];

/// Those that are preferred to others on software alone. Some have more sums than a GPU has registers.
const SOFTWARE: [Family; 5] = [Family::Vectors, Family::Sixes, Family::Turns, Family::Eights, Family::Pairs];

#[test]
#[ignore = "needs Mesa's driver for AMD, 23.3 to 25.0: make test-compilers"]
fn every_kernel_for_gpus_is_compiled_for_them() {
    let drivers = std::fs::read_dir("/usr/share/vulkan/icd.d").expect("Vulkan drivers");
    let drivers = drivers.map(|file| file.unwrap().path());
    let is_of_amd = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("radeon_icd");
    let driver =
        drivers.into_iter().find(is_of_amd).expect("Mesa's driver for AMD: Debian's mesa-vulkan-drivers has it");
    for (family, has_cooperative) in FAMILIES {
        let mut inner = Command::new(std::env::current_exe().unwrap());
        inner.args(["--exact", "ops::compile::the_driver_at_hand_compiles_them", "--ignored", "--nocapture"]);
        inner.env("VK_DRIVER_FILES", &driver).env("VK_ICD_FILENAMES", &driver).env("MESA_SHADER_CACHE_DISABLE", "1");
        inner.env("RADV_FORCE_FAMILY", family).env("RADV_DEBUG", "shaderstats");
        let output = inner.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{family}: {said}");
        assert!(said.contains(&format!("RADV {family}")), "{family} was not assumed: {said}");
        let mut kernels = 0;
        for part in said.split(KERNEL).skip(1) {
            let name = part.lines().next().unwrap();
            let figure = |what: &str| {
                let value = part.lines().find_map(|line| line.strip_prefix(what));
                value.and_then(|value| value.parse::<u32>().ok()).unwrap_or_else(|| panic!("{family}: no {what}{part}"))
            };
            // Sums and rows of attention are in registers; what is not is in memory, and slower by an order.
            for what in ["Spilled VGPRs: ", "Scratch size: "] {
                assert_eq!(figure(what), 0, "{family}, {name}: {what}");
            }
            println!(
                "{family} {name}: {} registers, {} bytes of workgroup memory, {} subgroups at a time",
                figure("VGPRs: "),
                figure("LDS size: "),
                figure("Subgroups per SIMD: ")
            );
            kernels += 1;
        }
        assert!(kernels > 150, "{family}: {kernels} kernels");
        assert_eq!(said.contains("gemm_cooperative_16::"), has_cooperative, "{family}");
    }
}

/// By the first driver of Vulkan, whatever it is for.
#[test]
#[ignore = "for the test above"]
fn the_driver_at_hand_compiles_them() {
    let descriptor = hal::InstanceDescriptor {
        name: "retto",
        flags: wgpu::InstanceFlags::empty(),
        memory_budget_thresholds: Default::default(),
        backend_options: Default::default(),
        telemetry: None,
        display: None,
    };
    // SAFETY: nothing but Vulkan's loader is asked, and no surface is made.
    let instance = unsafe { <Vulkan as hal::Api>::Instance::init(&descriptor) }.unwrap();
    let exposed = unsafe { instance.enumerate_adapters(None) }.into_iter().next().expect("an adapter");
    eprintln!("{}", exposed.info.name);
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SHADER_INT64
        | wgpu::Features::IMMEDIATES
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    let features = exposed.features & wanted;
    let limits = &exposed.capabilities.limits;
    // SAFETY: the adapter has these features and limits.
    let device = unsafe { exposed.adapter.open(features, limits, &Default::default()) }.unwrap().device;
    let edges: Vec<u32> = exposed.capabilities.cooperative_matrix_properties.iter().map(|p| p.m_size).collect();

    for kernel in OTHERS {
        (0..kernel.variants.len()).for_each(|variant| compile(&device, kernel, variant));
    }
    for tiling in &TILINGS {
        match tiling.family {
            Family::Cooperative { edge } if !edges.contains(&edge) => continue,
            family if SOFTWARE.contains(&family) => continue,
            _ => {}
        }
        let variants = (tiling.first_variant..).zip(FORMS);
        for kernel in tiling.kernel.into_iter().chain(tiling.half) {
            variants.clone().for_each(|(variant, _)| compile(&device, kernel, variant));
        }
        for kernel in tiling.packed.into_iter().flatten() {
            let linear = variants.clone().filter(|(_, form)| form.is_linear());
            linear.for_each(|(variant, _)| compile(&device, kernel, variant));
        }
    }
}

fn compile(device: &<Vulkan as hal::Api>::Device, kernel: &Kernel, variant: usize) {
    let what = format!("{}::{} {:?}", kernel.file, kernel.entry, kernel.variants[variant]);
    eprintln!("{KERNEL}{what}");
    let module = naga::front::wgsl::parse_str(kernel.source).unwrap();
    let info = validator().validate(&module).unwrap();
    let constants = kernel.variants[variant].iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    // SAFETY: what is made is of this device, is used by nothing else, and goes in the opposite order. The shader is one of this crate's.
    unsafe {
        let group = hal::BindGroupLayoutDescriptor {
            label: None,
            flags: hal::BindGroupLayoutFlags::empty(),
            entries: &bindings(&module, &info, kernel.entry),
        };
        let group = device.create_bind_group_layout(&group).unwrap();
        let layout = hal::PipelineLayoutDescriptor {
            label: None,
            flags: hal::PipelineLayoutFlags::empty(),
            bind_group_layouts: &[Some(&group)],
            immediate_size: 64,
        };
        let layout = device.create_pipeline_layout(&layout).unwrap();
        let runtime_checks = wgpu::ShaderRuntimeChecks::unchecked();
        let input = hal::NagaShader { module: Cow::Owned(module), info, debug_source: None };
        let module = hal::ShaderModuleDescriptor { label: None, runtime_checks };
        let module = device.create_shader_module(&module, hal::ShaderInput::Naga(input)).unwrap();
        let pipeline = hal::ComputePipelineDescriptor {
            label: None,
            layout: &layout,
            stage: hal::ProgrammableStage {
                module: &module,
                entry_point: kernel.entry,
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        };
        let pipeline = device.create_compute_pipeline(&pipeline).unwrap_or_else(|error| panic!("{what}: {error}"));
        device.destroy_compute_pipeline(pipeline);
        device.destroy_shader_module(module);
        device.destroy_pipeline_layout(layout);
        device.destroy_bind_group_layout(group);
    }
}

/// The arrays that an entry point uses.
fn bindings(module: &naga::Module, info: &naga::valid::ModuleInfo, entry: &str) -> Vec<wgpu::BindGroupLayoutEntry> {
    let point = module.entry_points.iter().position(|point| point.name == entry).unwrap();
    let used = module.global_variables.iter().filter(|(handle, _)| !info.get_entry_point(point)[*handle].is_empty());
    let bound = used.filter_map(|(_, variable)| match (&variable.binding, variable.space) {
        (Some(binding), naga::AddressSpace::Storage { access }) => Some((binding.binding, access)),
        _ => None,
    });
    let mut entries: Vec<_> = bound
        .map(|(binding, access)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: !access.contains(naga::StorageAccess::STORE) },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    entries.sort_by_key(|entry| entry.binding);
    entries
}
