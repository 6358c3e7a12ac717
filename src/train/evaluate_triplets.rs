//! How well embeddings tell what belongs together, in texts they were not trained on.

use std::collections::{BTreeSet, HashMap};
use std::ops::{ControlFlow, Range};

use crate::embed::EmbedOptions;
use crate::error::{Error, Result};
use crate::model::{DistanceMetric, EmbeddingLoss, EmbeddingObjective, Model};
use crate::text::{Triplet, Triplets};

/// Options of [`Model::evaluate_triplets`].
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TripletEvaluationOptions {
    /// The loss that is measured, and what it compares. A triplet loss is that of the triplets' own negatives, whatever is picked
    /// in training.
    pub objective: EmbeddingObjective,
    /// Triplets whose texts are each other's negatives, for the ranking loss.
    pub per_device_eval_batch_size: usize,
    /// Seed of the triplets that are drawn from songs: four a song, always the same.
    pub seed: u64,
    /// Whether sections are searched for, too.
    pub retrieval: bool,
}

impl Default for TripletEvaluationOptions {
    fn default() -> Self {
        Self { objective: EmbeddingObjective::default(), per_device_eval_batch_size: 8, seed: 42, retrieval: true }
    }
}

/// What [`Model::evaluate_triplets`] found.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct TripletEvaluation {
    /// Mean loss of the triplets.
    pub loss: f64,
    /// The share of triplets whose negative is farther from the anchor than the positive; for the ranking loss, of those whose
    /// positive is the nearest of its batch.
    pub accuracy: f64,
    /// Triplets.
    pub triplets: usize,
    /// How sections find the others of their song; `None` for given triplets, or where it was not asked for.
    pub retrieval: Option<Retrieval>,
}

/// Of each section of a song with several, how the song's other sections are found among all others.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Retrieval {
    /// The share of sections to which one of the same song is the nearest: Recall@1 as metric learning has it (Oh Song et al. 2016).
    pub recall_at_1: f64,
    /// The share with one of the same song among the ten nearest.
    pub recall_at_10: f64,
    /// The mean of 1 / rank of the nearest of the same song.
    pub mrr: f64,
    /// Sections asked about.
    pub queries: usize,
}

/// What one triplet came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TripletScore {
    pub(crate) group: usize,
    pub(crate) loss: f64,
    pub(crate) right: bool,
}

/// The rank, from 1, of the nearest section of the same song.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QueryScore {
    pub(crate) song: usize,
    pub(crate) rank: usize,
}

impl Model {
    /// Measures how well embeddings tell what belongs together.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range, for pairs without negatives where the loss takes them, and for texts prepared
    /// for a longer model or with another tokenizer; [`Error::NotFinite`] for a vector; GPU errors.
    pub fn evaluate_triplets(&self, data: &Triplets, options: &TripletEvaluationOptions) -> Result<TripletEvaluation> {
        self.evaluate_triplets_with(data, options, |_, _| ControlFlow::Continue(()))
    }

    /// [`Model::evaluate_triplets`], telling between passes how many texts are embedded, of how many, and ended by breaking.
    ///
    /// # Errors
    /// As [`Model::evaluate_triplets`]; [`Error::Cancelled`].
    pub fn evaluate_triplets_with(
        &self,
        data: &Triplets,
        options: &TripletEvaluationOptions,
        mut observe: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<TripletEvaluation> {
        let scores = self.score_triplets(data, options, &mut observe)?.ok_or(Error::Cancelled)?;
        Ok(TripletEvaluation::new(&scores))
    }

    /// The scores behind [`Model::evaluate_triplets`], one by one. `told` hears between passes how many texts are embedded, of how many;
    /// nothing comes of it where that breaks.
    pub(crate) fn score_triplets(
        &self,
        data: &Triplets,
        options: &TripletEvaluationOptions,
        told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<TripletScores>> {
        let EmbeddingObjective { loss, pooling, normalize } = options.objective;
        loss.check_measured(data)?;
        check_batches(loss, data, options.per_device_eval_batch_size)?;
        let triplets = data.held_out(options.seed);
        let songs: Option<Vec<&[usize]>> =
            if options.retrieval { data.sections_by_song().map(Iterator::collect) } else { None };
        let texts = triplets.iter().flat_map(|it| [Some(it.anchor), Some(it.positive), it.negative]).flatten();
        let texts: BTreeSet<usize> = texts.chain(songs.iter().flatten().copied().flatten().copied()).collect();
        let texts: Vec<usize> = texts.into_iter().collect();
        let embed = EmbedOptions { pooling, normalize, ..EmbedOptions::default() };
        let Some(values) = self.embed_examples(data.texts(), &texts, &embed, told)? else { return Ok(None) };
        let vectors = Vectors::new(values, self.config().hidden_size, &texts, loss.distance_metric());
        let scores = match loss {
            EmbeddingLoss::Triplet { triplet_margin, .. } => {
                triplets.iter().map(|triplet| vectors.triplet(triplet, triplet_margin)).collect()
            }
            EmbeddingLoss::MultipleNegativesRanking { scale } => {
                let least = if are_each_others_negatives(loss, data) { 2 } else { 1 };
                let parts = batches(data.len(), options.per_device_eval_batch_size, least);
                let batches = triplets.chunks(data.len()).flat_map(|draw| parts.iter().map(|part| &draw[part.clone()]));
                batches.flat_map(|batch| vectors.ranking(batch, scale, data.songs().is_none())).collect()
            }
        };
        Ok(Some((scores, songs.map(|songs| vectors.queries(&songs)))))
    }
}

/// As few batches as hold so many triplets, all about as large, as the loss grows with the batch; and none with fewer than `least`: a single
/// one may have nothing to be told from.
fn batches(triplets: usize, size: usize, least: usize) -> Vec<Range<usize>> {
    let count = triplets.div_ceil(size).min(triplets / least).max(1);
    (0..count).map(|batch| batch * triplets / count..(batch + 1) * triplets / count).collect()
}

/// Whether the texts of a batch have only each other to be told from.
fn are_each_others_negatives(loss: EmbeddingLoss, data: &Triplets) -> bool {
    matches!(loss, EmbeddingLoss::MultipleNegativesRanking { .. }) && (data.songs().is_some() || !data.has_negatives())
}

/// Refuses batches in which a text would have nothing to be told from: everything would be right.
pub(crate) fn check_batches(loss: EmbeddingLoss, data: &Triplets, size: usize) -> Result<()> {
    if size == 0 {
        return Err(Error::InvalidArgument("per_device_eval_batch_size is 0; it must be at least 1".into()));
    }
    match (are_each_others_negatives(loss, data), data.len(), size) {
        (true, _, 1) => Err(Error::InvalidArgument(
            "per_device_eval_batch_size is 1: texts that are each other's negatives take at least two triplets".into(),
        )),
        (true, 1, _) => Err(Error::InvalidArgument(
            "one held-out triplet has nothing to be told from: hold out more, or give triplets with negatives".into(),
        )),
        _ => Ok(()),
    }
}

/// Of each triplet, and of each section that was searched for.
pub(crate) type TripletScores = (Vec<TripletScore>, Option<Vec<QueryScore>>);

impl TripletEvaluation {
    pub(super) fn new((scores, queries): &TripletScores) -> Self {
        let mean = |of: &dyn Fn(&TripletScore) -> f64| scores.iter().map(of).sum::<f64>() / scores.len() as f64;
        let retrieval = queries.as_ref().map(|queries| {
            let mean = |of: &dyn Fn(usize) -> f64| {
                queries.iter().map(|query| of(query.rank)).sum::<f64>() / queries.len() as f64
            };
            Retrieval {
                recall_at_1: mean(&|rank| f64::from(rank == 1)),
                recall_at_10: mean(&|rank| f64::from(rank <= 10)),
                mrr: mean(&|rank| 1.0 / rank as f64),
                queries: queries.len(),
            }
        });
        Self {
            loss: mean(&|score| score.loss),
            accuracy: mean(&|score| f64::from(score.right)),
            triplets: scores.len(),
            retrieval,
        }
    }
}

/// Embeddings, by which distances are taken.
struct Vectors {
    values: Vec<f32>,
    dimension: usize,
    /// Of a text, its row.
    rows: HashMap<usize, usize>,
    metric: DistanceMetric,
}

impl Vectors {
    /// Of finite values. Scaled to length 1 where cosines are taken.
    fn new(mut values: Vec<f32>, dimension: usize, texts: &[usize], metric: DistanceMetric) -> Self {
        if metric == DistanceMetric::Cosine {
            for row in values.chunks_exact_mut(dimension) {
                let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
                row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
            }
        }
        let rows = texts.iter().enumerate().map(|(row, &text)| (text, row)).collect();
        Self { values, dimension, rows, metric }
    }

    fn of(&self, text: usize) -> &[f32] {
        let row = self.rows[&text];
        &self.values[row * self.dimension..(row + 1) * self.dimension]
    }

    fn cosine(&self, a: usize, b: usize) -> f64 {
        self.of(a).iter().zip(self.of(b)).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }

    fn distance(&self, a: usize, b: usize) -> f64 {
        if self.metric == DistanceMetric::Cosine {
            return 1.0 - self.cosine(a, b);
        }
        let pairs = self.of(a).iter().zip(self.of(b));
        pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b) + 1e-6).powi(2)).sum::<f64>().sqrt()
    }

    fn triplet(&self, triplet: &Triplet, margin: f64) -> TripletScore {
        let near = self.distance(triplet.anchor, triplet.positive);
        // Refused before.
        let Some(negative) = triplet.negative else {
            return TripletScore { group: triplet.group, loss: f64::NAN, right: false };
        };
        let far = self.distance(triplet.anchor, negative);
        TripletScore { group: triplet.group, loss: (near - far + margin).max(0.0), right: far > near }
    }

    fn ranking(&self, batch: &[Triplet], scale: f64, negatives: bool) -> Vec<TripletScore> {
        let negatives = batch.iter().filter_map(|triplet| triplet.negative.filter(|_| negatives));
        let candidates: Vec<usize> = batch.iter().map(|triplet| triplet.positive).chain(negatives).collect();
        // Of given triplets and of one draw from songs all groups are different: there is no other positive among the candidates.
        debug_assert!(batch.iter().enumerate().all(|(i, a)| batch[..i].iter().all(|b| a.group != b.group)));
        let score = |(own, triplet): (usize, &Triplet)| {
            let scores: Vec<f64> =
                candidates.iter().map(|&candidate| scale * self.cosine(triplet.anchor, candidate)).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let log_sum = scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln() + largest;
            let right = scores.iter().enumerate().all(|(i, &score)| i == own || score < scores[own]);
            TripletScore { group: triplet.group, loss: log_sum - scores[own], right }
        };
        batch.iter().enumerate().map(score).collect()
    }

    /// Smaller is nearer. Of all pairs, so in f32 and eight at a time.
    fn nearness(&self, a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0f32; 8];
        let (a_parts, b_parts) = (a.chunks(8), b.chunks(8));
        for (a, b) in a_parts.zip(b_parts) {
            for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += if self.metric == DistanceMetric::Cosine { -(a * b) } else { (a - b) * (a - b) };
            }
        }
        sums.iter().sum()
    }

    /// The rank of the nearest section of the same song, for each section of a song with several. One of another song that is
    /// as near counts as nearer: vectors that are all the same find nothing.
    fn queries(&self, songs: &[&[usize]]) -> Vec<QueryScore> {
        let mut queries = Vec::new();
        for (song, sections) in songs.iter().enumerate().filter(|(_, sections)| sections.len() > 1) {
            for &query in *sections {
                let to = |text: &usize| self.nearness(self.of(query), self.of(*text));
                let nearest = sections.iter().filter(|&&text| text != query).map(to).fold(f32::INFINITY, f32::min);
                let others = songs.iter().enumerate().filter(|(other, _)| *other != song);
                let nearer = others.flat_map(|(_, sections)| *sections).filter(|text| to(text) <= nearest).count();
                queries.push(QueryScore { song, rank: nearer + 1 });
            }
        }
        queries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(rows: &[[f32; 2]], metric: DistanceMetric) -> Vectors {
        Vectors { values: rows.concat(), dimension: 2, rows: (0..rows.len()).map(|i| (i, i)).collect(), metric }
    }

    #[test]
    fn no_batch_holds_a_single_triplet() {
        for (triplets, size, lengths) in [
            (57, 8, &[7, 7, 7, 7, 7, 7, 7, 8][..]),
            (5, 2, &[2, 3]),
            (4, 2, &[2, 2]),
            (9, 32, &[9]),
            (3, 2, &[3]),
            (1, 8, &[1]),
        ] {
            let found = batches(triplets, size, 2);
            assert_eq!(found.iter().map(ExactSizeIterator::len).collect::<Vec<_>>(), lengths, "{triplets} in {size}");
            assert!(found[0].start == 0 && found.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
        // Each may have a negative of its own.
        assert_eq!(batches(3, 1, 1), [0..1, 1..2, 2..3]);
    }

    #[test]
    fn sections_are_ranked_by_their_distance() {
        // The second song's sections lie on either side of the first's.
        let rows = [[0.0, 0.0], [1.0, 0.0], [-0.5, 0.0], [4.0, 0.0], [9.0, 0.0]];
        let songs: [&[usize]; 3] = [&[0, 1], &[2, 3], &[4]];
        let ranks = |vectors: Vectors| vectors.queries(&songs).iter().map(|query| query.rank).collect::<Vec<_>>();
        assert_eq!(ranks(vectors(&rows, DistanceMetric::Euclidean)), [2, 1, 3, 3]);
        // All the same: everything is nearer.
        assert_eq!(ranks(vectors(&[[1.0, 0.0]; 5], DistanceMetric::Cosine)), [4, 4, 4, 4]);
    }

    #[test]
    fn losses_are_sentence_transformers_own() {
        let triplet = Triplet { anchor: 0, positive: 1, negative: Some(2), group: 7, negative_group: 8 };
        let rows = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]];
        let score = vectors(&rows, DistanceMetric::Euclidean).triplet(&triplet, 5.0);
        // torch: relu(pairwise_distance(a, p) - pairwise_distance(a, n) + 5)
        assert!((score.loss - 4.480_213_4).abs() < 2e-6 && score.right, "{score:?}");
        let score = vectors(&rows, DistanceMetric::Cosine).triplet(&triplet, 0.7);
        assert!((score.loss - 0.1).abs() < 1e-6, "{score:?}");
        let other = Triplet { anchor: 2, positive: 2, negative: Some(0), group: 1, negative_group: 2 };
        let both = vectors(&rows, DistanceMetric::Cosine).ranking(&[triplet, other], 20.0, true);
        // cross_entropy(20 * a @ [p, p', n, n'].T, [0, 1])
        let want = (20f64 * 0.6, [12.0, 0.0, 0.0, 20.0]);
        let log_sum = want.1.iter().map(|x: &f64| x.exp()).sum::<f64>().ln();
        assert!((both[0].loss - (log_sum - want.0)).abs() < 1e-5 && !both[0].right, "{both:?}");
        assert_eq!(both[0].group, 7);
    }
}
