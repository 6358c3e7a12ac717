//! Evaluations in the course of a run, and what they decide.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use super::arguments::{Objective, TrainingArguments};
use super::data::Data;
use super::evaluate::{Evaluation, EvaluationOptions};
use super::evaluate_triplets::{TripletEvaluation, TripletEvaluationOptions};
use super::events::TrainEvent;
use super::resume::{self, Best, State};
use super::run::join;
use super::run_state::Run;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::text::Dataset;

/// Where the best model of a run is kept, in its output.
const BEST: &str = "checkpoint-best";

/// What an evaluation says of a run.
struct Verdict {
    evaluations_without_improvement: u64,
    /// If the model is the best so far.
    best: Option<Best>,
    /// Where it was written then.
    kept: Option<PathBuf>,
}

impl Trainer {
    /// Evaluates the model as it is, and tells of it. Breaks, the evaluation due still, where the observer does meanwhile.
    pub(super) fn evaluate_run(
        &mut self,
        run: &mut Run,
        validation: Data,
        observe: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let started = Instant::now();
        let (epoch, step) = (f64::from_bits(run.state.passes), run.state.global_step);
        let mut meanwhile = ControlFlow::Continue(());
        let mut told = |done, total| {
            meanwhile = join(meanwhile, observe(&TrainEvent::Evaluating { done, total, step }));
            // The other ranks would wait for this one.
            if self.ranks.is_some() { ControlFlow::Continue(()) } else { meanwhile }
        };
        let evaluated = match validation {
            Data::Examples(data) => {
                let evaluation = self.evaluate_on_ranks(data, &run.arguments.evaluation_options(), &mut told)?;
                evaluation.map(|evaluation| {
                    let runtime = started.elapsed();
                    (evaluation.loss, TrainEvent::Evaluated { evaluation, epoch, step, runtime })
                })
            }
            Data::Triplets(triplets, _) => {
                let options = run.arguments.triplet_evaluation_options();
                match self.model.score_triplets(triplets, &options, &mut told)? {
                    None => None,
                    Some(scores) => {
                        let evaluation = TripletEvaluation::new(&scores);
                        // Every rank has its own, which on another adapter is rounded in another way; one decides for all.
                        let loss = self.loss_of_first(evaluation.loss)?;
                        let runtime = started.elapsed();
                        Some((loss, TrainEvent::EvaluatedTriplets { evaluation, epoch, step, runtime }))
                    }
                }
            }
        };
        let Some((loss, event)) = evaluated else {
            run.evaluating += started.elapsed();
            return Ok(ControlFlow::Break(()));
        };
        run.evaluating += started.elapsed();
        let verdict = self.judge(run, loss)?;
        let mut flow = join(meanwhile, observe(&event));
        if let Some(path) = verdict.kept {
            flow = join(flow, observe(&TrainEvent::Saved { path, step }));
        }
        let flow = self.agree(flow)?;
        // Not before all is done: what failed is evaluated again, and judged as if for the first time.
        run.state.evaluations_without_improvement = verdict.evaluations_without_improvement;
        run.state.best = verdict.best.or(run.state.best.take());
        run.state.owes_evaluation = false;
        Ok(flow)
    }

    /// Each rank takes a part of the batches. Nothing comes of it where `told` breaks.
    fn evaluate_on_ranks(
        &self,
        data: &Dataset,
        options: &EvaluationOptions,
        told: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Evaluation>> {
        let place = self.ranks.as_ref().map_or((0, 1), |ranks| (ranks.rank(), ranks.size()));
        let Some(mut sums) = self.model.evaluate_part(data, options, place, told)? else { return Ok(None) };
        if let Some(ranks) = &self.ranks {
            let all = ranks.sum_f64(&sums)?;
            sums = std::array::from_fn(|i| all[i]);
        }
        Evaluation::new(&sums).map(Some)
    }

    /// Says how good the model is now, and keeps it where it is the best so far.
    fn judge(&self, run: &Run, loss: f64) -> Result<Verdict> {
        let best = run.state.best.as_ref().map(Best::loss);
        // transformers' EarlyStoppingCallback.
        let evaluations_without_improvement =
            match best.is_none_or(|best| best - loss > run.arguments.early_stopping_threshold) {
                true => 0,
                false => run.state.evaluations_without_improvement + 1,
            };
        if !best.is_none_or(|best| loss < best) {
            return Ok(Verdict { evaluations_without_improvement, best: None, kept: None });
        }
        let mut written = None;
        if let (true, true, Some(folder)) =
            (self.is_first(), run.arguments.load_best_model_at_end, &run.arguments.output_dir)
        {
            let kept = folder.join(BEST);
            if run.state.best.is_none() && kept.is_dir() {
                // An earlier run's, which may be of another kind, and have other files.
                std::fs::remove_dir_all(&kept).map_err(Error::io(&kept))?;
            }
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
            resume::save_model(&self.model, &kept)?;
            written = Some(kept);
        }
        let best = Some(Best::new(loss, run.state.global_step));
        Ok(Verdict { evaluations_without_improvement, best, kept: written })
    }

    /// Refuses to go on with a run whose best model is gone, which would be found out at its end.
    pub(super) fn check_best(&self, state: &State) -> Result<()> {
        if let (true, Some(folder), Some(best)) =
            (self.arguments.load_best_model_at_end, &self.arguments.output_dir, &state.best)
            && best.step != state.global_step
            && !folder.join(BEST).is_dir()
        {
            let (folder, step) = (folder.join(BEST), best.step);
            let reason =
                format!("cannot resume: {} is missing, the best model so far, of step {step}", folder.display());
            return Err(Error::InvalidArgument(reason));
        }
        Ok(())
    }

    /// A run that is taken up at its best model, which is not there, as where only the checkpoint was moved elsewhere: later checkpoints may
    /// take that one's place.
    pub(super) fn restore_best(&self, run: &Run) -> Result<()> {
        match (self.arguments.load_best_model_at_end, &self.arguments.output_dir, &run.state.best) {
            (true, Some(folder), Some(best))
                if best.step == run.state.global_step && self.is_first() && !folder.join(BEST).is_dir() =>
            {
                resume::save_model(&self.model, &folder.join(BEST))
            }
            _ => Ok(()),
        }
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

    /// Whether a run writes to its output before it ends.
    pub(super) fn writes_meanwhile(&self) -> bool {
        self.load_best_model_at_end || self.save_steps.is_some()
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::model::Model;

    fn go_on() -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn model() -> Model {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/fillmask");
        Model::open(&crate::gpu::test_gpu(), folder).unwrap()
    }

    fn data(model: &Model) -> Dataset {
        let lines: Vec<_> =
            (0..16).map(|i| ["you and the rain", "the rain and you"][i % 2].repeat(1 + i % 3)).collect();
        Dataset::from_lines(model.tokenizer(), &lines, 16).unwrap()
    }

    fn trainer(model: &Model, output: &Path, judged: bool) -> Trainer {
        let arguments = TrainingArguments {
            max_steps: Some(6),
            eval_steps: Some(2),
            save_steps: Some(2),
            mlm_probability: 0.4,
            learning_rate: 1e-2,
            per_device_train_batch_size: 4,
            per_device_eval_batch_size: 4,
            load_best_model_at_end: judged,
            output_dir: Some(output.to_owned()),
            ..Default::default()
        };
        Trainer::new(model, arguments).unwrap()
    }

    /// A full disk, say, is no reason to go on as if all had been written.
    #[test]
    fn an_evaluation_or_a_checkpoint_that_failed_is_made_up_for() {
        let model = model();
        let data = data(&model);
        let run = |blocked: Option<&str>| {
            let folder = tempfile::tempdir().unwrap();
            let mut trainer = trainer(&model, folder.path(), true);
            let mut run = trainer.begin_run((&data).into(), Some((&data).into()), &mut go_on).unwrap();
            // What a folder does not take the place of: of the best model a file, of checkpoints, on Windows, only a folder that is not empty.
            let in_the_way = blocked.map(|name| folder.path().join(name));
            in_the_way.iter().for_each(|path| match blocked {
                Some(BEST) => fs::write(path, "").unwrap(),
                _ => fs::create_dir_all(path.join("something")).unwrap(),
            });
            let (mut told, mut failures) = (Vec::new(), 0);
            loop {
                let advanced = trainer.advance(&mut run, (&data).into(), Some((&data).into()), &mut |event| {
                    told.extend(match event {
                        TrainEvent::Step(report) => Some(format!("step {} {}", report.step, report.loss)),
                        TrainEvent::Evaluated { evaluation, step, .. } => {
                            Some(format!("evaluated {step} {}", evaluation.loss))
                        }
                        TrainEvent::Saved { path, .. } => {
                            path.file_name().map(|name| name.to_string_lossy().into_owned())
                        }
                        // That is told again.
                        _ => None,
                    });
                    ControlFlow::Continue(())
                });
                match (advanced, &in_the_way) {
                    (Ok(flow), _) if flow.is_break() => break,
                    (Ok(_), _) => {}
                    (Err(error), Some(path)) => {
                        assert!(matches!(error, Error::Io { .. }), "{error}");
                        assert!(run.state.global_step == 2 && run.state.best.is_some() == (blocked != Some(BEST)));
                        fs::remove_file(path).or_else(|_| fs::remove_dir_all(path)).unwrap();
                        failures += 1;
                    }
                    (Err(error), None) => panic!("{error}"),
                }
            }
            let output = trainer.finish(&run).unwrap();
            let weights = trainer.model().parameter("bert.encoder.layer.0.output.dense.weight").unwrap();
            let saved: Vec<u64> =
                resume::checkpoints(folder.path()).unwrap().into_iter().map(|(step, _)| step).collect();
            ((told, output.best, saved, weights), failures)
        };
        let (want, failures) = run(None);
        assert!(failures == 0 && want.1.is_some() && want.2 == [2, 4, 6], "{want:?}");
        for blocked in [BEST, "checkpoint-2"] {
            assert!(run(Some(blocked)) == (want.clone(), 1), "{blocked}");
        }
    }

    /// Nobody who cancels waits for a long evaluation.
    #[test]
    fn an_evaluation_that_is_broken_off_is_made_up_for() {
        let model = model();
        let data = data(&model);
        let run = |judged: bool, breaks_off: Option<(u64, usize)>| {
            let folder = tempfile::tempdir().unwrap();
            let mut trainer = trainer(&model, folder.path(), judged);
            let mut run = trainer.begin_run((&data).into(), Some((&data).into()), &mut go_on).unwrap();
            let (mut told, mut broken) = (Vec::new(), 0);
            loop {
                let flow = trainer.advance(&mut run, (&data).into(), Some((&data).into()), &mut |event| match event {
                    TrainEvent::Evaluating { done, total: 4, step }
                        if broken == 0 && Some((*step, *done)) == breaks_off =>
                    {
                        ControlFlow::Break(())
                    }
                    TrainEvent::Evaluated { evaluation, step, .. } => {
                        told.push((*step, evaluation.loss));
                        ControlFlow::Continue(())
                    }
                    _ => ControlFlow::Continue(()),
                });
                match flow.unwrap() {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(()) if run.cancelled => {
                        let (step, _) = breaks_off.unwrap();
                        assert!(run.state.owes_evaluation && run.state.global_step == step);
                        assert_eq!(told.len() as u64, step / 2 - 1);
                        let latest = resume::checkpoints(folder.path()).unwrap().pop().unwrap();
                        assert!(latest.0 == step && resume::read_state(&latest.1).unwrap().owes_evaluation);
                        broken += 1;
                    }
                    ControlFlow::Break(()) => break,
                }
            }
            ((told, trainer.finish(&run).unwrap().best), broken)
        };
        for judged in [true, false] {
            let (want, _) = run(judged, None);
            assert_eq!(want.0.len(), 3);
            // The last one, too.
            for breaks_off in [(4, 1), (4, 3), (6, 2)] {
                assert_eq!(run(judged, Some(breaks_off)), (want.clone(), 1), "{breaks_off:?}");
            }
        }
    }

    #[test]
    fn a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on() {
        let model = model();
        let data = data(&model);
        let folder = tempfile::tempdir().unwrap();
        let [mut first, mut second] = [(); 2].map(|()| trainer(&model, folder.path(), true));
        let mut runs = [&mut first, &mut second]
            .map(|trainer| trainer.begin_run((&data).into(), Some((&data).into()), &mut go_on).unwrap());
        let step = |trainer: &mut Trainer, run: &mut Run, flow: ControlFlow<()>| {
            trainer.advance(run, (&data).into(), Some((&data).into()), &mut |_| flow)
        };
        assert!(step(&mut first, &mut runs[0], ControlFlow::Continue(())).unwrap().is_continue());
        let error = step(&mut second, &mut runs[1], ControlFlow::Continue(())).unwrap_err();
        assert!(error.to_string().contains("another run"), "{error}");
        assert_eq!(runs[1].state.global_step, 0);
        assert!(second.lock_output_dir().is_err());
        // Once it was cancelled the other may; what that wrote is of the same run here, and taken for what it is.
        assert!(step(&mut first, &mut runs[0], ControlFlow::Break(())).unwrap().is_break());
        assert!(step(&mut second, &mut runs[1], ControlFlow::Continue(())).unwrap().is_continue());
    }
}
