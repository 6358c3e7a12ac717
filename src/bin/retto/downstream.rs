//! `retto downstream`

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use retto::{
    Downstream, DownstreamEvent, DownstreamFigures, DownstreamOptions, Gpu, Interval, Model, Objective,
    TrainingArguments,
};
use serde_json::json;

use crate::data::ReadArgs;
use crate::embed::VectorArgs;
use crate::finetune::{self, LossArgs};
use crate::training::OptimizerArgs;
use crate::{Result, display, downstream_report, open_model, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model before its adaptation [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The model after it
    #[arg(long, value_name = "DIR")]
    adapted: PathBuf,
    /// Songs, or triplets, as `finetune --train` takes them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Held-out ones
    #[arg(long, num_args = 1.., value_name = "PATH")]
    validation: Vec<PathBuf>,
    /// Instead: hold out this share of the songs; with the seed and share of an adaptation, the songs that it held out, too
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", conflicts_with = "validation")]
    validation_split: f64,
    /// Trainings of each model, with this many seeds from --seed on
    #[arg(long, default_value_t = 5, value_name = "N")]
    seeds: usize,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    loss: LossArgs,
    #[command(flatten)]
    vectors: VectorArgs,
    #[command(flatten)]
    optimizer: OptimizerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the same JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write a page, for a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Found out now, not after minutes.
fn check_writable(path: &Path) -> Result<()> {
    let open = std::fs::File::options().create(true).truncate(false).write(true).open(path);
    open.map(|_| ()).map_err(|error| format!("{}: {error}", path.display()).into())
}

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    [&args.output, &args.html].into_iter().flatten().try_for_each(|path| check_writable(path))?;
    let base = open_model(gpu, args.base.as_deref(), None)?;
    let adapted = match !args.adapted.join("config.json").exists() && Model::is_adapter(&args.adapted) {
        true => base.with_adapter(&args.adapted)?,
        false => Model::open(gpu, &args.adapted)?,
    };
    // One task for both: as the base model's folder says.
    let embed = args.vectors.options(args.base.as_deref())?;
    let longest = base.config().max_position_embeddings.min(adapted.config().max_position_embeddings);
    let length = args.optimizer.max_seq_length.or(embed.max_seq_length).unwrap_or(longest);
    if length > longest {
        return Err(format!("max_seq_length is {length}, but these models read at most {longest} tokens").into());
    }
    let arguments = TrainingArguments {
        objective: Objective::Embedding(args.loss.objective(&embed)),
        max_seq_length: Some(length),
        ..args.optimizer.arguments()
    };
    let open = |paths: &[PathBuf], split| {
        finetune::load(base.tokenizer(), paths, &args.read, length, split, args.optimizer.seed)
    };
    let (train, split) = open(&args.data, if args.validation.is_empty() { args.validation_split } else { 0.0 })?;
    let held_out = match split {
        Some(held_out) => held_out,
        None if args.validation.is_empty() => return Err("there is nothing to judge by: give --validation".into()),
        None => open(&args.validation, 0.0)?.0,
    };
    let options = DownstreamOptions { arguments, seeds: args.seeds };
    output::note(format!("training both models {} times on {} triplets an epoch with {gpu}", args.seeds, train.len()));
    let progress = Progress::new();
    let found = retto::downstream(&base, &adapted, &train, &held_out, &options, |event| progress.show(event));
    progress.bar.finish_and_clear();
    let found = found?;
    let mut settings = serde_json::to_value(&options.arguments)?;
    for (name, value) in [
        ("base", args.base.as_ref().map_or("the bundled model".into(), |path| path.display().to_string())),
        ("adapted", args.adapted.display().to_string()),
        ("data", display(&args.data)),
        ("validation", display(&args.validation)),
        ("adapter", gpu.to_string()),
    ] {
        settings[name] = value.into();
    }
    settings["validation_split"] = args.validation_split.into();
    settings["seeds"] = args.seeds.into();
    let results = json!({ "results": found, "settings": settings });
    let write =
        |path: &Path, text: String| std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()));
    if let Some(path) = &args.output {
        write(path, format!("{results:#}\n"))?;
    }
    if let Some(path) = &args.html {
        write(path, downstream_report::page(&results))?;
    }
    if args.json { output::json(&results) } else { print(&found) }
}

fn print(found: &Downstream) -> Result<()> {
    let Downstream { triplets, queries, groups, before, after, runs, .. } = found;
    output::line(format!(
        "{triplets} held-out triplets and {queries} sections of {groups} songs; {} trainings of each model; 95 % confidence intervals \
         over songs and seeds",
        runs.len()
    ))?;
    type Pick = fn(&DownstreamFigures) -> Option<Interval>;
    let rows: [(&str, Pick); 5] = [
        ("loss", |f| Some(f.loss)),
        ("accuracy", |f| Some(f.accuracy)),
        ("recall@1", |f| f.recall_at_1),
        ("recall@10", |f| f.recall_at_10),
        ("MRR", |f| f.mrr),
    ];
    for (when, stage) in [("before", before), ("after", after)] {
        output::line(format!("\n{when:11}{:<24}{:<24}adapted - base", "base", "adapted"))?;
        for (name, pick) in rows {
            let sides = (pick(&stage.base), pick(&stage.adapted), pick(&stage.difference));
            let (Some(base), Some(adapted), Some(difference)) = sides else { continue };
            let cell = |Interval { value, low, high }: Interval| format!("{value:.3} [{low:.3}, {high:.3}]");
            let Interval { value, low, high } = difference;
            let change = format!("{value:+.3} [{low:+.3}, {high:+.3}]");
            output::line(format!("{name:11}{:<24}{:<24}{change}", cell(base), cell(adapted)))?;
        }
    }
    Ok(())
}

/// A bar over all trainings on a terminal; a line after every tenth of them elsewhere.
struct Progress {
    bar: ProgressBar,
    told: std::cell::Cell<u64>,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} steps  {msg}  {eta} left") {
            bar.set_style(style);
        }
        Self { bar, told: std::cell::Cell::new(0) }
    }

    fn show(&self, event: &DownstreamEvent) {
        let DownstreamEvent::Step { trained, trainings, report, .. } = event else { return };
        let (total, done) = (*trainings as u64 * report.max_steps, *trained as u64 * report.max_steps + report.step);
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(format!("training {} of {trainings}, loss {:.3}", trained + 1, report.loss));
        if self.bar.is_hidden() && 10 * done / total > self.told.get() {
            self.told.set(10 * done / total);
            output::note(format!(
                "step {done}/{total}: training {} of {trainings}, loss {:.4}",
                trained + 1,
                report.loss
            ));
        }
    }
}
