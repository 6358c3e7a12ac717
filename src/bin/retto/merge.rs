//! `retto merge`

use std::path::PathBuf;

use retto::Gpu;

use crate::files::{carry_embedding, check_no_run, check_whole_model, forget_run, whole, write_whole};
use crate::{Result, TRAINING_ARGUMENTS_FILE, open_model, output, provenance};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model that the adapter was trained on [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The adapter: adapter_config.json and adapter_model.safetensors
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Where the merged model is written
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    check_whole_model(&args.output)?;
    check_no_run(&args.output)?;
    let model = open_model(gpu, args.model.as_deref(), Some(&args.adapter))?;
    model.save(&args.output)?;
    forget_run(&args.output)?;
    // It was trained on what the adapter was.
    if let Some(mut options) = provenance::training_arguments(&args.adapter) {
        options["model"] = args.model.as_deref().map_or("retto-tiny".into(), whole).into();
        write_whole(&args.output.join(TRAINING_ARGUMENTS_FILE), format!("{options:#}\n").as_bytes())?;
    }
    carry_embedding(args.model.as_deref(), model.config(), &args.output)?;
    output::line(format!("{}: {} merged in", args.output.display(), args.adapter.display()))
}
