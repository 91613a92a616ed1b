"""Turns corpus archives into one flat array of token ids and deals out training windows.

The order of windows is a pure function of (seed, step), so two models trained from the same
configuration see the same tokens in the same order, and a resumed run continues where it stopped.
"""

import argparse
import io
import re
from pathlib import Path

import numpy as np
import zstandard
from tokenizers import Tokenizer

END = "<|endoftext|>"

# Typeset punctuation becomes ASCII, so that a prompt typed on a keyboard looks like the training text.
PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "_": None})
BOILERPLATE = re.compile(r"^(\[|\*|Produced by|E-text prepared|Transcriber|TRANSCRIBER|Note:|Copyright)|gutenberg|pgdp\.net", re.I)


def is_prose(line: str) -> bool:
    """Drops headings in capitals, tables of contents, captions and transcribers' notes."""
    return bool(re.search(r"[a-z]{2}", line)) and "    " not in line and not BOILERPLATE.search(line)


def clean(document: str) -> str:
    """Keeps the prose of one document: paragraphs separated by a blank line."""
    lines = (line.strip().translate(PLAIN) for line in document.split("\n"))
    return "\n\n".join(line for line in lines if line and is_prose(line))


def documents(archive: Path):
    """Yields the cleaned documents of one .txt.zst archive."""
    with open(archive, "rb") as raw:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw)
        pending: list[str] = []
        for line in io.TextIOWrapper(reader, encoding="utf-8"):
            if line.rstrip("\n") != END:
                pending.append(line)
                continue
            yield clean("".join(pending))
            pending = []


def encode(archive: Path, tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """Returns (token ids, bytes of cleaned text); every document is followed by the end token."""
    end_id = tokenizer.token_to_id(END)
    pieces, num_bytes = [], 0
    for document in documents(archive):
        num_bytes += len(document.encode("utf-8"))
        pieces.append(np.array(tokenizer.encode(document).ids + [end_id], dtype=np.uint16))
    return np.concatenate(pieces), num_bytes


class Windows:
    """Disjoint windows of `length + 1` tokens, dealt out in a seeded random order."""

    def __init__(self, tokens: np.ndarray, length: int, rows: int, seed: int):
        self.tokens, self.length, self.rows, self.seed = tokens, length, rows, seed
        self.num_windows = (len(tokens) - 1) // length

    def batch(self, step: int) -> np.ndarray:
        """int64 [rows, length + 1]: the inputs and, one place on, the targets of one step."""
        first = step * self.rows
        picked = [self._window(first + row) for row in range(self.rows)]
        return np.stack([self.tokens[w * self.length:w * self.length + self.length + 1] for w in picked]).astype(np.int64)

    def _window(self, ordinal: int) -> int:
        epoch, place = divmod(ordinal, self.num_windows)
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num_windows)
        return int(self._order[place])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="writes <out>.npy and <out>.bytes")
    parser.add_argument("archive", type=Path)
    args = parser.parse_args()
    tokens, num_bytes = encode(args.archive, Tokenizer.from_file(str(args.tokenizer)))
    np.save(args.out.with_suffix(".npy"), tokens)
    args.out.with_suffix(".bytes").write_text(f"{num_bytes}\n")
    print(f"{args.out}: {len(tokens)} tokens, {num_bytes} bytes, {num_bytes / len(tokens):.3f} bytes per token")


if __name__ == "__main__":
    main()
