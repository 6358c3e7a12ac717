"""The C library: its structs, its functions, and how it is found. What they do stands in retto.h."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

#: The version of the header that these declarations were written for.
HEADER_VERSION = 0 * 1_000_000 + 1 * 1_000 + 0
STATUS_OK = 0
STATUS_CANCELLED = 9

CountCallback = ctypes.CFUNCTYPE(c_int32, c_uint64, c_uint64, c_void_p)


class String(Structure):
    _fields_ = [("data", c_char_p), ("length", c_size_t)]


class AdapterInfo(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("index", c_uint32),
        ("adapter_type", c_uint32),
        ("shader_f16", c_uint32),
        ("name", c_char_p),
        ("backend", c_char_p),
        ("driver", c_char_p),
        ("memory_bytes", c_uint64),
        ("max_storage_buffer_binding_size", c_uint64),
        ("max_buffer_size", c_uint64),
    ]


class GpuOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("adapter_index", c_int32),
        ("power_preference", c_uint32),
        ("allow_software", c_uint32),
        ("cache_dir", c_char_p),
        ("cache_dir_length", c_size_t),
    ]


class ModelInfo(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("has_mlm_head", c_uint32),
        ("name", c_char_p),
        ("mask_token", c_char_p),
        ("num_parameters", c_uint64),
        ("vocab_size", c_uint32),
        ("hidden_size", c_uint32),
        ("num_hidden_layers", c_uint32),
        ("num_attention_heads", c_uint32),
        ("intermediate_size", c_uint32),
        ("max_position_embeddings", c_uint32),
        ("dtype", c_uint32),
        ("reserved", c_uint32),
    ]


class Fill(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("token", c_uint32),
        ("score", c_float),
        ("reserved", c_uint32),
        ("token_str", c_void_p),
        ("token_str_length", c_size_t),
        ("sequence", c_void_p),
        ("sequence_length", c_size_t),
    ]


class EvaluationOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("whole_word_mask", c_uint32),
        ("mlm_probability", c_double),
        ("mask_replace_prob", c_double),
        ("random_replace_prob", c_double),
        ("per_device_eval_batch_size", c_uint32),
        ("max_seq_length", c_uint32),
        ("seed", c_uint64),
        ("on_progress", CountCallback),
        ("user_data", c_void_p),
    ]


class EmbedOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("pooling", c_uint32),
        ("normalize", c_uint32),
        ("max_seq_length", c_uint32),
        ("strict", c_uint32),
        ("do_lower_case", c_uint32),
        ("on_progress", CountCallback),
        ("user_data", c_void_p),
    ]


class Evaluation(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("loss", c_double),
        ("perplexity", c_double),
        ("top1_accuracy", c_double),
        ("top10_accuracy", c_double),
        ("masked_tokens", c_uint64),
    ]


class GoldRank(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("token", c_uint32),
        ("rank", c_uint64),
        ("score", c_float),
        ("reserved", c_uint32),
    ]


class TrainingOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("lr_scheduler_type", c_uint32),
        ("num_train_epochs", c_double),
        ("max_steps", c_uint64),
        ("learning_rate", c_double),
        ("warmup_ratio", c_double),
        ("weight_decay", c_double),
        ("adam_beta1", c_double),
        ("adam_beta2", c_double),
        ("adam_epsilon", c_double),
        ("max_grad_norm", c_double),
        ("mlm_probability", c_double),
        ("mask_replace_prob", c_double),
        ("random_replace_prob", c_double),
        ("whole_word_mask", c_uint32),
        ("per_device_train_batch_size", c_uint32),
        ("batch_tokens", c_uint32),
        ("group_by_length", c_uint32),
        ("gradient_accumulation_steps", c_uint32),
        ("per_device_eval_batch_size", c_uint32),
        ("max_seq_length", c_uint32),
        ("freeze_embeddings", c_uint32),
        ("freeze_layers", POINTER(c_uint32)),
        ("freeze_layers_count", c_size_t),
        ("lora_r", c_uint32),
        ("gradient_checkpointing", c_uint32),
        ("lora_alpha", c_double),
        ("lora_target_modules", POINTER(String)),
        ("lora_target_modules_count", c_size_t),
        ("dropout", c_uint32),
        ("fp16", c_uint32),
        ("eval_steps", c_uint64),
        ("early_stopping_patience", c_uint64),
        ("early_stopping_threshold", c_double),
        ("logging_steps", c_uint64),
        ("seed", c_uint64),
        ("output_dir", c_char_p),
        ("output_dir_length", c_size_t),
        ("save_steps", c_uint64),
        ("save_total_limit", c_uint32),
        ("load_best_model_at_end", c_uint32),
        ("devices", POINTER(c_void_p)),
        ("devices_count", c_size_t),
        ("ddp_timeout", c_uint64),
    ]


class Progress(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("kind", c_uint32),
        ("step", c_uint64),
        ("max_steps", c_uint64),
        ("epoch", c_double),
        ("loss", c_double),
        ("grad_norm", c_double),
        ("learning_rate", c_double),
        ("tokens", c_uint64),
        ("masked_tokens", c_uint64),
        ("tokens_per_second", c_double),
        ("seconds_left", c_double),
        ("eval_loss", c_double),
        ("eval_top1_accuracy", c_double),
        ("eval_top10_accuracy", c_double),
        ("eval_masked_tokens", c_uint64),
        ("path", c_char_p),
        ("is_over", c_uint32),
        ("reserved", c_uint32),
        ("done", c_uint64),
        ("total", c_uint64),
    ]


class TrainOutput(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("cancelled", c_uint32),
        ("stopped_early", c_uint32),
        ("reserved", c_uint32),
        ("steps", c_uint64),
        ("epoch", c_double),
        ("train_loss", c_double),
        ("samples", c_uint64),
        ("tokens", c_uint64),
        ("truncated", c_uint64),
        ("runtime", c_double),
        ("best_loss", c_double),
        ("best_step", c_uint64),
    ]


ProgressCallback = ctypes.CFUNCTYPE(c_int32, POINTER(Progress), c_void_p)

_HANDLE, _OUT, _TEXT = [c_void_p], [POINTER(c_void_p)], [c_char_p, c_size_t]
_TEXTS = [POINTER(String), c_size_t]

#: Functions whose last argument is a place for an error, by the arguments before it.
FALLIBLE = {
    "retto_check_version": [c_uint32],
    "retto_adapters_list": _OUT,
    "retto_adapters_get": _HANDLE + [c_size_t, POINTER(AdapterInfo)],
    "retto_gpu_open": [POINTER(GpuOptions)] + _OUT,
    "retto_gpu_adapter": _HANDLE + [POINTER(AdapterInfo)],
    "retto_gpu_memory_in_use": _HANDLE + [POINTER(c_uint64)],
    "retto_gpu_trim": _HANDLE,
    "retto_model_open": _HANDLE + _TEXT + _OUT,
    "retto_model_open_with_adapter": _HANDLE + _TEXT + _TEXT + _OUT,
    "retto_model_open_with_dtype": _HANDLE + _TEXT + [c_uint32] + _OUT,
    "retto_model_open_default": _HANDLE + _OUT,
    "retto_model_to_dtype": _HANDLE + [c_uint32] + _OUT,
    "retto_model_get_info": _HANDLE + [POINTER(ModelInfo)],
    "retto_model_warm_up": _HANDLE,
    "retto_model_fill_mask_batch": _HANDLE + _TEXTS + [c_size_t] + _OUT,
    "retto_model_evaluate": _HANDLE + _TEXTS + [POINTER(EvaluationOptions), POINTER(Evaluation)],
    "retto_model_rank_gold": _HANDLE + _TEXT + _TEXT + [POINTER(GoldRank)],
    "retto_model_save": _HANDLE + _TEXT,
    "retto_model_embed": _HANDLE + _TEXTS + [POINTER(EmbedOptions)] + _OUT,
    "retto_embed_options_open": _TEXT + [POINTER(EmbedOptions)],
    "retto_fills_mask_count": _HANDLE + [c_size_t, POINTER(c_size_t)],
    "retto_fills_count": _HANDLE + [c_size_t, c_size_t, POINTER(c_size_t)],
    "retto_fills_get": _HANDLE + [c_size_t, c_size_t, c_size_t, POINTER(Fill)],
    "retto_trainer_new": _HANDLE + [POINTER(TrainingOptions)] + _OUT,
    "retto_trainer_add_lines": _HANDLE + [c_uint32] + _TEXTS,
    "retto_trainer_add_file": _HANDLE + [c_uint32] + _TEXT + [POINTER(c_size_t)],
    "retto_trainer_run": _HANDLE + [ProgressCallback, c_void_p, POINTER(TrainOutput)],
    "retto_trainer_step": _HANDLE + [POINTER(Progress)],
    "retto_trainer_cancel": _HANDLE,
    "retto_trainer_resume": _HANDLE + [POINTER(c_uint64)],
    "retto_trainer_checkpoint": _HANDLE,
    "retto_trainer_model": _HANDLE + _OUT,
    "retto_trainer_save": _HANDLE + _TEXT,
    "retto_trainer_save_adapter": _HANDLE + _TEXT + _TEXT,
}
#: The others, with what they return.
PLAIN = {
    "retto_version": (c_uint32, []),
    "retto_version_string": (c_char_p, []),
    "retto_status_name": (c_char_p, [c_int32]),
    "retto_error_message": (c_char_p, _HANDLE),
    "retto_error_free": (c_int32, _HANDLE),
    "retto_adapters_count": (c_size_t, _HANDLE),
    "retto_adapters_free": (c_int32, _HANDLE),
    "retto_gpu_free": (c_int32, _HANDLE),
    "retto_model_free": (c_int32, _HANDLE),
    "retto_fills_free": (c_int32, _HANDLE),
    "retto_embeddings_count": (c_size_t, _HANDLE),
    "retto_embeddings_dimension": (c_size_t, _HANDLE),
    "retto_embeddings_truncated": (c_size_t, _HANDLE),
    "retto_embeddings_values": (POINTER(c_float), _HANDLE),
    "retto_embeddings_free": (c_int32, _HANDLE),
    "retto_embed_options_init": (c_int32, [POINTER(EmbedOptions), c_size_t]),
    "retto_trainer_free": (c_int32, _HANDLE),
    "retto_gpu_options_init": (c_int32, [POINTER(GpuOptions), c_size_t]),
    "retto_evaluation_options_init": (c_int32, [POINTER(EvaluationOptions), c_size_t]),
    "retto_training_options_init": (c_int32, [POINTER(TrainingOptions), c_size_t]),
}


def _names() -> list[str]:
    if sys.platform == "win32":
        return ["retto.dll"]
    if sys.platform == "darwin":
        return ["libretto.0.dylib", "libretto.dylib"]
    return ["libretto.so.0", "libretto.so"]


def _load() -> ctypes.CDLL:
    named = os.environ.get("RETTO_LIBRARY")
    if named:
        return ctypes.CDLL(named)
    inside = [str(path) for path in (Path(__file__).parent / name for name in _names()) if path.exists()]
    tried = []
    for candidate in inside + _names() + [found for found in [ctypes.util.find_library("retto")] if found]:
        try:
            return ctypes.CDLL(candidate)
        except OSError as error:
            tried.append(str(error))
    raise OSError("the retto library was not found; install it, or set RETTO_LIBRARY to its file: " + "; ".join(tried))


def load() -> ctypes.CDLL:
    library = _load()
    missing = [name for name in [*FALLIBLE, *PLAIN] if not hasattr(library, name)]
    if missing:
        # One that has them all is asked for its version.
        raise OSError(f"the retto library that was found is another version than these bindings: it has no {missing[0]}")
    for name, arguments in FALLIBLE.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments + [POINTER(c_void_p)], c_int32
    for name, (result, arguments) in PLAIN.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
