//! Which examples make up which batch.

use std::ops::ControlFlow;

use super::arguments::TrainingArguments;
use super::data::Data;
use crate::error::{Error, Result};
use crate::text::{Purpose, shuffle, shuffled};

/// The batches of one epoch: a function of the data, the seed and the epoch.
pub(crate) struct Plan {
    order: Vec<usize>,
    /// Where each batch ends in `order`.
    ends: Vec<usize>,
    /// Batches in an optimizer step.
    accumulation: usize,
}

/// Batches that are sorted by length together, as in transformers' LengthGroupedSampler.
const GROUP: usize = 50;

impl Plan {
    pub(crate) fn new(data: Data, arguments: &TrainingArguments, epoch: u64) -> Self {
        let mut order = shuffled(data.len(), arguments.seed, epoch);
        let batch_size = arguments.per_device_train_batch_size;
        if arguments.group_by_length {
            let group = match arguments.batch_tokens {
                // As many examples as fill that many batches, on average.
                Some(budget) => {
                    let mean = (data.tokens() / data.len().max(1)).max(1);
                    (budget / mean).max(1).saturating_mul(GROUP)
                }
                None => batch_size.saturating_mul(GROUP),
            };
            for group in order.chunks_mut(group) {
                group.sort_by_key(|&example| std::cmp::Reverse(data.length(example)));
            }
        }
        let mut ends = Vec::new();
        match arguments.batch_tokens {
            None => {
                let batches = data.batches(batch_size);
                ends.extend((1..batches).map(|i| i * batch_size));
                ends.extend((batches > 0).then_some(order.len()));
            }
            Some(budget) => {
                let mut tokens = 0;
                for (at, &example) in order.iter().enumerate() {
                    if tokens > 0 && tokens + data.length(example) > budget {
                        ends.push(at);
                        tokens = 0;
                    }
                    tokens += data.length(example);
                }
                if !order.is_empty() {
                    ends.push(order.len());
                }
            }
        }
        let mut plan = Self { order, ends, accumulation: arguments.gradient_accumulation_steps };
        if arguments.group_by_length {
            // Else an epoch would go from long to short examples again and again.
            plan.shuffle_batches(data, arguments.seed, epoch);
        }
        plan
    }

    /// But for the largest, which comes first, as in transformers: where memory does not suffice, that shows at once.
    fn shuffle_batches(&mut self, data: Data, seed: u64, epoch: u64) {
        let mut batches: Vec<usize> = (0..self.ends.len()).collect();
        shuffle(&mut batches, Purpose::Batches, seed, epoch);
        let tokens = |batch: usize| self.batch(batch).iter().map(|&example| data.length(example)).sum::<usize>();
        if let Some(largest) = (0..batches.len()).max_by_key(|&at| tokens(batches[at])) {
            batches.swap(0, largest);
        }
        let (mut order, mut ends) = (Vec::with_capacity(self.order.len()), Vec::with_capacity(self.ends.len()));
        for batch in batches {
            order.extend_from_slice(self.batch(batch));
            ends.push(order.len());
        }
        (self.order, self.ends) = (order, ends);
    }

    fn batch(&self, index: usize) -> &[usize] {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.order[begin..self.ends[index]]
    }

    /// Optimizer steps.
    pub(crate) fn steps(&self) -> usize {
        self.ends.len().div_ceil(self.accumulation)
    }

    /// The batches of a step, each the indices of its examples.
    pub(crate) fn step(&self, index: usize) -> impl Iterator<Item = &[usize]> {
        let begin = index * self.accumulation;
        (begin..(begin + self.accumulation).min(self.ends.len())).map(|batch| self.batch(batch))
    }

    /// The batches of a step for one of several ranks, in as few batches as hold its examples. Together the ranks have the step's
    /// examples, whatever their number; as many each, or as the weights say, which are one for each rank.
    pub(crate) fn share(
        &self,
        data: Data,
        arguments: &TrainingArguments,
        index: usize,
        rank: usize,
        weights: &[f64],
    ) -> Vec<Vec<usize>> {
        if weights.len() <= 1 {
            return self.step(index).map(<[usize]>::to_vec).collect();
        }
        if weights.iter().all(|weight| *weight == weights[0]) {
            let own = self.step(index).flatten().skip(rank).step_by(weights.len()).copied();
            return Self::cut(data, arguments, own);
        }
        let total: f64 = weights.iter().sum();
        let mut taken = vec![0.0; weights.len()];
        // To whom it is due most; of equals to the first, so that equal ranks take turns.
        let mut whose = |count: usize| {
            let due = |rank: usize| weights[rank] / total * count as f64 - taken[rank];
            let most = (0..weights.len()).fold(0, |best, rank| if due(rank) > due(best) + 1e-9 { rank } else { best });
            taken[most] += 1.0;
            most
        };
        let examples = self.step(index).flatten().enumerate();
        let own = examples.filter(|(count, _)| whose(count + 1) == rank).map(|(_, &example)| example);
        Self::cut(data, arguments, own)
    }

    /// As few batches as hold these examples.
    fn cut(data: Data, arguments: &TrainingArguments, own: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
        let (mut batches, mut tokens): (Vec<Vec<usize>>, usize) = (Vec::new(), 0);
        for example in own {
            let length = data.length(example);
            let fits = |batch: &Vec<usize>| match arguments.batch_tokens {
                Some(budget) => tokens + length <= budget,
                None => batch.len() < arguments.per_device_train_batch_size,
            };
            match batches.last_mut().filter(|batch| fits(batch)) {
                Some(batch) => batch.push(example),
                None => {
                    batches.push(vec![example]);
                    tokens = 0;
                }
            }
            tokens += length;
        }
        batches
    }

    /// Optimizer steps of a whole run. Batches by tokens have every epoch planned for that: before each it is asked whether to go on.
    pub(crate) fn total_steps(
        data: Data,
        arguments: &TrainingArguments,
        ask: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<u64> {
        if let Some(steps) = arguments.max_steps {
            return Ok(steps);
        }
        let epochs = arguments.num_train_epochs;
        if arguments.batch_tokens.is_none() {
            let batches = data.batches(arguments.per_device_train_batch_size);
            return Ok((batches.div_ceil(arguments.gradient_accumulation_steps) as f64 * epochs).ceil() as u64);
        }
        let mut steps = |epoch| match ask() {
            ControlFlow::Continue(()) => Ok(Self::new(data, arguments, epoch).steps() as u64),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        };
        // Epochs differ: their batches are filled in another order.
        let mut total = 0;
        for epoch in 0..epochs as u64 {
            total += steps(epoch)?;
        }
        let part = epochs.fract();
        Ok(total + if part > 0.0 { (steps(epochs as u64)? as f64 * part).ceil() as u64 } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Dataset, Tokenizer};

    fn data() -> Dataset {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/tokenizer");
        let lines: Vec<String> = (1..=97).map(|i| "the ".repeat(1 + i * 7 % 13)).collect();
        Dataset::from_lines(&Tokenizer::open(folder).unwrap(), &lines, 64).unwrap()
    }

    #[test]
    fn counting_steps_can_be_ended() {
        let arguments = TrainingArguments { batch_tokens: Some(40), num_train_epochs: 1e6, ..Default::default() };
        let mut asked = 0;
        let counted = Plan::total_steps((&data()).into(), &arguments, &mut || {
            asked += 1;
            if asked == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(counted, Err(Error::Cancelled)) && asked == 3);
    }

    fn steps(plan: &Plan) -> Vec<Vec<Vec<usize>>> {
        (0..plan.steps()).map(|step| plan.step(step).map(<[usize]>::to_vec).collect()).collect()
    }

    #[test]
    fn every_example_comes_once_an_epoch_in_batches_within_their_bounds() {
        let data = data();
        for (batch_tokens, group_by_length, gradient_accumulation_steps) in
            [(None, false, 1), (None, true, 3), (Some(40), false, 1), (Some(40), true, 2), (Some(15), true, 1)]
        {
            let arguments = TrainingArguments {
                batch_tokens,
                group_by_length,
                gradient_accumulation_steps,
                per_device_train_batch_size: 5,
                ..Default::default()
            };
            let plan = steps(&Plan::new((&data).into(), &arguments, 3));
            let batches = plan.concat();
            let mut all = batches.concat();
            all.sort_unstable();
            assert_eq!(all, (0..97).collect::<Vec<_>>());
            let tokens = |batch: &Vec<usize>| batch.iter().map(|&i| data.length(i)).sum::<usize>();
            for batch in &batches {
                assert!(!batch.is_empty());
                assert!(batch_tokens.map_or(batch.len() <= 5, |budget| tokens(batch) <= budget));
            }
            assert!(plan.iter().rev().skip(1).all(|step| step.len() == gradient_accumulation_steps));
            let whole = Plan::new((&data).into(), &arguments, 3);
            for ranks in [1, 2, 3, 7] {
                for (index, step) in plan.iter().enumerate() {
                    let of = |rank| whole.share((&data).into(), &arguments, index, rank, &vec![1.0; ranks]);
                    let shares: Vec<Vec<Vec<usize>>> = (0..ranks).map(of).collect();
                    for batch in shares.iter().flatten() {
                        assert!(batch_tokens.map_or(batch.len() <= 5, |budget| tokens(batch) <= budget));
                    }
                    let sizes = shares.iter().map(|share| share.concat().len());
                    assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
                    let sorted = |mut examples: Vec<usize>| {
                        examples.sort_unstable();
                        examples
                    };
                    assert_eq!(sorted(shares.concat().concat()), sorted(step.concat()));
                }
            }
            // One that is twice as fast takes half of them.
            let of = |rank| whole.share((&data).into(), &arguments, 0, rank, &[0.5, 1.0, 0.5]).concat().len();
            let (count, [a, b, c]) = (plan[0].concat().len(), [0, 1, 2].map(of));
            assert!(
                a + b + c == count && b.abs_diff(count.div_ceil(2)) <= 1 && a.abs_diff(c) <= 1,
                "{a} {b} {c} of {count}"
            );
            assert_ne!(plan, steps(&Plan::new((&data).into(), &arguments, 4)));
            assert_eq!(plan, steps(&Plan::new((&data).into(), &arguments, 3)));
            if group_by_length {
                assert!(batches.iter().all(|batch| tokens(batch) <= tokens(&batches[0])));
                let spread = |batches: &[Vec<usize>]| -> usize {
                    let of = |batch: &Vec<usize>| {
                        let lengths = || batch.iter().map(|&i| data.length(i));
                        lengths().max().unwrap() - lengths().min().unwrap()
                    };
                    batches.iter().map(of).sum()
                };
                let ungrouped = TrainingArguments { group_by_length: false, ..arguments.clone() };
                let ungrouped = steps(&Plan::new((&data).into(), &ungrouped, 3)).concat();
                assert!(2 * spread(&batches) < spread(&ungrouped) + 1);
            }
            let total = Plan::total_steps(
                (&data).into(),
                &TrainingArguments { num_train_epochs: 2.5, ..arguments.clone() },
                &mut || ControlFlow::Continue(()),
            )
            .unwrap();
            let of = |epoch| Plan::new((&data).into(), &arguments, epoch).steps() as u64;
            let expected = match batch_tokens {
                None => (of(0) * 5).div_ceil(2),
                Some(_) => of(0) + of(1) + of(2).div_ceil(2),
            };
            assert_eq!(total, expected);
        }
    }
}
