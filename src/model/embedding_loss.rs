//! Losses that draw the vectors of texts together and apart. Names, defaults and formulas are those of sentence-transformers.

use super::pooling::Pooling;
use crate::error::{Error, Result};
use crate::gpu::{Pass, Tensor};
use crate::ops::cross_entropy::{CrossEntropy, cross_entropy};
use crate::ops::gemm::{Gemm, gemm};
use crate::ops::gemm_form::{Form, Sizes};
use crate::ops::rows::{gather, scatter};
use crate::ops::scale::scale;
use crate::ops::triplet::{self, Metric};
use crate::text::{TripletBatch, Triplets};

/// How far two vectors are apart, as sentence-transformers' `TripletDistanceMetric` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DistanceMetric {
    /// The 2-norm of their difference.
    #[default]
    Euclidean,
    /// 1 - their cosine.
    Cosine,
}

/// What is made small when embeddings are trained.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EmbeddingLoss {
    /// The mean of max(d(anchor, positive) - d(anchor, negative) + margin, 0), as sentence-transformers' `TripletLoss`.
    Triplet {
        /// d
        distance_metric: DistanceMetric,
        /// How much farther the negative should be: 5 in [`EmbeddingLoss::triplet`] of Euclidean distances, 0.5 of cosine ones, which are 2 at
        /// most.
        triplet_margin: f64,
        /// The negative is picked anew in every step from the batch's other texts: the nearest that is farther than the
        /// positive, and where there is none, the farthest (Schroff, Kalenichenko and Philbin 2015).
        semi_hard: bool,
    },
    /// The mean cross entropy of the positive among all of the batch's positives and negatives, by `scale` times their cosine
    /// with the anchor, as sentence-transformers' `MultipleNegativesRankingLoss`.
    MultipleNegativesRanking {
        /// The inverse of a temperature: 20 in [`EmbeddingLoss::multiple_negatives_ranking`].
        scale: f64,
    },
}

impl Default for EmbeddingLoss {
    fn default() -> Self {
        Self::triplet(DistanceMetric::default())
    }
}

/// Training of embeddings: what is compared, and by which loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct EmbeddingObjective {
    /// The loss.
    pub loss: EmbeddingLoss,
    /// How the vectors of tokens become one.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1. Cosines do not depend on it.
    pub normalize: bool,
}

impl EmbeddingLoss {
    /// A triplet loss with each triplet's own negative, and the usual margin: 5 of Euclidean distances, as sentence-transformers has it, and
    /// 0.5 of cosine ones, which are 2 at most.
    pub fn triplet(distance_metric: DistanceMetric) -> Self {
        let triplet_margin = match distance_metric {
            DistanceMetric::Euclidean => 5.0,
            DistanceMetric::Cosine => 0.5,
        };
        Self::Triplet { distance_metric, triplet_margin, semi_hard: false }
    }

    /// Multiple negatives ranking with sentence-transformers' scale of 20.
    pub fn multiple_negatives_ranking() -> Self {
        Self::MultipleNegativesRanking { scale: 20.0 }
    }

    /// Whether it takes a negative of the triplet itself.
    pub(crate) fn wants_negatives(&self) -> bool {
        matches!(self, Self::Triplet { semi_hard: false, .. })
    }

    pub(crate) fn distance_metric(&self) -> DistanceMetric {
        match self {
            Self::Triplet { distance_metric, .. } => *distance_metric,
            Self::MultipleNegativesRanking { .. } => DistanceMetric::Cosine,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let (name, value) = match self {
            Self::Triplet { triplet_margin, .. } => ("triplet_margin", *triplet_margin),
            Self::MultipleNegativesRanking { scale } => ("scale", *scale),
        };
        match value > 0.0 && value <= 1e6 {
            true => Ok(()),
            false => Err(Error::InvalidArgument(format!("{name} is {value}; it must be above 0, and 1e6 at most"))),
        }
    }

    /// Refuses options out of range, and pairs where a triplet's own negative is taken.
    pub(crate) fn check(&self, data: &Triplets) -> Result<()> {
        self.validate()?;
        if self.wants_negatives() && !data.has_negatives() {
            let reason = "a triplet loss takes a negative with each pair: give them, or have them picked (semi_hard), or train by ranking";
            return Err(Error::InvalidArgument(reason.into()));
        }
        Ok(())
    }

    /// As [`EmbeddingLoss::check`], for measuring: a triplet loss is then that of a triplet's own negative, however they are picked
    /// in training.
    pub(crate) fn check_measured(&self, data: &Triplets) -> Result<()> {
        self.validate()?;
        if matches!(self, Self::Triplet { .. }) && !data.has_negatives() {
            let reason = "a triplet loss is measured by a negative with each pair, and there are none";
            return Err(Error::InvalidArgument(reason.into()));
        }
        Ok(())
    }

    /// Loss and rank of each triplet's positive, \[triplets, 2\] (a rank of 0 is right), and the gradient of the sum of losses
    /// times `factor` by the vectors\[sequences, hidden\]. Vectors have to be of length 1 where the loss goes by cosines.
    fn compute(
        &self,
        pass: &mut Pass,
        vectors: &Tensor,
        batch: &TripletBatch,
        factor: f32,
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Triplet { distance_metric, triplet_margin, semi_hard } => {
                let metric = match distance_metric {
                    DistanceMetric::Euclidean => Metric::Euclidean,
                    DistanceMetric::Cosine => Metric::Cosine,
                };
                let margin = *triplet_margin as f32;
                let of = triplet::Triplets { x: vectors, triplets: batch.triplets, metric, margin };
                let negatives = match semi_hard {
                    true => {
                        let groups = pass.upload(&[batch.groups.len()], &batch.groups)?;
                        triplet::choose(pass, of, &groups)?
                    }
                    false => {
                        let rows: Vec<u32> = (2 * batch.triplets as u32..3 * batch.triplets as u32).collect();
                        pass.upload(&[rows.len()], &rows)?
                    }
                };
                triplet::loss(pass, of, &negatives, factor)
            }
            Self::MultipleNegativesRanking { scale } => ranking(pass, vectors, batch, *scale as f32, factor),
        }
    }
}

/// Scores are scale * anchors candidates^T; each anchor's label is its positive.
fn ranking(pass: &mut Pass, vectors: &Tensor, batch: &TripletBatch, by: f32, factor: f32) -> Result<(Tensor, Tensor)> {
    let (rows, hidden, anchors) = (vectors.rows(), vectors.columns(), batch.triplets);
    let candidates = rows - anchors;
    let part = |pass: &mut Pass, range: std::ops::Range<usize>| {
        let rows: Vec<u32> = range.map(|row| row as u32).collect();
        pass.upload(&[rows.len()], &rows)
    };
    let (of_anchors, of_candidates) = (part(pass, 0..anchors)?, part(pass, anchors..rows)?);
    let anchor = gather(pass, vectors, &of_anchors)?;
    let scaled = scale(pass, &anchor, by)?;
    let candidate = gather(pass, vectors, &of_candidates)?;
    let sizes = |m: usize, n: usize, k: usize| Sizes { m: m as u32, n: n as u32, k: k as u32 };
    // In f32 in any case: a cosine's small differences are what is learnt from.
    let scores = pass.alloc(&[anchors, candidates])?;
    pass.clear(&scores);
    let arrays = Gemm { a: &scaled, b: &candidate, bias: None, c: &scores, sizes: sizes(anchors, candidates, hidden) };
    gemm(pass, Form::TransposedAdd, &arrays)?;
    let labels: Vec<u32> = (0..anchors as u32).collect();
    let labels = pass.upload(&[anchors], &labels)?;
    let stats = pass.alloc(&[anchors, 2])?;
    let arrays = CrossEntropy { labels: &labels, first_row: 0, logits: &scores, stats: &stats, gradient: Some(factor) };
    cross_entropy(pass, arrays)?;
    let dscores = scores;
    let danchor = pass.alloc(anchor.shape())?;
    let arrays =
        Gemm { a: &dscores, b: &candidate, bias: None, c: &danchor, sizes: sizes(anchors, hidden, candidates) };
    gemm(pass, Form::InputGradient, &arrays)?;
    let danchor = scale(pass, &danchor, by)?;
    let dcandidate = pass.alloc(candidate.shape())?;
    pass.clear(&dcandidate);
    let arrays =
        Gemm { a: &dscores, b: &scaled, bias: None, c: &dcandidate, sizes: sizes(candidates, hidden, anchors) };
    gemm(pass, Form::WeightGradient, &arrays)?;
    let dvectors = pass.alloc(vectors.shape())?;
    scatter(pass, &danchor, &of_anchors, &dvectors)?;
    scatter(pass, &dcandidate, &of_candidates, &dvectors)?;
    Ok((stats, dvectors))
}

impl EmbeddingObjective {
    /// From the encoder's output: loss and rank of each triplet, \[triplets, 2\], and the gradient of the sum of losses times
    /// `factor` by hidden_states\[wanted, hidden\], which are those that [`Pooling::wanted`] says.
    pub(crate) fn train(
        &self,
        pass: &mut Pass,
        hidden_states: &Tensor,
        batch: &TripletBatch,
        factor: f32,
    ) -> Result<(Tensor, Tensor)> {
        let normalize = self.normalize || self.loss.distance_metric() == DistanceMetric::Cosine;
        let bounds = &batch.packed.cu_seqlens;
        let pooled = self.pooling.forward(pass, hidden_states, bounds, normalize)?;
        let (stats, dvectors) = self.loss.compute(pass, &pooled.vectors, batch, factor)?;
        let dhidden_states = self.pooling.backward(pass, hidden_states, bounds, &pooled, &dvectors)?;
        Ok((stats, dhidden_states))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::model::bert::TrainOptions;
    use crate::model::bert::tests::{assert_rises_along_gradient, random_model};
    use crate::text::PackedBatch;

    /// Three triplets.
    fn batch(negatives: bool) -> TripletBatch {
        let mut packed = PackedBatch::default();
        let texts: [&[u32]; 9] = [
            &[2, 7, 4, 9, 3],
            &[2, 30, 31, 3],
            &[2, 12, 3],
            &[2, 8, 9, 11, 20, 3],
            &[2, 31, 5, 3],
            &[2, 40, 41, 12, 3],
            &[2, 22, 23, 24, 3],
            &[2, 7, 3],
            &[2, 35, 36, 3],
        ];
        let count = if negatives { 9 } else { 6 };
        texts[..count].iter().for_each(|ids| packed.push(ids));
        let groups = [0, 1, 2, 0, 1, 2, 3, 4, 5][..count].to_vec();
        TripletBatch { packed, triplets: 3, groups }
    }

    fn loss(model: &Model, batch: &TripletBatch, objective: EmbeddingObjective) -> (f32, crate::model::NamedValues) {
        let train = |pass: &mut Pass, gradients: &_| {
            model.bert.train_embeddings(
                pass,
                gradients,
                batch,
                &objective,
                batch.triplets,
                TrainOptions::default(),
                &mut |_, _| Ok(()),
            )
        };
        model.mean_and_gradients(train).unwrap()
    }

    #[test]
    fn the_gradient_is_that_of_each_loss_through_the_network() {
        let model = random_model(|_| {});
        let triplet = |distance_metric, triplet_margin, semi_hard| EmbeddingLoss::Triplet {
            distance_metric,
            triplet_margin,
            semi_hard,
        };
        let (euclidean, cosine) = (DistanceMetric::Euclidean, DistanceMetric::Cosine);
        let ranking = EmbeddingLoss::MultipleNegativesRanking { scale: 20.0 };
        let mut losses = Vec::new();
        for (loss_kind, pooling, normalize, negatives) in [
            (triplet(euclidean, 5.0, false), Pooling::Mean, false, true),
            (triplet(euclidean, 5.0, true), Pooling::Cls, false, false),
            (triplet(euclidean, 1.0, false), Pooling::Max, true, true),
            (triplet(cosine, 0.8, false), Pooling::Mean, false, true),
            (triplet(cosine, 0.8, true), Pooling::Mean, true, false),
            (ranking, Pooling::Mean, false, true),
            (ranking, Pooling::Cls, true, false),
        ] {
            let (batch, objective) = (batch(negatives), EmbeddingObjective { loss: loss_kind, pooling, normalize });
            let (at, square) = assert_rises_along_gradient(&model, &|model| loss(model, &batch, objective));
            assert!(at > 1e-3 && square > 1e-6, "{objective:?}: {at} {square}");
            losses.push(at);
        }
        losses.sort_by(f32::total_cmp);
        assert!(losses.windows(2).all(|pair| pair[0] != pair[1]), "each is another loss: {losses:?}");
    }
}
