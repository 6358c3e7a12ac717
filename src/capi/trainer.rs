//! Trainers: one thread at a time, but for cancelling.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::failure::{Failure, Result, c_string, call, retto_error};
use super::handle::{self, Opaque};
use super::input::{self, Out, OutStruct, Versioned, invalid, retto_string};
use super::model::{OpenModel, retto_model};
use super::options::{self, retto_training_options};
use super::progress::{self, retto_progress, retto_progress_callback, retto_train_output};
use super::running::{Inner, wrong_state};
use super::status::retto_status;
use crate::error::Error;
use crate::text::read_corpus;
use crate::text::readers::NAMES_ANOTHER;
use crate::train::{TrainEvent, Trainer};

/// A copy of a model in training. One thread at a time may use it, whichever that is: others get RETTO_BUSY, but from
/// retto_trainer_cancel. The model it was made of stays as it is, can be queried meanwhile, and may be freed.
pub struct retto_trainer {
    _private: [u8; 0],
}

/// What lines are for.
pub const RETTO_SPLIT_TRAIN: u32 = 0;
pub const RETTO_SPLIT_VALIDATION: u32 = 1;

pub(super) struct Shared {
    /// Outside the lock: cancelling is for other threads.
    cancel: AtomicBool,
    /// Whether a call has answered that it was cancelled.
    answered: AtomicBool,
    inner: Mutex<Inner>,
}

impl Opaque for retto_trainer {
    type Object = Shared;
    const NAME: &'static str = "retto_trainer";
}

impl Shared {
    fn lock(&self) -> Result<MutexGuard<'_, Inner>> {
        let inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::WouldBlock) => {
                let reason = "the trainer is in use: by another thread, or by the call whose callback this is";
                return Err(Failure::new(retto_status::RETTO_BUSY, reason));
            }
            Err(TryLockError::Poisoned(_)) => {
                let reason = "an earlier call on this trainer ended in a defect of retto: free it";
                return Err(Failure::new(retto_status::RETTO_PANIC, reason));
            }
        };
        if inner.freed {
            return Err(Failure::new(retto_status::RETTO_INVALID_HANDLE, "the retto_trainer was freed"));
        }
        Ok(inner)
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// A cancel by what lets the trainer go on; any other failure as it is.
    fn explained(&self, failure: Failure) -> Failure {
        let is_cancel = failure.status == retto_status::RETTO_CANCELLED;
        self.check_cancelled().err().filter(|_| is_cancel).unwrap_or(failure)
    }

    /// Refuses to go on after a cancel.
    fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() {
            self.answered.store(true, Ordering::Relaxed);
            let reason = "the trainer was cancelled: retto_trainer_resume lets it go on";
            return Err(Failure::new(retto_status::RETTO_CANCELLED, reason));
        }
        Ok(())
    }
}

/// Makes a trainer: a copy of what will be trained of a model, with room for gradients and optimizer; about four times its
/// memory, and much less for a low-rank adaptation. NULL options are the defaults. Free it with retto_trainer_free. Any thread;
/// blocks while weights are copied on the GPU and, the first time with a cache_dir, while kernels are measured: some seconds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_new(
    model: *const retto_model,
    options: *const retto_training_options,
    trainer: *mut *mut retto_trainer,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let model = handle::get(model)?;
        let out = Out::new("trainer", trainer)?;
        // SAFETY: the header says how options are given.
        let (arguments, others) = unsafe { (options::arguments(options)?, options::devices(options)?) };
        let inner = Inner {
            trainer: Trainer::with_devices(&model.model, &others, arguments)?,
            name: model.name(),
            lines: Default::default(),
            resumed: false,
            run: None,
            freed: false,
        };
        let [cancel, answered] = [const { AtomicBool::new(false) }; 2];
        let shared = Shared { cancel, answered, inner: Mutex::new(inner) };
        // SAFETY: the caller gives the address of a pointer.
        unsafe { out.write(handle::insert(shared)) };
        Ok(())
    })
}

/// Adds lines, each an example, for training (RETTO_SPLIT_TRAIN) or to be held out (RETTO_SPLIT_VALIDATION). They are copied.
/// RETTO_WRONG_STATE once the run has begun. One thread at a time; blocks while they are copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_add_lines(
    trainer: *const retto_trainer,
    split: u32,
    lines: *const retto_string,
    line_count: usize,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let trainer = handle::get(trainer)?;
        // SAFETY: the header says how texts are given.
        let lines = unsafe { input::texts("lines", lines, line_count)? };
        lines_of(&mut *trainer.lock()?, split)?.extend(lines.into_iter().map(str::to_owned));
        Ok(())
    })
}

/// There is no option for another field here.
fn with_the_field_there_is(error: Error) -> Error {
    match error {
        Error::BadData { path, reason } => {
            Error::BadData { path, reason: reason.replace(NAMES_ANOTHER, "the words have to be in 'text'") }
        }
        other => other,
    }
}

/// Where lines of this split go, before the run has begun.
fn lines_of(inner: &mut Inner, split: u32) -> Result<&mut Vec<String>> {
    if inner.run.is_some() {
        return Err(wrong_state("the run has begun with the lines it had"));
    }
    let index = match split {
        RETTO_SPLIT_TRAIN => 0,
        RETTO_SPLIT_VALIDATION => 1,
        other => return Err(invalid(format!("split is {other}"))),
    };
    Ok(&mut inner.lines[index])
}

/// Adds the lines of a file, or of all files of a folder: .txt, .lrc, ChordPro, .jsonl, .csv and .tsv (their field `text`), also
/// compressed as .gz or .zst. Headings, as [Chorus] or Verse 2:, are left out. One that cannot be used is an error, and
/// nothing is added. `line_count`, which may be NULL, gets how many lines that are. Otherwise as retto_trainer_add_lines.
/// One thread at a time; blocks while files are read, which retto_trainer_cancel ends, with RETTO_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_add_file(
    trainer: *const retto_trainer,
    split: u32,
    path: *const c_char,
    path_length: usize,
    line_count: *mut usize,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let trainer = handle::get(trainer)?;
        // SAFETY: the header says how text is given.
        let path = unsafe { input::path("path", path, path_length)? };
        // Held while files are read: no other call may begin the run, or free the trainer, meanwhile.
        let mut inner = trainer.lock()?;
        let added = lines_of(&mut inner, split)?;
        let ask = || if trainer.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let lines = read_corpus(&[path.into()], "text", true, |_| ask());
        let lines = lines.map_err(with_the_field_there_is).map_err(|error| trainer.explained(error.into()))?;
        let count = lines.len();
        added.extend(lines);
        if let Some(out) = Out::optional(line_count) {
            // SAFETY: the caller gives the address of a number, or NULL.
            unsafe { out.write(count) };
        }
        Ok(())
    })
}

/// Trains until the run is over, or goes on with one that was begun. `progress`, which may be NULL, is told of every step, and of what
/// else takes its time, on this thread, with `user_data`. `output` may be NULL.
///
/// RETTO_CANCELLED where the callback or retto_trainer_cancel ended it; `output` is then filled as well, and what was trained is
/// kept. RETTO_WRONG_STATE for a run that is over. After any other failure the trainer stands where it was before the step
/// that failed; if it was the evaluation or the checkpoint after a step, the next call begins with that. But after RETTO_DEVICE_LOST,
/// RETTO_GPU_ERROR and RETTO_PANIC nothing can be read from it any more, and after RETTO_RANK_FAILED it may not go on where the next call says
/// so: resume from a checkpoint with a new trainer. One thread at a time; blocks for the whole run, so call it from a thread of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_run(
    trainer: *const retto_trainer,
    progress: retto_progress_callback,
    user_data: *mut c_void,
    output: *mut retto_train_output,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let shared = handle::get(trainer)?;
        // SAFETY: the header says how `output` is given.
        let out = unsafe { OutStruct::optional(output)? };
        let mut inner = shared.lock()?;
        inner.refuse_if_over()?;
        let tell = |told: &retto_progress| {
            if let Some(callback) = progress {
                // SAFETY: the program gave the two together; `told` outlives the call.
                if unsafe { callback(told, user_data) } != 0 {
                    shared.cancel.store(true, Ordering::Relaxed);
                }
            }
            if shared.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (step, epoch) = inner.trainer.taken_up();
        let preparing = retto_progress { step, epoch, ..progress::of_event(&TrainEvent::Preparing, std::ptr::null()) };
        if let Err(failure) = inner.begin(&shared.cancel, &mut || tell(&preparing)) {
            if let Some(out) = out.filter(|_| failure.status == retto_status::RETTO_CANCELLED) {
                out.write(&inner.standing());
            }
            return Err(shared.explained(failure));
        }
        let (trainer, running) = inner.running()?;
        let total = running.run.total;
        let mut observe = |event: &TrainEvent| {
            let path = match event {
                TrainEvent::Saved { path, .. } => Some(c_string(path.to_string_lossy())),
                _ => None,
            };
            let mut told = progress::of_event(event, path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr()));
            (told.max_steps, told.is_over) = (total, (told.step >= total).into());
            tell(&told)
        };
        while running.advance(trainer, &mut observe)?.is_continue() {}
        let found = match &running.output {
            Some(output) => output.clone(),
            None => trainer.finish(&running.run)?,
        };
        if let Some(out) = out {
            out.write(&progress::of_output(&found));
        }
        if found.cancelled { shared.check_cancelled() } else { Ok(()) }
    })
}

/// One step of the run, and what is due after it: evaluation, checkpoints. `progress` is filled, with the evaluation if there
/// was one; its `is_over` says whether a step is left. A call that only ends a run, or is cancelled within an evaluation that it
/// makes up for, does no step: then `tokens` is 0, and so is what else is said of a step. Returns as retto_trainer_run does: with
/// RETTO_CANCELLED `progress` is filled too, with the last step that was done, or where the trainer stands if there was none. One thread at
/// a time; blocks for the step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_step(
    trainer: *const retto_trainer,
    progress: *mut retto_progress,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let shared = handle::get(trainer)?;
        // SAFETY: the header says how `progress` is given.
        let out = unsafe { OutStruct::new(progress)? };
        let mut inner = shared.lock()?;
        inner.refuse_if_over()?;
        let begun = inner.begin(&shared.cancel, &mut || match shared.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        if let Err(failure) = begun {
            if failure.status == retto_status::RETTO_CANCELLED {
                let (found, run) = (inner.standing(), inner.run.as_ref());
                let max_steps = run.map_or(0, |running| running.run.total);
                out.write(&retto_progress {
                    step: found.steps,
                    max_steps,
                    epoch: found.epoch,
                    ..Versioned::defaults()
                });
            }
            return Err(shared.explained(failure));
        }
        let (trainer, running) = inner.running()?;
        let epoch = running.run.output().epoch;
        let mut told = retto_progress { max_steps: running.run.total, epoch, ..Versioned::defaults() };
        let _over = running.advance(trainer, &mut |event: &TrainEvent| {
            told = progress::followed(&told, event);
            if shared.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        told.step = running.run.state.global_step;
        told.is_over = running.output.is_some().into();
        out.write(&told);
        if running.run.cancelled { shared.check_cancelled() } else { Ok(()) }
    })
}

/// Makes the call that runs return RETTO_CANCELLED when its present step is done, and every later one until
/// retto_trainer_resume is called; before the first step, while lines are made tokens of and steps are counted, or files read; within
/// an evaluation when its present batch is done, on several devices when all are. A cancel during retto_trainer_resume is for the run
/// that follows, and so is one before a run has begun that no call has answered yet. Any thread, from a callback as well; does not block. Not from a signal handler: set a flag there, and return something
/// else than 0 from the progress callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_cancel(
    trainer: *const retto_trainer,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        handle::get(trainer)?.cancel.store(true, Ordering::Relaxed);
        Ok(())
    })
}

/// Lets a trainer go on: one that was cancelled from where it stands; a new one from the latest checkpoint in its output_dir,
/// of a run with the same model, options and lines, with the same results as if it had never been interrupted. `step`, which
/// may be NULL, gets the steps done; 0 where there was no checkpoint and the run begins at its beginning. One thread at a time;
/// blocks while a checkpoint is read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_resume(
    trainer: *const retto_trainer,
    step: *mut u64,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let shared = handle::get(trainer)?;
        let mut inner = shared.lock()?;
        inner.refuse_if_over()?;
        // Who cancels while a checkpoint is read, or before that what has not begun, means what comes next.
        let is_known = inner.run.is_some() || shared.answered.swap(false, Ordering::Relaxed);
        let was_cancelled = is_known && shared.cancel.swap(false, Ordering::Relaxed);
        let stands = match &inner.run {
            Some(running) => running.run.state.global_step,
            // One that was cancelled before its first step needs no checkpoint to go on.
            None if was_cancelled && !inner.trainer.has_output_dir() => 0,
            None => {
                let found = inner.trainer.resume_from_checkpoint().inspect_err(|_| {
                    shared.cancel.fetch_or(was_cancelled, Ordering::Relaxed);
                    shared.answered.fetch_or(was_cancelled, Ordering::Relaxed);
                })?;
                inner.resumed = found.is_some();
                found.unwrap_or(0)
            }
        };
        if let Some(out) = Out::optional(step) {
            // SAFETY: the caller gives the address of a number, or NULL.
            unsafe { out.write(stands) };
        }
        Ok(())
    })
}

/// Writes a checkpoint of the run to output_dir/checkpoint-N, whole or not at all. RETTO_WRONG_STATE before the first step;
/// RETTO_OTHER_RUN where the latest checkpoint there is of another run, RETTO_FOLDER_IN_USE while another writes its own. One
/// thread at a time; blocks while weights and optimizer are written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_checkpoint(
    trainer: *const retto_trainer,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let shared = handle::get(trainer)?;
        let mut inner = shared.lock()?;
        let Inner { trainer, run, .. } = &mut *inner;
        // A run that failed in its first step is begun, too.
        let running = run.as_ref().filter(|running| running.run.state.global_step > 0);
        let running = running.ok_or_else(|| wrong_state("no step has been done yet"))?;
        trainer.align_all()?;
        trainer.checkpoint(&running.run)?;
        Ok(())
    })
}

/// The model as trained so far, to be queried at once: a copy that later steps leave alone, named as the one the trainer was
/// made of. Free it with retto_model_free. One thread at a time; blocks while weights are copied on the GPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_model(
    trainer: *const retto_trainer,
    model: *mut *mut retto_model,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let shared = handle::get(trainer)?;
        let out = Out::new("model", model)?;
        let inner = shared.lock()?;
        let model = OpenModel::new(inner.trainer.snapshot()?, &inner.name);
        // SAFETY: the caller gives the address of a pointer.
        unsafe { out.write(handle::insert(model)) };
        Ok(())
    })
}

/// Writes the model as trained so far, as retto_model_save does; a low-rank adaptation is added to the weights. One thread at a
/// time; blocks while it is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_save(
    trainer: *const retto_trainer,
    path: *const c_char,
    path_length: usize,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let shared = handle::get(trainer)?;
        // SAFETY: the header says how text is given.
        let folder = unsafe { input::path("path", path, path_length)? };
        let inner = shared.lock()?;
        Ok(inner.trainer.model().save(folder)?)
    })
}

/// Writes a low-rank adaptation alone, in PEFT's format, with the base model's name or path for PEFT to note.
/// RETTO_INVALID_ARGUMENT where the weights themselves are trained. One thread at a time; blocks while it is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_save_adapter(
    trainer: *const retto_trainer,
    path: *const c_char,
    path_length: usize,
    base_model: *const c_char,
    base_model_length: usize,
    error: *mut *mut retto_error,
) -> retto_status {
    call(error, || {
        let shared = handle::get(trainer)?;
        // SAFETY: the header says how text is given.
        let (folder, base) = unsafe {
            (
                input::path("path", path, path_length)?,
                input::optional_text("base_model", base_model, base_model_length)?.unwrap_or_default(),
            )
        };
        let inner = shared.lock()?;
        Ok(inner.trainer.model().save_adapter(folder, base)?)
    })
}

/// Frees a trainer, with what was trained and not saved. NULL is allowed. RETTO_BUSY while another thread uses it, and in its
/// own callback: nothing is freed then; cancel, wait for the call that runs to return, and free it after that. Any thread; it may
/// block as retto_gpu_free may.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_trainer_free(trainer: *mut retto_trainer) -> retto_status {
    let mut status = call(std::ptr::null_mut(), || {
        if trainer.is_null() {
            return Ok(());
        }
        let shared = handle::get(trainer)?;
        match shared.inner.try_lock() {
            Ok(mut inner) => inner.freed = true,
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(retto_status::RETTO_BUSY, "the trainer is in use"));
            }
            // After a panic, freeing is what is left to do.
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned).freed = true,
        }
        Ok(())
    });
    if status == retto_status::RETTO_OK {
        status = handle::free(trainer);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_is_named_that_there_is_not() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("a.csv", "lyrics\nthe rain\n"), ("a.jsonl", "{\"lyrics\": \"the rain\"}\n")] {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            let error = read_corpus(&[path], "text", true, |_| ControlFlow::Continue(())).unwrap_err();
            let told = with_the_field_there_is(error).to_string();
            assert!(told.contains("lyrics") && told.ends_with("the words have to be in 'text'"), "{told}");
        }
    }
}
