//! `retto finetune`

use std::path::{Path, PathBuf};

use retto::{
    Dataset, DistanceMetric, EmbedOptions, EmbeddingLoss, EmbeddingObjective, Gpu, Objective, Tokenizer,
    TrainingArguments, Triplets,
};

use crate::data::{self, ReadArgs};
use crate::embed::VectorArgs;
use crate::files::{carry_prompts, check_whole_model, save_trained};
use crate::progress::{announce, devices_of_run};
use crate::ranks::Ranks;
use crate::training::TrainArgs;
use crate::{Result, open_model, output, provenance};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Songs in files or folders of all formats that `prepare` reads, or a token cache of sections: triplets are drawn from their
    /// sections. Or JSON Lines with anchor, positive and negative. --strict refuses what would be left out or cut
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    train: Vec<PathBuf>,
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    pub(crate) training: TrainArgs,
}

/// What texts are read, and what is learnt from them.
#[derive(clap::Args)]
pub(crate) struct TaskArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    #[command(flatten)]
    loss: LossArgs,
    #[command(flatten)]
    vectors: VectorArgs,
}

/// The loss, by the names of sentence-transformers.
#[derive(clap::Args)]
struct LossArgs {
    /// What is made small
    #[arg(long, value_enum, default_value_t = ObjectiveName::Triplet, value_name = "NAME")]
    objective: ObjectiveName,
    /// How far two vectors are apart, for the triplet loss [default: euclidean]
    #[arg(long, value_enum, value_name = "NAME")]
    distance_metric: Option<MetricName>,
    /// How much farther the negative should be [default: 5; 0.5 for cosines]
    #[arg(long, value_name = "MARGIN")]
    triplet_margin: Option<f64>,
    /// Pick negatives from the other songs of the batch: the nearest that is farther than the positive
    #[arg(long)]
    semi_hard: bool,
    /// What cosines are multiplied with, for the ranking loss [default: 20]
    #[arg(long, value_name = "SCALE")]
    scale: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum ObjectiveName {
    /// The negative farther than the positive by a margin: TripletLoss
    Triplet,
    /// The positive ahead of all other texts of the batch: MultipleNegativesRankingLoss
    #[value(alias = "mnr", alias = "mnrl")]
    MultipleNegativesRanking,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum MetricName {
    /// The 2-norm of the difference
    Euclidean,
    /// 1 - the cosine
    Cosine,
}

impl LossArgs {
    fn loss(&self) -> Result<EmbeddingLoss> {
        let unused = |options: &[(&str, bool)], of: &str| match options.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(format!("{name} is an option of {of}")),
            None => Ok(()),
        };
        Ok(match self.objective {
            ObjectiveName::Triplet => {
                unused(&[("--scale", self.scale.is_some())], "--objective multiple-negatives-ranking")?;
                let metric = match self.distance_metric {
                    None | Some(MetricName::Euclidean) => DistanceMetric::Euclidean,
                    Some(MetricName::Cosine) => DistanceMetric::Cosine,
                };
                let mut loss = EmbeddingLoss::triplet(metric);
                if let EmbeddingLoss::Triplet { triplet_margin, semi_hard, .. } = &mut loss {
                    *triplet_margin = self.triplet_margin.unwrap_or(*triplet_margin);
                    *semi_hard = self.semi_hard;
                }
                loss
            }
            ObjectiveName::MultipleNegativesRanking => {
                let options = [
                    ("--distance-metric", self.distance_metric.is_some()),
                    ("--triplet-margin", self.triplet_margin.is_some()),
                    ("--semi-hard", self.semi_hard),
                ];
                unused(&options, "--objective triplet")?;
                match self.scale {
                    Some(scale) => EmbeddingLoss::MultipleNegativesRanking { scale },
                    None => EmbeddingLoss::multiple_negatives_ranking(),
                }
            }
        })
    }
}

/// What is trained, and how long its texts may be, in tokens.
pub(crate) struct Task {
    pub(crate) objective: EmbeddingObjective,
    pub(crate) options: EmbedOptions,
    pub(crate) length: usize,
}

impl Task {
    /// As the model's folder says, but for what is asked for. What the model cannot read it cannot have been made for; what the user
    /// asks for is checked by the trainer.
    pub(crate) fn new(
        args: &TaskArgs,
        model: Option<&Path>,
        max_seq_length: Option<usize>,
        longest: usize,
    ) -> Result<Self> {
        let mut options = args.vectors.options(model)?;
        if options.do_lower_case {
            return Err("this model wants its texts in lower case, which training does not do".into());
        }
        // The smaller of two models may read less than this folder's.
        let made_for = options.max_seq_length.map(|length| length.min(longest));
        options.max_seq_length = max_seq_length.or(made_for);
        let objective =
            EmbeddingObjective { loss: args.loss.loss()?, pooling: options.pooling, normalize: options.normalize };
        let length = options.max_seq_length.unwrap_or(longest);
        Ok(Self { objective, options, length })
    }
}

/// Triplets of songs, without sections that are `learnt`, or given ones; the second are those of songs that are held out. `what` they are,
/// for notes: nothing, or "held-out ".
pub(crate) fn load(
    tokenizer: &Tokenizer,
    what: &str,
    paths: &[PathBuf],
    read: &ReadArgs,
    task: &Task,
    (validation_split, seed): (f64, u64),
    learnt: Option<&Triplets>,
) -> Result<(Triplets, Option<Triplets>)> {
    let given: Vec<bool> = paths.iter().map(Triplets::is_json_lines).collect();
    if given.iter().all(|given| *given) {
        if validation_split > 0.0 {
            let reason = "triplets that are given know no songs to hold out: give others to --validation";
            return Err(reason.into());
        }
        let triplets = Triplets::read_json_lines(tokenizer, paths, task.length)?;
        tell(&triplets, what, read, task)?;
        return Ok((triplets, None));
    }
    if let Some(path) = paths.iter().zip(&given).find_map(|(path, given)| given.then_some(path)) {
        return Err(format!("{} gives triplets, and others songs: give one kind", path.display()).into());
    }
    let options = read.sections(task.length, validation_split, seed);
    let (train, held_out) = data::load(tokenizer, paths, &options)?;
    let open = |data: Dataset, what: &str, learnt: Option<&Triplets>| -> Result<Triplets> {
        let triplets = match learnt {
            Some(learnt) => Triplets::from_held_out_sections(data, learnt),
            None => Triplets::from_sections(data),
        };
        let triplets = triplets.map_err(|error| format!("{what}songs: {error}"))?;
        tell(&triplets, what, read, task)?;
        Ok(triplets)
    };
    let train = open(train, what, learnt)?;
    let held_out = held_out.map(|data| open(data, "held-out ", Some(&train))).transpose()?;
    Ok((train, held_out))
}

/// What is not as it should be, as a note, or with `--strict` as an error.
fn tell(triplets: &Triplets, what: &str, read: &ReadArgs, task: &Task) -> Result<()> {
    // A token cache was cut when it was prepared.
    let texts = triplets.texts();
    let longest = texts.metadata().get("max_seq_length").cloned().unwrap_or_else(|| task.length.to_string());
    let cut = triplets.truncated();
    if read.strict && cut + texts.truncated() > 0 {
        let cut = cut + texts.truncated();
        return Err(format!("{cut} {what}texts are longer than {longest} tokens").into());
    }
    if cut > 0 {
        output::note(format!(
            "note: {cut} {what}texts are longer than {longest} tokens, and only their beginning is used"
        ));
    }
    if triplets.learnt() > 0 {
        output::note(format!(
            "note: {} {what}sections are also among those that are learnt, and are left out",
            triplets.learnt()
        ));
    }
    if let Some((songs, alone)) = triplets.songs().filter(|(_, alone)| *alone > 0) {
        let drawn = matches!(task.objective.loss, EmbeddingLoss::Triplet { semi_hard: false, .. });
        let use_ = if drawn { "are only other songs' negatives" } else { "are not used" };
        output::note(format!("note: {alone} of {songs} {what}songs have one section, and {use_}"));
    }
    Ok(())
}

pub(crate) fn run(gpu: &Gpu, others: &[Gpu], ranks: &Ranks, args: &Args) -> Result<()> {
    let training = &args.training;
    check_whole_model(&training.output)?;
    let model = open_model(gpu, training.model.as_deref(), None)?;
    let longest = model.config().max_position_embeddings;
    let (from, asked) = (training.model.as_deref(), training.optimizer.max_seq_length);
    let task = Task::new(&args.task, from, asked, longest)?;
    let arguments = TrainingArguments {
        objective: Objective::Embedding(task.objective),
        max_seq_length: task.options.max_seq_length,
        ..training.arguments()
    };
    let mut trainer = ranks.trainer(&model, others, arguments.clone())?;
    let open = |what: &str, paths: &[PathBuf], split, learnt: Option<&Triplets>| {
        load(model.tokenizer(), what, paths, &args.task.read, &task, (split, training.optimizer.seed), learnt)
    };
    let (train, split) = open("", &args.train, training.validation_split, None)?;
    let validation = match training.validation.is_empty() {
        true => split,
        false => Some(open("held-out ", &training.validation, 0.0, Some(&train))?.0),
    };
    let config = model.config().clone();
    drop(model);
    provenance::check_apart(&args.train, &training.validation);
    let mut metrics = training.begin(&mut trainer, ranks)?;
    output::note(format!("training on {} triplets an epoch with {}", train.len(), devices_of_run(gpu, others, ranks)));
    announce(&trainer.forecast_triplets(&train)?);
    let options_of_run = training.options(gpu, &arguments, &args.train, (&args.task.read, None, train.texts()))?;
    let beside = |folder: &Path| {
        task.options.save(folder, &config)?;
        carry_prompts(training.model.as_deref(), folder)
    };
    let trained = training.run(&mut metrics, &options_of_run, beside, |observe| {
        trainer.train_triplets(&train, validation.as_ref(), |event| observe(event))
    });
    let save = |folder: &Path| {
        trainer.model().save(folder)?;
        beside(folder)
    };
    let trained = trained.map_err(|failed| failed.keep(&training.output, ranks, save))?;
    if !ranks.is_first() {
        return Ok(());
    }
    // While the trainer is there, its output is locked.
    save_trained(&training.output, save)?;
    training.finish(metrics, &trained, &options_of_run)
}
