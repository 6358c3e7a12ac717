//! `retto init`

use std::path::{Path, PathBuf};

use retto::{BertConfig, Gpu, Model, Tokenizer, WordPieceOptions};

use crate::files::{carry_embedding, check_folder, check_no_run, check_whole_model, forget_run, write_whole};
use crate::{Result, display, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text to learn the vocabulary from: files or folders of all formats that `prepare` reads
    #[arg(long, required_unless_present = "tokenizer", conflicts_with = "tokenizer", num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    read: crate::data::ReadArgs,
    /// Where the model is written
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Take the tokenizer of this folder instead of learning one
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Entries of the vocabulary, at most [default: 30522, or the tokenizer's own]
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// Width of a token's vector
    #[arg(long, default_value_t = 768, value_name = "N")]
    hidden_size: usize,
    /// Layers
    #[arg(long, default_value_t = 12, value_name = "N")]
    num_hidden_layers: usize,
    /// Attention heads [default: one for every 64 of the hidden size, or the next fewer that divide it]
    #[arg(long, value_name = "N")]
    num_attention_heads: Option<usize>,
    /// Width of the feed-forward layers [default: four times the hidden size]
    #[arg(long, value_name = "N")]
    intermediate_size: Option<usize>,
    /// Longest sequence in tokens
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_position_embeddings: usize,
    /// Seed of the weights
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
}

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    let mut config = BertConfig::new(args.vocab_size.unwrap_or(30_522));
    config.hidden_size = args.hidden_size;
    config.num_hidden_layers = args.num_hidden_layers;
    config.num_attention_heads = args.num_attention_heads.unwrap_or_else(|| default_heads(args.hidden_size));
    config.intermediate_size = args.intermediate_size.unwrap_or(args.hidden_size.saturating_mul(4));
    config.max_position_embeddings = args.max_position_embeddings;
    // Before a vocabulary is learnt, which may take minutes.
    config.validate()?;
    check_folder(&args.output)?;
    check_whole_model(&args.output)?;
    check_no_run(&args.output)?;
    let tokenizer = match &args.tokenizer {
        Some(folder) => Tokenizer::open(Model::encoder_folder(folder)?)?,
        None => {
            let lines = crate::data::lines(&args.data, &args.read)?;
            output::note(format!("learning a vocabulary from {} lines of {}", lines.len(), display(&args.data)));
            let mut options = WordPieceOptions::default();
            options.vocab_size = args.vocab_size.unwrap_or(options.vocab_size);
            options.model_max_length = Some(args.max_position_embeddings);
            Tokenizer::train(&lines, &options)?
        }
    };
    // A vocabulary learnt from little text may be smaller than asked for; one that is given may be given room to grow.
    let asked = args.tokenizer.as_ref().and(args.vocab_size);
    config.vocab_size = asked.unwrap_or(tokenizer.vocab_size());
    config.pad_token_id = tokenizer.pad_token_id();
    let model = Model::init(gpu, config, tokenizer, args.seed)?;
    model.save(&args.output)?;
    if args.tokenizer.is_some() {
        set_longest(&args.output, args.max_position_embeddings)?;
    }
    forget_run(&args.output)?;
    carry_embedding(None, model.config(), &args.output)?;
    output::line(format!(
        "{}: {} parameters, a vocabulary of {}",
        args.output.display(),
        model.num_parameters(),
        model.tokenizer().vocab_size()
    ))
}

/// A tokenizer that was made for another model says how long that one's texts may be, which is what embedding, and transformers, go by.
fn set_longest(folder: &Path, longest: usize) -> Result<()> {
    let path = folder.join("tokenizer_config.json");
    let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
    let mut config: serde_json::Value = serde_json::from_slice(&bytes)?;
    if let Some(config) = config.as_object_mut().filter(|config| config.contains_key("model_max_length")) {
        config.insert("model_max_length".into(), longest.into());
    }
    write_whole(&path, format!("{config:#}\n").as_bytes())
}

/// One head for every 64, or the next smaller number of them that divides the hidden size.
fn default_heads(hidden_size: usize) -> usize {
    (1..=hidden_size.min(1 << 20) / 64).rev().find(|heads| hidden_size.is_multiple_of(*heads)).unwrap_or(1)
}
