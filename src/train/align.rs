//! Keeps ranks alike whose adapters round differently.
//!
//! No weights travel while all ranks compute the same AdamW step from the same gradients. Adapters of different makes may
//! divide and take roots in different ways, so there weights would come apart by a rounding a step. They are compared
//! where something depends on them (evaluations, checkpoints, the end of an epoch), and sent only where they differ.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::gpu::{Pass, Tensor};
use crate::ops::fingerprint::fingerprint;

/// Numbers that travel at once: 64 MiB, which MPI can count and a host can spare.
const PIECE: usize = 1 << 24;

impl Trainer {
    /// Where a rank's trained weights or moments are not those of the first to the bit, all get the first one's. Every rank
    /// has to come here at the same step; a checkpoint of the first is then one of all. Returns the time spent with
    /// others.
    pub(super) fn align(&mut self) -> Result<Duration> {
        let Some(ranks) = &self.ranks else { return Ok(Duration::ZERO) };
        let gpu = &self.model.gpu;
        let weights = self.model.bert.trained_parameters().into_iter().map(|parameter| &parameter.value);
        let arrays: Vec<&Tensor> = weights.chain(self.moments.iter().flat_map(|(m, v)| [m, v])).collect();
        let own = fingerprint(gpu, &arrays)?;
        let began = Instant::now();
        let said = ranks.gather(own.to_le_bytes().to_vec())?;
        if said.iter().any(|other| *other != said[0]) {
            // A rank that fails amid this has weights of two kinds.
            let was_unsure = self.unsure.swap(true, Ordering::Relaxed);
            for array in arrays {
                let values: Vec<f32> = match ranks.rank() {
                    0 => {
                        let mut pass = Pass::new(gpu);
                        let download = pass.download(array)?;
                        pass.submit()?;
                        download.wait(gpu)?
                    }
                    _ => Vec::new(),
                };
                for start in (0..array.len()).step_by(PIECE) {
                    let range = start..(start + PIECE).min(array.len());
                    let piece = values.get(range.clone()).unwrap_or(&[]);
                    let heard = ranks.broadcast(bytemuck::cast_slice(piece).to_vec())?;
                    if heard.len() != 4 * range.len() {
                        let reason = "the devices do not speak of the same weights: resume from a checkpoint";
                        return Err(Error::RankFailed(reason.into()));
                    }
                    if ranks.rank() > 0 {
                        array.write(gpu, start, &bytemuck::pod_collect_to_vec(&heard))?;
                        // So that the driver holds one piece at a time.
                        gpu.flush()?;
                    }
                }
            }
            // Where one had made a step and another had not, equal weights are not those of that step.
            self.unsure.store(was_unsure, Ordering::Relaxed);
            self.aligned += 1;
        }
        Ok(began.elapsed())
    }
}

impl Trainer {
    /// [`Trainer::align`] on all devices of this process, between two steps.
    pub(crate) fn align_all(&mut self) -> Result<()> {
        self.check_sure()?;
        let mut of_peers = vec![(); self.peers.len()];
        self.on_ranks(&mut of_peers, |first| first.align().map(|_| ()), |peer, ()| peer.align().map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use super::*;
    use crate::gpu::Gpu;
    use crate::model::Model;
    use crate::train::{TrainEvent, TrainingArguments};

    /// On the tests' adapter.
    fn trainer(others: usize) -> Trainer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/fillmask");
        let gpu = crate::gpu::test_gpu();
        let index = gpu.adapter().index;
        let options = crate::gpu::GpuOptions { adapter: Some(index), ..Default::default() };
        let others: Vec<Gpu> = (0..others).map(|_| Gpu::open_with(&options).unwrap()).collect();
        let arguments = TrainingArguments {
            max_steps: Some(4),
            eval_steps: Some(2),
            learning_rate: 1e-3,
            mlm_probability: 0.4,
            per_device_train_batch_size: 3,
            ..Default::default()
        };
        Trainer::with_devices(&Model::open(&gpu, folder).unwrap(), &others, arguments).unwrap()
    }

    fn bits(trainer: &Trainer) -> u64 {
        let weights = trainer.model.bert.trained_parameters().into_iter().map(|parameter| &parameter.value);
        let arrays: Vec<&Tensor> = weights.chain(trainer.moments.iter().flat_map(|(m, v)| [m, v])).collect();
        fingerprint(&trainer.model.gpu, &arrays).unwrap()
    }

    /// As if the last rank's adapter rounded differently, by more than the next step's rounding swallows.
    fn bring_apart(trainer: &Trainer, of: fn(&Trainer) -> &Tensor) {
        let peer = trainer.peers.last().unwrap();
        let (gpu, array) = (&peer.model.gpu, of(peer));
        let mut pass = Pass::new(gpu);
        let download = pass.download(array).unwrap();
        pass.submit().unwrap();
        let last = *download.wait::<f32>(gpu).unwrap().last().unwrap();
        array.write(gpu, array.len() - 1, &[f32::from_bits(last.to_bits() ^ 0x1000)]).unwrap();
    }

    fn train(trainer: &mut Trainer) -> Vec<f64> {
        let lines = ["you and the rain", "the rain", "and you and the rain and you", "rain", "you the rain and", "and"];
        let mut held_out = Vec::new();
        let observe = |event: &TrainEvent| {
            if let TrainEvent::Evaluated { evaluation, .. } = event {
                held_out.push(evaluation.loss);
            }
            ControlFlow::Continue(())
        };
        trainer.train(&lines, &lines[..4], observe).unwrap();
        held_out
    }

    #[test]
    fn ranks_that_came_apart_get_the_weights_and_moments_of_the_first() {
        let mut alike = trainer(2);
        train(&mut alike);
        let all = |trainer: &Trainer| trainer.peers.iter().chain([trainer]).map(bits).collect::<Vec<_>>();
        assert!(all(&alike).windows(2).all(|two| two[0] == two[1]));
        assert_eq!(alike.aligned, 0, "nothing has to travel between devices of one kind");
        let want = train(&mut alike);

        let places: [fn(&Trainer) -> &Tensor; 3] = [
            |trainer| &trainer.model.bert.trained_parameters()[0].value,
            |trainer| &trainer.moments[1].0,
            |trainer| &trainer.moments.last().unwrap().1,
        ];
        for (place, of) in places.into_iter().enumerate() {
            let mut apart = trainer(2);
            train(&mut apart);
            bring_apart(&apart, of);
            let before = all(&apart);
            assert_ne!(before[1], before[2], "{place}");
            let found = train(&mut apart);
            let after = all(&apart);
            assert!(after.windows(2).all(|two| two[0] == two[1]), "{place}: {after:?}");
            // Once: at the first evaluation, from which on they are alike again.
            assert_eq!(
                apart.peers.iter().chain([&apart]).map(|rank| rank.aligned).collect::<Vec<_>>(),
                [1; 3],
                "{place}"
            );
            assert!(found.iter().zip(&want).all(|(a, b)| (a / b - 1.0).abs() < 1e-5), "{found:?} {want:?}");
        }
    }
}
