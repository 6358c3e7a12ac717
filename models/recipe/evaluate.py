#!/usr/bin/env python3
"""Judges masked language models on stored masks, beside two models that only count.

    evaluate.py --cache HELD/train.safetensors [--model DIR]... [--counts CACHE]...     tokens, on the masks of the cache
    evaluate.py --text held.txt --model DIR [--model DIR]...                            words, whatever the vocabulary

Needs torch, transformers and numpy. A cache is of `retto prepare --static-mask`; `retto eval --static-mask` has the same
masks, and the row "all tokens" is to agree with it. "Words" are those masked tokens that are a word of the vocabulary by
themselves: of letters alone, neither a piece (##) nor followed by one, and not what stands behind an apostrophe (t, s, ll).

--counts: token caches, of the same tokenizer, that the counting models count. "unigram" knows how often tokens are. "5-gram"
looks at two tokens on either side of the blank: from the unigram on, interpolated (Witten-Bell) with the tokens seen beside the
neighbour on the left and the one on the right (half each), between both, between both and one more on either side (half each),
and between all four. Where a chosen token was not replaced by [MASK], both models give half to what stands there, as the
masks have it.

--text: 15 % of the words of letters, by a hash of line and place, one at a time, all their pieces masked. A word is right if all
pieces are; the loss is that of the word, the sum of its pieces', and also per character. The number of pieces is given away.
"""
import argparse
import hashlib
import json
import re
import struct

import numpy as np

TAILS = {"s", "t", "m", "d", "re", "ve", "ll"}
TYPES = {"I32": np.int32, "I64": np.int64}


def read_cache(path):
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    return {name: np.memmap(path, TYPES[part["dtype"]], "r", 8 + size + part["data_offsets"][0], tuple(part["shape"]))
            for name, part in header.items() if name != "__metadata__" and part["dtype"] in TYPES}


def open_model(path):
    import torch
    from transformers import BertForMaskedLM
    torch.set_num_threads(1)
    return BertForMaskedLM.from_pretrained(path, dtype=torch.float32).eval()


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def logits_of(model, sequences, places):
    """Logits at the places, (sequence, index) in order, in batches of like lengths."""
    import torch
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    found = [None] * len(sequences)
    with torch.no_grad():
        for begin in range(0, len(order), 64):
            chosen = order[begin:begin + 64]
            longest = max(len(sequences[i]) for i in chosen)
            ids = torch.zeros((len(chosen), longest), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(chosen):
                ids[row, :len(sequences[i])] = torch.as_tensor(np.asarray(sequences[i], np.int64))
                mask[row, :len(sequences[i])] = 1
            hidden = model.bert(input_ids=ids, attention_mask=mask)[0]
            rows = [(row, place) for row, i in enumerate(chosen) for place in places[i]]
            if rows:
                at = torch.as_tensor(rows)
                logits = model.cls(hidden[at[:, 0], at[:, 1]]).numpy()
                begin_row = 0
                for i in chosen:
                    found[i] = logits[begin_row:begin_row + len(places[i])]
                    begin_row += len(places[i])
            else:
                for i in chosen:
                    found[i] = np.zeros((0, model.config.vocab_size), np.float32)
    return found


def figures(losses, ranks, chosen):
    losses, ranks = losses[chosen], ranks[chosen]
    return dict(count=len(losses), loss=round(float(losses.mean()), 4), top1=round(float((ranks == 0).mean()), 4),
                top10=round(float((ranks < 10).mean()), 4))


def by_token(arguments):
    cache = read_cache(arguments.cache)
    starts, ids, masked, labels = (cache[name] for name in ("cu_seqlens", "input_ids", "masked_input_ids", "labels"))
    vocabulary = open(f"{arguments.vocabulary or arguments.model[0]}/vocab.txt", encoding="utf-8").read().split("\n")
    letters = np.array([re.fullmatch("[a-z]+", token) is not None for token in vocabulary])
    piece = np.array([token.startswith("##") for token in vocabulary])
    tail = np.array([token in TAILS for token in vocabulary])
    apostrophe = vocabulary.index("'")
    at = np.flatnonzero(labels != -100)  # never the first or last of an example: those are special
    gold = ids[at]
    assert (gold == labels[at]).all()
    word = letters[gold] & ~piece[ids[at + 1]] & ~(tail[gold] & (ids[at - 1] == apostrophe))

    def report(name, log_probabilities):
        own = log_probabilities[np.arange(len(gold)), gold]
        ranks = (log_probabilities > own[:, None]).sum(1)
        for what, chosen in (("all tokens", slice(None)), ("words", word)):
            print(json.dumps(dict(model=name, of=what, **figures(-own, ranks, chosen))), flush=True)

    for path in arguments.model:
        model = open_model(path)
        sequences = [masked[starts[i]:starts[i + 1]] for i in range(len(starts) - 1)]
        places = [np.flatnonzero(labels[starts[i]:starts[i + 1]] != -100) for i in range(len(starts) - 1)]
        report(path, log_softmax(np.concatenate(logits_of(model, sequences, places))))
    if arguments.counts:
        for name, probabilities in counting(arguments.counts, len(vocabulary), masked, at, vocabulary.index("[MASK]")):
            report(name, np.log(probabilities))


def counting(caches, size, masked, at, mask_token):
    streams = [read_cache(path)["input_ids"].astype(np.int64) for path in caches]
    unigram = sum(np.bincount(ids, minlength=size) for ids in streams).astype(np.float64)
    unigram[:5] = 0  # special tokens are never asked for
    unigram = (unigram + 1) / (unigram + 1).sum()
    kept = masked[at] != mask_token

    def with_kept(probabilities):
        probabilities[kept] *= 0.5
        probabilities[kept, masked[at][kept]] += 0.5
        return probabilities

    yield "unigram", with_kept(np.repeat(unigram[None], len(at), 0))

    masked = masked.astype(np.int64)

    def seen(offsets):
        """For each blank, the words seen between these neighbours, and how often."""
        key = sum((masked[np.clip(at + offset, 0, len(masked) - 1)] << (14 * i) for i, offset in enumerate(offsets)), np.int64(0))
        wanted, where = np.unique(key, return_inverse=True)
        pairs = []
        for ids in streams:
            middle = slice(2, len(ids) - 2)
            keys = sum((ids[2 + offset:len(ids) - 2 + offset] << (14 * i) for i, offset in enumerate(offsets)), np.int64(0))
            found = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
            hit = wanted[found] == keys
            pairs.append(found[hit] * size + ids[middle][hit])
        pairs, counts = np.unique(np.concatenate(pairs), return_counts=True)
        starts = np.searchsorted(pairs // size, np.arange(len(wanted) + 1))
        return [(pairs[starts[w]:starts[w + 1]] % size, counts[starts[w]:starts[w + 1]]) for w in where]

    contexts = {offsets: seen(offsets) for offsets in ((-1,), (1,), (-1, 1), (-2, -1, 1), (-1, 1, 2), (-2, -1, 1, 2))}

    def interpolate(lower, words_and_counts):
        words, counts = words_and_counts
        mixed = lower * (len(words) / max(1, counts.sum() + len(words))) if len(words) else lower.copy()
        mixed[words] += counts / (counts.sum() + len(words)) if len(words) else 0
        return mixed

    result = np.empty((len(at), size))
    for blank in range(len(at)):
        level = unigram
        for step in (((-1,), (1,)), ((-1, 1),), ((-2, -1, 1), (-1, 1, 2)), ((-2, -1, 1, 2),)):
            level = sum(interpolate(level, contexts[offsets][blank]) for offsets in step) / len(step)
        result[blank] = level
    yield "5-gram", with_kept(result)


def by_word(arguments):
    from transformers import AutoTokenizer
    lines = open(arguments.text, encoding="utf-8").read().split("\n")[:-1]
    blanks = []  # (line, characters of the word)
    for line in lines:
        for found in re.finditer(r"(?<![\w'])[A-Za-z]+(?![\w'])", line):
            if hashlib.sha256(f"{line} {found.start()}".encode()).digest()[0] < 0.15 * 256:
                blanks.append((line, found.span()))
    for path in arguments.model:
        tokenizer, model = AutoTokenizer.from_pretrained(path), open_model(path)
        sequences, places, golds, lengths = [], [], [], []
        for line, (begin, end) in blanks:
            encoded = tokenizer(line, return_offsets_mapping=True, truncation=True, max_length=64)
            ids = np.array(encoded["input_ids"])
            of = np.array([i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a >= begin and b <= end and b > a], np.int64)
            golds.append(ids[of])
            ids[of] = tokenizer.mask_token_id
            sequences.append(ids)
            places.append(of)
            lengths.append(end - begin)
        losses, right = np.zeros(len(blanks)), np.zeros(len(blanks), bool)
        for i, logits in enumerate(logits_of(model, sequences, places)):
            log_probabilities = log_softmax(logits)
            losses[i] = -log_probabilities[np.arange(len(golds[i])), golds[i]].sum()
            right[i] = (logits.argmax(-1) == golds[i]).all()
        there = np.array([len(gold) > 0 for gold in golds])  # not beyond the longest sequence
        print(json.dumps(dict(model=path, words=int(there.sum()), right=round(float(right[there].mean()), 4),
                              loss_per_word=round(float(losses[there].mean()), 4),
                              loss_per_character=round(float(losses[there].sum() / np.array(lengths)[there].sum()), 4))), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="a model's folder")
    parser.add_argument("--cache", help="token cache with masks")
    parser.add_argument("--counts", action="append", default=[], help="token caches for the counting models")
    parser.add_argument("--vocabulary", help="folder of vocab.txt (default: the first model's)")
    parser.add_argument("--text", help="held-out text")
    arguments = parser.parse_args()
    by_token(arguments) if arguments.cache else by_word(arguments)


if __name__ == "__main__":
    main()
