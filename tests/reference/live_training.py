"""Trains the same model on the same masks with Retto, and with PyTorch, transformers and PEFT, and compares their losses.

Every step takes the whole token cache as one batch, so that the order of examples plays no part.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import BertForMaskedLM, get_linear_schedule_with_warmup

REPOSITORY = Path(__file__).resolve().parents[2]
LINES = 64
STEPS = 50
RELATIVE = 1e-3
OPTIONS = {"learning_rate": 1e-3, "warmup_ratio": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0}
LORA = {"r": 4, "alpha": 16, "targets": "query,value,attention.output.dense"}


def padded(cache: Path) -> dict[str, torch.Tensor]:
    """The cache's examples as one batch of transformers'."""
    tensors = load_file(cache)
    bounds = tensors["cu_seqlens"].tolist()
    longest = max(end - start for start, end in zip(bounds, bounds[1:]))
    shape = (len(bounds) - 1, longest)
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, -100),
    }
    for row, (start, end) in enumerate(zip(bounds, bounds[1:])):
        batch["input_ids"][row, : end - start] = tensors["masked_input_ids"][start:end]
        batch["attention_mask"][row, : end - start] = 1
        batch["labels"][row, : end - start] = tensors["labels"][start:end]
    return batch


def train(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> list[float]:
    """As transformers' Trainer does it: no decay for biases and LayerNorms."""
    model.eval()  # Without dropout.
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    without = [value for name, value in trained if name.endswith("bias") or "LayerNorm" in name]
    decayed = [value for name, value in trained if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": OPTIONS["weight_decay"]}, {"params": without, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=OPTIONS["learning_rate"])
    warmup = int(STEPS * OPTIONS["warmup_ratio"])
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, STEPS)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([value for _, value in trained], OPTIONS["max_grad_norm"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def retto_losses(output: Path) -> list[float]:
    entries = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


def compare_losses(what: str, got: list[float], want: list[float], summary: Any) -> None:
    print(f"{what}: {want[0]:.4f} -> {want[-1]:.4f} over {len(want)} steps; Retto {got[0]:.4f} -> {got[-1]:.4f}", flush=True)
    summary.add_exact(f"{what}: {STEPS} losses", [] if len(got) == len(want) == STEPS else [f"{len(got)} losses"])
    apart = max(abs(a - b) / b for a, b in zip(got, want))
    summary.add(f"{what}: losses of {STEPS} steps, relative", apart, RELATIVE)
    summary.add_exact(f"{what}: something is learnt", [] if want[-1] < 0.9 * want[0] else [f"{want[0]} -> {want[-1]}"])


def adapt(retto: Any, base: Path, cache: Path, output: Path, *more: str) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    steps = ["--per-device-train-batch-size", str(LINES), "--logging-steps", "1", "--static-mask", "--no-dropout"]
    retto("adapt", "--model", base, "--train", cache, "--output", output, *options, *steps, *more)


def compare_training(retto: Any, room: Path, summary: Any) -> None:
    base, songs = REPOSITORY / "models/retto-tiny", room / "songs.txt"
    lines = [line for line in (REPOSITORY / "data/lyrics/original.txt").read_text().splitlines() if line.strip()]
    songs.write_text("\n".join(lines[:LINES]) + "\n")
    retto("prepare", "--model", base, "--data", songs, "--output", room / "cache", "--static-mask", "--mlm-probability", "0.3")
    cache = room / "cache/train.safetensors"
    batch = padded(cache)
    assert batch["input_ids"].shape[0] == LINES

    adapt(retto, base, cache, room / "full", "--max-steps", str(STEPS))
    model = BertForMaskedLM.from_pretrained(base)
    compare_losses("training", retto_losses(room / "full"), train(model, batch), summary)

    # The factors that Retto begins with, which PEFT then trains, too.
    lora = ["--lora-r", str(LORA["r"]), "--lora-alpha", str(LORA["alpha"]), "--lora-target-modules", LORA["targets"]]
    adapt(retto, base, cache, room / "lora-first", "--max-steps", "0", *lora)
    adapt(retto, base, cache, room / "lora", "--max-steps", str(STEPS), *lora)
    opened = PeftModel.from_pretrained(BertForMaskedLM.from_pretrained(base), room / "lora-first", is_trainable=True)
    trainable = sum(value.numel() for value in opened.parameters() if value.requires_grad)
    expected = sum(value.numel() for value in load_file(room / "lora-first/adapter_model.safetensors").values())
    wrong = [] if trainable == expected else [f"PEFT trains {trainable} values, the adapter has {expected}"]
    summary.add_exact("LoRA: PEFT finds every factor", wrong)
    compare_losses("LoRA", retto_losses(room / "lora"), train(opened, batch), summary)

    # What Retto trained, opened by PEFT and merged by Retto.
    retto("merge", "--model", base, "--adapter", room / "lora", "--output", room / "merged")
    with torch.no_grad():
        of_peft = PeftModel.from_pretrained(BertForMaskedLM.from_pretrained(base), room / "lora").eval()(**batch).logits
        of_merged = BertForMaskedLM.from_pretrained(room / "merged").eval()(**batch).logits
    real = batch["attention_mask"].bool()
    summary.add("LoRA: merged by Retto, against PEFT, logits", float((of_peft - of_merged)[real].abs().max()), 2e-4)
    # And what PEFT trained, opened by Retto.
    opened.save_pretrained(room / "peft")
    text = "the rain on the [MASK]"
    answers = json.loads(retto("fill", "--json", "--top-k", "5", "--model", base, "--adapter", room / "peft", text))
    tokens = [answer["token"] for answer in answers]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = opened.eval()(**encoded).logits[0, encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
    scores = logits.softmax(-1)
    summary.add_exact("LoRA: an adapter of PEFT's, the answers", [] if tokens == scores.topk(5).indices.tolist() else [f"{tokens}"])
    apart = max(abs(answer["score"] - float(scores[answer["token"]])) for answer in answers)
    summary.add("LoRA: an adapter of PEFT's, the scores", apart, 1e-5)
