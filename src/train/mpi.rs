//! Ranks that are processes, on one machine or many, started by `mpirun` or `srun`.

use std::time::{Duration, Instant};

use mpi::collective::{CommunicatorCollectives, Root};
use mpi::environment::Universe;
use mpi::request::{Request, scope};
use mpi::topology::{Communicator as _, SimpleCommunicator};

use super::arguments::{CommHook, TrainingArguments};
use super::parallel::Communicator;
use super::ranks::refuse_differing;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::model::Model;

/// This process as one of those that MPI has started. Keep it as long as anything trains: dropped, it leaves the others.
pub struct Mpi {
    _universe: Universe,
    rank: usize,
    size: usize,
    local_rank: usize,
}

impl Mpi {
    /// Joins the processes started with this one; every one of them has to. Once a process.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where MPI was initialised before, or allows no calls from several threads one at a time.
    pub fn init() -> Result<Self> {
        let unsupported = |reason: &str| Error::Unsupported(reason.into());
        let (universe, threading) = mpi::initialize_with_threading(mpi::Threading::Serialized)
            .ok_or_else(|| unsupported("MPI that was initialised before"))?;
        if threading < mpi::Threading::Serialized {
            return Err(unsupported("an MPI that only one thread may call"));
        }
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        // Those that share memory: of one machine.
        let local_rank = world.split_shared(world.rank()).rank() as usize;
        Ok(Self { _universe: universe, rank, size, local_rank })
    }

    /// Which process this is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Which of its machine's processes this is, from 0: that adapter is its own.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Ends all processes with this exit code: for an error of one of them, which the others would wait for in vain.
    pub fn abort(&self, code: i32) -> ! {
        SimpleCommunicator::world().abort(code)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // Leaving takes all of them, and the others may be waiting for this one.
        if std::thread::panicking() {
            self.abort(101);
        }
    }
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mpi(rank {} of {})", self.rank, self.size)
    }
}

impl Trainer {
    /// As [`Trainer::with_devices`], with each process's model on a device of its own. All have to give the same model, arguments and
    /// data, and to call the same functions; other models and arguments are found out here, other data at the beginning of a run, what is
    /// given to single steps not at all. The first process tells of the run,
    /// writes checkpoints, and should save the model.
    ///
    /// All have to see one `output_dir`, where that is used. An error of one process leaves the others waiting: end them with
    /// [`Mpi::abort`]; a panic that drops the [`Mpi`] does. A process that is not answered for
    /// `ddp_timeout` seconds says so on stderr, and ends them itself.
    ///
    /// # Errors
    /// As [`Trainer::with_devices`].
    pub fn with_mpi(model: &Model, mpi: &Mpi, arguments: TrainingArguments) -> Result<Self> {
        if mpi.size > 1 {
            Self::check_divisible(&arguments)?;
        }
        let patience = Duration::from_secs(arguments.ddp_timeout);
        let mut trainer = Self::new(model, arguments)?;
        if mpi.size > 1 {
            trainer.patience.limit(&model.gpu, patience);
            let world: Box<dyn Communicator> = Box::new(World { rank: mpi.rank, size: mpi.size, patience });
            // Of single steps nothing else is compared. A folder may have several names, and be waited for differently.
            let arguments = TrainingArguments { output_dir: None, ddp_timeout: 0, ..trainer.arguments.clone() };
            let arguments =
                serde_json::to_value(&arguments).map_err(|error| Error::InvalidArgument(error.to_string()))?;
            let mut same = vec![
                ("retto's version", env!("CARGO_PKG_VERSION").to_owned()),
                ("the tokenizer", trainer.model.tokenizer.hash().to_owned()),
                ("the model to start from", trainer.base.clone()),
            ];
            let arguments = arguments.as_object().into_iter().flatten();
            same.extend(arguments.map(|(name, value)| (name.as_str(), value.to_string())));
            refuse_differing(&*world, same)?;
            // As checkpoints record them: another adapter has other kernels.
            trainer.kernels = text(world.broadcast(trainer.kernels.into_bytes())?);
            trainer.ranks = Some(world);
        }
        Ok(trainer)
    }
}

/// What the benchmark measures: seconds of each sum of so many numbers over all processes.
#[cfg(feature = "bench")]
pub(crate) fn sums_of_processes(mpi: &Mpi, len: usize, rounds: usize) -> Result<Vec<f64>> {
    let world = World { rank: mpi.rank, size: mpi.size, patience: Duration::from_secs(600) };
    super::parallel::timed(&world, len, rounds)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// MPI counts in i32.
fn check_count(len: usize) -> Result<()> {
    match i32::try_from(len) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Unsupported(format!("{len} numbers of one layer, which MPI cannot count"))),
    }
}

/// How long a rank asks for an answer without a pause.
const EAGER: Duration = Duration::from_millis(200);

/// All processes.
struct World {
    rank: usize,
    size: usize,
    patience: Duration,
}

impl World {
    /// Waits for a collective operation. There is no way back from one that does not end.
    fn finish<'a, R, S>(&self, mut request: Request<'a, R, S>)
    where
        R: ?Sized,
        S: mpi::request::Scope<'a>,
    {
        let began = Instant::now();
        while let Err(pending) = request.test() {
            request = pending;
            if began.elapsed() > self.patience {
                // The one place of the library that prints: it is the last it can do.
                let told = format!(
                    "error: rank {}: another rank did not answer within {} s; resume from the latest checkpoint\n",
                    self.rank,
                    self.patience.as_secs()
                );
                let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), told.as_bytes());
                SimpleCommunicator::world().abort(1);
            }
            // MPI moves large arrays piece by piece, whenever it is asked; a rank that is long in coming is not waited for so eagerly, as
            // there may be fewer cores than ranks.
            match began.elapsed() < EAGER {
                true => std::thread::yield_now(),
                false => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }

    fn all_to_all<T: mpi::datatype::Equivalence + Clone + Default>(&self, send: &[T]) -> Vec<T> {
        let mut received = vec![T::default(); send.len()];
        let world = SimpleCommunicator::world();
        scope(|scope| self.finish(world.immediate_all_to_all_into(scope, send, &mut received[..])));
        received
    }

    fn all_gather<T: mpi::datatype::Equivalence + Clone + Default>(&self, send: &[T]) -> Vec<T> {
        let mut received = vec![T::default(); send.len() * self.size];
        let world = SimpleCommunicator::world();
        scope(|scope| self.finish(world.immediate_all_gather_into(scope, send, &mut received[..])));
        received
    }
}

fn packed(values: &[f32], hook: CommHook) -> Option<Vec<u16>> {
    values.iter().map(|&value| hook.bits(value)).collect()
}

fn unpacked(bits: &[u16], hook: CommHook) -> Vec<f32> {
    bits.iter().map(|&bits| hook.value(bits)).collect()
}

impl Communicator for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    /// Each rank gets a part of all, sums it in the order of the ranks (MPI's own sums leave the order open), and gives it to the others.
    fn sum(&self, mut values: Vec<f32>, hook: CommHook) -> Result<Vec<f32>> {
        let len = values.len();
        if len == 0 {
            return Ok(values);
        }
        let part = len.div_ceil(self.size);
        check_count(part * self.size)?;
        values.resize(part * self.size, 0.0);
        let parts = match packed(&values, hook) {
            Some(bits) => unpacked(&self.all_to_all(&bits), hook),
            None => self.all_to_all(&values),
        };
        let mut sums = parts[..part].to_vec();
        for others in parts[part..].chunks_exact(part) {
            sums.iter_mut().zip(others).for_each(|(sum, value)| *sum += value);
        }
        let mut all = match packed(&sums, hook) {
            Some(bits) => unpacked(&self.all_gather(&bits), hook),
            None => self.all_gather(&sums),
        };
        all.truncate(len);
        Ok(all)
    }

    fn gather(&self, said: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let lengths = self.all_gather(&[said.len() as u64]);
        let longest = lengths.iter().max().copied().unwrap_or(0) as usize;
        if longest == 0 {
            // An empty buffer is nowhere, which MPI refuses.
            return Ok(vec![Vec::new(); self.size]);
        }
        check_count(longest * self.size)?;
        let mut padded = said;
        padded.resize(longest, 0);
        let all = self.all_gather(&padded);
        let of = |(rank, &length): (usize, &u64)| all[rank * longest..rank * longest + length as usize].to_vec();
        Ok(lengths.iter().enumerate().map(of).collect())
    }

    fn broadcast(&self, said: Vec<u8>) -> Result<Vec<u8>> {
        let world = SimpleCommunicator::world();
        let first = world.process_at_rank(0);
        let mut length = [said.len() as u64];
        scope(|scope| self.finish(first.immediate_broadcast_into(scope, &mut length[..])));
        let length = length[0] as usize;
        check_count(length)?;
        let mut said = said;
        said.resize(length, 0);
        if length > 0 {
            scope(|scope| self.finish(first.immediate_broadcast_into(scope, &mut said[..])));
        }
        Ok(said)
    }

    /// What ends a process is its own affair: see [`Mpi::abort`].
    fn abort(&self, _reason: &str) {}

    fn recover(&self) {}
}
