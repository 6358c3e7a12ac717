//! `retto adapt`

use std::path::{Path, PathBuf};

use retto::{EmbedOptions, Gpu, LoraConfig, TrainingArguments};

use crate::data::{self, MaskArgs, UnitArgs};
use crate::files::{carry_embedding, check_whole_model, save_trained};
use crate::progress::{announce, devices_of_run};
use crate::ranks::Ranks;
use crate::training::TrainArgs;
use crate::{Result, open_model, output, provenance};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Training text: files or folders of all formats that `prepare` reads, or a token cache
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    train: Vec<PathBuf>,
    #[command(flatten)]
    unit: UnitArgs,
    #[command(flatten)]
    pub(crate) training: TrainArgs,
    #[command(flatten)]
    mask: MaskArgs,
    /// Instead of --per-device-train-batch-size: as many examples in a batch as have this many tokens together
    #[arg(long, value_name = "N", conflicts_with = "per_device_train_batch_size")]
    batch_tokens: Option<usize>,
    /// Make batches of examples of about the same length, the largest first
    #[arg(long)]
    group_by_length: bool,
    /// Train a low-rank adapter of this rank instead of the weights; it is written in PEFT's format
    #[arg(long, value_name = "R")]
    lora_r: Option<usize>,
    /// The adapter's update is multiplied with this over the rank
    #[arg(long, default_value_t = 8.0, value_name = "ALPHA", requires = "lora_r")]
    lora_alpha: f64,
    /// The linear layers it updates, separated by commas: query, key, value, dense, or longer ends of their names
    #[arg(long, value_delimiter = ',', default_value = "query,value", value_name = "NAMES", requires = "lora_r")]
    lora_target_modules: Vec<String>,
}

impl Args {
    /// A folder with a model and an adapter would be opened as one by some, and as the other by others.
    fn check_output(&self) -> Result<()> {
        let folder = &self.training.output;
        let output = folder.display();
        match self.lora_r {
            Some(_) if folder.join("config.json").exists() => {
                Err(format!("{output} holds a whole model: write the low-rank adapter to another folder").into())
            }
            Some(_) => Ok(()),
            None => check_whole_model(folder),
        }
    }

    fn arguments(&self) -> TrainingArguments {
        TrainingArguments {
            mlm_probability: self.mask.mlm_probability,
            mask_replace_prob: self.mask.mask_replace_prob,
            random_replace_prob: self.mask.random_replace_prob,
            whole_word_mask: self.mask.whole_word_mask,
            static_mask: self.mask.static_mask,
            batch_tokens: self.batch_tokens,
            group_by_length: self.group_by_length,
            lora: self.lora_r.map(|r| LoraConfig {
                r,
                lora_alpha: self.lora_alpha,
                target_modules: self.lora_target_modules.clone(),
            }),
            ..self.training.arguments()
        }
    }
}

pub(crate) fn run(gpu: &Gpu, others: &[Gpu], ranks: &Ranks, args: &Args) -> Result<()> {
    args.check_output()?;
    let training = &args.training;
    if let Some(base) = training.model.as_deref().filter(|base| base.join("modules.json").exists())
        && EmbedOptions::open(base).is_ok_and(|options| options.do_lower_case)
    {
        return Err("this model wants its texts in lower case, which training does not do".into());
    }
    let model = open_model(gpu, training.model.as_deref(), None)?;
    let longest = model.config().max_position_embeddings;
    // Checked against the model by the trainer, in the words of that option.
    let options = |split| {
        let length = training.optimizer.max_seq_length.unwrap_or(longest).min(longest);
        args.unit.options(length, split, training.optimizer.seed)
    };
    let arguments = args.arguments();
    let mut trainer = ranks.trainer(&model, others, arguments.clone())?;
    if !model.has_mlm_head() {
        output::note("note: this checkpoint has no masked-language-model head; a fresh one is trained with it");
    }
    let (train, split) = data::load(model.tokenizer(), &args.train, &options(training.validation_split))?;
    let validation = match training.validation.is_empty() {
        true => split,
        false => Some(data::load(model.tokenizer(), &training.validation, &options(0.0))?.0),
    };
    drop(model);
    provenance::check_apart(&args.train, &training.validation);
    let mut metrics = training.begin(&mut trainer, ranks)?;
    output::note(format!("training on {} examples with {}", train.len(), devices_of_run(gpu, others, ranks)));
    announce(&trainer.forecast(&train)?);
    let options_of_run = training.options(gpu, &arguments, &args.train, (&args.unit.read, Some(&args.unit), &train))?;
    let config = trainer.model().config().clone();
    let beside = |folder: &Path| match args.lora_r {
        Some(_) => Ok(()),
        None => carry_embedding(training.model.as_deref(), &config, folder),
    };
    let trained = training.run(&mut metrics, &options_of_run, beside, |observe| {
        trainer.train_dataset(&train, validation.as_ref(), |event| observe(event))
    });
    let model = trainer.model();
    let save = |folder: &Path| match args.lora_r {
        Some(_) => Ok(model.save_adapter(folder, &training.base_name())?),
        None => {
            model.save(folder)?;
            beside(folder)
        }
    };
    let trained = trained.map_err(|failed| failed.keep(&training.output, ranks, save))?;
    if !ranks.is_first() {
        return Ok(());
    }
    // While the trainer is there, its output is locked.
    save_trained(&training.output, save)?;
    training.finish(metrics, &trained, &options_of_run)
}
