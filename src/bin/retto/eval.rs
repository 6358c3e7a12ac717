//! `retto eval`

use std::path::PathBuf;

use retto::{Dtype, EvaluationOptions, Gpu};

use crate::data::{self, MaskArgs, UnitArgs};
use crate::provenance::{self, Judged, corpus};
use crate::{Result, open_model_with_dtype, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's folder [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// A low-rank adapter of PEFT's format to add to it
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What its weights are kept in: float16 and int8 take half and a quarter of the GPU's memory, for nearly the same answers
    #[arg(long, default_value_t, value_name = "TYPE")]
    dtype: Dtype,
    /// Held-out text: files or folders of all formats that `prepare` reads, or a token cache
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    unit: UnitArgs,
    #[command(flatten)]
    mask: MaskArgs,
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
    let model = open_model_with_dtype(gpu, args.model.as_deref(), args.adapter.as_deref(), args.dtype)?;
    let longest = model.config().max_position_embeddings;
    // Checked against the model below, in the words of that option.
    let length = args.max_seq_length.unwrap_or(longest).min(longest);
    let (data, _) = data::load(model.tokenizer(), &args.data, &args.unit.options(length, 0.0, args.seed))?;
    for trained in args.model.iter().chain(&args.adapter) {
        provenance::check(trained, Judged { paths: &args.data, split: None, corpus: corpus(&data) });
    }
    let options = EvaluationOptions {
        mlm_probability: args.mask.mlm_probability,
        mask_replace_prob: args.mask.mask_replace_prob,
        random_replace_prob: args.mask.random_replace_prob,
        whole_word_mask: args.mask.whole_word_mask,
        static_mask: args.mask.static_mask,
        per_device_eval_batch_size: args.per_device_eval_batch_size,
        max_seq_length: args.max_seq_length,
        seed: args.seed,
    };
    let evaluation = output::counting("batches", |observe| model.evaluate_dataset_with(&data, &options, observe))?;
    if args.json {
        return output::json(&evaluation);
    }
    output::line(format!("loss            {:.4}", evaluation.loss))?;
    output::line(format!("perplexity      {:.2}", evaluation.perplexity))?;
    output::line(format!("top1_accuracy   {:.4}", evaluation.top1_accuracy))?;
    output::line(format!("top10_accuracy  {:.4}", evaluation.top10_accuracy))?;
    output::line(format!("masked_tokens   {}", evaluation.masked_tokens))
}
