//! `retto finetune`

use std::path::PathBuf;

use retto::{
    DistanceMetric, EmbedOptions, EmbeddingLoss, EmbeddingObjective, Gpu, Model, Objective, Tokenizer, Trainer,
    TrainingArguments, Triplets,
};

use crate::data::{self, ReadArgs};
use crate::embed::VectorArgs;
use crate::training::{TrainArgs, announce};
use crate::{Result, open_model, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Songs in files or folders of all formats that `prepare` reads, or a token cache of sections: triplets are drawn from their
    /// sections. Or JSON Lines with anchor, positive and negative. --strict refuses what would be left out or cut
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    train: Vec<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    loss: LossArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    #[command(flatten)]
    training: TrainArgs,
}

/// The loss, by the names of sentence-transformers.
#[derive(clap::Args)]
pub(crate) struct LossArgs {
    /// What is made small
    #[arg(long, value_enum, default_value_t = ObjectiveName::Triplet, value_name = "NAME")]
    objective: ObjectiveName,
    /// How far two vectors are apart, for the triplet loss
    #[arg(long, value_enum, default_value_t = MetricName::Euclidean, value_name = "NAME")]
    distance_metric: MetricName,
    /// How much farther the negative should be [default: 5; 0.5 for cosines]
    #[arg(long, value_name = "MARGIN")]
    triplet_margin: Option<f64>,
    /// Pick negatives from the other songs of the batch: the nearest that is farther than the positive
    #[arg(long)]
    semi_hard: bool,
    /// What cosines are multiplied with, for the ranking loss
    #[arg(long, default_value_t = 20.0, value_name = "SCALE")]
    scale: f64,
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
    pub(crate) fn objective(&self, options: &EmbedOptions) -> EmbeddingObjective {
        let loss = match self.objective {
            ObjectiveName::Triplet => {
                let (distance_metric, usual) = match self.distance_metric {
                    MetricName::Euclidean => (DistanceMetric::Euclidean, 5.0),
                    MetricName::Cosine => (DistanceMetric::Cosine, 0.5),
                };
                let triplet_margin = self.triplet_margin.unwrap_or(usual);
                EmbeddingLoss::Triplet { distance_metric, triplet_margin, semi_hard: self.semi_hard }
            }
            ObjectiveName::MultipleNegativesRanking => EmbeddingLoss::MultipleNegativesRanking { scale: self.scale },
        };
        EmbeddingObjective { loss, pooling: options.pooling, normalize: options.normalize }
    }
}

/// Triplets of songs, or given ones; the second are those of songs that are held out.
pub(crate) fn load(
    tokenizer: &Tokenizer,
    paths: &[PathBuf],
    read: &ReadArgs,
    max_seq_length: usize,
    validation_split: f64,
    seed: u64,
) -> Result<(Triplets, Option<Triplets>)> {
    let given = paths.iter().map(Triplets::is_json_lines).collect::<retto::Result<Vec<_>>>()?;
    let (triplets, held_out) = if given.iter().all(|given| *given) {
        if validation_split > 0.0 {
            let reason = "triplets that are given know no songs to hold out: give others to --validation";
            return Err(reason.into());
        }
        (Triplets::read_json_lines(tokenizer, paths, max_seq_length)?, None)
    } else if let Some(path) = paths.iter().zip(&given).find_map(|(path, given)| given.then_some(path)) {
        return Err(format!("{} gives triplets, and others songs: give one kind", path.display()).into());
    } else {
        // A chorus that comes again would be its own positive.
        let options = read.sections(max_seq_length, validation_split, seed);
        let (train, held_out) = data::load(tokenizer, paths, &options)?;
        (Triplets::from_sections(train)?, held_out.map(Triplets::from_sections).transpose()?)
    };
    for (triplets, what) in [(Some(&triplets), ""), (held_out.as_ref(), "held-out ")] {
        let Some(triplets) = triplets else { continue };
        let (cut, longest) = (triplets.truncated(), max_seq_length);
        if cut > 0 && read.strict {
            return Err(format!("{cut} {what}texts are longer than {longest} tokens").into());
        }
        if cut > 0 {
            output::note(format!(
                "note: {cut} {what}texts are longer than {longest} tokens, and only their beginning is used"
            ));
        }
        if let Some((songs, alone)) = triplets.songs().filter(|(_, alone)| *alone > 0) {
            output::note(format!(
                "note: {alone} of {songs} {what}songs have one section, and are only other songs' negatives"
            ));
        }
    }
    Ok((triplets, held_out))
}

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    let training = &args.training;
    if Model::is_adapter(&training.output) {
        let output = training.output.display();
        return Err(format!("{output} holds a low-rank adapter: write the model to another folder").into());
    }
    let model = open_model(gpu, training.model.as_deref(), None)?;
    let mut options = args.vectors.options(training.model.as_deref())?;
    if options.do_lower_case {
        return Err("this model wants its texts in lower case, which training does not do".into());
    }
    let longest = model.config().max_position_embeddings;
    // What the model cannot read it cannot have been made for; what the user asks for is checked by the trainer.
    let made_for = options.max_seq_length.map(|length| length.min(longest));
    options.max_seq_length = training.optimizer.max_seq_length.or(made_for);
    let arguments = TrainingArguments {
        objective: Objective::Embedding(args.loss.objective(&options)),
        max_seq_length: options.max_seq_length,
        ..training.arguments()
    };
    let mut trainer = Trainer::new(&model, arguments.clone())?;
    let length = options.max_seq_length.unwrap_or(longest);
    let open =
        |paths: &[PathBuf], split| load(model.tokenizer(), paths, &args.read, length, split, training.optimizer.seed);
    let (train, split) = open(&args.train, training.validation_split)?;
    let validation = if training.validation.is_empty() { split } else { Some(open(&training.validation, 0.0)?.0) };
    let config = model.config().clone();
    drop(model);
    let mut metrics = training.begin(&mut trainer)?;
    output::note(format!("training on {} triplets an epoch with {gpu}", train.len()));
    announce(&trainer.forecast_triplets(&train)?);
    let trained = training
        .run(&mut metrics, |observe| trainer.train_triplets(&train, validation.as_ref(), |event| observe(event)))?;
    trainer.into_model().save(&training.output)?;
    options.save(&training.output, &config)?;
    training.finish(gpu, metrics, &trained, &arguments, &args.train)
}
