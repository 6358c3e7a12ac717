//! Whether a task that builds on a model goes better when it builds on the adapted one.

use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::interval::{Interval, RESAMPLES};
use crate::model::Model;
use crate::text::random::Stream;
use crate::text::{Purpose, Triplets};
use crate::train::{Objective, StepReport, TrainEvent, Trainer, TrainingArguments, TripletEvaluationOptions};

/// Options of [`downstream`].
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct DownstreamOptions {
    /// How both models are trained: the same but for the seed, which is the first of them. Its objective has to be
    /// [`Objective::Embedding`]; `output_dir`, and what depends on one or on validation data, is not used.
    pub arguments: TrainingArguments,
    /// Trainings of each model, with as many seeds one after another: of what is drawn as triplets, their order, and dropout.
    pub seeds: usize,
}

impl Default for DownstreamOptions {
    fn default() -> Self {
        let arguments =
            TrainingArguments { objective: Objective::Embedding(Default::default()), ..TrainingArguments::default() };
        Self { arguments, seeds: 5 }
    }
}

/// What [`downstream`] tells while it runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DownstreamEvent {
    /// A step of a training is done.
    #[non_exhaustive]
    Step {
        /// Trainings before this one.
        trained: usize,
        /// Trainings in all: twice the seeds.
        trainings: usize,
        /// The step.
        report: StepReport,
    },
    /// The held-out texts are being embedded: by either model before its trainings, and by what came of each training.
    #[non_exhaustive]
    Evaluating {
        /// Trainings so far.
        trained: usize,
        /// Trainings in all: twice the seeds.
        trainings: usize,
        /// Texts so far.
        done: usize,
        /// How many there are in all.
        total: usize,
    },
}

/// How well held-out texts are told apart, or how two models differ in that.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct DownstreamFigures {
    /// Mean loss of the held-out triplets.
    pub loss: Interval,
    /// The share of them that are right: see [`TripletEvaluation`](crate::TripletEvaluation).
    pub accuracy: Interval,
    /// See [`Retrieval`](crate::Retrieval); `None` for given triplets, which know no songs.
    pub recall_at_1: Option<Interval>,
    /// Likewise.
    pub recall_at_10: Option<Interval>,
    /// Likewise.
    pub mrr: Option<Interval>,
}

/// Both models at one point.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct DownstreamStage {
    /// The model before its adaptation.
    pub base: DownstreamFigures,
    /// The model after it.
    pub adapted: DownstreamFigures,
    /// Adapted less base, triplet by triplet and section by section.
    pub difference: DownstreamFigures,
}

/// The trainings with one seed: held-out loss and accuracy after them.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct DownstreamRun {
    /// The seed.
    pub seed: u64,
    /// Loss and accuracy of the base model.
    pub base: [f64; 2],
    /// Those of the adapted one.
    pub adapted: [f64; 2],
}

/// What [`downstream`] found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Downstream {
    /// Triplets of an epoch of training.
    pub train_triplets: usize,
    /// Held-out triplets.
    pub triplets: usize,
    /// Held-out sections that were searched for.
    pub queries: usize,
    /// Songs (or, of given triplets, anchors; where there is one alone, triplets) that the held-out ones are from; intervals are over these.
    pub groups: usize,
    /// Before the trainings.
    pub before: DownstreamStage,
    /// After them: means over the seeds.
    pub after: DownstreamStage,
    /// Each seed.
    pub runs: Vec<DownstreamRun>,
}

/// Loss, accuracy, recall at 1 and 10, reciprocal rank.
const FIGURES: usize = 5;

/// Sums of one song: of its triplets the first two figures, of its sections the others.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    figures: [f64; FIGURES],
    triplets: f64,
    queries: f64,
}

/// Trains the same task from both models, with the same seeds, triplets and order, and compares how well held-out texts are then told
/// apart. Intervals are of a paired bootstrap over the held-out songs and, after the trainings, over the seeds: triplets of one song are
/// not independent of each other, nor is what one training came to. (The spread over so few seeds is scaled up, as Student's distribution is
/// wider than the normal one, and by the root of seeds / (seeds - 1), which resampling leaves out.) `observe` ends it by breaking; then
/// the figures are of the seeds that are complete.
///
/// # Errors
/// [`Error::InvalidArgument`] for models of different tokenizers, no seeds, or another objective; [`Error::Cancelled`] where it was ended
/// before the first seed was complete; as [`Trainer::train_triplets`].
pub fn downstream(
    base: &Model,
    adapted: &Model,
    train: &Triplets,
    held_out: &Triplets,
    options: &DownstreamOptions,
    mut observe: impl FnMut(&DownstreamEvent) -> ControlFlow<()>,
) -> Result<Downstream> {
    if base.tokenizer.hash() != adapted.tokenizer.hash() {
        let reason = "the models have different tokenizers, so they would not read the same";
        return Err(Error::InvalidArgument(reason.into()));
    }
    let Objective::Embedding(objective) = options.arguments.objective else {
        return Err(Error::InvalidArgument("the task is one of embeddings: set Objective::Embedding".into()));
    };
    if !(1..=10_000).contains(&options.seeds) {
        let reason = format!("seeds is {}; it must be from 1 to 10000", options.seeds);
        return Err(Error::InvalidArgument(reason));
    }
    let with_seed = |seed| TrainingArguments {
        seed,
        output_dir: None,
        save_steps: None,
        save_total_limit: None,
        eval_steps: None,
        load_best_model_at_end: false,
        early_stopping_patience: None,
        ..options.arguments.clone()
    };
    let first = options.arguments.seed;
    // Found out now, not after a training.
    for model in [base, adapted] {
        Trainer::new(model, with_seed(first))?.check_triplets(train, held_out)?;
    }
    let evaluation = TripletEvaluationOptions {
        objective,
        per_device_eval_batch_size: options.arguments.per_device_eval_batch_size,
        seed: first,
        retrieval: true,
    };
    let trainings = 2 * options.seeds;
    let score = |model: &Model, trained: usize, observe: &mut dyn FnMut(&DownstreamEvent) -> ControlFlow<()>| {
        sums(model, held_out, &evaluation, &mut |done, total| {
            observe(&DownstreamEvent::Evaluating { trained, trainings, done, total })
        })
    };
    let mut at_first = |model: &Model| score(model, 0, &mut observe)?.ok_or(Error::Cancelled);
    let before = [vec![at_first(base)?], vec![at_first(adapted)?]];
    let groups = before[0][0].len();
    let mut after = [Vec::new(), Vec::new()];
    let mut runs = Vec::new();
    'seeds: for seed in (0..options.seeds as u64).map(|index| first.wrapping_add(index)) {
        let mut found = [[0.0; 2]; 2];
        for (side, model) in [base, adapted].into_iter().enumerate() {
            let mut trainer = Trainer::new(model, with_seed(seed))?;
            let trained = after[0].len() + after[1].len();
            let output = trainer.train_triplets(train, None, |event| match event {
                TrainEvent::Step(report) => {
                    observe(&DownstreamEvent::Step { trained, trainings, report: report.clone() })
                }
                _ => ControlFlow::Continue(()),
            })?;
            let sums = match output.cancelled {
                true => None,
                false => score(trainer.model(), trained + 1, &mut observe)?,
            };
            let Some(sums) = sums else {
                after[0].truncate(runs.len());
                break 'seeds;
            };
            let means = means(&sums, &(0..groups).collect::<Vec<_>>());
            found[side] = [means[0], means[1]];
            after[side].push(sums);
        }
        runs.push(DownstreamRun { seed, base: found[0], adapted: found[1] });
    }
    if runs.is_empty() {
        return Err(Error::Cancelled);
    }
    let total = |pick: fn(&Sums) -> f64| before[0][0].iter().map(pick).sum::<f64>() as usize;
    Ok(Downstream {
        train_triplets: train.len(),
        triplets: total(|sums| sums.triplets),
        queries: total(|sums| sums.queries),
        groups,
        before: stage(&before, first),
        after: stage(&after, first),
        runs,
    })
}

/// By song, or anchor, those without a held-out triplet or section left out. `None` where `told` breaks.
fn sums(
    model: &Model,
    data: &Triplets,
    options: &TripletEvaluationOptions,
    told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Vec<Sums>>> {
    let Some((triplets, queries)) = model.score_triplets(data, options, told)? else { return Ok(None) };
    let mut sums: std::collections::BTreeMap<usize, Sums> = std::collections::BTreeMap::new();
    // Given triplets of one anchor are no more independent than those of one song.
    let anchors = data.anchors().filter(|anchors| anchors.iter().any(|anchor| *anchor != anchors[0]));
    for score in &triplets {
        let group = anchors.as_ref().map_or(score.group, |anchors| anchors[score.group]);
        let of = sums.entry(group).or_default();
        of.triplets += 1.0;
        of.figures[0] += score.loss;
        of.figures[1] += f64::from(score.right);
    }
    for query in queries.iter().flatten() {
        let of = sums.entry(query.song).or_default();
        of.queries += 1.0;
        of.figures[2] += f64::from(query.rank == 1);
        of.figures[3] += f64::from(query.rank <= 10);
        of.figures[4] += 1.0 / query.rank as f64;
    }
    Ok(Some(sums.into_values().collect()))
}

/// Means over the songs picked.
fn means(training: &[Sums], songs: &[usize]) -> [f64; FIGURES] {
    let mut total = Sums::default();
    for &song in songs {
        let of = &training[song];
        (total.triplets, total.queries) = (total.triplets + of.triplets, total.queries + of.queries);
        total.figures.iter_mut().zip(of.figures).for_each(|(total, of)| *total += of);
    }
    let count = |figure: usize| if figure < 2 { total.triplets } else { total.queries };
    std::array::from_fn(|figure| total.figures[figure] / count(figure))
}

/// 97.5 % of the normal distribution are less.
const NORMAL: f64 = 1.959964;

/// 97.5 % of Student's distribution with so many degrees of freedom are less; of none, which has no spread, it does not matter.
fn student(freedom: usize) -> f64 {
    const FIRST: [f64; 10] = [NORMAL, 12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622];
    // Cornish and Fisher's expansion, to the third figure from ten on.
    let (z, n) = (NORMAL, freedom as f64);
    let term = |of: [f64; 4]| of[0] * z + of[1] * z.powi(3) + of[2] * z.powi(5) + of[3] * z.powi(7);
    let terms = [
        term([1.0, 1.0, 0.0, 0.0]) / (4.0 * n),
        term([3.0, 16.0, 5.0, 0.0]) / (96.0 * n.powi(2)),
        term([-15.0, 17.0, 19.0, 3.0]) / (384.0 * n.powi(3)),
    ];
    FIRST.get(freedom).copied().unwrap_or_else(|| z + terms.iter().sum::<f64>())
}

fn stage([base, adapted]: &[Vec<Vec<Sums>>; 2], seed: u64) -> DownstreamStage {
    let (trainings, songs) = (base.len(), base[0].len());
    // Base, adapted and their difference, over the same songs and seeds.
    // Resampled, few seeds spread too little: by the root of n / (n - 1), and as the normal distribution's 97.5 % are less than Student's.
    let widened = (trainings as f64 / (trainings as f64 - 1.0).max(1.0)).sqrt() * student(trainings - 1) / NORMAL;
    let figures = |of: &[usize], picked: &[usize]| {
        let side = |side: &[Vec<Sums>]| -> [f64; FIGURES] {
            let each: Vec<_> = side.iter().map(|training| means(training, picked)).collect();
            let mean = |of: &mut dyn Iterator<Item = usize>, figure: usize| {
                of.map(|training| each[training][figure]).sum::<f64>() / trainings as f64
            };
            std::array::from_fn(|figure| {
                let (all, drawn) = (mean(&mut (0..trainings), figure), mean(&mut of.iter().copied(), figure));
                all + widened * (drawn - all)
            })
        };
        let (base, adapted) = (side(base), side(adapted));
        [base, adapted, std::array::from_fn(|figure| adapted[figure] - base[figure])]
    };
    let all = |n: usize| (0..n).collect::<Vec<_>>();
    let value = figures(&all(trainings), &all(songs));
    let mut random = Stream::new(Purpose::Bootstrap, seed, 1, 0);
    let mut draw = |n: usize| (0..n).map(|_| random.below(n)).collect::<Vec<_>>();
    let resampled: Vec<_> = (0..RESAMPLES).map(|_| figures(&draw(trainings), &draw(songs))).collect();
    let side = |side: usize| {
        let interval = |figure: usize| {
            // What was widened may leave what there can be: a share, or the difference of two.
            let (low, high) = match (figure, side) {
                (0, 2) => (f64::MIN, f64::MAX),
                (0, _) => (0.0, f64::MAX),
                (_, 2) => (-1.0, 1.0),
                _ => (0.0, 1.0),
            };
            let of = |sample: &[[f64; FIGURES]; 3]| sample[side][figure].clamp(low, high);
            Interval::new(value[side][figure], resampled.iter().map(of).collect())
        };
        let searched = |figure: usize| value[0][figure].is_finite().then(|| interval(figure));
        DownstreamFigures {
            loss: interval(0),
            accuracy: interval(1),
            recall_at_1: searched(2),
            recall_at_10: searched(3),
            mrr: searched(4),
        }
    };
    DownstreamStage { base: side(0), adapted: side(1), difference: side(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn song(loss: f64, right: f64, found: f64) -> Sums {
        Sums { figures: [4.0 * loss, 4.0 * right, 3.0 * found, 3.0, 3.0 * found], triplets: 4.0, queries: 3.0 }
    }

    #[test]
    fn students_distribution_is_wider_the_fewer_there_are() {
        // As tables have it.
        for (freedom, value) in
            [(1, 12.706), (4, 2.776), (9, 2.262), (10, 2.228), (20, 2.086), (30, 2.042), (1000, 1.962)]
        {
            assert!((student(freedom) - value).abs() < 1e-3, "{freedom}: {}", student(freedom));
        }
        assert_eq!(student(0), NORMAL);
    }

    #[test]
    fn intervals_hold_the_figures_and_pair_the_models() {
        let songs: Vec<Sums> =
            (0..100).map(|i| song(1.0 + (i % 5) as f64, f64::from(i % 2), f64::from(i % 4) / 4.0)).collect();
        let better: Vec<Sums> =
            songs.iter().map(|of| song(of.figures[0] / 4.0 - 0.5, of.figures[1] / 4.0, 1.0)).collect();
        let base = vec![songs.clone(), songs.clone()];
        // The second training of the adapted model does as badly as the base: seeds are a part of the spread.
        let DownstreamStage { base: b, adapted: a, difference: d } = stage(&[base, vec![better, songs]], 1);
        assert!((b.loss.value - 3.0).abs() < 1e-12 && (a.loss.value - 2.75).abs() < 1e-12);
        assert!((d.loss.value + 0.25).abs() < 1e-12, "{d:?}");
        // Drawn as twice the better, twice the worse, or both: -0.5, 0 or -0.25, here on either side of the mean by 0.25 times root 2, and as
        // much more as Student's distribution of one degree of freedom is wider. A share stays one.
        let spread = 0.25 * 2f64.sqrt() * 12.7062 / NORMAL;
        let found = d.recall_at_1.unwrap();
        assert_eq!((found.low, found.high), (-1.0, 1.0));
        assert!((d.loss.low + 0.25 + spread).abs() < 1e-9 && (d.loss.high + 0.25 - spread).abs() < 1e-9, "{d:?}");
        assert_eq!((d.accuracy.value, d.accuracy.low, d.accuracy.high), (0.0, 0.0, 0.0));
        assert!(b.accuracy.low < 0.5 && b.accuracy.high > 0.5 && b.accuracy.low > 0.35);
        let (found, ten) = (b.recall_at_1.unwrap(), b.recall_at_10.unwrap());
        assert!((found.value - 0.375).abs() < 1e-12 && (ten.value - 1.0).abs() < 1e-12);
        // Given triplets have nothing to search for.
        let given = vec![vec![Sums { figures: [1.0, 1.0, 0.0, 0.0, 0.0], triplets: 1.0, queries: 0.0 }; 3]];
        assert_eq!(stage(&[given.clone(), given], 1).base.mrr, None);
    }
}
