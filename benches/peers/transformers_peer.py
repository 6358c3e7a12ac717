"""transformers on PyTorch, as a user's program calls it: on CUDA where there is one, else on all cores."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from measure import repeat
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

# Each length of input is compiled for itself, which is the fastest; past PyTorch's own limit it would quietly run eagerly.
RECOMPILE_LIMIT = 256


class TransformersPeer:
    def __init__(self, model: Path, mode: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if mode == "cudagraphs" and self.device.type != "cuda":
            raise ValueError("mode cudagraphs needs CUDA")
        torch.set_num_threads(os.cpu_count() or 1)
        if mode != "eager":
            torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        self.folder = model
        self.mode = mode
        self.config = AutoConfig.from_pretrained(model, local_files_only=True)
        self.tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self.max_length = min(self.tokenizer.model_max_length, self.config.max_position_embeddings)
        # Loaded by the first request that needs it: the peak of memory of the others is theirs alone.
        self.model: Any = None

    def describe(self) -> dict[str, Any]:
        where = torch.cuda.get_device_name() if self.on_cuda else f"cpu, {torch.get_num_threads()} threads"
        mode = "" if self.mode == "eager" else f", {self.mode}"
        return {
            "name": f"transformers {transformers.__version__} on torch {torch.__version__} ({where}{mode})",
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda if self.on_cuda else None,
            "device": self.device.type,
            # As Vulkan has it, too.
            "adapter": torch.cuda.get_device_name() if self.on_cuda else None,
            "mode": self.mode,
            "threads": torch.get_num_threads(),
            # "highest" is f32 without TF32.
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        }

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()

    def gpu_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.on_cuda else None

    def close(self) -> None:
        pass

    def load(self) -> torch.nn.Module:
        # Without a dtype a checkpoint's own is taken.
        model = AutoModelForMaskedLM.from_pretrained(self.folder, local_files_only=True, dtype=torch.float32)
        return model.to(self.device)

    def gemm(self, m: int, n: int, k: int, seconds: float, dtype: str = "f32", calls: int = 1) -> dict[str, Any]:
        """x @ weight^T + bias of [m, k] and [n, k]; `calls` of them in a row are one timing, divided by `calls`."""
        types = {"f32": torch.float32} | ({"f16": torch.float16} if self.on_cuda else {})
        if dtype not in types:
            raise ValueError(f"dtype {dtype} on {self.device.type}: not one of {', '.join(types)}")
        options = {"dtype": types[dtype], "device": self.device}
        x, weight, bias = torch.randn(m, k, **options), torch.randn(n, k, **options), torch.randn(n, **options)

        def run() -> torch.Tensor:
            for _ in range(calls):
                y = torch.nn.functional.linear(x, weight, bias)
            return y

        with torch.inference_mode():
            # What launches them is not to count, where that takes longer than a small product.
            timings, _ = repeat(recorded(run) if self.on_cuda else run, seconds, self.synchronize)
        return {"seconds": [timing / calls for timing in timings]}

    def fill(self, texts: list[str], top_k: int, seconds: float) -> dict[str, Any]:
        """From texts to the likeliest tokens of every mask. More than one text is one padded batch."""
        if self.model is None:
            model = self.load().eval()
            compiled = {"compile": {}, "cudagraphs": {"mode": "reduce-overhead"}}.get(self.mode)
            self.model = model if compiled is None else torch.compile(model, dynamic=False, **compiled)
        mask = self.tokenizer.mask_token_id

        def run() -> tuple[torch.Tensor, list[list[tuple[str, float]]]]:
            options = {"padding": True, "truncation": True, "max_length": self.max_length}
            inputs = self.tokenizer(texts, return_tensors="pt", **options)
            masks = (inputs["input_ids"] == mask).nonzero(as_tuple=True)
            inputs = inputs.to(self.device)
            # All rows' logits: BertForMaskedLM has no way to ask for the masks' alone.
            logits = self.model(**inputs).logits[masks]
            scores, ids = logits.softmax(-1).topk(top_k)
            answers = [
                list(zip(self.tokenizer.convert_ids_to_tokens(row_ids), row_scores))
                for row_ids, row_scores in zip(ids.tolist(), scores.tolist())
            ]
            return inputs["attention_mask"], answers

        with torch.inference_mode():
            timings, (attention_mask, answers) = repeat(run, seconds, self.synchronize)
        if not answers:
            raise ValueError(f"no {self.tokenizer.mask_token} in the first {self.max_length} tokens of any text")
        tokens = int(attention_mask.sum())
        return {"seconds": timings, "tokens": tokens, "answers": answers[0], "answers_per_mask": answers}

    def adapt(self, **request: Any) -> dict[str, Any]:
        from adapt import adapt

        return adapt(self, **request)


def recorded(run: Callable[[], Any]) -> Callable[[], None]:
    """The same as a CUDA graph."""
    # As PyTorch wants it: libraries make their workspaces before, on a stream of its own.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
