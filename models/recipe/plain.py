#!/usr/bin/env python3
"""Has a tokenizer of ASCII read typographic quotes, dashes and dots as the plain ones: plain.py MODEL

MODEL is a folder with tokenizer.json and tokenizer_config.json, which are written over. Text from web pages is full of them, and they would else
be unknown: don’t, “I do”, never — again… Transformers rebuilds a BertTokenizer from its vocabulary and would leave this out, so it is
told to read tokenizer.json as it stands.
"""
import json
import pathlib
import sys

# As prepare.py has them in what the model was trained on.
PLAIN = {
    "’": "'", "‘": "'", "‛": "'", "`": "'", "´": "'", "ʼ": "'", "′": "'", "“": '"', "”": '"', "„": '"', "–": "-", "—": " - ", "―": " - ",
    "…": "...", "Æ": "Ae", "æ": "ae", "Œ": "Oe", "œ": "oe",
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, change in ("tokenizer.json", normalize), ("tokenizer_config.json", read_as_it_stands):
        path = pathlib.Path(sys.argv[1]) / name
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        path.write_bytes((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def normalize(tokenizer):
    before = [{"type": "Replace", "pattern": {"String": odd}, "content": plain} for odd, plain in PLAIN.items()]
    of_bert = tokenizer["normalizer"]
    if of_bert["type"] == "Sequence":
        # It was here before.
        of_bert = of_bert["normalizers"][-1]
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [*before, of_bert]}


def read_as_it_stands(config):
    config["tokenizer_class"] = "PreTrainedTokenizerFast"


if __name__ == "__main__":
    main()
