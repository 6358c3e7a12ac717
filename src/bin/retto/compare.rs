//! `retto compare`

use std::path::PathBuf;

use retto::{Fill, GoldRank, Gpu, Model};

use crate::{Result, open_model, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Texts with [MASK] where a word is wanted; put -- before one that begins with a dash
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    /// The model before its adaptation [default: the bundled model]
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The model after it
    #[arg(long, value_name = "DIR")]
    adapted: PathBuf,
    /// The word that belongs there: it is marked, and its rank told
    #[arg(long, value_name = "WORD")]
    gold: Option<String>,
    /// Answers of each model
    #[arg(long, default_value_t = 10, value_name = "N")]
    top_k: usize,
    /// Print JSON: a list of {text, mask, base, adapted}, each side {answers, gold}
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
    let base = ask(&open_model(gpu, args.base.as_deref())?, args)?;
    let adapted = ask(&Model::open(gpu, &args.adapted)?, args)?;
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
