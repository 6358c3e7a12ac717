"""A peer of the benchmark: answers requests, one JSON line each, with timings. README.md has the protocol.

    python worker.py --peer transformers --model DIR
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from measure import peak_host_bytes

TASKS = ("gemm", "fill", "adapt", "memory")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers benchmark requests from stdin, one JSON line each.")
    parser.add_argument("--peer", choices=("transformers", "onnxruntime"), required=True)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder of a BertForMaskedLM")
    parser.add_argument("--mode", choices=("eager", "compile", "cudagraphs"), default="eager", help="transformers only")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="onnxruntime only")
    parser.add_argument("--cache", type=Path, help="where onnxruntime's exported models stay; else they are removed again")
    return parser.parse_args()


def claim_stdout() -> TextIO:
    """The real stdout for answers alone: what a library prints, from C too, goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return answers


def make_peer(options: argparse.Namespace) -> Any:
    # transformers would take a folder that is missing for a name on its hub.
    if not (options.model / "config.json").exists():
        raise FileNotFoundError(f"{options.model} has no config.json: not a Hugging Face folder")
    # One peer must not pay for the other's imports, in time or memory.
    if options.peer == "transformers":
        from transformers_peer import TransformersPeer

        return TransformersPeer(options.model, options.mode)
    from onnxruntime_peer import OnnxRuntimePeer

    if options.mode != "eager":
        raise ValueError(f"onnxruntime has no mode {options.mode}: leave --mode out")
    return OnnxRuntimePeer(options.model, options.cache, options.provider)


def answer(peer: Any, request: dict[str, Any]) -> dict[str, Any]:
    task = request.pop("task", None)
    if task == "memory":
        return {"peak_host_bytes": peak_host_bytes(), "gpu_bytes": peer.gpu_bytes()}
    if task not in TASKS or not hasattr(peer, task):
        raise ValueError(f"{type(peer).__name__} has no task {task!r}")
    return getattr(peer, task)(**request)


def described(error: Exception) -> dict[str, str]:
    traceback.print_exc(file=sys.stderr)
    return {"error": f"{type(error).__name__}: {error}"}


def main() -> int:
    options = arguments()
    out = claim_stdout()
    # A benchmark must not wait for a model hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        peer = make_peer(options)
    except Exception as error:
        print(json.dumps({"ready": False, **described(error)}), file=out, flush=True)
        return 1
    print(json.dumps({"ready": True, **peer.describe()}), file=out, flush=True)
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            if request.get("task") == "quit":
                break
            reply = answer(peer, request)
        except Exception as error:
            reply = described(error)
        print(json.dumps(reply), file=out, flush=True)
    peer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
