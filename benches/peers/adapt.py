"""Masked-language-model training with transformers and PyTorch, as one does it for speed."""

import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForLanguageModeling, set_seed

LEARNING_RATE = 5e-5
MAX_GRAD_NORM = 1.0


def tokenized(tokenizer: Any, file: Path, lines: int, max_length: int) -> list[dict[str, Any]]:
    """The first `lines` lines that are not blank, each an example."""
    with open(file, encoding="utf-8") as text:
        chosen = list(islice((line.strip() for line in text if line.strip()), lines))
    if not chosen:
        raise ValueError(f"{file} has no lines")
    encoded = tokenizer(chosen, truncation=True, max_length=max_length, return_special_tokens_mask=True)
    return [{key: values[index] for key, values in encoded.items()} for index in range(len(chosen))]


def batches_by_length(examples: list[dict[str, Any]], batch_size: int) -> list[list[dict[str, Any]]]:
    """Batches of similar length, in random order: what padding costs is then next to nothing."""
    ordered = sorted(examples, key=lambda example: len(example["input_ids"]))
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [batches[index] for index in torch.randperm(len(batches)).tolist()]


def padded_size(batch: list[dict[str, Any]]) -> int:
    return len(batch) * max(len(example["input_ids"]) for example in batch)


def adapt(
    peer: Any,
    file: str,
    lines: int,
    steps: int,
    batch_size: int = 32,
    mlm_probability: float = 0.15,
    max_length: int = 128,
    precision: str = "f32",
    seed: int = 0,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Seconds, tokens and loss of each step of training a model fresh from its folder: so many steps, and on for `seconds`."""
    if precision not in ("f32", "bf16"):
        raise ValueError(f"precision {precision}: not f32 or bf16")
    if precision == "bf16" and not peer.on_cuda:
        raise ValueError("precision bf16 needs CUDA")
    if peer.mode == "cudagraphs":
        raise ValueError("a CUDA graph would be recorded for each new length of batch: train in mode eager or compile")
    set_seed(seed)
    max_length = min(max_length, peer.max_length)
    batches = batches_by_length(tokenized(peer.tokenizer, Path(file), lines, max_length), batch_size)
    # Padded and masked ahead of the steps, as the workers of a DataLoader do it beside them.
    collator = DataCollatorForLanguageModeling(peer.tokenizer, mlm=True, mlm_probability=mlm_probability)
    collated = [dict(collator(batch)) for batch in islice(cycle(batches), max(steps, len(batches) if seconds > 0 else 0))]
    # The warm-up takes the largest batch, after which no step has to ask for more memory.
    warm_up = dict(collator(max(batches, key=padded_size)))
    if peer.on_cuda:
        collated = [{key: value.pin_memory() for key, value in batch.items()} for batch in collated]

    model = peer.load().train()
    # One compilation for all lengths: in a run of training most of them come up only a few times.
    forward = torch.compile(model, dynamic=True) if peer.mode == "compile" else model
    # No weight decay, as TrainingArguments has it.
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = {key: value.to(peer.device, non_blocking=True) for key, value in batch.items()}
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = forward(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    step(warm_up)
    peer.synchronize()
    timings, losses, tokens, padded = [], [], [], []
    end = time.perf_counter() + seconds
    for batch in cycle(collated):
        start = time.perf_counter()
        loss = step(batch)
        peer.synchronize()
        timings.append(time.perf_counter() - start)
        losses.append(loss.item())
        tokens.append(int(batch["attention_mask"].sum()))
        padded.append(batch["input_ids"].numel())
        if len(timings) >= steps and time.perf_counter() >= end:
            break
    return {
        "seconds": timings,
        "tokens": tokens,
        "padded_tokens": padded,
        "loss": losses,
        "max_length": max_length,
    }
