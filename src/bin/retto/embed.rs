//! `retto embed`

use std::path::{Path, PathBuf};

use retto::{Dtype, EmbedOptions, Embeddings, Gpu, Pooling};

use crate::data::{self, UnitArgs};
use crate::files::{check_writable, write_whole};
use crate::{Result, open_model_with_dtype, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Texts; lines of one are joined by the separator token
    #[arg(required_unless_present = "data", conflicts_with = "data", value_name = "TEXT")]
    texts: Vec<String>,
    /// Texts from files or folders of all formats that `prepare` reads, or a token cache: a vector for each --unit, in
    /// their order; headings and files of other kinds have none, and --strict refuses what else would be left out, or cut
    #[arg(long, num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    unit: UnitArgs,
    /// The model's folder, in the layout of sentence-transformers or any other [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// A low-rank adapter of PEFT's format to add to it
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What its weights are kept in: float16 and int8 take half and a quarter of the GPU's memory, for nearly the same answers
    #[arg(long, default_value_t, value_name = "TYPE")]
    dtype: Dtype,
    #[command(flatten)]
    vectors: VectorArgs,
    /// Longest text in tokens; longer ones are cut [default: as the model's folder says, or its longest]
    #[arg(long, value_name = "N")]
    max_seq_length: Option<usize>,
    /// Print JSON: a list of vectors
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Write one safetensors file with the tensor `embeddings`, [texts, dimension]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum PoolingName {
    /// Their mean
    Mean,
    /// That of [CLS]
    Cls,
    /// The largest value of each column
    Max,
}

/// How texts become vectors.
#[derive(clap::Args)]
pub(crate) struct VectorArgs {
    /// How the vectors of tokens become one [default: as the model's folder says, or mean]
    #[arg(long, value_enum, value_name = "KIND")]
    pooling: Option<PoolingName>,
    /// Whether vectors are scaled to length 1 [default: as the model's folder says, or not]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    normalize: Option<bool>,
}

impl VectorArgs {
    /// What the model's folder says, but for what is asked for.
    pub(crate) fn options(&self, model: Option<&Path>) -> Result<EmbedOptions> {
        let mut options = model.map(EmbedOptions::open).transpose()?.unwrap_or_default();
        match self.pooling {
            Some(PoolingName::Mean) => options.pooling = Pooling::Mean,
            Some(PoolingName::Cls) => options.pooling = Pooling::Cls,
            Some(PoolingName::Max) => options.pooling = Pooling::Max,
            None => {}
        }
        options.normalize = self.normalize.unwrap_or(options.normalize);
        Ok(options)
    }
}

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    if let Some(path) = &args.output {
        check_writable(path)?;
    }
    let model = open_model_with_dtype(gpu, args.model.as_deref(), args.adapter.as_deref(), args.dtype)?;
    let mut options = args.vectors.options(args.model.as_deref())?;
    options.strict = args.unit.read.strict;
    let longest = model.config().max_position_embeddings;
    options.max_seq_length = args.max_seq_length.or(options.max_seq_length);
    if options.do_lower_case && !args.data.is_empty() {
        return Err("this model wants its texts in lower case, which --data does not do: give them as TEXT".into());
    }
    if args.data.is_empty() {
        let embeddings = output::counting("texts", |observe| model.embed_with(&args.texts, &options, observe))?;
        note_cut(&embeddings, 0);
        show(&embeddings, args, |index| Ok(args.texts[index].clone()))
    } else {
        // Checked against the model below, in the words of that option.
        let length = options.max_seq_length.unwrap_or(longest).min(longest);
        let (data, _) = data::load(model.tokenizer(), &args.data, &args.unit.options(length, 0.0, 0))?;
        if data.longest() > length {
            let tokens = data.longest();
            let reason =
                format!("an example of {tokens} tokens, but {length} are read: prepare with --max-seq-length {length}");
            return Err(reason.into());
        }
        let unknown = data.metadata().get("unknown").map_or("0", String::as_str);
        if unknown != "0" {
            let reason =
                format!("{unknown} lines hold nothing that the vocabulary knows, and have no vector of their own");
            match options.strict {
                true => return Err(reason.into()),
                // Of text that was read now it was told.
                false if data::is_cache(&args.data[0]) => output::note(format!("note: {reason}")),
                false => {}
            }
        }
        let embeddings = output::counting("texts", |observe| model.embed_dataset_with(&data, &options, observe))?;
        note_cut(&embeddings, data.truncated());
        // A section that takes several examples has the vector of the first.
        let sections = data.sections();
        let example = |index: usize| sections.as_ref().map_or(index, |sections| sections[index].start);
        show(&embeddings, args, |index| Ok(model.tokenizer().decode(data.get(example(index)), true)?))
    }
}

/// Notes what was cut and has not been told yet.
fn note_cut(embeddings: &Embeddings, told: usize) {
    if embeddings.truncated() > told {
        output::note(format!("note: {} texts were too long and were cut", embeddings.truncated() - told));
    }
}

/// The vectors where they are wanted; on a terminal their beginnings, each with its text.
fn show(embeddings: &Embeddings, args: &Args, text: impl Fn(usize) -> Result<String>) -> Result<()> {
    if let Some(path) = &args.output {
        write_whole(path, &embeddings.to_safetensors()?)?;
        return output::line(format!("{}: {} x {}", path.display(), embeddings.len(), embeddings.dimension()));
    }
    if args.json {
        return output::json(&embeddings.iter().collect::<Vec<_>>());
    }
    // For a look; all numbers are in JSON and in files.
    const SHOWN: usize = 6;
    for (index, vector) in embeddings.iter().enumerate() {
        let first = vector.iter().take(SHOWN).map(|x| format!("{x:>8.4}")).collect::<String>();
        let more = if vector.len() > SHOWN { " ..." } else { "" };
        output::line(format!("{first}{more}  {}", text(index)?.replace('\n', " / ")))?;
    }
    Ok(())
}
