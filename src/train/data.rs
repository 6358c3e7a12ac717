//! What a run learns from, and what a step of it is made of.

use std::borrow::Cow;

use crate::text::{Dataset, PackedBatch, TripletBatch, Triplets};

/// What a run learns from, or is judged by.
#[derive(Clone, Copy)]
pub(crate) enum Data<'d> {
    /// Examples to mask.
    Examples(&'d Dataset),
    /// Texts to compare, drawn with this seed.
    Triplets(&'d Triplets, u64),
}

impl<'d> From<&'d Dataset> for Data<'d> {
    fn from(data: &'d Dataset) -> Self {
        Self::Examples(data)
    }
}

impl<'d> Data<'d> {
    /// The texts examples are made of.
    fn texts(self) -> &'d Dataset {
        match self {
            Self::Examples(data) => data,
            Self::Triplets(triplets, _) => triplets.texts(),
        }
    }

    /// Examples of an epoch.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Examples(data) => data.len(),
            Self::Triplets(triplets, _) => triplets.len(),
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Tokens of an example; of drawn triplets as the first epoch has them.
    pub(super) fn length(self, example: usize) -> usize {
        match self {
            Self::Examples(data) => data.length(example),
            Self::Triplets(triplets, seed) => triplets.length(example, seed),
        }
    }

    /// Tokens of an epoch, likewise.
    pub(super) fn tokens(self) -> usize {
        match self {
            Self::Examples(data) => data.tokens(),
            Self::Triplets(triplets, seed) => (0..triplets.len()).map(|example| triplets.length(example, seed)).sum(),
        }
    }

    /// The longest sequence in tokens.
    pub(super) fn longest(self) -> usize {
        self.texts().longest()
    }

    /// Texts that were cut.
    pub(super) fn truncated(self) -> usize {
        match self {
            Self::Examples(data) => data.truncated(),
            Self::Triplets(triplets, _) => triplets.truncated(),
        }
    }

    /// Enough to notice other data.
    pub(super) fn fingerprint(self) -> String {
        let (what, hash) = match self {
            Self::Examples(data) => ("examples", data.hash()),
            Self::Triplets(triplets, _) => ("triplets", triplets.hash()),
        };
        format!("{} {what}, hash {hash:016x}", self.len())
    }
}

/// What goes through the network at once.
pub(super) enum Batch<'b> {
    Masked(Cow<'b, PackedBatch>),
    Triplets(TripletBatch),
}

impl Batch<'_> {
    pub(super) fn packed(&self) -> &PackedBatch {
        match self {
            Self::Masked(batch) => batch,
            Self::Triplets(batch) => &batch.packed,
        }
    }

    /// What the loss is a mean over: masked tokens, or triplets.
    pub(super) fn losses(&self) -> usize {
        match self {
            Self::Masked(batch) => batch.labels.len(),
            Self::Triplets(batch) => batch.triplets,
        }
    }
}
