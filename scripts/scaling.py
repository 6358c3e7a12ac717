#!/usr/bin/env python3
"""Fits an alpha-beta model to what benches/scaling.rs measured, and carries it on to clusters: scaling.py MEASURED.json PICTURE.svg

Prints the tables of docs/scaling.md. What is assumed and not measured stands in ASSUMED.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

# Of networks: seconds a message, and bytes a second that a rank really gets, nine tenths of what the name says.
ASSUMED = {
    "10 Gb/s": (30e-6, 0.9 * 10e9 / 8),
    "100 Gb/s": (5e-6, 0.9 * 100e9 / 8),
    "400 Gb/s": (3e-6, 0.9 * 400e9 / 8),
}
# Of a GPU: tokens a second in training BERT-base, and bytes a second between it and its host, each way.
TOKENS_PER_SECOND = 20_000
HOST_BYTES_PER_SECOND = 12e9
# Backward is two thirds of a step, and the gradients of layers leave while it runs.
OVERLAP = 2 / 3
# Bytes of the layers' gradients, and of what is complete only at the end: embeddings and head.
GRADIENTS = {
    "whole": (4 * 12 * 7_087_872, 4 * (109_514_298 - 12 * 7_087_872)),
    "low-rank, r = 8": (4 * 12 * 2 * 2 * 768 * 8, 0),
}
LAYERS = 12
# Messages one after another beside the gradients: three times a few numbers of everyone.
SMALL = 6
RANKS = [2, 8, 64, 1024]


def features(ranks: int, size: int) -> tuple[float, float]:
    """Messages one after another, and bytes that pass a rank: an all-to-all and an all-gather of parts."""
    return 2 * (ranks - 1), 2 * (ranks - 1) / ranks * size


def fit(points: list[tuple[int, int, float]]) -> tuple[float, float]:
    """alpha and beta by least squares of relative errors: small sums count as much as large ones."""
    a11 = a12 = a22 = b1 = b2 = 0.0
    for ranks, size, seconds in points:
        x, y = (value / seconds for value in features(ranks, size))
        a11, a12, a22, b1, b2 = a11 + x * x, a12 + x * y, a22 + y * y, b1 + x, b2 + y
    determinant = a11 * a22 - a12 * a12
    return (b1 * a22 - b2 * a12) / determinant, (a11 * b2 - a12 * b1) / determinant


def predict(alpha: float, beta: float, ranks: int, size: float) -> float:
    messages, passed = features(ranks, size)
    return alpha * messages + beta * passed


def travel(network: str, ranks: int, size: float, pieces: int) -> float:
    alpha, rate = ASSUMED[network]
    if size == 0:
        return 0.0
    return predict(alpha, 1 / rate, ranks, size) + (pieces - 1) * alpha * features(ranks, 0)[0] + 2 * size / HOST_BYTES_PER_SECOND


def time_between(network: str, ranks: int, size: tuple[float, float]) -> tuple[float, float]:
    """What backward may hide, and what it may not."""
    layers, rest = size
    small = SMALL * ASSUMED[network][0] * (ranks - 1)
    return travel(network, ranks, layers, LAYERS), travel(network, ranks, rest, 1) + small


def efficiency(network: str, ranks: int, size: tuple[float, float], tokens: int) -> float:
    compute = tokens / TOKENS_PER_SECOND
    layers, rest = time_between(network, ranks, size)
    return compute / (compute + rest + max(0.0, layers - OVERLAP * compute))


def hidden_from(network: str, ranks: int, size: tuple[float, float]) -> int:
    """Tokens a device and step from which on backward hides all that it may."""
    return math.ceil(time_between(network, ranks, size)[0] / OVERLAP * TOKENS_PER_SECOND)


def megabytes(size: float) -> str:
    return f"{size / 1e6:.3g}"


def tables(entries: list[dict]) -> None:
    for kind in ["threads", "processes"]:
        points = [(e["ranks"], e["bytes"], e["seconds"]) for e in entries if e.get("sum") == kind]
        if not points:
            print(f"no sums of {kind} were measured\n")
            continue
        alpha, beta = fit(points)
        print(f"{kind}: alpha {alpha * 1e6:.1f} us, {1e-9 / beta:.2f} GB/s")
        print("| ranks | MB | measured, ms | model, ms |\n|---|---|---|---|")
        errors = []
        for ranks, size, seconds in points:
            model = predict(alpha, beta, ranks, size)
            errors.append(abs(math.log(model / seconds)))
            print(f"| {ranks} | {megabytes(size)} | {seconds * 1e3:.3g} | {model * 1e3:.3g} |")
        print(f"within a factor of {math.exp(max(errors)):.1f}, half of them {math.exp(sorted(errors)[len(errors) // 2]):.2f}\n")
    print("| MB | to the host and back, ms |\n|---|---|")
    for e in entries:
        if "staging" in e and "step" not in e:
            print(f"| {megabytes(e['bytes'])} | {e['seconds'] * 1e3:.3g} |")
    print("\n| a step trains | devices | s | between devices, s | to the host and back, s | MB |\n|---|---|---|---|---|---|")
    for e in entries:
        if "step" in e:
            between, staging = (f"{e[name]:.3f}" if e["devices"] > 1 else "" for name in ("between_devices", "staging"))
            print(f"| {e['step']} | {e['devices']} | {e['seconds']:.2f} | {between} | {staging} | {megabytes(e['bytes'])} |")
    for name, size in GRADIENTS.items():
        print(f"\n{name}, {megabytes(sum(size))} MB: time between devices, ms, beside backward + after it; and tokens a device and step")
        print("| network | " + " | ".join(f"{ranks} GPUs" for ranks in RANKS) + " |\n|---" * 1 + "|---" * len(RANKS) + "|")
        for network in ASSUMED:
            both = [tuple(f"{seconds * 1e3:.3g}" for seconds in time_between(network, n, size)) for n in RANKS]
            cells = (f"{a} + {b} ({hidden_from(network, n, size):,})" for (a, b), n in zip(both, RANKS))
            print(f"| {network} | " + " | ".join(cells) + " |")


def picture(path: Path) -> None:
    """Efficiency by the number of GPUs, for 4,096 tokens a device and step."""
    width, height, left, top, plot_width, plot_height = 720, 360, 60, 24, 430, 280
    ranks = [2**power for power in range(11)]
    tokens = 4096

    def at(index: float, value: float) -> str:
        return f"{left + plot_width * index / (len(ranks) - 1):.1f},{top + plot_height * (1 - value):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>Predicted efficiency of training BERT-base with {tokens} tokens a GPU and step</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for share in [0, 0.25, 0.5, 0.75, 1]:
        x, y = at(0, share).split(",")
        parts.append(f'<path d="M{x},{y}h{plot_width}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for index, count in enumerate(ranks):
        x = at(index, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{top + plot_height + 18}" text-anchor="middle">{count}</text>')
    parts.append(f'<text x="{left + plot_width / 2}" y="{height - 12}" text-anchor="middle">GPUs</text>')
    colours = dict(zip(ASSUMED, ["#b3261e", "#1f5fbf", "#1a7f37"]))
    row = 0
    for name, size in GRADIENTS.items():
        for network in ASSUMED:
            values = [efficiency(network, n, size, tokens) if n > 1 else 1.0 for n in ranks]
            points = " ".join(at(index, value) for index, value in enumerate(values))
            dash = "" if name == "whole" else ' stroke-dasharray="6 4"'
            style = f'fill="none" stroke="{colours[network]}" stroke-width="2"{dash}'
            parts.append(f'<polyline points="{points}" {style}/>')
            y = top + 12 + 20 * row
            parts.append(f'<path d="M{left + plot_width + 16},{y}h24" {style}/>')
            parts.append(f'<text x="{left + plot_width + 46}" y="{y + 4}">{network}, {name}</text>')
            row += 1
    parts.append("</svg>")
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: scaling.py MEASURED.json PICTURE.svg")
    entries = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines() if line.startswith("{")]
    tables(entries)
    picture(Path(sys.argv[2]))


if __name__ == "__main__":
    main()
