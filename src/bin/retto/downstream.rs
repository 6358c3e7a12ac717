//! `retto downstream`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use indicatif::ProgressBar;
use retto::{
    Downstream, DownstreamEvent, DownstreamFigures, DownstreamOptions, Gpu, Interval, Objective, TrainingArguments,
    Triplets,
};
use serde_json::json;

use crate::files::{check_writable, write_whole};
use crate::finetune::{self, Task, TaskArgs};
use crate::provenance::{self, Judged, Split, corpus};
use crate::training::{OptimizerArgs, interruption};
use crate::{Result, display, downstream_report, open_adapted, open_model, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model before its adaptation [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The model after it, or a low-rank adapter of it
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
    task: TaskArgs,
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

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    [&args.output, &args.html].into_iter().flatten().try_for_each(|path| check_writable(path))?;
    let base = open_model(gpu, args.base.as_deref(), None)?;
    let adapted = open_adapted(&base, &args.adapted)?;
    // One task for both: as the base model's folder says.
    let longest = base.config().max_position_embeddings.min(adapted.config().max_position_embeddings);
    let task = Task::new(&args.task, args.base.as_deref(), args.optimizer.max_seq_length, longest)?;
    let arguments = TrainingArguments {
        objective: Objective::Embedding(task.objective),
        max_seq_length: Some(task.length),
        ..args.optimizer.arguments()
    };
    let open = |what: &str, paths: &[PathBuf], split, learnt: Option<&Triplets>| {
        finetune::load(base.tokenizer(), what, paths, &args.task.read, &task, (split, args.optimizer.seed), learnt)
    };
    // What is held out of the data, unless it is given.
    let share = args.validation.is_empty().then_some(args.validation_split);
    let (train, split_off) = open("", &args.data, share.unwrap_or(0.0), None)?;
    let held_out = match split_off {
        Some(held_out) => held_out,
        None if share.is_some() => return Err("there is nothing to judge by: give --validation".into()),
        None => open("held-out ", &args.validation, 0.0, Some(&train))?.0,
    };
    let judged = if share.is_some() { &args.data } else { &args.validation };
    let text_field = args.task.read.text_field.as_str();
    let split = share.map(|share| Split { share, seed: args.optimizer.seed, text_field });
    let corpus = corpus(if share.is_some() { &train } else { &held_out }.texts());
    let judged = Judged { paths: judged, split, corpus };
    let seen = provenance::check(&args.adapted, judged);
    let seen_by_base = args.base.as_deref().and_then(|base| provenance::check(base, judged));
    provenance::check_apart(&args.data, &args.validation);
    let options = DownstreamOptions { arguments, seeds: args.seeds };
    output::note(format!("training both models {} times on {} triplets an epoch with {gpu}", args.seeds, train.len()));
    let (progress, interrupted) = (Progress::new(), interruption()?);
    let found = retto::downstream(&base, &adapted, &train, &held_out, &options, |event| {
        progress.show(event);
        match interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    progress.bar.finish_and_clear();
    let found = found?;
    if found.runs.len() < args.seeds {
        output::note(format!("note: interrupted: the figures are of {} of {} seeds", found.runs.len(), args.seeds));
    }
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
    settings["validation_split"] = share.unwrap_or(0.0).into();
    // As many as were done.
    settings["seeds"] = found.runs.len().into();
    settings["seen_by_adapted"] = seen.into();
    settings["seen_by_base"] = seen_by_base.into();
    let results = json!({ "results": found, "settings": settings });
    if let Some(path) = &args.output {
        write_whole(path, format!("{results:#}\n").as_bytes())?;
    }
    if let Some(path) = &args.html {
        write_whole(path, downstream_report::page(&results).as_bytes())?;
    }
    if args.json { output::json(&results) } else { print(&found) }
}

fn print(found: &Downstream) -> Result<()> {
    let Downstream { triplets, queries, groups, before, after, runs, .. } = found;
    let (of, over) = match queries {
        0 => (String::new(), "anchors"),
        _ => (format!(" and {queries} sections of {groups} songs"), "songs"),
    };
    let seeds = if runs.len() > 1 { " and seeds" } else { "" };
    output::line(format!(
        "{triplets} held-out triplets{of}; {} trainings of each model; 95 % confidence intervals over {over}{seeds}",
        runs.len()
    ))?;
    if *groups < output::FEW {
        output::note(output::few(*groups, over));
    }
    if runs.len() == 1 {
        output::note("note: one training of each: how much trainings differ by their seeds is not in the intervals");
    }
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
            output::line(format!("{name:11}{}", output::sides([base, adapted, difference])))?;
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
        Self { bar: output::bar("{wide_bar} {pos}/{len} steps  {msg}  {eta} left"), told: std::cell::Cell::new(0) }
    }

    fn show(&self, event: &DownstreamEvent) {
        if let DownstreamEvent::Evaluating { done, total, .. } = event {
            self.bar.set_message(format!("held-out texts: {done} of {total}"));
        }
        let DownstreamEvent::Step { trained, trainings, report, .. } = event else { return };
        let steps = |trainings: usize| (trainings as u64).saturating_mul(report.max_steps);
        let (total, done) = (steps(*trainings).max(1), steps(*trained).saturating_add(report.step));
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(format!("training {} of {trainings}, loss {:.3}", trained + 1, report.loss));
        let tenth = (10.0 * done as f64 / total as f64) as u64;
        if self.bar.is_hidden() && tenth > self.told.get() {
            self.told.set(tenth);
            output::note(format!(
                "step {done}/{total}: training {} of {trainings}, loss {:.4}",
                trained + 1,
                report.loss
            ));
        }
    }
}
