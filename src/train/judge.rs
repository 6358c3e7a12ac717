//! Evaluations in the course of a run, and what they decide.

use std::ops::ControlFlow;
use std::time::Instant;

use super::arguments::{Objective, TrainingArguments};
use super::data::Data;
use super::evaluate::{Evaluation, EvaluationOptions};
use super::evaluate_triplets::TripletEvaluationOptions;
use super::events::TrainEvent;
use super::resume::{self, Best};
use super::run::Run;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::text::Dataset;

/// Where the best model of a run is kept, in its output.
const BEST: &str = "checkpoint-best";

impl Trainer {
    /// Evaluates the model as it is, and tells of it.
    pub(super) fn evaluate_run(
        &mut self,
        run: &mut Run,
        validation: Data,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let started = Instant::now();
        let (epoch, step) = (f64::from_bits(run.state.passes), run.state.global_step);
        let (loss, event) = match validation {
            Data::Examples(data) => {
                let evaluation = self.evaluate_on_ranks(data, &run.arguments.evaluation_options())?;
                let runtime = started.elapsed();
                (evaluation.loss, TrainEvent::Evaluated { evaluation, epoch, step, runtime })
            }
            Data::Triplets(triplets, _) => {
                let options = run.arguments.triplet_evaluation_options();
                let evaluation = self.model.evaluate_triplets(triplets, &options)?;
                // Every rank has its own, which on another adapter is rounded in another way; one decides for all.
                let loss = self.loss_of_first(evaluation.loss)?;
                let runtime = started.elapsed();
                (loss, TrainEvent::EvaluatedTriplets { evaluation, epoch, step, runtime })
            }
        };
        run.evaluating += started.elapsed();
        self.judge(run, loss)?;
        let flow = observe(&event);
        self.agree(flow)
    }

    /// Each rank takes a part of the batches.
    fn evaluate_on_ranks(&self, data: &Dataset, options: &EvaluationOptions) -> Result<Evaluation> {
        let Some(ranks) = &self.ranks else { return self.model.evaluate_dataset(data, options) };
        let own = self.model.evaluate_part(data, options, (ranks.rank(), ranks.size()))?;
        let sums = ranks.sum_f64(&own)?;
        Evaluation::new(&std::array::from_fn(|i| sums[i]))
    }

    /// Notes how good the model is now, and keeps it where it is the best so far.
    fn judge(&mut self, run: &mut Run, loss: f64) -> Result<()> {
        let step = run.state.global_step;
        let best = run.state.best.as_ref().map(Best::loss);
        // transformers' EarlyStoppingCallback.
        match best.is_none_or(|best| best - loss > run.arguments.early_stopping_threshold) {
            true => run.state.evaluations_without_improvement = 0,
            false => run.state.evaluations_without_improvement += 1,
        }
        if best.is_none_or(|best| loss < best) {
            run.state.best = Some(Best::new(loss, step));
            if !self.is_first() {
                return Ok(());
            }
            if let (true, Some(folder)) = (run.arguments.load_best_model_at_end, &run.arguments.output_dir) {
                std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
                resume::save_model(&self.model, &folder.join(BEST))?;
            }
        }
        Ok(())
    }

    /// Goes back to the best weights, where they are not the present ones.
    pub(super) fn take_best(&mut self, run: &Run) -> Result<()> {
        let (true, Some(folder), Some(best)) =
            (run.arguments.load_best_model_at_end, &run.arguments.output_dir, &run.state.best)
        else {
            return Ok(());
        };
        if best.step != run.state.global_step {
            self.load_weights(&folder.join(BEST))?;
        }
        Ok(())
    }
}

impl TrainingArguments {
    /// Whether evaluations decide about the run's end or its model.
    pub(super) fn is_judged(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping_patience.is_some()
    }

    pub(super) fn triplet_evaluation_options(&self) -> TripletEvaluationOptions {
        let objective = match &self.objective {
            Objective::Embedding(objective) => *objective,
            Objective::MaskedLm => Default::default(),
        };
        let per_device_eval_batch_size = self.per_device_eval_batch_size;
        TripletEvaluationOptions { objective, per_device_eval_batch_size, seed: self.seed, retrieval: false }
    }

    /// Validation data are masked as training data are, but always in the same way.
    pub(super) fn evaluation_options(&self) -> EvaluationOptions {
        EvaluationOptions {
            mlm_probability: self.mlm_probability,
            mask_replace_prob: self.mask_replace_prob,
            random_replace_prob: self.random_replace_prob,
            whole_word_mask: self.whole_word_mask,
            static_mask: self.static_mask,
            per_device_eval_batch_size: self.per_device_eval_batch_size,
            max_seq_length: self.max_seq_length,
            seed: self.seed,
        }
    }
}
