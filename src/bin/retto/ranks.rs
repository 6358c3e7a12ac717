//! One process, or one of several that MPI has started.

use retto::{Gpu, Model, Trainer, TrainingArguments};

use crate::Result;

/// How many processes a launcher has started, where one has. `RETTO_NO_MPI=1` makes each a run of its own.
fn launched() -> Option<usize> {
    if std::env::var("RETTO_NO_MPI").is_ok_and(|set| set == "1") {
        return None;
    }
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    // Open MPI, MPICH and Intel MPI, MVAPICH; and Slurm's own, which says so of each task of a step.
    let size = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"].iter().find_map(|name| number(name));
    size.or_else(|| number("SLURM_STEP_NUM_TASKS").filter(|_| std::env::var_os("SLURM_PROCID").is_some()))
}

/// The processes that train together.
pub(crate) struct Ranks {
    #[cfg(feature = "mpi")]
    mpi: Option<retto::Mpi>,
}

impl Ranks {
    /// Joins the others, where there are any.
    #[cfg(feature = "mpi")]
    pub(crate) fn join() -> Result<Self> {
        let Some(started) = launched().filter(|size| *size > 1) else { return Ok(Self { mpi: None }) };
        let mpi = retto::Mpi::init()?;
        if mpi.rank() > 0 {
            crate::output::silence();
        }
        if mpi.size() != started {
            let seen = mpi.size();
            return Err(format!(
                "the launcher started {started} processes, and this command's MPI sees {seen}: use the mpirun of the MPI it was built \
                 with, or RETTO_NO_MPI=1 for runs of their own"
            )
            .into());
        }
        Ok(Self { mpi: Some(mpi) })
    }

    #[cfg(not(feature = "mpi"))]
    pub(crate) fn join() -> Result<Self> {
        match launched().filter(|size| *size > 1) {
            None => Ok(Self {}),
            Some(size) => Err(format!(
                "started as one of {size} MPI processes, but this command was built without MPI: cargo install --path . --features cli,mpi \
                 (or RETTO_NO_MPI=1 for runs of their own)"
            )
            .into()),
        }
    }

    /// Of the devices of this machine those of this process: where there are several processes, one, by its place among those of
    /// the machine.
    pub(crate) fn own(&self, devices: Vec<String>) -> Vec<String> {
        #[cfg(feature = "mpi")]
        if let (Some(mpi), false) = (&self.mpi, devices.is_empty()) {
            return vec![devices[mpi.local_rank() % devices.len()].clone()];
        }
        devices
    }

    /// Whether several processes train together, which take all adapters there are.
    pub(crate) fn are_several(&self) -> bool {
        #[cfg(feature = "mpi")]
        return self.mpi.is_some();
        #[cfg(not(feature = "mpi"))]
        false
    }

    /// Whether it is this process that writes.
    pub(crate) fn is_first(&self) -> bool {
        #[cfg(feature = "mpi")]
        return self.mpi.as_ref().is_none_or(|mpi| mpi.rank() == 0);
        #[cfg(not(feature = "mpi"))]
        true
    }

    /// How many processes there are.
    pub(crate) fn count(&self) -> usize {
        #[cfg(feature = "mpi")]
        return self.mpi.as_ref().map_or(1, retto::Mpi::size);
        #[cfg(not(feature = "mpi"))]
        1
    }

    pub(crate) fn trainer(
        &self,
        model: &Model,
        others: &[Gpu],
        arguments: TrainingArguments,
    ) -> retto::Result<Trainer> {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            return Trainer::with_mpi(model, mpi, arguments);
        }
        Trainer::with_devices(model, others, arguments)
    }

    /// Hands an error on; of one process it ends all. The first one tells what all have met with; another one only what it alone has,
    /// which is when nobody has ended it a little later.
    pub(crate) fn outcome(&self, result: Result<()>) -> Result<()> {
        #[cfg(feature = "mpi")]
        if let (Some(mpi), Err(error)) = (&self.mpi, &result) {
            if mpi.rank() > 0 {
                // One after another, so that the first ends the others.
                let later = 2000 + 300 * mpi.rank().min(100) as u64;
                std::thread::sleep(std::time::Duration::from_millis(later));
            }
            // In one piece: mpirun's own words may come between two.
            let told = format!("error: rank {}: {}\n", mpi.rank(), crate::output::one_line(error.as_ref()));
            let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), told.as_bytes());
            mpi.abort(1);
        }
        result
    }
}
