"""BERT on any GPU: fill blanks, and adapt the model to the words of one domain.

    gpu = retto.Gpu()
    model = retto.Model.open(gpu, "models/retto-tiny")
    model.fill_mask("lipstick stains on the [MASK]")[0][0].token_str

Everything happens in the C library libretto, on this machine.
"""

from __future__ import annotations

import ctypes
import operator
import warnings
from ctypes import byref, c_double, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Sequence, Tuple

from . import _library as _c
from ._adapter import Adapter
from ._calls import (
    Error, PathLike, _call, _counted, _defaults, _Handle, _integer, _lib, _made, _new, _observed, _path, _status, _text, _texts,
)

__all__ = [
    "Adapter", "Error", "Evaluation", "Fill", "GoldRank", "Gpu", "Model", "Progress", "TrainOutput", "Trainer", "adapters", "version",
]
__version__ = "0.1.0"

def version() -> str:
    """The C library's version."""
    return _lib.retto_version_string().decode()


def adapters() -> List[Adapter]:
    """The adapters of this machine."""
    handle = c_void_p()
    try:
        _call("retto_adapters_list", byref(handle))
        found = []
        for index in range(_lib.retto_adapters_count(handle)):
            info = _new(_c.AdapterInfo)
            _call("retto_adapters_get", handle, index, byref(info))
            found.append(Adapter._of(info))
        return found
    finally:
        _lib.retto_adapters_free(handle)


class Gpu(_Handle):
    """An adapter, opened: the one with this index in :func:`adapters`, or the one that is preferred."""

    _free = "retto_gpu_free"

    def __init__(
        self,
        adapter: Optional[int] = None,
        *,
        low_power: bool = False,
        allow_software: bool = True,
        cache_dir: Optional[PathLike] = None,
    ) -> None:
        options = _defaults(_c.GpuOptions, "retto_gpu_options_init")
        if adapter is not None:
            options.adapter_index = index = operator.index(adapter)
            # As an int32_t it may have become another number, and -1 stands for no index.
            if index < 0 or options.adapter_index != index:
                raise ValueError(f"adapter is {index}, which is no adapter's index")
        options.power_preference, options.allow_software = int(low_power), int(allow_software)
        if cache_dir is not None:
            options.cache_dir, options.cache_dir_length = _path(cache_dir)
        _made(super().__init__, "retto_gpu_open", byref(options))
        # Its texts are read now, while no other thread can close it.
        self._adapter = Adapter._of(self._info())

    def _info(self) -> Any:
        info = _new(_c.AdapterInfo)
        _call("retto_gpu_adapter", self._handle, byref(info))
        return info

    @property
    def adapter(self) -> Adapter:
        self._info()  # raises if it was closed
        return self._adapter

    @property
    def memory_in_use(self) -> int:
        """Bytes of GPU memory held by everything made with it."""
        count = c_uint64()
        _call("retto_gpu_memory_in_use", self._handle, byref(count))
        return count.value

    def trim(self) -> None:
        """Gives back the memory kept for the next call."""
        _call("retto_gpu_trim", self._handle)


@dataclass(frozen=True)
class Fill:
    """One answer for one mask."""

    score: float
    token: int
    token_str: str
    sequence: str


@dataclass(frozen=True)
class GoldRank:
    """Where a word stands among the answers; 1 is the likeliest."""

    rank: int
    score: float
    token: int


@dataclass(frozen=True)
class Evaluation:
    """How held-out lines are filled: the loss in nats, and shares of masked tokens."""

    loss: float
    perplexity: float
    top1_accuracy: float
    top10_accuracy: float
    masked_tokens: int


_DTYPES = ["float32", "float16", "int8"]


def _dtype(name: str) -> int:
    if name not in _DTYPES:
        raise ValueError(f"dtype is {name!r}; it must be one of {', '.join(_DTYPES)}")
    return _DTYPES.index(name)


class Model(_Handle):
    """A model, which never changes. Any number of threads may use it."""

    _free = "retto_model_free"

    def __init__(self, handle: c_void_p) -> None:
        super().__init__(handle)
        # Its texts are read now, while no other thread can close it.
        info = self._info()
        self._name, self._mask_token = info.name.decode(), info.mask_token.decode()

    @classmethod
    def open(
        cls, gpu: Gpu, path: PathLike, adapter: Optional[PathLike] = None, dtype: str = "float32"
    ) -> "Model":
        """Opens a folder in Hugging Face's layout, with a low-rank adapter of PEFT's format if one is given; see :meth:`to` for
        other types than ``float32``."""
        if adapter is None:
            return _made(cls, "retto_model_open_with_dtype", gpu._handle, *_path(path), _dtype(dtype))
        model = _made(cls, "retto_model_open_with_adapter", gpu._handle, *_path(path), *_path(adapter))
        return model if dtype == "float32" else model.to(dtype)

    @classmethod
    def open_default(cls, gpu: Gpu) -> "Model":
        """Opens the model that is part of the library, where it was built with one."""
        return _made(cls, "retto_model_open_default", gpu._handle)

    def to(self, dtype: str) -> "Model":
        """A copy for queries with weights in ``float16`` or ``int8``: half or a quarter of the memory, nearly the same answers."""
        return _made(Model, "retto_model_to_dtype", self._handle, _dtype(dtype))

    def _info(self) -> Any:
        info = _new(_c.ModelInfo)
        _call("retto_model_get_info", self._handle, byref(info))
        return info

    @property
    def name(self) -> str:
        self._info()  # raises if it was closed
        return self._name

    @property
    def mask_token(self) -> str:
        self._info()
        return self._mask_token

    @property
    def dtype(self) -> str:
        return _DTYPES[self._info().dtype]

    @property
    def num_parameters(self) -> int:
        return self._info().num_parameters

    @property
    def has_mlm_head(self) -> bool:
        return bool(self._info().has_mlm_head)

    @property
    def vocab_size(self) -> int:
        return self._info().vocab_size

    @property
    def hidden_size(self) -> int:
        return self._info().hidden_size

    @property
    def max_position_embeddings(self) -> int:
        return self._info().max_position_embeddings

    def warm_up(self) -> None:
        """Compiles what queries need, so that the first is as fast as the others."""
        _call("retto_model_warm_up", self._handle)

    def fill_mask(self, text: str, top_k: int = 5) -> List[List[Fill]]:
        """For each mask of the text its ``top_k`` answers, best first."""
        return self.fill_mask_batch([text], top_k)[0]

    def fill_mask_batch(self, texts: Sequence[str], top_k: int = 5) -> List[List[List[Fill]]]:
        """:meth:`fill_mask` for several texts at once."""
        given, handle, top_k = _texts(texts), c_void_p(), _integer("top_k", top_k, c_size_t)
        try:
            _call("retto_model_fill_mask_batch", self._handle, given, len(given), top_k, byref(handle))
            return [self._answers(handle, text) for text in range(len(given))]
        finally:
            _lib.retto_fills_free(handle)

    @staticmethod
    def _answers(handle: c_void_p, text: int) -> List[List[Fill]]:
        masks, count, fill = c_size_t(), c_size_t(), _new(_c.Fill)
        _call("retto_fills_mask_count", handle, text, byref(masks))
        answers: List[List[Fill]] = []
        for mask in range(masks.value):
            _call("retto_fills_count", handle, text, mask, byref(count))
            answers.append([])
            for rank in range(count.value):
                _call("retto_fills_get", handle, text, mask, rank, byref(fill))
                token_str = ctypes.string_at(fill.token_str, fill.token_str_length).decode()
                sequence = ctypes.string_at(fill.sequence, fill.sequence_length).decode()
                answers[-1].append(Fill(fill.score, fill.token, token_str, sequence))
        return answers

    def rank_gold(self, text: str, gold: str) -> GoldRank:
        """Where one word stands among the answers for a text's one mask."""
        found = _new(_c.GoldRank)
        _call("retto_model_rank_gold", self._handle, *_text(text), *_text(gold), byref(found))
        return GoldRank(found.rank, found.score, found.token)

    def embed(
        self,
        texts: Sequence[str],
        like: Optional[PathLike] = None,
        progress: Optional[Callable[[int, int], Optional[bool]]] = None,
        **options: Any,
    ) -> List[List[float]]:
        """A vector for each text; lines of one are joined by the separator token. ``like`` is the folder of a
        sentence-transformers model, whose settings are taken. A text that is too long is cut, with a warning; with ``strict=True``
        it is an error. Options are the fields of retto_embed_options, and ``pooling`` is "mean", "cls" or "max". ``progress`` is told of texts that are
        done, of how many, and ends it by returning ``False`` or what is as false, but for ``None``: :class:`Error`, whose ``status_name`` is RETTO_CANCELLED."""
        given, handle = _texts(texts), c_void_p()
        wanted = _defaults(_c.EmbedOptions, "retto_embed_options_init")
        if like is not None:
            _call("retto_embed_options_open", *_path(like), byref(wanted))
        pooling = options.pop("pooling", None)
        if pooling is not None:
            if pooling not in _POOLINGS:
                raise ValueError(f"pooling is {pooling!r}; there are {', '.join(_POOLINGS)}")
            wanted.pooling = _POOLINGS.index(pooling)
        _set(wanted, options)
        try:
            _counted(progress, wanted, "retto_model_embed", self._handle, given, len(given), byref(wanted), byref(handle))
            count, dimension = _lib.retto_embeddings_count(handle), _lib.retto_embeddings_dimension(handle)
            values, cut = _lib.retto_embeddings_values(handle), _lib.retto_embeddings_truncated(handle)
            if cut:
                warnings.warn(f"{cut} of {count} texts were longer than the model takes, and were cut", stacklevel=2)
            return [values[row * dimension : (row + 1) * dimension] for row in range(count)]
        finally:
            _lib.retto_embeddings_free(handle)

    def evaluate(
        self, lines: Sequence[str], progress: Optional[Callable[[int, int], Optional[bool]]] = None, **options: Any
    ) -> Evaluation:
        """Masks held-out lines, always in the same way. Options are the fields of retto_evaluation_options. ``progress`` is told of batches
        that are done, of how many, and ends it as in :meth:`embed`."""
        given = _texts(lines)
        wanted = _defaults(_c.EvaluationOptions, "retto_evaluation_options_init")
        _set(wanted, options)
        found = _new(_c.Evaluation)
        _counted(progress, wanted, "retto_model_evaluate", self._handle, given, len(given), byref(wanted), byref(found))
        return Evaluation(
            found.loss, found.perplexity, found.top1_accuracy, found.top10_accuracy, found.masked_tokens
        )

    def save(self, path: PathLike) -> None:
        """Writes a folder that retto and transformers open."""
        _call("retto_model_save", self._handle, *_path(path))


#: In the order of RETTO_POOLING_MEAN and so on.
_POOLINGS = ("mean", "cls", "max")


def _set(struct: Any, options: dict) -> None:
    others = ("struct_size", "reserved", "on_progress", "user_data")
    kinds = {name: kind for name, kind in struct._fields_ if name not in others}
    for name, value in options.items():
        # Lengths of texts and lists are set with them; max_seq_length is none.
        if name not in kinds or name.rpartition("_")[0] in kinds:
            raise TypeError(f"there is no option '{name}'")
        setattr(struct, name, value if kinds[name] is c_double else _integer(name, value, kinds[name]))


@dataclass(frozen=True)
class Progress:
    """Where a run stands. ``kind`` is ``step``, ``log``, ``evaluated``, ``saved``, ``evaluating`` (``done`` of ``total`` batches) or
    ``preparing``, and later versions may have others; what is not of the kind is 0."""

    kind: str
    step: int
    max_steps: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    masked_tokens: int
    tokens_per_second: float
    seconds_left: float
    eval_loss: float
    eval_top1_accuracy: float
    eval_top10_accuracy: float
    eval_masked_tokens: int
    path: Optional[str]
    is_over: bool
    done: int
    total: int

    @staticmethod
    def _of(progress: Any) -> "Progress":
        kinds = ["step", "log", "evaluated", "saved", "evaluating", "preparing"]
        fields = {name: getattr(progress, name) for name, *_ in progress._fields_}
        fields["kind"] = kinds[progress.kind] if progress.kind < len(kinds) else str(progress.kind)
        fields["path"] = progress.path.decode() if progress.path else None
        fields["is_over"] = bool(progress.is_over)
        del fields["struct_size"], fields["reserved"]
        return Progress(**fields)


@dataclass(frozen=True)
class TrainOutput:
    """What a run came to."""

    cancelled: bool
    stopped_early: bool
    steps: int
    epoch: float
    train_loss: float
    samples: int
    tokens: int
    truncated: int
    runtime: float
    best_loss: Optional[float]
    best_step: Optional[int]


_SCHEDULERS = ["linear", "cosine", "constant", "constant_with_warmup"]
_SPLITS = {"train": 0, "validation": 1}


class Trainer(_Handle):
    """A copy of a model in training. One thread at a time may use it, but for :meth:`cancel`.

    Options are the fields of retto_training_options, which have the names and defaults of transformers' TrainingArguments:
    ``Trainer(model, learning_rate=3e-4, num_train_epochs=2, output_dir="run", save_steps=100)``.
    ``lr_scheduler_type`` is a name, ``freeze_layers`` and ``lora_target_modules`` are lists, and ``devices`` is one of other
    :class:`Gpu` that train together with the model's own.
    """

    _free = "retto_trainer_free"

    def __init__(self, model: Model, **options: Any) -> None:
        wanted = _defaults(_c.TrainingOptions, "retto_training_options_init")
        kept: List[Any] = []
        if "lr_scheduler_type" in options:
            name = options.pop("lr_scheduler_type")
            if name not in _SCHEDULERS:
                raise ValueError(f"lr_scheduler_type is '{name}'; it is one of {', '.join(_SCHEDULERS)}")
            wanted.lr_scheduler_type = _SCHEDULERS.index(name)
        if "output_dir" in options:
            wanted.output_dir, wanted.output_dir_length = _path(options.pop("output_dir"))
        if "freeze_layers" in options:
            layers = [_integer("freeze_layers", layer, c_uint32) for layer in options.pop("freeze_layers")]
            kept.append((c_uint32 * len(layers))(*layers))
            wanted.freeze_layers, wanted.freeze_layers_count = kept[-1], len(layers)
        if "lora_target_modules" in options:
            kept.append(_texts(options.pop("lora_target_modules")))
            wanted.lora_target_modules, wanted.lora_target_modules_count = kept[-1], len(kept[-1])
        if "devices" in options:
            others = list(options.pop("devices"))
            kept.append((c_void_p * len(others))(*[gpu._handle for gpu in others]))
            wanted.devices, wanted.devices_count = kept[-1], len(others)
        _set(wanted, options)
        _made(super().__init__, "retto_trainer_new", model._handle, byref(wanted))

    def _end(self) -> None:
        _lib.retto_trainer_cancel(self._handle, None)

    def close(self) -> None:
        """Frees it now; what was not saved is lost. While another thread uses it, this raises :class:`Error`."""
        if self._finalizer.alive:
            status = _lib.retto_trainer_free(self._handle)
            if status != _c.STATUS_OK:
                raise Error(status, "the trainer is in use: cancel it, and wait for its run to return")
            self._finalizer.detach()

    def add_lines(self, lines: Sequence[str], split: str = "train") -> None:
        """Adds lines, each an example, to ``train`` or ``validation``."""
        given = _texts(lines)
        _call("retto_trainer_add_lines", self._handle, _SPLITS[split], given, len(given))

    def add_file(self, path: PathLike, split: str = "train") -> int:
        """Adds the lines of a file or folder, and returns how many they are."""
        count = c_size_t()
        _call("retto_trainer_add_file", self._handle, _SPLITS[split], *_path(path), byref(count))
        return count.value

    def run(self, progress: Optional[Callable[[Progress], Optional[bool]]] = None) -> TrainOutput:
        """Trains until it is over or cancelled, which ``cancelled`` of the result tells. ``progress`` is told of every step, and
        cancels by returning ``False`` or what is as false, but for ``None``; what it raises cancels, too, and is raised here. So does Ctrl-C, after the step: the trainer may be
        resumed."""

        def tell(at: Any, _: object) -> Optional[bool]:
            return None if progress is None else progress(Progress._of(at.contents))

        def call(callback: Any) -> Tuple[int, str]:
            return _status("retto_trainer_run", self._handle, callback, None, byref(output))

        output = _new(_c.TrainOutput)
        status, message = _observed(_c.ProgressCallback, tell, call)
        if status != _c.STATUS_OK and not (status == _c.STATUS_CANCELLED and output.cancelled):
            raise Error(status, message)
        judged = output.best_step > 0
        return TrainOutput(
            bool(output.cancelled), bool(output.stopped_early), output.steps, output.epoch, output.train_loss,
            output.samples, output.tokens, output.truncated, output.runtime, output.best_loss if judged else None,
            output.best_step if judged else None,
        )

    def step(self) -> Progress:
        """One optimizer step, and what is due after it. The :class:`Error` of one that was cancelled, RETTO_CANCELLED, has it as its
        ``progress``."""
        progress = _new(_c.Progress)
        status, message = _status("retto_trainer_step", self._handle, byref(progress))
        if status != _c.STATUS_OK:
            error = Error(status, message)
            if error.status_name == "RETTO_CANCELLED":
                error.progress = Progress._of(progress)
            raise error
        return Progress._of(progress)

    def cancel(self) -> None:
        """Ends the present run after its step. From any thread."""
        _call("retto_trainer_cancel", self._handle)

    def resume(self) -> int:
        """Lets a cancelled trainer go on, or a new one from the latest checkpoint in its output_dir. Returns the step."""
        step = c_uint64()
        _call("retto_trainer_resume", self._handle, byref(step))
        return step.value

    def checkpoint(self) -> None:
        """Writes output_dir/checkpoint-N."""
        _call("retto_trainer_checkpoint", self._handle)

    def model(self) -> Model:
        """The model as trained so far: a copy."""
        return _made(Model, "retto_trainer_model", self._handle)

    def save(self, path: PathLike) -> None:
        """Writes the model as trained so far."""
        _call("retto_trainer_save", self._handle, *_path(path))

    def save_adapter(self, path: PathLike, base_model: str = "") -> None:
        """Writes a low-rank adaptation alone, in PEFT's format."""
        _call("retto_trainer_save_adapter", self._handle, *_path(path), *_text(base_model))


_call("retto_check_version", _c.HEADER_VERSION)
