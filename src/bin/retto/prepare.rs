//! `retto prepare`

use std::path::PathBuf;

use retto::{StaticMask, Tokenizer};

use crate::data::{self, UnitArgs};
use crate::{Result, display, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Songs: files or folders of .txt, .lrc, ChordPro, .jsonl, .csv or .tsv, each plain, .gz or .zst
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Where train.safetensors, and validation.safetensors if songs are held out, are written
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// The model whose tokenizer is used [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    unit: UnitArgs,
    /// Longest example in tokens, special tokens included [default: the model's longest]
    #[arg(long, value_name = "N")]
    max_seq_length: Option<usize>,
    /// Share of the songs that is held out
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    validation_split: f64,
    /// Store a second version of each example, masked once
    #[arg(long)]
    static_mask: bool,
    /// Share of the tokens that is masked there
    #[arg(long, default_value_t = 0.15, value_name = "P", requires = "static_mask")]
    mlm_probability: f64,
    /// Of the masked tokens, how many become the mask token
    #[arg(long, default_value_t = 0.8, value_name = "P", requires = "static_mask")]
    mask_replace_prob: f64,
    /// Of the masked tokens, how many become a random one; the rest stay
    #[arg(long, default_value_t = 0.1, value_name = "P", requires = "static_mask")]
    random_replace_prob: f64,
    /// Mask whole words
    #[arg(long, requires = "static_mask")]
    whole_word_mask: bool,
    /// Seed of the split and of the masks
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (tokenizer, longest) = tokenizer(args.model.as_deref())?;
    let length = args.max_seq_length.unwrap_or(longest);
    if length > longest {
        return Err(format!("--max-seq-length is {length}, but the model reads {longest} tokens at most").into());
    }
    let mut options = args.unit.options(length, args.validation_split, args.seed);
    options.static_mask = args.static_mask.then_some(StaticMask {
        mlm_probability: args.mlm_probability,
        mask_replace_prob: args.mask_replace_prob,
        random_replace_prob: args.random_replace_prob,
        whole_word_mask: args.whole_word_mask,
    });
    let (train, validation) = (args.output.join("train.safetensors"), args.output.join("validation.safetensors"));
    let split = args.validation_split > 0.0;
    if !split && validation.exists() {
        let reason = "is of an earlier split, and the songs in it would be in the new train.safetensors too: remove it, or give \
                      --validation-split";
        return Err(format!("{} {reason}", validation.display()).into());
    }
    let prepared = data::prepare(&tokenizer, &args.data, &train, split.then_some(&validation), &options)?;
    data::note_left_out(&prepared);
    if args.json {
        return output::json(&prepared);
    }
    let caches = [(&train, &prepared.train), (&validation, &prepared.validation)];
    for (path, counts) in &caches[..if split { 2 } else { 1 }] {
        output::line(format!(
            "{}: {} songs, {} sections, {} examples, {} tokens",
            path.display(),
            counts.songs,
            counts.sections,
            counts.examples,
            counts.tokens
        ))?;
        if counts.truncated > 0 {
            output::note(format!("note: {} lines were longer than {length} tokens and were cut", counts.truncated));
        }
    }
    let left_out =
        if prepared.duplicates > 0 { format!(", {} duplicates left out", prepared.duplicates) } else { String::new() };
    output::note(format!("{} files of {}{left_out}", prepared.files, display(&args.data)));
    Ok(())
}

/// The tokenizer of a model, and its longest sequence: no GPU is needed.
fn tokenizer(folder: Option<&std::path::Path>) -> Result<(Tokenizer, usize)> {
    if let Some(folder) = folder {
        let folder = retto::Model::encoder_folder(folder)?;
        return Ok((Tokenizer::open(&folder)?, retto::BertConfig::open(&folder)?.max_position_embeddings));
    }
    #[cfg(feature = "default-model")]
    return Ok((Tokenizer::open_default()?, retto::BertConfig::open_default()?.max_position_embeddings));
    #[cfg(not(feature = "default-model"))]
    return Err("this build has no model of its own: name one with --model DIR".into());
}
