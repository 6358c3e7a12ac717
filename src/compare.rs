//! Two models on the same blanks.

use std::ops::{ControlFlow, Range};

mod blanks;

use blanks::{Blank, blanks, is_unknown};

use crate::error::{Error, Result};
use crate::fill::Fill;
use crate::interval::{Interval, RESAMPLES};
use crate::model::Model;
use crate::text::{Dataset, PackedBatch, Purpose, Tokenizer, random};

/// Options of [`compare`].
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CompareOptions {
    /// The share of words that become blanks, one at a time.
    pub mlm_probability: f64,
    /// At most so many blanks, drawn by lot from all.
    pub max_blanks: usize,
    /// Showcases of each kind.
    pub showcases: usize,
    /// Answers in a showcase.
    pub top_k: usize,
    /// Seed of the blanks, the showcases and the intervals.
    pub seed: u64,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { mlm_probability: 0.15, max_blanks: 2000, showcases: 3, top_k: 10, seed: 42 }
    }
}

/// How well blanks are filled.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Scores {
    /// Mean cross entropy of the words, in nats.
    pub loss: Interval,
    /// The share of blanks whose word is the first answer.
    pub top1: Interval,
    /// The share of blanks whose word is among the first ten.
    pub top10: Interval,
    /// The mean of 1 / rank.
    pub mrr: Interval,
}

/// How two models differ on a blank. Right is the word as first answer, wrong the word not among the first ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// Both are right.
    BothRight,
    /// Both are wrong.
    BothWrong,
    /// The adapted model is right, the base model wrong.
    Gained,
    /// The base model is right, the adapted model wrong.
    Lost,
}

/// How many blanks are of each kind; the rest are of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Kinds {
    /// Both are right.
    pub both_right: usize,
    /// Both are wrong.
    pub both_wrong: usize,
    /// The adapted model is right, the base model wrong.
    pub gained: usize,
    /// The base model is right, the adapted model wrong.
    pub lost: usize,
    /// Neither of these.
    pub other: usize,
}

/// What one model says to a showcase.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Shown {
    /// The likeliest words, best first.
    pub answers: Vec<Fill>,
    /// The place of the word that belongs there, from 1.
    pub rank: usize,
}

/// A blank, and what both models say to it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Showcase {
    /// How they differ.
    pub kind: Kind,
    /// The text with its blank.
    pub text: String,
    /// The word that belongs there.
    pub gold: String,
    /// The model before its adaptation.
    pub base: Shown,
    /// The model after it.
    pub adapted: Shown,
}

/// What is not independent within: intervals are resampled over these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GroupKind {
    /// Songs.
    Songs,
    /// Verses and choruses, where there is one song.
    Sections,
    /// Examples, where there is one section, or the data know none.
    Lines,
    /// Blanks, where there is one example.
    Blanks,
}

impl GroupKind {
    /// Their name: `songs`, `sections`, `lines`, `blanks`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Songs => "songs",
            Self::Sections => "sections",
            Self::Lines => "lines",
            Self::Blanks => "blanks",
        }
    }
}

/// What [`compare`] found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// Blanks asked about.
    pub blanks: usize,
    /// What intervals are over: songs, or parts of the one there is.
    pub group_kind: GroupKind,
    /// How many of these the blanks are from. Of few, intervals come out too narrow.
    pub groups: usize,
    /// Words of one token that were chosen, of which no more than `max_blanks` are asked about.
    pub drawn_from: usize,
    /// Words chosen beside those, and passed over because they are several tokens, which no single answer fills: `don't` as well, whose
    /// pieces say each other.
    pub words_of_several_tokens: usize,
    /// The model before its adaptation.
    pub base: Scores,
    /// The model after it.
    pub adapted: Scores,
    /// Adapted less base, blank by blank.
    pub difference: Scores,
    /// How the blanks divide.
    pub kinds: Kinds,
    /// Some blanks of each kind, drawn by lot.
    pub showcases: Vec<Showcase>,
}

/// Loss and rank (from 1) of a blank's word.
type Answer = (f64, usize);

/// Sequences asked about in one pass.
const TOGETHER: usize = 64;

/// Takes words out of held-out examples, one at a time and the same for both models, and compares what they put there.
/// Intervals are of a paired bootstrap over songs: blanks of one song are not independent of each other. Of a single song they are over its
/// sections, and so on: see [`GroupKind`].
///
/// # Errors
/// [`Error::InvalidArgument`] for models of different tokenizers, options out of range, data made with another tokenizer or for a longer
/// model, or data in which no word is taken; [`Error::NoMlmHead`]; [`Error::NotFinite`] for a loss; GPU errors.
pub fn compare(base: &Model, adapted: &Model, data: &Dataset, options: &CompareOptions) -> Result<Comparison> {
    compare_with(base, adapted, data, options, |_, _| ControlFlow::Continue(()))
}

/// [`compare`], telling before each pass how many blanks are answered, of how many, by both models together; ended by breaking.
///
/// # Errors
/// As [`compare`]; [`Error::Cancelled`].
pub fn compare_with(
    base: &Model,
    adapted: &Model,
    data: &Dataset,
    options: &CompareOptions,
    mut observe: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Comparison> {
    for model in [base, adapted] {
        model.require_mlm_head()?;
        model.tokenizer.require_mask_token()?;
    }
    if base.tokenizer.hash() != adapted.tokenizer.hash() {
        let reason = "the models have different tokenizers, so their blanks are not the same";
        return Err(Error::InvalidArgument(reason.into()));
    }
    for model in [base, adapted] {
        data.check(&model.tokenizer, model.config().max_position_embeddings)?;
    }
    let probability = options.mlm_probability;
    if !(probability > 0.0 && probability <= 1.0) {
        let reason = format!("mlm_probability is {probability}; it must be above 0, and 1 at most");
        return Err(Error::InvalidArgument(reason));
    }
    if let Some((name, _)) = [("max_blanks", options.max_blanks), ("top_k", options.top_k)].iter().find(|it| it.1 == 0)
    {
        return Err(Error::InvalidArgument(format!("{name} is 0; it must be at least 1")));
    }
    let (blanks, drawn_from, words_of_several_tokens) = blanks(&base.tokenizer, data, options);
    if blanks.is_empty() {
        return Err(Error::InvalidArgument(
            "no word is taken out of these data: give more lines, or more of them".into(),
        ));
    }
    let both = 2 * blanks.len();
    let of_base = ask(base, data, &blanks, &mut |done| observe(done, both))?;
    let of_adapted = ask(adapted, data, &blanks, &mut |done| observe(blanks.len() + done, both))?;

    let (group_kind, groups) = groups(data, &blanks);
    let [base_scores, adapted_scores, difference] = scores(&of_base, &of_adapted, &groups, options.seed);
    let (mut kinds, mut of_kind) = (Kinds::default(), [const { Vec::new() }; 4]);
    for index in 0..blanks.len() {
        let (count, kind) = match (of_base[index].1, of_adapted[index].1) {
            (1, 1) => (&mut kinds.both_right, Some(Kind::BothRight)),
            (11.., 11..) => (&mut kinds.both_wrong, Some(Kind::BothWrong)),
            (11.., 1) => (&mut kinds.gained, Some(Kind::Gained)),
            (1, 11..) => (&mut kinds.lost, Some(Kind::Lost)),
            _ => (&mut kinds.other, None),
        };
        *count += 1;
        if let Some(kind) = kind {
            of_kind[kind as usize].push((kind, index));
        }
    }
    let mut showcases = Vec::new();
    for mut candidates in of_kind {
        random::shuffle(&mut candidates, Purpose::Showcases, options.seed, 0);
        for (kind, index) in candidates.into_iter().take(options.showcases) {
            let show = |model: &Model, answers: &[Answer]| -> Result<Shown> {
                Ok(Shown { answers: answer(model, data, &blanks[index], options.top_k)?, rank: answers[index].1 })
            };
            showcases.push(Showcase {
                kind,
                text: text(&base.tokenizer, data, &blanks[index])?,
                gold: base.tokenizer.decode(&[blanks[index].gold], false)?,
                base: show(base, &of_base)?,
                adapted: show(adapted, &of_adapted)?,
            });
        }
    }
    Ok(Comparison {
        blanks: blanks.len(),
        group_kind,
        groups: groups.len(),
        drawn_from,
        words_of_several_tokens,
        base: base_scores,
        adapted: adapted_scores,
        difference,
        kinds,
        showcases,
    })
}

/// The largest groups of which there are at least two: one alone, resampled, would be certain of everything.
fn groups(data: &Dataset, blanks: &[Blank]) -> (GroupKind, Vec<Range<usize>>) {
    let within = |starts: &[u64], blank: &Blank| starts.partition_point(|&start| start <= blank.example as u64);
    let by = |kind: GroupKind| -> Option<Vec<Range<usize>>> {
        let of: Vec<usize> = match kind {
            GroupKind::Songs => {
                let starts = data.song_boundaries()?;
                blanks.iter().map(|blank| within(starts, blank)).collect()
            }
            GroupKind::Sections => {
                let starts = data.section_boundaries()?;
                blanks.iter().map(|blank| within(starts, blank)).collect()
            }
            GroupKind::Lines => blanks.iter().map(|blank| blank.example).collect(),
            GroupKind::Blanks => (0..blanks.len()).collect(),
        };
        // Blanks of a group are one after another.
        let mut end = 0;
        let ranges = of.chunk_by(|a, b| a == b).map(|group| {
            let start = end;
            end += group.len();
            start..end
        });
        Some(ranges.collect())
    };
    let larger = [GroupKind::Songs, GroupKind::Sections, GroupKind::Lines].into_iter();
    let of_several = larger.filter_map(|kind| Some((kind, by(kind)?))).find(|(_, groups)| groups.len() > 1);
    of_several.unwrap_or_else(|| (GroupKind::Blanks, by(GroupKind::Blanks).unwrap_or_default()))
}

fn masked(model: &Model, data: &Dataset, blank: &Blank) -> Result<Vec<u32>> {
    let mut ids = data.get(blank.example).to_vec();
    ids[blank.at] = model.tokenizer.require_mask_token()?;
    Ok(ids)
}

/// `told` hears before each pass how many are done.
fn ask(
    model: &Model,
    data: &Dataset,
    blanks: &[Blank],
    told: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(blanks.len());
    while answers.len() < blanks.len() {
        let rest = &blanks[answers.len()..];
        let rest = &rest[..rest.len().min(TOGETHER)];
        let part = &rest[..model.fits_one_pass(rest.iter().map(|blank| data.get(blank.example).len()))];
        if told(answers.len()).is_break() {
            return Err(Error::Cancelled);
        }
        let mut batch = PackedBatch::default();
        for blank in part {
            batch.push_masked(&masked(model, data, blank)?, &[(blank.at as u32, blank.gold)]);
        }
        answers.extend(model.score(&batch)?.iter().map(|row| (f64::from(row.loss), row.rank as usize + 1)));
    }
    Ok(answers)
}

fn answer(model: &Model, data: &Dataset, blank: &Blank, top_k: usize) -> Result<Vec<Fill>> {
    let mut answers = Vec::new();
    // Other masks do not stand in held-out text; where they do, this one's answers are told.
    let ids = masked(model, data, blank)?;
    let mask = model.tokenizer.require_mask_token()?;
    let before = ids[..blank.at].iter().filter(|&&id| id == mask).count();
    // To the same bits as the ranks beside them.
    model.fill_encoded(&[ids], top_k, false, &mut answers)?;
    Ok(answers.swap_remove(0).swap_remove(before))
}

/// The example as a reader knows it: without special tokens but the blank, lines parted by a stroke.
fn text(tokenizer: &Tokenizer, data: &Dataset, blank: &Blank) -> Result<String> {
    let mut lines: Vec<Vec<u32>> = vec![Vec::new()];
    for (at, &id) in data.get(blank.example).iter().enumerate() {
        // What the vocabulary does not know is shown as that, not as the end of a line.
        let ends_line = tokenizer.is_special(id) && !tokenizer.id_to_token(id).is_some_and(|token| is_unknown(&token));
        match (at == blank.at, ends_line) {
            (true, _) => lines.last_mut().into_iter().for_each(|line| line.extend(tokenizer.mask_token_id())),
            (false, true) => lines.push(Vec::new()),
            (false, false) => lines.last_mut().into_iter().for_each(|line| line.push(id)),
        }
    }
    let lines = lines.iter().filter(|line| !line.is_empty()).map(|line| tokenizer.decode(line, false));
    Ok(lines.collect::<Result<Vec<_>>>()?.join(" / "))
}

/// Loss, top 1, top 10 and reciprocal rank of an answer.
fn figures(&(loss, rank): &Answer) -> [f64; 4] {
    [loss, f64::from(rank == 1), f64::from(rank <= 10), 1.0 / rank as f64]
}

/// Of the base model, of the adapted one, and of their difference.
fn scores(base: &[Answer], adapted: &[Answer], groups: &[Range<usize>], seed: u64) -> [Scores; 3] {
    // Sums by group: base, adapted, difference; and the number of blanks.
    let sums: Vec<([[f64; 4]; 3], f64)> = groups
        .iter()
        .map(|group| {
            let mut sums = [[0.0; 4]; 3];
            for index in group.clone() {
                let (b, a) = (figures(&base[index]), figures(&adapted[index]));
                for figure in 0..4 {
                    sums[0][figure] += b[figure];
                    sums[1][figure] += a[figure];
                    sums[2][figure] += a[figure] - b[figure];
                }
            }
            (sums, group.len() as f64)
        })
        .collect();
    let mean = |picked: &mut dyn Iterator<Item = usize>| {
        let (mut total, mut count) = ([[0.0; 4]; 3], 0.0);
        for group in picked {
            let (of_group, blanks) = &sums[group];
            count += blanks;
            for (total, of_group) in total.iter_mut().flatten().zip(of_group.iter().flatten()) {
                *total += of_group;
            }
        }
        total.map(|side| side.map(|figure| figure / count))
    };
    let value = mean(&mut (0..sums.len()));
    let mut random = random::Stream::new(Purpose::Bootstrap, seed, 0, 0);
    let resampled: Vec<[[f64; 4]; 3]> =
        (0..RESAMPLES).map(|_| mean(&mut (0..sums.len()).map(|_| random.below(sums.len())))).collect();
    let interval = |side: usize, figure: usize| {
        Interval::new(value[side][figure], resampled.iter().map(|sample| sample[side][figure]).collect())
    };
    [0, 1, 2].map(|side| Scores {
        loss: interval(side, 0),
        top1: interval(side, 1),
        top10: interval(side, 2),
        mrr: interval(side, 3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "prepare")]
    #[test]
    fn intervals_are_over_the_largest_groups_of_which_there_are_several() {
        let tokenizer = Tokenizer::open("tests/reference/fixtures/fillmask").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let of = |text: &str| {
            let (path, cache) = (folder.path().join("a.txt"), folder.path().join("cache"));
            std::fs::write(&path, text).unwrap();
            let options = crate::PrepareOptions::new(16);
            crate::prepare(&tokenizer, &[path], &cache, None, &options, |_| ControlFlow::Continue(())).unwrap();
            let data = Dataset::open(&cache, &tokenizer).unwrap();
            let blanks: Vec<Blank> = (0..data.len())
                .flat_map(|example| [1, 2].map(|at| Blank { example, at, gold: data.get(example)[at] }))
                .collect();
            groups(&data, &blanks)
        };
        let two = "the rain\nyou and\n\nthe town\n";
        assert_eq!(of(&format!("{two}\n\n{two}")), (GroupKind::Songs, vec![0..6, 6..12]));
        assert_eq!(of(two), (GroupKind::Sections, vec![0..4, 4..6]));
        assert_eq!(of("the rain\nyou and\n"), (GroupKind::Lines, vec![0..2, 2..4]));
        assert_eq!(of("the rain\n"), (GroupKind::Blanks, vec![0..1, 1..2]));
    }

    #[test]
    fn intervals_hold_the_figure_and_pair_the_models() {
        let ranks = [1, 2, 11, 1, 20, 3, 1, 5, 40, 1];
        let base: Vec<Answer> = (0..400).map(|i| (1.0 + (i % 7) as f64, ranks[i % 10])).collect();
        // Always better by a tenth, however hard the blank: the difference has no spread, the figures have.
        let adapted: Vec<Answer> = base.iter().map(|&(loss, rank)| (loss - 0.1, rank)).collect();
        let groups: Vec<_> = (0..100).map(|i| 4 * i..4 * i + 4).collect();
        let [b, a, d] = scores(&base, &adapted, &groups, 1);
        assert!(b.loss.low < b.loss.value && b.loss.value < b.loss.high);
        assert!((b.top1.value - 0.4).abs() < 1e-9 && (b.top10.value - 0.7).abs() < 1e-9);
        assert!((d.loss.low + 0.1).abs() < 1e-9 && (d.loss.high + 0.1).abs() < 1e-9, "{d:?}");
        assert_eq!((a.top1, d.top1.value), (b.top1, 0.0));
        // The width of the interval of a share p over n independent groups is about 2 * 1.96 sqrt(p (1 - p) / n).
        let alone: Vec<_> = (0..400).map(|i| i..i + 1).collect();
        let width = |s: Scores| s.top1.high - s.top1.low;
        let expected = 2.0 * 1.96 * (0.4f64 * 0.6 / 400.0).sqrt();
        let got = width(scores(&base, &adapted, &alone, 1)[0]);
        assert!((got / expected - 1.0).abs() < 0.15, "{got} {expected}");
        // Groups that are alike within make the interval wider.
        let alike: Vec<Answer> = (0..400).map(|i| (1.0, if (i / 4) % 5 < 2 { 1 } else { 20 })).collect();
        assert!(width(scores(&alike, &alike, &groups, 1)[0]) > 1.6 * expected);
    }
}
