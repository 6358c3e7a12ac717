"""Writes the fixtures that Retto is compared with, computed by Hugging Face transformers.

    python -m venv venv
    venv/bin/pip install -r tests/reference/requirements.txt
    venv/bin/python tests/reference/make_fixtures.py

Everything is seeded, so a second run on one machine writes the same bytes; `--out DIR` writes elsewhere,
to compare.
tests/reference/README.md says what the files hold.
"""

import argparse
import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from itertools import count, pairwise
from pathlib import Path
from typing import Any

# Every model here is made from a config, so any request to the hub would be a mistake.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    FillMaskPipeline,
    get_linear_schedule_with_warmup,
)
from transformers.utils import logging

FIXTURES = Path(__file__).parent / "fixtures"
IGNORED = -100


@dataclass(frozen=True)
class Hyperparameters:
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    warmup_steps: int = 2
    max_steps: int = 10


@dataclass(frozen=True)
class Batch:
    """Sequences laid one after another without padding; `cu_seqlens` holds where each starts, then the end."""

    input_ids: Tensor
    token_type_ids: Tensor
    labels: Tensor
    cu_seqlens: Tensor

    def padded(self, pad_token_id: int = 0) -> dict[str, Tensor]:
        """The same batch as transformers takes it."""
        lengths = self.cu_seqlens.diff()
        # Taken from the lengths: a real token may have the id of the padding.
        mask = torch.arange(int(lengths.max())) < lengths[:, None]

        def pad(packed: Tensor, value: int) -> Tensor:
            return torch.full(mask.shape, value).masked_scatter(mask, packed)

        return {
            "input_ids": pad(self.input_ids, pad_token_id),
            "token_type_ids": pad(self.token_type_ids, 0),
            "labels": pad(self.labels, IGNORED),
            "attention_mask": mask.long(),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Batch":
        return cls(**{field.name: tensors[field.name].long() for field in fields(cls)})

    def tensors(self) -> dict[str, Tensor]:
        return {name: value.int() for name, value in vars(self).items()}


@dataclass(frozen=True)
class Fixture:
    name: str
    seed: int
    config: dict[str, Any]
    lengths: tuple[int, ...]
    # The sequence that gets no label: its gradient has to be nothing at all.
    unlabelled: int | None
    std: float = 0.15
    # MLM masking replaces some tokens by random ones, [PAD] among them. nn.Embedding(padding_idx) gives that
    # row no gradient from being looked up, and still one from being an output class.
    pad_as_token: bool = False
    store_adamw: bool = True
    # A random number for each sequence: the steps then drop what Retto drops.
    dropout_seeds: tuple[int, ...] = ()


def sizes(hidden: int, heads: int, layers: int, intermediate: int, vocab: int, positions: int, **others) -> dict:
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        **others,
    }


FIXTURE_SET = [
    Fixture("base", 1, sizes(24, 4, 2, 40, 61, 32, hidden_act="gelu"), (7, 1, 13, 20, 32), unlabelled=2),
    Fixture("gelu_new", 2, sizes(20, 2, 1, 32, 41, 24, hidden_act="gelu_new"), (17,), unlabelled=None),
    # Nothing here divides by two, so a kernel that loads vectors or assumes whole tiles goes wrong.
    Fixture(
        "odd", 3, sizes(15, 3, 2, 37, 53, 17, layer_norm_eps=1e-5), (13, 7, 3), unlabelled=2, pad_as_token=True
    ),
    Fixture(
        "relu_untied",
        4,
        sizes(16, 2, 1, 28, 43, 16, hidden_act="relu", tie_word_embeddings=False, type_vocab_size=1),
        (11, 6, 2),
        unlabelled=1,
    ),
    # Longer than the tiles of attention; the larger weights keep its softmax far from uniform.
    Fixture("long", 5, sizes(8, 1, 1, 16, 31, 300), (300, 130, 5), unlabelled=2, std=0.4),
    # One head wider than 64. By far the largest, so its trained weights are left out.
    Fixture("wide_head", 6, sizes(66, 1, 1, 16, 29, 17), (9, 17), unlabelled=0, store_adamw=False),
    # Two shares that are told apart, and large LayerNorm epsilons, so that each has to be the config's own.
    Fixture(
        "dropout",
        7,
        sizes(12, 3, 2, 20, 37, 16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.25, layer_norm_eps=1e-2),
        (9, 5, 2),
        unlabelled=None,
        dropout_seeds=(11, 2**63 + 5, 3),
    ),
]


def make_model(config: dict[str, Any], seed: int, std: float = 0.15) -> BertForMaskedLM:
    """A model without dropout whose weights are large enough for every parameter to matter."""
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForMaskedLM(BertConfig(attn_implementation="eager", **{**without_dropout, **config}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_((0.1 if name.endswith("bias") else std) * noise)
    return model.eval()


def make_batch(fixture: Fixture) -> Batch:
    generator = torch.Generator().manual_seed(1000 + fixture.seed)
    vocab = fixture.config["vocab_size"]

    def draw(low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    input_ids, token_types, labels = [], [], []
    for index, length in enumerate(fixture.lengths):
        input_ids.append(draw(1, vocab, length))
        types = torch.zeros(length, dtype=torch.long)
        if index % 2 == 0 and length > 1 and fixture.config.get("type_vocab_size", 2) > 1:
            types[int(draw(1, length, 1)) :] = 1
        token_types.append(types)
        labelled = torch.rand(length, generator=generator) < 0.3
        labelled[draw(0, length, 1)] = True
        if index == fixture.unlabelled:
            labelled[:] = False
        labels.append(torch.where(labelled, draw(0, vocab, length), IGNORED))
    if fixture.pad_as_token:
        input_ids[0][1] = 0
    starts = torch.tensor([0, *fixture.lengths]).cumsum(0)
    return Batch(torch.cat(input_ids), torch.cat(token_types), torch.cat(labels), starts)


def evaluate(model: BertForMaskedLM, batch: Batch) -> dict[str, Tensor]:
    """Hidden states, logits at the labels, loss and the gradient of every parameter."""
    padded = batch.padded()
    model.zero_grad()
    output = model(**padded, output_hidden_states=True)
    output.loss.backward()
    values = {
        "hidden_states": output.hidden_states[-1][padded["attention_mask"].bool()],
        "logits": output.logits[padded["labels"] != IGNORED],
        "loss": output.loss.reshape(1),
    }
    for name, parameter in model.named_parameters():
        # An untied model has a cls.predictions.bias that nothing reads.
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        values[f"grad.{name}"] = gradient
    return {name: value.detach() for name, value in values.items()}


def decays(name: str) -> bool:
    return not name.endswith("bias") and "LayerNorm" not in name


WORD = 0xFFFFFFFF


def pcg(value: Tensor) -> Tensor:
    """O'Neill's RXS M XS on 32 bits, as shaders/random.wgsl has it."""
    state = (value * 747796405 + 2891336453) & WORD
    word = (((state >> ((state >> 28) + 4)) ^ state) * 277803737) & WORD
    return (word >> 22) ^ word


def dropout_keys(seeds: tuple[int, ...], length: int) -> Tensor:
    """[sequences, length]: the finalizer of SplitMix64 of each seed and position, as src/text/batch.rs has it."""
    everything = (1 << 64) - 1

    def key(seed: int, position: int) -> int:
        z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & everything
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & everything
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & everything
        return (z ^ (z >> 31)) & WORD

    return torch.tensor([[key(seed, position) for position in range(length)] for seed in seeds])


@contextmanager
def drops_as_retto(seeds: tuple[int, ...]) -> Iterator[None]:
    """Has transformers' own dropouts, where they are and with the shares that they are given, draw Retto's numbers. The n-th of
    a forward pass is Retto's n-th: the embeddings', then of each layer those of the attention's shares, of its output and of
    the feed-forward layers'."""
    theirs, site = torch.nn.functional.dropout, count()

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        assert training and not inplace and p > 0
        keys = dropout_keys(seeds, x.shape[1] if x.dim() == 3 else x.shape[2])
        if x.dim() == 3:  # [sequences, length, width]
            keys, places = keys[:, :, None], torch.arange(x.shape[2])
        else:  # [sequences, heads, queries, keys]
            heads = torch.arange(x.shape[1])[:, None, None] * 65536
            keys, places = keys[:, None, :, None], heads + torch.arange(x.shape[3])
        drawn = pcg(pcg((pcg(keys) + next(site)) & WORD) ^ ((places * 0x9E3779B9) & WORD))
        return x * (drawn >= int(p * 2**32)) / (1 - p)

    torch.nn.functional.dropout = dropout
    try:
        yield
    finally:
        torch.nn.functional.dropout = theirs


def train(
    model: BertForMaskedLM, batch: Batch, hyper: Hyperparameters, dropout_seeds: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """Trains a copy of the model on one batch, as the Trainer of transformers would."""
    model = copy.deepcopy(model)
    if dropout_seeds:
        model.train()
    padded = batch.padded()
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if decays(n)], "weight_decay": hyper.weight_decay},
            {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0},
        ],
        lr=hyper.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, hyper.warmup_steps, hyper.max_steps)
    losses, norms = [], []
    for _ in range(hyper.max_steps):
        optimizer.zero_grad()
        with drops_as_retto(dropout_seeds) if dropout_seeds else nullcontext():
            loss = model(**padded).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), hyper.max_grad_norm))
        losses.append(loss.detach())
        optimizer.step()
        schedule.step()
    values = {f"adamw.{name}": parameter.detach() for name, parameter in named}
    return {**values, "adamw_losses": torch.stack(losses), "adamw_grad_norms": torch.stack(norms)}


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    floats = {n: (t.float() if t.is_floating_point() else t).contiguous() for n, t in tensors.items()}
    data = save(floats, metadata)
    # safetensors keeps the metadata in a hash map, whose order changes from run to run.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    sorted_header = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
    path.write_bytes(data[:8] + sorted_header + data[end:])


def write_model(model: BertForMaskedLM, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def write_fixture(fixture: Fixture, out: Path) -> None:
    folder = out / fixture.name
    model = make_model(fixture.config, fixture.seed, fixture.std)
    batch = make_batch(fixture)
    write_model(model, folder)
    # In f64 the stored values hardly depend on the order in which a machine sums. It matters most for the key
    # biases: softmax cancels their gradient, and Adam would blow up what rounding leaves of it.
    exact = copy.deepcopy(model).double()
    hyper = Hyperparameters()
    trained = train(exact, batch, hyper, fixture.dropout_seeds)
    if not fixture.store_adamw:
        trained = {name: value for name, value in trained.items() if not name.startswith("adamw.")}
    metadata = {name: str(value) for name, value in vars(hyper).items()}
    metadata["has_adamw"] = str(fixture.store_adamw).lower()
    if fixture.dropout_seeds:
        metadata["dropout_seeds"] = " ".join(map(str, fixture.dropout_seeds))
    write_tensors(
        folder / "reference.safetensors", {**batch.tensors(), **evaluate(exact, batch), **trained}, metadata
    )
    check_fixture(folder)


def check_fixture(folder: Path) -> None:
    """What was written, read back and run in f32 as a user of transformers would, gives the stored values."""
    stored = load_file(folder / "reference.safetensors")
    batch = Batch.from_tensors(stored)
    model = BertForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    for name, value in evaluate(model, batch).items():
        torch.testing.assert_close(value, stored[name], rtol=1e-4, atol=1e-5, msg=lambda m: f"{folder} {name}: {m}")


WORDS = """
    the a an and or of to in on is was it he she they we you i not no yes with for from by at as this that
    hello world good morning night day sun moon star rain snow wind sea river stone tree bird cat dog horse
    red green blue white black old new small big long short warm cold light dark song word voice hand heart
    come go see hear sing love walk run sleep dream read write play work home city road house door cafe naive
    resume unused un token mask model hope time year summer winter spring water fire earth sky cloud gold silver
    never always over under again only still far away home here there where when who what how my your her his
    The A I New York
""".split()
PIECES = "ing ed er est ly s es ness less ful able ment tion al ize un re light day word ization aff York".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PUNCTUATION = list("""!"#$%&'()*+,-./:;<=>?@[]_{|}~""") + list("«»–—’…。")
FOREIGN = [*"éüñçßøæ", "##é", "##ü", "##ñ", *"中国日本語人大山水", "α", "##β", "##γ", "да", "😀"]

# The special tokens stand where BERT's own vocabularies have them: the padding first, the rest after gaps.
VOCABULARY = list(
    dict.fromkeys(
        ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        + PUNCTUATION
        + [*"0123456789", *LETTERS]
        + [f"##{character}" for character in "0123456789" + LETTERS]
        + WORDS
        + [f"##{piece}" for piece in PIECES]
        + FOREIGN
    )
)

# The config as checkpoints from before tokenizer.json have it.
OLD_TOKENIZER_CONFIG = {
    "do_lower_case": True,
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "tokenize_chinese_chars": True,
    "strip_accents": None,
    "model_max_length": 128,
    "tokenizer_class": "BertTokenizer",
}

TEXTS = [
    "",
    "   ",
    "hello world",
    "Hello, World!",
    "The old New York isn't cold.",
    "THE BIG RED DOG",
    "singing walked slower coldest lightness unreadable tokenization",
    "café CAFÉ cafe\u0301 naïve résumé señor",
    "ÜBER straße Øre æon Çedilla İstanbul",
    "中国 is 日本語, 山水go大",
    "かな カナ 한국어 中\u3000人",
    "αβγ ΑΒΓ да ДА",
    "good 😀 morning😀 🎉 👩\u200d🚀",
    "the [MASK] is old",
    "the[MASK]is old",
    "the [MASK].",
    "[MASK] [MASK][MASK]",
    "the [mask] and [ MASK ]",
    "[CLS] hello [SEP] world [PAD] [UNK]",
    "[unused0] hello",
    "a" * 100 + " hello",
    "a" * 101 + " hello",
    "tab\there\nnew line\r\nend",
    "he\u0000l\u0007lo wor\u200bld\ufffd so\u00adft a\u00a0b",
    "«love» — “song” ’s… 3.14 2^10 $5 a_b c`d 50% #1 x@y.z",
    "e-mail: cat/dog (sun&moon) {tree|bird} <snow> ~~~ ===",
    "\U0001d400 \ufb01sh ２０ ½",
]


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_tokenizer(out: Path) -> None:
    folder = out / "tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", OLD_TOKENIZER_CONFIG)
    def tokenizer(**options: bool) -> BertTokenizerFast:
        return BertTokenizerFast.from_pretrained(folder, **options)

    uncased, cased = tokenizer(do_lower_case=True), tokenizer(do_lower_case=False)
    as_configured = tokenizer()
    # Whether accents go is a matter of its own where the config says it.
    with_accents = tokenizer(do_lower_case=True, strip_accents=False)
    cased_without_accents = tokenizer(do_lower_case=False, strip_accents=True)
    chinese_in_words = tokenizer(tokenize_chinese_chars=False)
    lines = []
    for text in TEXTS:
        case = {
            "text": text,
            "input_ids": uncased(text)["input_ids"],
            "cased_input_ids": cased(text)["input_ids"],
            "with_accents": with_accents(text)["input_ids"],
            "cased_without_accents": cased_without_accents(text)["input_ids"],
            "chinese_in_words": chinese_in_words(text)["input_ids"],
        }
        assert as_configured(text)["input_ids"] == case["input_ids"]
        # ASCII, so that the characters nobody sees are still there to read.
        lines.append(json.dumps(case))
    (folder / "cases.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


def write_fillmask(out: Path) -> None:
    folder = out / "fillmask"
    model = make_model(sizes(16, 2, 1, 24, len(VOCABULARY), 128), seed=15, std=0.4)
    with torch.no_grad():
        # Brings [PAD] among the best, which the pipeline drops from the sequence.
        model.cls.predictions.bias[0] += 2
    write_model(model, folder)
    BertTokenizerFast.from_pretrained(out / "tokenizer").save_pretrained(folder)
    pipeline = FillMaskPipeline(
        model=BertForMaskedLM.from_pretrained(folder), tokenizer=BertTokenizerFast.from_pretrained(folder)
    )
    cases = [
        "The old [MASK] is warm.",
        "the [MASK] sings a [MASK] song!",
        ["Hello [MASK]", "[MASK], the unreadable dog isn't here..."],
    ]
    for text in (*cases[:2], *cases[2]):
        best = pipeline(text, top_k=6)
        for row in best if isinstance(best[0], list) else [best]:
            # The order of the five must not hang on rounding; if it does, another seed will do.
            assert all(one["score"] > 1.01 * next_["score"] for one, next_ in pairwise(row)), text
    write_json(
        folder / "fillmask.json", [{"inputs": inputs, "outputs": pipeline(inputs, top_k=5)} for inputs in cases]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIXTURES)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for fixture in FIXTURE_SET:
        write_fixture(fixture, out)
    write_tokenizer(out)
    write_fillmask(out)


if __name__ == "__main__":
    main()
