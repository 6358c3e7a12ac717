//! The `retto` command: the library's functions with their results printed. Results go to stdout, progress to stderr.
#![deny(unsafe_code)]

mod adapt;
mod compare;
mod curve;
mod data;
mod devices;
mod downstream;
mod downstream_report;
mod embed;
mod eval;
mod files;
mod fill;
mod finetune;
mod init;
mod merge;
mod output;
mod page;
mod prepare;
mod progress;
mod provenance;
mod ranks;
mod report;
mod training;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use ranks::Ranks;
use retto::{Adapter, Dtype, Gpu, GpuOptions, Model};

/// Fill blanks with BERT, and adapt it to the words of one domain, on any GPU.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    /// The adapter: its index or part of its name, as `retto devices` lists them [default: the most capable]
    #[arg(long, global = true, env = "RETTO_DEVICE", value_name = "INDEX|NAME")]
    device: Option<String>,
    /// Where compiled shaders are kept, and which kernels are the fastest here; nowhere, if set to nothing
    /// [default: retto in the user's cache folder]
    #[arg(long, global = true, env = "RETTO_CACHE_DIR", value_name = "DIR", hide_env_values = true)]
    cache_dir: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the adapters of this machine
    Devices(devices::Args),
    /// Answer the blanks in texts
    Fill(fill::Args),
    /// Turn texts into vectors
    Embed(embed::Args),
    /// Make a new model: a vocabulary and random weights, ready for `adapt`
    Init(init::Args),
    /// Read songs into token caches, which `adapt` and `eval` take
    Prepare(prepare::Args),
    /// Train a model on songs
    Adapt(Box<adapt::Args>),
    /// Train a model's embeddings: texts that belong together near each other, others apart
    Finetune(Box<finetune::Args>),
    /// Add a low-rank adapter to a model's weights, and write the model
    Merge(merge::Args),
    /// Show two models' answers side by side
    Compare(compare::Args),
    /// Train the same task from two models, and compare what comes of it
    Downstream(Box<downstream::Args>),
    /// Measure how well held-out lines are filled
    Eval(eval::Args),
}

/// Every failure of the library, and of printing.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Options of commands that take texts or files, and say how files are read: they have no meaning for texts, which the structs that other
/// commands share cannot say.
const OF_FILES: [&str; 3] = ["unit", "text_field", "dedup"];

/// Of `compare`, also how strict that is, and the blanks that it draws.
const OF_BLANKS: [&str; 7] = ["strict", "mlm_probability", "max_blanks", "showcases", "seed", "html", "downstream"];

fn cli() -> clap::Command {
    let without_texts = |command: clap::Command, names: &[&str]| {
        command.mut_args(|arg| if names.contains(&arg.get_id().as_str()) { arg.conflicts_with("texts") } else { arg })
    };
    Cli::command()
        .mut_subcommand("embed", |embed| without_texts(embed, &OF_FILES))
        .mut_subcommand("compare", |compare| without_texts(compare, &[&OF_FILES[..], &OF_BLANKS].concat()))
}

fn main() -> ExitCode {
    let parsed = Cli::from_arg_matches(&cli().get_matches());
    let Cli { device, cache_dir, command } = parsed.unwrap_or_else(|error| error.exit());
    // A variable set to nothing is how shells unset one.
    let device = device.filter(|device| !device.is_empty());
    let gpu = || open_gpu(device.clone(), cache_dir.clone());
    let result = match command {
        Command::Devices(args) => devices::run(&args),
        Command::Prepare(args) => prepare::run(&args),
        Command::Fill(args) => gpu().and_then(|gpu| fill::run(&gpu, &args)),
        Command::Embed(args) => gpu().and_then(|gpu| embed::run(&gpu, &args)),
        Command::Init(args) => gpu().and_then(|gpu| init::run(&gpu, &args)),
        Command::Adapt(args) => {
            let devices = &args.training.devices;
            on_ranks(devices, device, cache_dir, |gpu, others, ranks| adapt::run(gpu, others, ranks, &args))
        }
        Command::Finetune(args) => {
            let devices = &args.training.devices;
            on_ranks(devices, device, cache_dir, |gpu, others, ranks| finetune::run(gpu, others, ranks, &args))
        }
        Command::Merge(args) => gpu().and_then(|gpu| merge::run(&gpu, &args)),
        Command::Compare(args) => gpu().and_then(|gpu| compare::run(&gpu, &args)),
        Command::Downstream(args) => gpu().and_then(|gpu| downstream::run(&gpu, &args)),
        Command::Eval(args) => gpu().and_then(|gpu| eval::run(&gpu, &args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(format!("error: {}", output::one_line(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn open_gpu(name: Option<String>, cache_dir: Option<OsString>) -> Result<Gpu> {
    let cache_dir = match cache_dir {
        Some(folder) => Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty()),
        // A home that cannot be written is no reason to stop.
        None => dirs::cache_dir().map(|caches| caches.join("retto")).filter(|own| std::fs::create_dir_all(own).is_ok()),
    };
    Ok(Gpu::open_with(&GpuOptions { name, cache_dir, ..GpuOptions::default() })?)
}

/// Trains on the devices of this process, and with those of the others that MPI has started.
fn on_ranks(
    devices: &[String],
    device: Option<String>,
    cache_dir: Option<OsString>,
    train: impl FnOnce(&Gpu, &[Gpu], &Ranks) -> Result<()>,
) -> Result<()> {
    let ranks = Ranks::join()?;
    let opened = open_gpus(devices, device, cache_dir, &ranks);
    ranks.outcome(opened.and_then(|(gpu, others)| train(&gpu, &others, &ranks)))
}

/// The devices that train together, of which the first is the model's; without a list the one of --device.
fn open_gpus(
    devices: &[String],
    device: Option<String>,
    cache_dir: Option<OsString>,
    ranks: &Ranks,
) -> Result<(Gpu, Vec<Gpu>)> {
    let all = match devices {
        [all] if all.eq_ignore_ascii_case("all") => alike(&Gpu::adapters()),
        [] if ranks.are_several() && device.is_none() => alike(&Gpu::adapters()),
        named => named.to_vec(),
    };
    let mut gpus =
        ranks.own(all).into_iter().map(|name| open_gpu(Some(name), cache_dir.clone())).collect::<Result<Vec<_>>>()?;
    if gpus.is_empty() {
        gpus.push(open_gpu(device, cache_dir)?);
    }
    let others = gpus.split_off(1);
    Ok((gpus.swap_remove(0), others))
}

/// Of all adapters those of the best kind, by one backend: the same GPU may be listed by several.
fn alike(adapters: &[Adapter]) -> Vec<String> {
    let kinds = ["discrete", "integrated", "virtual", "other", "cpu"];
    let kind = |adapter: &&Adapter| kinds.iter().position(|kind| *kind == adapter.device_type);
    let Some(best) = adapters.iter().min_by_key(kind) else { return Vec::new() };
    let alike = |a: &&Adapter| a.device_type == best.device_type && a.backend == best.backend;
    adapters.iter().filter(alike).map(|adapter| adapter.index.to_string()).collect()
}

/// The model in a folder, or the bundled one, with an adapter added where one is named.
fn open_model(gpu: &Gpu, folder: Option<&Path>, adapter: Option<&Path>) -> Result<Model> {
    open_model_with_dtype(gpu, folder, adapter, Dtype::Float32)
}

/// The same for queries, with weights of this type.
fn open_model_with_dtype(gpu: &Gpu, folder: Option<&Path>, adapter: Option<&Path>, dtype: Dtype) -> Result<Model> {
    let model = match folder {
        Some(folder) if is_only_adapter(folder) => {
            let folder = folder.display();
            return Err(format!(
                "{folder} is a low-rank adapter: name it with --adapter beside the model it is for, or merge the two before"
            )
            .into());
        }
        // An adapter is added to weights in f32.
        Some(folder) if adapter.is_none() => return Ok(Model::open_with_dtype(gpu, folder, dtype)?),
        Some(folder) => Model::open(gpu, folder)?,
        #[cfg(feature = "default-model")]
        None => Model::open_default(gpu)?,
        #[cfg(not(feature = "default-model"))]
        None => return Err("this build has no model of its own: name one with --model DIR".into()),
    };
    let model = match adapter {
        Some(adapter) => model.with_adapter(adapter)?,
        None => model,
    };
    Ok(if dtype == Dtype::Float32 { model } else { model.to_dtype(dtype)? })
}

/// What a base model was adapted to: a whole model, or a low-rank adapter of that one.
fn open_adapted(base: &Model, folder: &Path) -> Result<Model> {
    Ok(if is_only_adapter(folder) { base.with_adapter(folder)? } else { Model::open(base.gpu(), folder)? })
}

/// Whether a folder holds an adapter, and no model that it might be meant for.
fn is_only_adapter(folder: &Path) -> bool {
    !folder.join("config.json").exists() && Model::is_adapter(folder)
}

/// The options of a training run, beside the model it made.
const TRAINING_ARGUMENTS_FILE: &str = "training_args.json";

/// Paths as they are shown.
fn display(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
