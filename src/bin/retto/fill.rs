//! `retto fill`

use std::path::PathBuf;

use retto::{Dtype, Fill, Gpu};

use crate::{Result, open_model_with_dtype, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Texts with [MASK] where a word is wanted; put -- before one that begins with a dash
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    /// The model's folder [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// A low-rank adapter of PEFT's format to add to it
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What its weights are kept in: float16 and int8 take half and a quarter of the GPU's memory, for nearly the same answers
    #[arg(long, default_value_t, value_name = "TYPE")]
    dtype: Dtype,
    /// Answers for each mask
    #[arg(long, default_value_t = 10, value_name = "N")]
    top_k: usize,
    /// Print JSON, as transformers' fill-mask pipeline returns it
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    let model = open_model_with_dtype(gpu, args.model.as_deref(), args.adapter.as_deref(), args.dtype)?;
    let answers = model.fill_mask_batch(&args.texts, args.top_k)?;
    if args.json {
        return output::json(&shape_like_the_pipeline(&answers)?);
    }
    for (text, masks) in args.texts.iter().zip(&answers) {
        for (index, fills) in masks.iter().enumerate() {
            let which = if masks.len() > 1 { format!("  (mask {})", index + 1) } else { String::new() };
            output::line(format!("{text}{which}"))?;
            for fill in fills {
                output::line(format!("  {:>7.4}  {}", fill.score, fill.token_str))?;
            }
        }
    }
    Ok(())
}

/// The pipeline drops the levels that hold one thing: a list of answers for one text with one mask; one list a mask for
/// several masks, one list a text for several texts.
fn shape_like_the_pipeline(answers: &[Vec<Vec<Fill>>]) -> Result<serde_json::Value> {
    let texts = answers.iter().map(|masks| match masks.as_slice() {
        [fills] => serde_json::to_value(fills),
        masks => serde_json::to_value(masks),
    });
    let mut texts = texts.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(if texts.len() == 1 { texts.remove(0) } else { texts.into() })
}
