//! What is refused before a run begins.

use super::arguments::Objective;
use super::data::{Data, Drawn};
use super::evaluate_triplets::check_batches;
use super::resume;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::text::{Purpose, Triplets};

/// Examples that are looked through for one that is masked, or one epoch's, if those are more.
const SEARCHED: usize = 200_000;

impl Trainer {
    /// Refuses triplets that this trainer could not train on, or not be judged by.
    pub(crate) fn check_triplets(&self, train: &Triplets, held_out: &Triplets) -> Result<()> {
        let data = |triplets| Data::triplets(triplets, &self.arguments);
        self.check_data(data(train), Some(data(held_out)))?;
        self.check_memory(data(train))
    }

    /// Refuses data and options that would fail later, or not do what they say; whether all has room is another question.
    pub(super) fn check_data(&self, train: Data, validation: Option<Data>) -> Result<()> {
        let arguments = &self.arguments;
        let length = self.longest()?;
        if train.is_empty() {
            return Err(Error::EmptyCorpus { paths: "the training data".into() });
        }
        for data in [Some(train), validation].into_iter().flatten() {
            data.texts().check(&self.model.tokenizer, length)?;
            match (data, &arguments.objective) {
                (Data::Examples(data), Objective::MaskedLm) if arguments.static_mask => data.require_static_masks()?,
                (Data::Examples(_), Objective::MaskedLm) => {}
                (Data::Triplets(triplets, _), Objective::Embedding(objective)) => {
                    objective.loss.check(triplets)?;
                }
                (Data::Examples(_), Objective::Embedding(_)) => {
                    return Err(Error::InvalidArgument("embeddings are trained on triplets: train_triplets".into()));
                }
                (Data::Triplets(..), Objective::MaskedLm) => {
                    return Err(Error::InvalidArgument("triplets train embeddings: set Objective::Embedding".into()));
                }
            }
        }
        if let (Some(Data::Triplets(triplets, _)), Objective::Embedding(objective)) = (validation, &arguments.objective)
        {
            objective.loss.check_measured(triplets)?;
            check_batches(objective.loss, triplets, arguments.per_device_eval_batch_size)?;
        }
        let batch = arguments.per_device_train_batch_size;
        if let (Data::Triplets(_, Drawn { in_batch: true, .. }), 1) = (train, batch) {
            let reason =
                "per_device_train_batch_size is 1: texts that are each other's negatives take at least two triplets";
            return Err(Error::InvalidArgument(reason.into()));
        }
        if let (Data::Triplets(triplets, _), Objective::Embedding(objective)) = (train, &arguments.objective)
            && !objective.loss.wants_negatives()
            && triplets.len() < batch
        {
            let have = triplets.len();
            let what = if triplets.songs().is_some() { "songs of two sections" } else { "triplets" };
            let reason = format!(
                "a batch of {batch} triplets, which are each other's negatives, takes as many {what}, and there are {have}: lower \
                 per_device_train_batch_size"
            );
            return Err(Error::InvalidArgument(reason));
        }
        if let Some(budget) = arguments.batch_tokens.filter(|&budget| budget < train.longest()) {
            let longest = train.longest();
            let reason = format!("batch_tokens is {budget}, but the longest example has {longest} tokens");
            return Err(Error::InvalidArgument(reason));
        }
        let Data::Examples(data) = train else { return Ok(()) };
        if let Some(Data::Examples(validation)) = validation {
            self.model.check_masked(validation, &arguments.evaluation_options())?;
        }
        let masking = arguments.masking(Purpose::Train);
        masking.check(&self.model.tokenizer)?;
        // The first that is ends the search: of all but the smallest data one of the first.
        let is_masked = |epoch, example| match data.static_mask(example).filter(|_| arguments.static_mask) {
            Some((_, labels)) => !labels.is_empty(),
            None => !masking.apply(&self.model.tokenizer, data.get(example), epoch, example).1.is_empty(),
        };
        // A step is a part of an epoch at least.
        let epochs = arguments.max_steps.unwrap_or(arguments.num_train_epochs.ceil() as u64).max(1);
        let all = (0..epochs).flat_map(|epoch| (0..data.len()).map(move |example| (epoch, example)));
        match all.take(SEARCHED.max(data.len())).any(|(epoch, example)| is_masked(epoch, example)) {
            true => Ok(()),
            false => {
                let reason = "no token of the training data would be masked: give more or longer lines, or a higher mlm_probability";
                Err(Error::InvalidArgument(reason.into()))
            }
        }
    }

    /// Checkpoints of two runs in one folder could not be told apart.
    pub(crate) fn refuse_earlier_run(&self) -> Result<()> {
        let earlier = self.arguments.output_dir.as_deref().map(resume::checkpoints).transpose()?;
        if let Some((_, latest)) = earlier.and_then(|mut found| found.pop()) {
            let latest = latest.display();
            let reason = format!("{latest} is of an earlier run: resume that run, or remove its checkpoints");
            return Err(Error::InvalidArgument(reason));
        }
        Ok(())
    }

    /// Refuses what only validation data can decide, where there are none.
    pub(super) fn check_judged(&self, validation: Option<Data>) -> Result<()> {
        if self.arguments.is_judged() && validation.is_none() {
            let reason = "the best model and early stopping are told by validation data, and there are none";
            return Err(Error::InvalidArgument(reason.into()));
        }
        Ok(())
    }
}
