//! What a run learns from, and what a step of it is made of.

use std::borrow::Cow;

use super::arguments::{Objective, TrainingArguments};
use crate::text::{Dataset, PackedBatch, TripletBatch, Triplets};

/// What a run learns from, or is judged by.
#[derive(Clone, Copy)]
pub(crate) enum Data<'d> {
    /// Examples to mask.
    Examples(&'d Dataset),
    /// Texts to compare.
    Triplets(&'d Triplets, Drawn),
}

/// How triplets are drawn.
#[derive(Clone, Copy)]
pub(crate) struct Drawn {
    pub(super) seed: u64,
    /// Whether with a negative of their own.
    pub(super) negatives: bool,
    /// Whether the texts of a batch are each other's negatives, and have none of their own.
    pub(super) in_batch: bool,
}

impl<'d> Data<'d> {
    /// Triplets for these arguments.
    pub(super) fn triplets(triplets: &'d Triplets, arguments: &TrainingArguments) -> Self {
        let negatives = match &arguments.objective {
            Objective::Embedding(objective) => objective.loss.wants_negatives(),
            Objective::MaskedLm => false,
        };
        let own = negatives || (triplets.songs().is_none() && triplets.has_negatives());
        Self::Triplets(triplets, Drawn { seed: arguments.seed, negatives, in_batch: !own })
    }

    /// The texts examples are made of.
    pub(super) fn texts(self) -> &'d Dataset {
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
            Self::Triplets(triplets, Drawn { seed, negatives, .. }) => triplets.length(example, seed, negatives),
        }
    }

    /// Tokens of an epoch, likewise.
    pub(super) fn tokens(self) -> usize {
        match self {
            Self::Examples(data) => data.tokens(),
            Self::Triplets(..) => (0..self.len()).map(|example| self.length(example)).sum(),
        }
    }

    /// Batches of an epoch, where they are counted in examples: a last one of a single example, where texts of a batch are each other's
    /// negatives, would teach nothing, and is a part of the one before.
    pub(super) fn batches(self, batch_size: usize) -> usize {
        let batches = self.len().div_ceil(batch_size);
        match self {
            Self::Triplets(triplets, Drawn { in_batch: true, .. })
                if batches > 1 && triplets.len() % batch_size == 1 =>
            {
                batches - 1
            }
            _ => batches,
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
        format!("{} {what}, hash {hash:016x}{}", self.len(), self.static_masks())
    }

    /// Masks that are stored are a function of these, which the hash of the tokens does not know.
    fn static_masks(self) -> String {
        let Self::Examples(data) = self else { return String::new() };
        if !data.has_static_masks() {
            return String::new();
        }
        let names = ["mlm_probability", "mask_replace_prob", "random_replace_prob", "whole_word_mask", "seed"];
        let each = names.map(|name| format!("{name} {}", data.metadata().get(name).map_or("unknown", String::as_str)));
        format!(", masked with {}", each.join(", "))
    }
}

impl<'d> From<&'d Dataset> for Data<'d> {
    fn from(data: &'d Dataset) -> Self {
        Self::Examples(data)
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
