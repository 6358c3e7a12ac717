//! `retto eval`

use std::path::PathBuf;

use retto::{EvaluationOptions, Gpu};

use crate::{Result, open_model, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's folder [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Held-out text files, or folders of .txt files
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Share of the tokens that is masked
    #[arg(long, default_value_t = 0.15, value_name = "P")]
    mlm_probability: f64,
    /// Lines evaluated at a time
    #[arg(long, default_value_t = 32, value_name = "N")]
    per_device_eval_batch_size: usize,
    /// Longest line in tokens; longer ones are cut [default: the model's longest]
    #[arg(long, value_name = "N")]
    max_seq_length: Option<usize>,
    /// Seed of the masks
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    let lines = retto::read_lines(&args.data)?;
    let model = open_model(gpu, args.model.as_deref())?;
    let options = EvaluationOptions {
        mlm_probability: args.mlm_probability,
        per_device_eval_batch_size: args.per_device_eval_batch_size,
        max_seq_length: args.max_seq_length,
        seed: args.seed,
    };
    let evaluation = model.evaluate(&lines, &options)?;
    if args.json {
        return output::json(&evaluation);
    }
    output::line(format!("loss            {:.4}", evaluation.loss))?;
    output::line(format!("perplexity      {:.2}", evaluation.perplexity))?;
    output::line(format!("top1_accuracy   {:.4}", evaluation.top1_accuracy))?;
    output::line(format!("top10_accuracy  {:.4}", evaluation.top10_accuracy))?;
    output::line(format!("masked_tokens   {}", evaluation.masked_tokens))
}
