"""What tests/capi/scenario.c does, in Python. scenario.py MODEL LINES FOLDER"""

import atexit
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import retto

TEXT = "lipstick stains on the [MASK]"
HELD_OUT = [
    "the lights went down along the empty street and nobody called my name",
    "and you were gone before the morning came to take the night away",
    "I keep your letters in a drawer beside the bed and never read them",
]


ENDS = '''
import sys, threading, time, retto
trainer = retto.Trainer(retto.Model.open(retto.Gpu(), sys.argv[1]), max_steps=10**6, lr_scheduler_type="constant")
trainer.add_lines(["the lights went down along the empty street"] * 64)
def train():
    try:
        while True:
            eval("trainer." + sys.argv[2])
    except (RuntimeError, retto.Error):
        pass  # it has ended
threading.Thread(target=train, daemon=True).start()
time.sleep(1)
'''


def raises(status, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except retto.Error as error:
        assert error.status_name == status and str(error), error
        # As processes of multiprocessing hand it on.
        for again in pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error):
            assert type(again) is retto.Error and (str(again), vars(again)) == (str(error), vars(error))
    else:
        raise AssertionError(f"{status} was expected")


def refuses(wrong, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except wrong as error:
        assert str(error), error
    else:
        raise AssertionError(f"{wrong} was expected of {arguments} {options}")


def closed_while_it_is_read(model):
    read = []

    def reader():
        try:
            while True:
                read.append((model.name, model.mask_token))
        except retto.Error as error:
            read.append(error.status_name)

    thread = threading.Thread(target=reader)
    thread.start()
    while len(read) < 10 and thread.is_alive():
        pass
    model.close()
    thread.join()
    assert set(read[:-1]) == {("retto-tiny", "[MASK]")} and read[-1] == "RETTO_INVALID_HANDLE", read[-1]


def answers(model):
    return [(fill.token, fill.score, fill.token_str) for fill in model.fill_mask(TEXT)[0]]


def interrupted(trainer):
    """Ctrl-C ends a run, with a callback and without, and is told as anywhere else."""
    trainer.add_lines(HELD_OUT)
    for progress in None, lambda at: None:
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
        try:
            trainer.run(progress)
        except KeyboardInterrupt:
            assert trainer.resume() > 0
        else:
            raise AssertionError("Ctrl-C was swallowed")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def forked():
    """A child that does nothing with what its parent has does not wait at its end for threads that it does not have."""
    child = os.fork()
    if child == 0:
        # What Python does at exit. Not what drivers do there: Mesa's joins its threads, and may crash.
        atexit._run_exitfuncs()
        os._exit(0)
    for _ in range(300):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, status
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the child hangs")


def main(path, lines, folder):
    device = os.environ.get("RETTO_DEVICE", "")
    gpu = retto.Gpu(int(device) if device.isdigit() else None)
    assert gpu.adapter.index in [adapter.index for adapter in retto.adapters()]
    base = retto.Model.open(gpu, path)
    assert base.name == "retto-tiny" and base.mask_token == "[MASK]" and gpu.memory_in_use > 0
    of_base = answers(base)
    assert base.rank_gold(TEXT, base.fill_mask(TEXT)[0][2].token_str).rank == 3
    # Its file is in f16: nothing is rounded, and sums are in the same order.
    assert answers(base.to("float16")) == of_base
    small = base.to("int8")
    assert (base.dtype, small.dtype) == ("float32", "int8")
    assert answers(retto.Model.open(gpu, path, dtype="int8")) == answers(small)
    assert len(small.fill_mask(TEXT)[0]) == 5 and answers(small) != of_base
    raises("RETTO_UNSUPPORTED", retto.Trainer, small)
    before = base.evaluate(HELD_OUT)
    told = []
    assert base.evaluate(HELD_OUT, lambda *at: told.append(at), per_device_eval_batch_size=1).masked_tokens == before.masked_tokens
    assert told == [(1, 3), (2, 3)]
    class Falsy:  # as numpy's False is
        def __bool__(self):
            return False

    for no in [False, 0, Falsy()]:
        raises("RETTO_CANCELLED", base.evaluate, HELD_OUT, lambda done, total, no=no: no, per_device_eval_batch_size=1)
    try:
        base.embed(HELD_OUT * 500, progress=lambda done, total: 1 // 0)
        raise AssertionError("it was to raise")
    except ZeroDivisionError:
        pass

    def new_trainer(**options):
        trainer = retto.Trainer(base, max_steps=20, learning_rate=5e-4, **options)
        assert trainer.add_file(lines) > 100
        return trainer

    with new_trainer() as trainer:
        assert trainer.run().steps == 20
        whole = trainer.model()
    assert answers(whole) != of_base

    trainer = new_trainer(output_dir=folder)
    output = trainer.run(lambda progress: progress.step != 7)
    assert output.cancelled and output.steps == 7
    raises("RETTO_CANCELLED", trainer.step)
    assert trainer.resume() == 7
    while trainer.step().step < 12:
        pass
    trainer.checkpoint()
    trainer.close()
    raises("RETTO_INVALID_HANDLE", trainer.step)
    trainer = new_trainer(output_dir=folder)
    assert trainer.resume() == 12
    told = []
    thread = threading.Thread(target=lambda: told.append(trainer.run()))
    thread.start()
    assert answers(base) == of_base
    thread.join()
    assert told[0].steps == 20 and not told[0].cancelled
    resumed = trainer.model()
    assert answers(resumed) == answers(whole)
    trainer.save(os.path.join(folder, "adapted"))
    saved = retto.Model.open(gpu, os.path.join(folder, "adapted"))
    assert answers(saved) == answers(whole)
    assert answers(base) == of_base
    after = saved.evaluate(HELD_OUT, seed=42)
    assert after.masked_tokens == before.masked_tokens and after.loss != before.loss

    lora = retto.Trainer(base, max_steps=2, lora_r=2, lora_target_modules=["query"], lr_scheduler_type="constant")
    lora.add_lines(HELD_OUT)
    try:
        lora.run(lambda progress: 1 / 0)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("what a callback raises comes out")
    lora.resume()
    lora.run()
    lora.save_adapter(os.path.join(folder, "adapter"), "retto-tiny")
    adapted = retto.Model.open(gpu, path, os.path.join(folder, "adapter"))
    assert answers(adapted) == answers(lora.model())

    mean, again = base.embed(["the rain\nand you", "the rain"]), base.embed(["the rain"], like=path)
    assert len(mean) == 2 and mean[1] == again[0] != mean[0]
    (unit,) = base.embed(["the rain"], pooling="cls", normalize=True)
    assert abs(sum(x * x for x in unit) - 1) < 1e-5 and base.embed([]) == []
    raises("RETTO_TOO_LONG", base.embed, ["the rain and you"], max_seq_length=3, strict=True)

    raises("RETTO_IO", retto.Model.open, gpu, "no/such/folder")
    losses = []
    for devices in [[], [retto.Gpu()]]:
        together = retto.Trainer(base, max_steps=2, devices=devices)
        together.add_lines(HELD_OUT)
        losses.append(together.run().train_loss)
    assert abs(losses[0] - losses[1]) < 1e-5 * losses[0], losses
    raises("RETTO_NO_MASK", base.fill_mask, "no blank")
    raises("RETTO_INVALID_ARGUMENT", retto.Trainer, base, learning_rate=-1.0)
    retto.Trainer(base, max_seq_length=8)
    for wrong in ["output_dir_length", "freeze_layers_count", "struct_size"]:
        refuses(TypeError, retto.Trainer, base, **{wrong: 1})
    refuses(TypeError, retto.Trainer, base, max_steps=1.5)
    # What ctypes would cut down to a number that fits, most of them to a default.
    for wrong in [
        {"seed": -1}, {"seed": 2**64}, {"max_steps": 2**64}, {"max_seq_length": 2**32}, {"freeze_layers": [2**32]},
        {"freeze_layers": [-1]}, {"lr_scheduler_type": "square"},
    ]:
        refuses(ValueError, retto.Trainer, base, **wrong)
    for wrong in -1, 2**31, 2**32 - 1, 2**32:
        refuses(ValueError, retto.Gpu, wrong)
    for wrong in -1, 2**64:
        refuses(ValueError, base.fill_mask, TEXT, wrong)
    refuses(ValueError, base.embed, ["the rain"], max_seq_length=2**32)
    refuses(ValueError, base.evaluate, HELD_OUT, per_device_eval_batch_size=2**32 + 1)
    cancelled = retto.Trainer(base, max_steps=3)
    cancelled.add_lines(HELD_OUT)
    cancelled.step()
    cancelled.cancel()
    try:
        cancelled.step()
    except retto.Error as error:
        assert error.status_name == "RETTO_CANCELLED" and error.progress.step == 1, vars(error)
    else:
        raise AssertionError("a cancelled trainer does no step")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        base.embed(["the rain and you", "you"], max_seq_length=3)
    assert "1 of 2 texts" in str(warned[0].message), warned
    assert base.has_mlm_head and base.hidden_size == 128
    for call in ["run()", "run(print)", "step()"]:
        # The interpreter ends while a daemon thread trains.
        ended = subprocess.run([sys.executable, "-c", ENDS, path, call], stdout=subprocess.DEVNULL, timeout=120)
        assert ended.returncode == 0, (call, ended)
    closed_while_it_is_read(small)
    interrupted(retto.Trainer(base, max_steps=10**6, lr_scheduler_type="constant"))
    forked()
    base.close()
    raises("RETTO_INVALID_HANDLE", lambda: base.name)
    raises("RETTO_INVALID_HANDLE", base.fill_mask, TEXT)
    for model in of_base, answers(whole):
        print("\n".join(f"{token} {score:.9g} {text}" for token, score, text in model))
        if model is of_base:
            print("--")


main(*sys.argv[1:])
