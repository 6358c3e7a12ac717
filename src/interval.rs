//! Figures with their confidence intervals.

/// Resampled figures of an interval.
pub(crate) const RESAMPLES: usize = 1000;

/// A figure with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// The figure.
    pub value: f64,
    /// 2.5 % of the resampled figures are lower.
    pub low: f64,
    /// 2.5 % are higher.
    pub high: f64,
}

impl Interval {
    /// Of a figure, and what it came to when it was resampled.
    pub(crate) fn new(value: f64, mut resampled: Vec<f64>) -> Self {
        resampled.sort_by(f64::total_cmp);
        let at = |share: f64| resampled[((resampled.len() - 1) as f64 * share).round() as usize];
        Self { value, low: at(0.025), high: at(0.975) }
    }
}
