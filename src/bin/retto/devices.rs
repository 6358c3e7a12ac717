//! `retto devices`

use retto::{Adapter, Error, Gpu};

use crate::{Result, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let adapters = Gpu::adapters();
    if args.json {
        return output::json(&adapters);
    }
    if adapters.is_empty() {
        return Err(Error::NoAdapter.into());
    }
    for adapter in adapters {
        print(&adapter)?;
    }
    Ok(())
}

fn print(adapter: &Adapter) -> Result<()> {
    let Adapter { index, name, device_type, backend, driver, .. } = adapter;
    let mib = |bytes: u64| bytes >> 20;
    output::line(format!("{index}: {name}"))?;
    output::line(format!("   {device_type}, {backend}, {driver}"))?;
    output::line(format!(
        "   largest binding {} MiB, largest buffer {} MiB, workgroup {} threads and {} KiB",
        mib(adapter.max_storage_buffer_binding_size),
        mib(adapter.max_buffer_size),
        adapter.max_compute_invocations_per_workgroup,
        adapter.max_compute_workgroup_storage_size >> 10,
    ))?;
    if let Some(bytes) = adapter.memory_bytes {
        output::line(format!("   memory {} MiB", mib(bytes)))?;
    }
    let mut features = Vec::new();
    if adapter.subgroup {
        features.push(format!("subgroups of {} to {}", adapter.subgroup_min_size, adapter.subgroup_max_size));
    }
    if adapter.shader_f16 {
        features.push("f16".to_owned());
    }
    if adapter.cooperative_matrix {
        features.push("cooperative matrices".to_owned());
    }
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    output::line(format!("   features: {features}"))
}
