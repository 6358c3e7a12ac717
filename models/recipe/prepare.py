#!/usr/bin/env python3
"""Makes the training and held-out text of the default model: prepare.py DATA OUT

DATA has the folders lyrics/, modern/, poems/ and prose/. OUT receives train.txt and held-modern.txt, held-prose.txt,
held-poems.txt: one example a line. Python's standard library is all it needs. Nothing depends on the locale, on the time
or on the order of folders; what is left to chance is decided by SHA-256, so that the same data give the same bytes.
"""
import argparse
import hashlib
import pathlib
import re
import unicodedata

HERE = pathlib.Path(__file__).resolve().parent
SEED = b"retto 1 "
SHINGLE = 8  # words in a row that two texts may not share

# Novels held out whole.
HELD_NOVELS = {"ABronte_Agnes.txt", "Dickens_Hard.txt"}
# One poem in so many is held out, and one block of lines in so many of modern text: its neighbours are often of one talk.
HELD_POEMS, HELD_BLOCKS, BLOCK = 100, 160, 40
# At most so many examples of a kind are evaluated.
HELD_LINES = 4000
# What is kept of each kind for training. Modern text is to weigh most; with more time, 1 for all of them.
SHARES = {"prose": 0.35, "poems": 0.45, "taskmaster_ccby40.txt": 0.5}
NAMES = re.compile(r"\b(Tom|Mary)\b")  # of nearly a quarter of Tatoeba's lines
NAMES_SHARE = 0.25

TRANSLATION = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201b": "'", "`": "'", "\u00b4": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"',
    "\u2013": "-", "\u2014": " - ", "\u2015": " - ", "\u2026": "...", "_": "", "\u00a0": " ", "\ufeff": "",
    "\u00c6": "Ae", "\u00e6": "ae", "\u0152": "Oe", "\u0153": "oe"})
FOOTNOTE = re.compile(r"\[\d{1,4}\]|\[[A-Z]\]")
DASHES = re.compile(r"\s*--+\s*")
SPACES = re.compile(r"\s+")
BEFORE = re.compile(r" ([.,;:!?](?:\s|$))")
OPENS, ENDS = re.compile(r"^'(?=[A-Z])"), re.compile(r"(?<=[.,;:!?])'$")
WORD = re.compile(r"[a-z]+")
# Addresses, handles, markup; names left blank, leaders of a table of contents; letters drawn out.
JUNK = re.compile(r"https?:|www\.|\.(?:com|org|net)\b|[@#<>{}|\\^~=*\[\]]|[.]{4}|[-]{3}|([a-z])\1{3}|\.\s?\.\s?\.\s*\d+$", re.I)
HEADING = re.compile(r"^(?:chapter|book|canto|volume|vol|part|act|scene|letter|contents|index|page|finis|the end)\b.{0,24}$", re.I)
SENTENCE = re.compile(r"(?<=[.!?])([\"')\]]*)\s+(?=[\"'(]*[A-Z])")
ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Sir|Esq|Rev|Hon|Capt|Col|Gen|Lieut|Prof|No|Vol|vs|etc|viz|i\.e|e\.g)|\b[A-Z])\.[\"')\]]*$")


def digest(text, salt=b""):
    return hashlib.sha256(SEED + salt + text.encode()).digest()


def chance(text, salt):
    """A number in [0, 1) that belongs to the text."""
    return int.from_bytes(digest(text, salt)[:6], "big") / 2**48


def clean(text):
    """ASCII with plain quotes, one space between words; None if letters of other scripts are in it."""
    text = text.translate(TRANSLATION)
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = SPACES.sub(" ", DASHES.sub(" - ", FOOTNOTE.sub("", text))).strip().lstrip("-.,;: ")
    text = BEFORE.sub(r"\1", text)
    # Marks of speech that is cut, at one end alone.
    if text.count('"') % 2:
        text = text[1:] if text[:1] == '"' else text[:-1] if text[-1:] == '"' else text
    text = OPENS.sub("", text) if not ENDS.search(text) else text if OPENS.match(text) else ENDS.sub("", text)
    return text.strip() if text.isascii() and text.isprintable() else None


def words_of(text):
    return WORD.findall(text.lower().replace("'", ""))


def shingles(words):
    return (" ".join(words[i:i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))


class Hashed:
    """The words that are kept as hashes."""

    def __init__(self, path):
        self.hashes = {line for line in path.read_text().split("\n") if line and not line.startswith("#")}
        self.known = {}

    def has(self, word):
        if word not in self.known:
            self.known[word] = hashlib.sha256(word.encode()).hexdigest() in self.hashes
        return self.known[word]

    def any(self, text):
        """By letters alone, with and without what apostrophes and hyphens part."""
        text = text.lower()
        joined = text.replace("-", "").replace("'", "")
        return any(map(self.has, WORD.findall(text))) or joined != text and any(map(self.has, WORD.findall(joined)))


def lines_of(path):
    return path.read_text(encoding="utf-8", errors="strict").split("\n")


def sentences(path):
    """A novel's sentences, its lines joined; long ones are parted at semicolons and colons."""
    text = " ".join(line.strip() for line in lines_of(path) if not line.isupper() and not HEADING.match(line.strip()))
    text = clean_loose(text)
    begin, found = 0, []
    for end in SENTENCE.finditer(text):
        sentence = text[begin:end.end(1)]
        if ABBREVIATION.search(sentence):
            continue
        found.append(sentence)
        begin = end.end()
    found.append(text[begin:])
    for sentence in found:
        part = []
        for piece in re.split(r"(?<=[;:])\s+", sentence) if sentence.count(" ") > 38 else [sentence]:
            part.append(piece)
            if " ".join(part).count(" ") >= 12:
                yield " ".join(part)
                part = []
        if part:
            yield " ".join(part)


def clean_loose(text):
    """As `clean`, but letters that are not ASCII are left to the check of each sentence."""
    text = text.translate(TRANSLATION)
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return SPACES.sub(" ", DASHES.sub(" - ", FOOTNOTE.sub("", text)))


def poems(path):
    """Each poem as its stanzas, lists of lines."""
    for poem in re.split(r"\n\n\n+", "\n".join(line.strip() for line in lines_of(path))):
        yield [stanza.split("\n") for stanza in poem.strip("\n").split("\n\n") if stanza]


def windows(stanza):
    """One to three lines at a time, as the first of them decides."""
    at = 0
    while at < len(stanza):
        count = 1 + int(3 * chance(stanza[at], b"window"))
        yield " ".join(stanza[at:at + count])
        at += count


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    for kind in ("prose", "poems"):
        parser.add_argument(f"--{kind}-share", type=float, default=SHARES[kind], help=f"share of the {kind} (default: %(default)s)")
    arguments = parser.parse_args()
    shares = dict(SHARES, prose=arguments.prose_share, poems=arguments.poems_share)
    hashed = Hashed(HERE / "words.sha256")
    files = {kind: sorted((arguments.data / kind).glob("*.txt"), key=lambda path: path.name.encode()) for kind in ("lyrics", "modern", "poems", "prose")}
    assert all(files.values()), f"{arguments.data} needs lyrics/, modern/, poems/ and prose/"

    # What lyrics hold: lines of four words and more, and runs of words, which may go on over line ends.
    lyric_lines, lyric_runs = set(), set()
    for path in files["lyrics"]:
        song = []
        for line in lines_of(path) + ["", ""]:
            words = words_of(clean_loose(line))
            if words:
                song += words
                if len(words) >= 4:
                    lyric_lines.add(" ".join(words))
            else:
                lyric_runs.update(shingles(song))
                song = []

    # (kind, source, held out?, text)
    examples, dropped = [], {}

    def drop(kind, why):
        dropped[kind, why] = dropped.get((kind, why), 0) + 1

    for path in files["modern"]:
        for number, line in enumerate(lines_of(path)):
            held = int.from_bytes(digest(f"{path.name} {number // BLOCK}")[:4], "big") % HELD_BLOCKS == 0
            examples.append(("modern", path.name, held, line))
    for path in files["prose"]:
        examples += (("prose", path.name, path.name in HELD_NOVELS, sentence) for sentence in sentences(path))
    for path in files["poems"]:
        for poem in poems(path):
            lines = [clean_loose(line).strip() for stanza in poem for line in stanza]
            words = [" ".join(words_of(line)) for line in lines]
            common = sum(line in lyric_lines for line in words)
            if common * 4 > len(words):
                drop("poems", "poem also in lyrics")
                continue
            held = bool(lines) and int.from_bytes(digest(" ".join(lines))[:4], "big") % HELD_POEMS == 0
            for stanza in poem:
                kept = [line for line in stanza if " ".join(words_of(clean_loose(line))) not in lyric_lines]
                examples += (("poems", path.name, held, window) for window in windows(kept))

    # Words that prose and modern text have at least eight times: what has few of them is dialect, or not English.
    counts = {}
    for kind, _, _, text in examples:
        if kind != "poems":
            for word in words_of(text):
                counts[word] = counts.get(word, 0) + 1
    known = {word for word, count in counts.items() if count >= 8}

    kept, seen = [], set()
    for kind, source, held, text in examples:
        text = clean(text)
        if not text:
            drop(kind, "empty, or not all of it text in Latin letters")
            continue
        words = words_of(text)
        letters = sum(c.isalpha() for c in text)
        key = " ".join(words)
        if len(words) < 3 or len(words) > 70 or len(text) < 10:
            drop(kind, "too short or too long")
        elif JUNK.search(text) or HEADING.match(text) or letters < 0.65 * len(text):
            drop(kind, "addresses, markup, headings, tables")
        elif sum(c.isupper() for c in text) > 0.5 * letters:
            drop(kind, "capitals")
        elif sum(word in known for word in words) < 0.85 * len(words):
            drop(kind, "not English, or dialect")
        elif hashed.any(text):
            drop(kind, "hashed words")
        elif key in lyric_lines or any(run in lyric_runs for run in shingles(words)):
            drop(kind, "also in lyrics")
        elif key in seen:
            drop(kind, "seen before")
        elif NAMES.search(text) and source.startswith("tatoeba") and chance(key, b"names") >= NAMES_SHARE:
            drop(kind, "Tom or Mary")
        elif not held and chance(key, b"share") >= shares.get(source, shares.get(kind, 1)):
            drop(kind, "share not taken")
        else:
            seen.add(key)
            kept.append((kind, held, text, words))

    arguments.out.mkdir(parents=True, exist_ok=True)
    held_runs, held_kinds = set(), {}
    for kind, held, text, words in kept:
        if held:
            held_kinds.setdefault(kind, []).append((text, words))
    for kind, texts in sorted(held_kinds.items()):
        texts.sort(key=lambda example: digest(example[0], b"order"))
        del texts[HELD_LINES:]
        for _, words in texts:
            held_runs.update(shingles(words))
        write(arguments.out / f"held-{kind}.txt", [text for text, _ in texts])
    train, characters = [], {}
    for kind, held, text, words in kept:
        if held:
            continue
        if any(run in held_runs for run in shingles(words)):
            drop(kind, "shares words with held-out text")
            continue
        train.append(text)
        lines, size = characters.get(kind, (0, 0))
        characters[kind] = lines + 1, size + len(text) + 1
    train.sort(key=lambda text: digest(text, b"order"))
    write(arguments.out / "train.txt", train)
    for kind, (lines, size) in sorted(characters.items()):
        print(f"train: {kind}: {lines} examples, {size} bytes")
    for (kind, why), count in sorted(dropped.items()):
        print(f"left out: {kind}: {why}: {count}")


def write(path, texts):
    content = "".join(text + "\n" for text in texts).encode()
    path.write_bytes(content)
    print(f"{hashlib.sha256(content).hexdigest()}  {path.name}  {len(texts)} examples, {len(content)} bytes")


if __name__ == "__main__":
    main()
