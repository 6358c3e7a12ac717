//! Every shader, in every override combination in use, also reads as MSL and HLSL and fits WebGPU's default limits.
//! So what passes on Vulkan at least is accepted by wgpu for Metal and DX12. `make test-dx12` has Microsoft's compiler read it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use naga::back::{hlsl, msl, pipeline_constants::process_overrides};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

use crate::gpu::{Kernel, Style};

/// Every kernel of the crate but the GEMMs.
pub(super) const OTHERS: &[&Kernel] = &[
    &crate::gpu::SEAL,
    &super::activation::FORWARD,
    &super::activation::BACKWARD,
    #[cfg(feature = "bench")]
    &super::ceiling::CEILING,
    &super::adamw::SUM_OF_SQUARES,
    &super::adamw::CLIP,
    &super::adamw::ADAMW,
    &super::adamw::ADAMW_FOURS,
    &super::attention::ANY.forward,
    &super::attention::ANY.backward_query,
    &super::attention::ANY.backward_key,
    &super::attention::OF_EIGHTS.forward,
    &super::attention::OF_EIGHTS.backward_query,
    &super::attention::OF_EIGHTS.backward_key,
    &super::column_sum::COLUMN_SUM,
    &super::cross_entropy::CROSS_ENTROPY,
    &super::dropout::APPLY,
    &super::embedding::FORWARD,
    &super::embedding::FORWARD_NORMALIZED,
    &super::embedding::SUM_ROWS,
    &super::fingerprint::FINGERPRINT,
    &super::half::TO_HALF,
    &super::layer_norm::FORWARD,
    &super::layer_norm::BACKWARD,
    &super::layer_norm::BACKWARD_DROPOUT,
    &super::layer_norm::BACKWARD_PARAMETERS,
    &super::pack::PACK,
    &super::pool::POOL,
    &super::pool::POOL_BACKWARD,
    &super::pool::NORMALIZE,
    &super::pool::NORMALIZE_BACKWARD,
    &super::rows::GATHER,
    &super::rows::GATHER_TWO,
    &super::rows::SCATTER,
    &super::scale::SCALE,
    &super::top_k::TOP_K,
    &super::triplet::CHOOSE,
    &super::triplet::LOSS,
    &super::triplet::GRADIENT,
];

fn kernels() -> impl Iterator<Item = &'static Kernel> {
    OTHERS.iter().chain(&super::gemm_kernels::KERNELS).copied()
}

/// What wgpu checks a kernel by, where the adapter has all that Retto asks for.
pub(super) fn validator() -> Validator {
    validator_without(Capabilities::empty())
}

fn validator_without(missing: Capabilities) -> Validator {
    let all = Capabilities::IMMEDIATES
        | Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::SHADER_INT64
        | Capabilities::COOPERATIVE_MATRIX;
    let mut validator = Validator::new(ValidationFlags::all(), all - missing);
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    validator
}

fn translate(kernel: &Kernel, constants: &[(&'static str, f64)]) {
    let has_f16 = kernel.source.contains("enable f16");
    for in_words in [false, true] {
        let style = Style { narrow: false, in_words, in_integers: false };
        if !in_words || kernel.in_words.is_some() {
            translate_source(kernel, &kernel.source(style), constants);
            if !has_f16 {
                // Some software adapters know nothing of f16.
                let source = kernel.source(Style { in_integers: true, ..style });
                let module = naga::front::wgsl::parse_str(&source).unwrap();
                let missing = Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
                validator_without(missing).validate(&module).unwrap_or_else(|e| panic!("{}: {e:?}", kernel.file));
            }
        }
    }
}

fn translate_source(kernel: &Kernel, source: &str, constants: &[(&'static str, f64)]) {
    let what = format!("{}::{} {constants:?}", kernel.file, kernel.entry);
    let module = naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{what}: {e}"));
    let info = validator().validate(&module).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let values = constants.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let stage = naga::ShaderStage::Compute;
    let (module, info) = process_overrides(&module, &info, Some((stage, kernel.entry)), &values)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    limits(&what, &module, &info, kernel.entry);

    let bind = |shader: &naga::Module| -> Vec<naga::ResourceBinding> {
        shader.global_variables.iter().filter_map(|(_, variable)| variable.binding).collect()
    };
    let mut resources = msl::EntryPointResources { immediates_buffer: Some(30), ..Default::default() };
    resources.sizes_buffer = Some(29);
    for binding in bind(&module) {
        let target = msl::BindTarget { buffer: Some(binding.binding as u8), mutable: true, ..Default::default() };
        resources.resources.insert(binding, target);
    }
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [(kernel.entry.to_owned(), resources)].into(),
        fake_missing_bindings: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions { entry_point: Some((stage, kernel.entry.into())), ..Default::default() };
    let (source, translated) =
        msl::write_string(&module, &info, &options, &pipeline).unwrap_or_else(|e| panic!("{what}: MSL: {e}"));
    assert!(source.contains("kernel void") && translated.entry_point_names.iter().all(Result::is_ok), "{what}");

    if kernel.source.contains("enable wgpu_cooperative_matrix") {
        // DX12 has none, and wgpu offers none there.
        return;
    }
    // As wgpu has it, of shaders that are not checked.
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        force_loop_bounding: false,
        immediates_target: Some(hlsl::BindTarget { space: 1, ..Default::default() }),
        special_constants_binding: Some(hlsl::BindTarget { space: 2, ..Default::default() }),
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((stage, kernel.entry.into())) };
    let mut source = String::new();
    let written = hlsl::Writer::new(&mut source, &options, &pipeline)
        .write(&module, &info, None)
        .unwrap_or_else(|e| panic!("{what}: HLSL: {e}"));
    assert!(source.contains("numthreads"), "{what}");
    // For Microsoft's compiler: tests/compilers/dxc.py.
    if let Some(folder) = std::env::var_os("RETTO_HLSL_FOLDER") {
        static WRITTEN: AtomicUsize = AtomicUsize::new(0);
        // What is a word of HLSL's has got another name.
        let entry = written.entry_point_names[0].as_ref().unwrap();
        let file = format!("{:04}.hlsl", WRITTEN.fetch_add(1, Ordering::Relaxed));
        std::fs::write(Path::new(&folder).join(file), format!("// {entry} {what}\n{source}")).unwrap();
    }
}

/// WebGPU's defaults, which every adapter has: 8 storage buffers a stage, 16 KiB of workgroup memory, 256 invocations.
fn limits(what: &str, module: &naga::Module, info: &naga::valid::ModuleInfo, entry: &str) {
    let index = module.entry_points.iter().position(|point| point.name == entry).unwrap();
    let used = |handle: naga::Handle<naga::GlobalVariable>| !info.get_entry_point(index)[handle].is_empty();
    let (mut storage, mut workgroup) = (0, 0);
    for (handle, variable) in module.global_variables.iter().filter(|(handle, _)| used(*handle)) {
        match variable.space {
            naga::AddressSpace::Storage { .. } => storage += 1,
            naga::AddressSpace::WorkGroup => workgroup += module.types[variable.ty].inner.size(module.to_ctx()),
            naga::AddressSpace::Immediate => {
                assert!(module.types[variable.ty].inner.size(module.to_ctx()) <= 64, "{what}: {handle:?}");
            }
            _ => {}
        }
    }
    let invocations: u32 = module.entry_points[index].workgroup_size.iter().product();
    assert!(storage <= 8, "{what}: {storage} storage buffers");
    assert!(workgroup <= 16_384, "{what}: {workgroup} bytes of workgroup memory");
    assert!(invocations <= 256, "{what}: {invocations} invocations");
}

#[test]
fn every_variant_translates_to_metal_and_dx12_within_default_limits() {
    for kernel in kernels() {
        for constants in kernel.variants {
            translate(kernel, constants);
            if let Some(narrowed) = kernel.narrowed() {
                translate(kernel, &[*constants, &[narrowed]].concat());
            }
        }
    }
}

/// The list above is complete: it names every `@compute` entry point of every shader file.
#[test]
fn every_entry_point_is_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
    let mut missing = Vec::new();
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
        // By its text: some files are parts of others.
        let source = std::fs::read_to_string(&file).unwrap();
        for point in source.split("@compute").skip(1) {
            let name = point.split_once("fn ").unwrap().1.split('(').next().unwrap();
            // Measured with, not computed with: known to builds for the benchmark.
            if stem == "ceiling" && cfg!(not(feature = "bench")) {
                continue;
            }
            if !kernels().any(|kernel| kernel.source.contains(&source) && kernel.entry == name) {
                missing.push(format!("{stem}::{name}"));
            }
        }
    }
    assert!(missing.is_empty(), "not listed: {missing:?}");
}
