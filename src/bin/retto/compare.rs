//! `retto compare`

use std::path::PathBuf;

use retto::{CompareOptions, Comparison, Fill, GoldRank, Gpu, Interval, Kind, METRICS_FILE, Model, Scores};

use crate::data::{self, UnitArgs};
use crate::downstream_report;
use crate::files::{check_writable, write_whole};
use crate::provenance::{self, Judged, corpus};
use crate::report::{self, Context};
use crate::{Result, curve, display, open_adapted, open_model, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Texts with [MASK] where a word is wanted; put -- before one that begins with a dash
    #[arg(required_unless_present = "data", value_name = "TEXT")]
    texts: Vec<String>,
    /// Instead: held-out text or a token cache; words are taken out of it, and both models' answers measured
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with_all = ["texts", "gold"])]
    data: Vec<PathBuf>,
    #[command(flatten)]
    unit: UnitArgs,
    /// Share of the words of --data that are taken out, one at a time
    #[arg(long, default_value_t = 0.15, value_name = "P")]
    mlm_probability: f64,
    /// At most so many blanks, drawn by lot
    #[arg(long, default_value_t = 2000, value_name = "N")]
    max_blanks: usize,
    /// Examples of each kind: both right, both wrong, and one right where the other misses its first ten
    #[arg(long, default_value_t = 3, value_name = "N")]
    showcases: usize,
    /// Seed of what is taken out and shown
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Write a page of it all, for a browser
    #[arg(long, value_name = "FILE", requires = "data")]
    html: Option<PathBuf>,
    /// Add to that page what `retto downstream --output FILE` found of the two models
    #[arg(long, value_name = "FILE", requires = "html")]
    downstream: Option<PathBuf>,
    /// The model before its adaptation [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The model after it, or a low-rank adapter of it
    #[arg(long, value_name = "DIR")]
    adapted: PathBuf,
    /// The word that belongs there: it is marked, and its rank told
    #[arg(long, value_name = "WORD")]
    gold: Option<String>,
    /// Answers of each model
    #[arg(long, default_value_t = 10, value_name = "N")]
    top_k: usize,
    /// Print JSON: a list of {text, mask, base, adapted}, each side {answers, gold}; of --data, all figures
    #[arg(long)]
    json: bool,
}

/// What one model says to one mask.
#[derive(serde::Serialize)]
struct Side {
    answers: Vec<Fill>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gold: Option<GoldRank>,
}

/// One mask of one text; masks are counted from 1.
#[derive(serde::Serialize)]
struct Row<'a> {
    text: &'a str,
    mask: usize,
    base: Side,
    adapted: Side,
}

pub(crate) fn run(gpu: &Gpu, args: &Args) -> Result<()> {
    let base = open_model(gpu, args.base.as_deref(), None)?;
    let adapted = open_adapted(&base, &args.adapted)?;
    if !args.data.is_empty() {
        return on_data(gpu, &base, &adapted, args);
    }
    let (base, adapted) = (ask(&base, args)?, ask(&adapted, args)?);
    let mut rows = Vec::new();
    for (text, (base, adapted)) in args.texts.iter().zip(base.into_iter().zip(adapted)) {
        // Two tokenizers may write the mask in two ways.
        if base.len() != adapted.len() {
            let (base, adapted) = (base.len(), adapted.len());
            return Err(format!("the base model sees {base} blanks in '{text}', the adapted one {adapted}").into());
        }
        rows.extend(base.into_iter().zip(adapted).enumerate().map(|(i, (base, adapted))| Row {
            text,
            mask: i + 1,
            base,
            adapted,
        }));
    }
    if args.json {
        return output::json(&rows);
    }
    rows.iter().try_for_each(|row| print(row, args.gold.as_deref()))
}

fn on_data(gpu: &Gpu, base: &Model, adapted: &Model, args: &Args) -> Result<()> {
    if let Some(path) = &args.html {
        check_writable(path)?;
    }
    // Read first, as well.
    let downstream = args.downstream.as_deref().map(downstream_report::read).transpose()?;
    if let Some(found) = &downstream {
        let of = &found["settings"]["adapted"];
        if of.as_str().is_some_and(|of| of != args.adapted.display().to_string()) {
            output::note(format!(
                "note: --downstream is about {of}, and this comparison about {}",
                args.adapted.display()
            ));
        }
    }
    let options = CompareOptions {
        mlm_probability: args.mlm_probability,
        max_blanks: args.max_blanks,
        showcases: args.showcases,
        top_k: args.top_k,
        seed: args.seed,
    };
    let longest = base.config().max_position_embeddings.min(adapted.config().max_position_embeddings);
    let (data, _) = data::load(base.tokenizer(), &args.data, &args.unit.options(longest, 0.0, args.seed))?;
    let judged = Judged { paths: &args.data, split: None, corpus: corpus(&data) };
    let seen = provenance::check(&args.adapted, judged) == Some(true);
    let seen_by_base = args.base.as_deref().and_then(|base| provenance::check(base, judged)) == Some(true);
    let comparison =
        output::counting("blanks", |observe| retto::compare_with(base, adapted, &data, &options, observe))?;
    if let Some(path) = &args.html {
        let context = Context {
            base: args.base.as_ref().map_or("the bundled model".into(), |path| path.display().to_string()),
            adapted: args.adapted.display().to_string(),
            data: display(&args.data),
            adapter: gpu.to_string(),
            options: serde_json::to_value(&options)?,
            training: provenance::training_arguments(&args.adapted),
            seen,
            seen_by_base,
            // A model that was not adapted here has no log.
            curve: curve::draw(&args.adapted.join(METRICS_FILE)).ok().flatten(),
            downstream,
        };
        write_whole(path, report::page(&comparison, &context).as_bytes())?;
    }
    if args.json {
        return output::json(&comparison);
    }
    print_comparison(&comparison)?;
    match &args.html {
        Some(path) => output::line(format!("\n{}", path.display())),
        None => Ok(()),
    }
}

fn print_comparison(comparison: &Comparison) -> Result<()> {
    let Comparison { blanks, groups, group_kind, base, adapted, difference, kinds, showcases, .. } = comparison;
    let of = group_kind.name();
    output::line(format!("{blanks} blanks from {groups} {of}; 95 % confidence intervals over {of}\n"))?;
    if *groups < output::FEW {
        output::note(output::few(*groups, of));
    }
    output::line(format!("{:8}{:<24}{:<24}adapted - base", "", "base", "adapted"))?;
    type Pick = fn(&Scores) -> Interval;
    let rows: [(&str, Pick); 4] =
        [("top-1", |s| s.top1), ("top-10", |s| s.top10), ("MRR", |s| s.mrr), ("loss", |s| s.loss)];
    for (name, pick) in rows {
        output::line(format!("{name:8}{}", output::sides([base, adapted, difference].map(pick))))?;
    }
    output::line("\nright: the word is the first answer; wrong: it is not among the first ten")?;
    for (name, count) in [
        ("both right", kinds.both_right),
        ("both wrong", kinds.both_wrong),
        ("adapted right, base wrong", kinds.gained),
        ("base right, adapted wrong", kinds.lost),
        ("none of these", kinds.other),
    ] {
        output::line(format!("  {name:<27}{count:>6}"))?;
    }
    for case in showcases {
        let kind = match case.kind {
            Kind::BothRight => "both right",
            Kind::BothWrong => "both wrong",
            Kind::Gained => "adapted right, base wrong",
            Kind::Lost => "base right, adapted wrong",
            _ => "other",
        };
        let words = |answers: &[Fill]| answers.iter().map(|fill| fill.token_str.as_str()).collect::<Vec<_>>().join(" ");
        output::line(format!("\n{kind}: {}   ({})", case.text, case.gold))?;
        output::line(format!("  base     rank {:>5}: {}", case.base.rank, words(&case.base.answers)))?;
        output::line(format!("  adapted  rank {:>5}: {}", case.adapted.rank, words(&case.adapted.answers)))?;
    }
    Ok(())
}

/// The answers of one model by text and mask.
fn ask(model: &Model, args: &Args) -> Result<Vec<Vec<Side>>> {
    let answers = model.fill_mask_batch(&args.texts, args.top_k)?;
    let mut sides = Vec::new();
    for (text, masks) in args.texts.iter().zip(answers) {
        let gold = args.gold.as_ref().map(|gold| model.rank_gold(text, gold)).transpose()?;
        sides.push(masks.into_iter().map(|answers| Side { answers, gold: gold.clone() }).collect());
    }
    Ok(sides)
}

/// Two columns; the gold word is marked with a star.
fn print(row: &Row, gold: Option<&str>) -> Result<()> {
    let cell = |side: &Side, i: usize| {
        side.answers.get(i).map_or(String::new(), |fill| {
            let mark = if side.gold.as_ref().is_some_and(|gold| gold.token == fill.token) { " *" } else { "" };
            format!("{:>7.4}  {}{mark}", fill.score, fill.token_str)
        })
    };
    let count = row.base.answers.len().max(row.adapted.answers.len());
    let cells: Vec<_> = (0..count).map(|i| (cell(&row.base, i), cell(&row.adapted, i))).collect();
    let width = cells.iter().map(|(base, _)| base.chars().count()).max().unwrap_or(0).max("base".len() + 9);
    output::line(format!(
        "{}{}",
        row.text,
        if row.mask > 1 { format!("  (mask {})", row.mask) } else { String::new() }
    ))?;
    output::line(format!("  {:<width$}  {:9}adapted", format!("{:9}base", ""), ""))?;
    for (base, adapted) in cells {
        output::line(format!("  {base:<width$}  {adapted}"))?;
    }
    if let (Some(word), Some(base), Some(adapted)) = (gold, &row.base.gold, &row.adapted.gold) {
        output::line(format!(
            "  * {word}: base rank {} ({:.4}), adapted rank {} ({:.4})",
            base.rank, base.score, adapted.rank, adapted.score
        ))?;
    }
    Ok(())
}
