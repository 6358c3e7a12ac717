#!/usr/bin/env python3
"""Takes words that are not to be suggested out of a vocabulary: scrub.py TOKENIZER OUT SIZE

TOKENIZER is a folder with vocab.txt and tokenizer.json, OUT gets one with SIZE entries: all but those whose letters, ## left off, are a word of
words.sha256, the last ones beyond SIZE left off. Prints how many were taken out, not which.
"""
import hashlib
import json
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    source, out, size = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    hashes = {line for line in (HERE / "words.sha256").read_text().split("\n") if line and not line.startswith("#")}
    tokens = (source / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    kept = [token for token in tokens if hashlib.sha256(token.removeprefix("##").encode()).hexdigest() not in hashes]
    if len(kept) < size:
        sys.exit(f"{source}: {len(kept)} entries are left, and {size} are wanted; learn more")
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.txt").write_bytes("".join(token + "\n" for token in kept[:size]).encode())
    shutil.copyfile(source / "tokenizer_config.json", out / "tokenizer_config.json")
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] = {token: number for number, token in enumerate(kept[:size])}
    (out / "tokenizer.json").write_bytes((json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n").encode())
    print(f"{len(tokens) - len(kept)} of {len(tokens)} entries taken out, {min(size, len(kept))} kept")


if __name__ == "__main__":
    main()
