"""onnxruntime on all cores, or on CUDA, with the tokenizers library: as one runs an exported model without PyTorch."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from measure import repeat
from tokenizers import BertWordPieceTokenizer, Tokenizer

CUDA = "CUDAExecutionProvider"
PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    # In f32 as all others multiply: by default it is TF32. What it has no kernel for there runs on the CPU.
    "cuda": [(CUDA, {"use_tf32": "0"}), "CPUExecutionProvider"],
}


def load_tokenizer(folder: Path, max_length: int) -> Any:
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        settings = folder / "tokenizer_config.json"
        lowercase = json.loads(settings.read_text()).get("do_lower_case", True) if settings.exists() else True
        tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=lowercase)
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    return tokenizer


def exported(model: Path, cache: Path) -> Path:
    """The model's ONNX file in `cache`, written there if it is not yet."""
    weights = (model / "model.safetensors").resolve()
    stat = weights.stat()
    parts = (weights, stat.st_size, stat.st_mtime_ns, version("torch"), version("transformers"), version("onnxscript"))
    folder = cache / hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Renamed when whole: an export that was broken off must not count as one.
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            part = Path(unfinished) / "export"
            part.mkdir()
            script = Path(__file__).with_name("export_onnx.py")
            # In a process of its own: PyTorch's memory is not onnxruntime's.
            command = [sys.executable, script, "--model", model, "--output", part / "model.onnx"]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
            part.rename(folder)
    return folder / "model.onnx"


class OnnxRuntimePeer:
    def __init__(self, model: Path, cache: Path | None, provider: str) -> None:
        self.folder = model
        self.provider = provider
        self.threads = os.cpu_count() or 1
        if provider == "cuda":
            if CUDA not in onnxruntime.get_available_providers():
                raise ValueError(f"onnxruntime {onnxruntime.__version__} has no CUDA: requirements-cuda.txt has one that does")
            # PyTorch's packages have the libraries.
            onnxruntime.preload_dlls()
            # Else it would be told at the first request.
            self.open(gemm_model(8, 8, 8))
        self.temporary = None if cache else tempfile.TemporaryDirectory(prefix="onnx-")
        self.cache = cache or Path(self.temporary.name)
        self.max_length = json.loads((model / "config.json").read_text())["max_position_embeddings"]
        self.tokenizer = load_tokenizer(model, self.max_length)
        # Loaded by the first request that needs it, as the other peer does.
        self.session: onnxruntime.InferenceSession | None = None

    def describe(self) -> dict[str, Any]:
        return {
            "name": f"onnxruntime {onnxruntime.__version__} ({self.provider}, {self.threads} threads)",
            "onnxruntime": onnxruntime.__version__,
            "tokenizers": version("tokenizers"),
            "device": self.provider,
            "threads": self.threads,
        }

    def gpu_bytes(self) -> None:
        return None

    def close(self) -> None:
        if self.temporary:
            self.session = None
            self.temporary.cleanup()

    def open(self, model: str | bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = onnxruntime.InferenceSession(model, options, providers=PROVIDERS[self.provider])
        # It goes on with the next one where the first cannot be had.
        if self.provider == "cuda" and session.get_providers()[0] != CUDA:
            raise RuntimeError(f"{CUDA} cannot be had here")
        return session

    def gemm(self, m: int, n: int, k: int, seconds: float, dtype: str = "f32", calls: int = 1) -> dict[str, Any]:
        """x @ weight^T + bias of [m, k] and [n, k]; `calls` of them in a row are one timing, divided by `calls`."""
        if dtype != "f32" or self.provider != "cpu":
            raise ValueError("onnxruntime's GEMM is measured in f32 on its CPU provider alone")
        session = self.open(gemm_model(m, n, k))
        binding = session.io_binding()
        x = np.random.default_rng(0).standard_normal((m, k), dtype=np.float32)
        # Bound once: a copy of the output each time would be timed with the product.
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_shape_and_type([m, n], np.float32))

        def run() -> None:
            for _ in range(calls):
                session.run_with_iobinding(binding)

        timings, _ = repeat(run, seconds)
        return {"seconds": [timing / calls for timing in timings]}

    def fill(self, texts: list[str], top_k: int, seconds: float) -> dict[str, Any]:
        """From texts to the likeliest tokens of every mask. More than one text is one padded batch."""
        if self.session is None:
            self.session = self.open(str(exported(self.folder, self.cache)))
        session, mask = self.session, self.tokenizer.token_to_id("[MASK]")

        def run() -> tuple[np.ndarray, list[list[tuple[str, float]]]]:
            encoded = self.tokenizer.encode_batch(texts)
            input_ids = np.array([text.ids for text in encoded], dtype=np.int64)
            attention_mask = np.array([text.attention_mask for text in encoded], dtype=np.int64)
            (logits,) = session.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})
            rows = logits[input_ids == mask]
            scores = np.exp(rows - rows.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            answers = []
            for row in scores:
                best = np.argpartition(row, -top_k)[-top_k:]
                best = best[np.argsort(-row[best])]
                answers.append([(self.tokenizer.id_to_token(int(index)), float(row[index])) for index in best])
            return attention_mask, answers

        timings, (attention_mask, answers) = repeat(run, seconds)
        if not answers:
            raise ValueError(f"no [MASK] in the first {self.max_length} tokens of any text")
        tokens = int(attention_mask.sum())
        return {"seconds": timings, "tokens": tokens, "answers": answers[0], "answers_per_mask": answers}


def gemm_model(m: int, n: int, k: int) -> bytes:
    """One Gemm, whose weight is a constant as in a model: onnxruntime may then pack it ahead."""
    from onnx import TensorProto, checker, helper, numpy_helper

    random = np.random.default_rng(1)
    shapes = {"weight": (n, k), "bias": (n,)}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])],
        [numpy_helper.from_array(random.standard_normal(shape, np.float32), name) for name, shape in shapes.items()],
    )
    # Old numbers of the formats, which every onnxruntime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()
