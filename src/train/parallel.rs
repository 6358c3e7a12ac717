//! Several ranks that train one model together, each on a device of its own: what they say to each other.
//!
//! Every rank runs the same steps, on its share of each step's examples, and says the same things in the same order. Sums are
//! taken in the order of the ranks, and every rank gets the same bits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::arguments::CommHook;
use crate::error::{Error, Result};

/// How a rank talks to the others.
pub(crate) trait Communicator: Send + Sync {
    /// Which one this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Sums of values over all ranks, which travel as the hook says.
    fn sum(&self, values: Vec<f32>, hook: CommHook) -> Result<Vec<f32>>;

    /// What every rank has to say, in their order.
    fn gather(&self, said: Vec<u8>) -> Result<Vec<Vec<u8>>>;

    /// What rank 0 says; what the others say is not heard.
    fn broadcast(&self, said: Vec<u8>) -> Result<Vec<u8>>;

    /// What is set while the program is being told of the run, however long it takes: that time is none of a device's. `None` where the
    /// others do not see it.
    fn paused(&self) -> Option<Arc<AtomicBool>> {
        None
    }

    /// Ends the others' waiting, now and later, with this reason.
    fn abort(&self, reason: &str);

    /// Takes back an [`Communicator::abort`], and what was said before it. No rank may be waiting.
    fn recover(&self);
}

impl dyn Communicator + '_ {
    /// A few numbers of every rank.
    pub(super) fn gather_f64(&self, values: &[f64]) -> Result<Vec<Vec<f64>>> {
        let said = self.gather(values.iter().flat_map(|value| value.to_le_bytes()).collect())?;
        if said.iter().any(|said| said.len() != 8 * values.len()) {
            return Err(Error::RankFailed(
                "the devices do not speak of the same: another one does something else".into(),
            ));
        }
        let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().unwrap_or_default());
        Ok(said.iter().map(|bytes| bytes.chunks_exact(8).map(number).collect()).collect())
    }

    /// Sums of a few numbers over all ranks, in f64.
    pub(super) fn sum_f64(&self, values: &[f64]) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; values.len()];
        for said in self.gather_f64(values)? {
            sums.iter_mut().zip(said).for_each(|(sum, value)| *sum += value);
        }
        Ok(sums)
    }
}

/// Ranks that are threads of one process.
pub(super) struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    size: usize,
    /// How long a rank waits for another before it gives up.
    patience: Duration,
    sums: Meeting<Vec<f32>>,
    words: Meeting<Vec<u8>>,
    aborted: Mutex<Option<String>>,
    /// The program is being told of the run, and takes its time.
    paused: Arc<AtomicBool>,
}

/// Sets what [`Communicator::paused`] gives, until it is dropped.
pub(super) struct Pause(Option<Arc<AtomicBool>>);

impl Pause {
    pub(super) fn begin(paused: Option<&Arc<AtomicBool>>) -> Self {
        paused.inspect(|paused| paused.store(true, Ordering::Relaxed));
        Self(paused.cloned())
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.iter().for_each(|paused| paused.store(false, Ordering::Relaxed));
    }
}

/// What the benchmark measures: seconds of each sum of so many numbers over so many threads.
#[cfg(feature = "bench")]
pub(crate) fn sums_of_threads(ranks: usize, len: usize, rounds: usize) -> Result<Vec<f64>> {
    let group = Threads::group(ranks, Duration::from_secs(600));
    std::thread::scope(|threads| {
        let handles: Vec<_> = group.iter().map(|rank| threads.spawn(move || timed(rank, len, rounds))).collect();
        let mut seconds = handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err(Error::RankFailed("a thread panicked".into()))));
        seconds.next().unwrap_or(Ok(Vec::new()))
    })
}

/// The first round, which is not counted, makes the pages that later ones find.
#[cfg(feature = "bench")]
pub(super) fn timed(rank: &dyn Communicator, len: usize, rounds: usize) -> Result<Vec<f64>> {
    let round = |_| {
        let values = vec![1f32; len];
        // All begin together: waiting for a late one is not the sum's own time.
        rank.gather(Vec::new())?;
        let began = Instant::now();
        rank.sum(values, CommHook::No)?;
        Ok(began.elapsed().as_secs_f64())
    };
    (0..=rounds).map(round).skip(1).collect()
}

/// A place where every rank leaves something and takes what all have left.
struct Meeting<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    left: Vec<Option<Arc<T>>>,
    /// Ranks that still have to take what was left.
    to_take: usize,
}

impl Threads {
    /// A communicator for each of so many ranks.
    pub(super) fn group(size: usize, patience: Duration) -> Vec<Self> {
        let shared = Arc::new(Shared {
            size,
            patience,
            sums: Meeting::new(size),
            words: Meeting::new(size),
            aborted: Mutex::default(),
            paused: Arc::default(),
        });
        (0..size).map(|rank| Self { rank, shared: Arc::clone(&shared) }).collect()
    }

    /// Leaves a value, and takes what all ranks have left.
    fn meet<T>(&self, meeting: &Meeting<T>, value: Arc<T>) -> Result<Vec<Arc<T>>> {
        let deadline = Instant::now() + self.shared.patience;
        let state = lock(&meeting.state);
        // Until everyone has taken what was left the time before.
        let mut state = self.wait(meeting, state, deadline, |state| state.to_take == 0)?;
        state.left[self.rank] = Some(value);
        if state.left.iter().all(Option::is_some) {
            state.to_take = self.shared.size;
            meeting.changed.notify_all();
        }
        let mut state = self.wait(meeting, state, deadline, |state| state.to_take > 0)?;
        let all = state.left.iter().flatten().cloned().collect();
        state.to_take -= 1;
        if state.to_take == 0 {
            state.left.iter_mut().for_each(|left| *left = None);
            meeting.changed.notify_all();
        }
        Ok(all)
    }

    fn wait<'m, T>(
        &self,
        meeting: &'m Meeting<T>,
        mut state: MutexGuard<'m, State<T>>,
        mut deadline: Instant,
        until: impl Fn(&State<T>) -> bool,
    ) -> Result<MutexGuard<'m, State<T>>> {
        let mut looked = Instant::now();
        while !until(&state) {
            let now = Instant::now();
            if self.shared.paused.load(Ordering::Relaxed) {
                deadline += now - looked;
            }
            looked = now;
            if let Some(reason) = lock(&self.shared.aborted).clone() {
                return Err(Error::RankFailed(reason));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = self.shared.patience.as_secs();
                return Err(Error::RankFailed(format!("another device did not answer within {seconds} s")));
            }
            // Woken now and then, in case an abort came between the look at it and the wait.
            let waited = meeting.changed.wait_timeout(state, left.min(Duration::from_millis(100)));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state)
    }
}

impl<T> Meeting<T> {
    fn new(size: usize) -> Self {
        let state = State { left: (0..size).map(|_| None).collect(), to_take: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn reset(&self) {
        let mut state = lock(&self.state);
        state.left.iter_mut().for_each(|left| *left = None);
        state.to_take = 0;
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.size
    }

    /// Each rank sums a part of what all have left, and leaves that for the others.
    fn sum(&self, mut values: Vec<f32>, hook: CommHook) -> Result<Vec<f32>> {
        let len = values.len();
        hook.round(&mut values);
        let all = self.meet(&self.shared.sums, Arc::new(values))?;
        let part = len.div_ceil(self.size());
        let own = (part * self.rank).min(len)..(part * (self.rank + 1)).min(len);
        let mut sums = all[0][own.clone()].to_vec();
        for others in &all[1..] {
            sums.iter_mut().zip(&others[own.clone()]).for_each(|(sum, value)| *sum += value);
        }
        drop(all);
        hook.round(&mut sums);
        let parts = self.meet(&self.shared.sums, Arc::new(sums))?;
        let mut sums = Vec::with_capacity(len);
        parts.iter().for_each(|part| sums.extend_from_slice(part));
        Ok(sums)
    }

    fn gather(&self, said: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let all = self.meet(&self.shared.words, Arc::new(said))?;
        Ok(all.iter().map(|said| said.to_vec()).collect())
    }

    fn broadcast(&self, said: Vec<u8>) -> Result<Vec<u8>> {
        Ok(self.meet(&self.shared.words, Arc::new(said))?[0].to_vec())
    }

    fn paused(&self) -> Option<Arc<AtomicBool>> {
        Some(Arc::clone(&self.shared.paused))
    }

    fn abort(&self, reason: &str) {
        lock(&self.shared.aborted).get_or_insert_with(|| reason.to_owned());
        self.shared.sums.changed.notify_all();
        self.shared.words.changed.notify_all();
    }

    fn recover(&self) {
        *lock(&self.shared.aborted) = None;
        self.shared.sums.reset();
        self.shared.words.reset();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in another rank must not poison this one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_of_the_run_may_take_longer_than_a_device() {
        let found = on_all(2, Duration::from_millis(300), |rank| {
            if rank.rank() == 0 {
                let _pause = Pause::begin(rank.paused().as_ref());
                std::thread::sleep(Duration::from_secs(1));
            }
            rank.gather(vec![rank.rank() as u8]).unwrap()
        });
        assert_eq!(found, [[[0], [1]], [[0], [1]]]);
    }

    fn on_all<T: Send>(size: usize, patience: Duration, each: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
        let group = Threads::group(size, patience);
        std::thread::scope(|threads| {
            let handles: Vec<_> = group.iter().map(|rank| threads.spawn(|| each(rank))).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_those_of_the_order_of_ranks_and_the_same_for_all() {
        let value = |rank: usize, round: usize, i: usize| ((rank * 7919 + round * 31 + i * 17) % 1000) as f32 / 7.0;
        for (size, len) in [(1, 5), (2, 1), (3, 10), (4, 0), (4, 1001)] {
            let found = on_all(size, Duration::from_secs(60), |rank| {
                let round = |round| {
                    let own = (0..len).map(|i| value(rank.rank(), round, i)).collect();
                    let sums = rank.sum(own, CommHook::No).unwrap();
                    // Another meeting in between, of another length.
                    let said = rank.gather(vec![rank.rank() as u8; rank.rank()]).unwrap();
                    assert!(said.iter().enumerate().all(|(i, said)| *said == vec![i as u8; i]));
                    assert_eq!(rank.broadcast(vec![rank.rank() as u8 + 7]).unwrap(), [7]);
                    assert_eq!(rank.sum_f64(&[1.5, -1.0]).unwrap(), [1.5 * size as f64, -(size as f64)]);
                    sums
                };
                (0..50).map(round).collect::<Vec<_>>()
            });
            for (round, sums) in found[0].iter().enumerate() {
                let want = |i| (0..size).map(|rank| value(rank, round, i)).fold(0.0, |sum, value| sum + value);
                assert_eq!(*sums, (0..len).map(want).collect::<Vec<f32>>());
            }
            assert!(found.iter().all(|of_rank| *of_rank == found[0]));
        }
    }

    #[test]
    fn a_rank_that_fails_or_is_silent_ends_the_waiting_of_the_others() {
        let found = on_all(3, Duration::from_secs(60), |rank| {
            if rank.rank() == 1 {
                rank.abort("the device was lost");
                return Ok(Vec::new());
            }
            rank.sum(vec![1.0], CommHook::No)
        });
        for of_rank in [&found[0], &found[2]] {
            assert!(
                matches!(of_rank, Err(Error::RankFailed(reason)) if reason == "the device was lost"),
                "{of_rank:?}"
            );
        }
        let began = Instant::now();
        let found = on_all(2, Duration::from_millis(300), |rank| match rank.rank() {
            0 => rank.gather(Vec::new()).map(|_| ()),
            _ => Ok(()),
        });
        assert!(matches!(&found[0], Err(Error::RankFailed(reason)) if reason.contains("did not answer")), "{found:?}");
        assert!(began.elapsed() < Duration::from_secs(20));
        // After it they can meet again.
        let group = Threads::group(1, Duration::from_secs(1));
        group[0].abort("once");
        group[0].recover();
        assert_eq!(group[0].sum(vec![2.0, 1.0 / 3.0], CommHook::Bf16).unwrap(), [2.0, 0.333_984_38]);
    }
}
