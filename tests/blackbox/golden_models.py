"""Golden folders as models of a running server: a folder has no tokenizer, so it gets one letter per token."""

import contextlib
import json
import pathlib
import shutil
import tempfile

import sluice_process

GOLDEN = sluice_process.ROOT / "tests/golden"
FIRST_LETTER = 33  # "!", from where printable ASCII stands for itself in byte-level BPE


def letters(count):
    vocabulary = {chr(FIRST_LETTER + token): token for token in range(count)}
    return {"version": "1.0", "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}


@contextlib.contextmanager
def served(folder):
    """A model directory made of tests/golden/`folder`."""
    with tempfile.TemporaryDirectory(prefix=f"sluice_{folder}_") as directory:
        for name in ("config.json", "model.safetensors"):
            shutil.copy(GOLDEN / folder / name, directory)
        size = json.loads((GOLDEN / folder / "config.json").read_text())["vocab_size"]
        (pathlib.Path(directory) / "tokenizer.json").write_text(json.dumps(letters(size)))
        yield directory
