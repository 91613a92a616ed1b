"""Trains the byte-level BPE tokenizer shared by the tiny models."""

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from data import END, documents


def train(archives: list[Path], vocab_size: int) -> Tokenizer:
    """GPT-2 style byte-level BPE; the end token is id 0 and every byte has a piece."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for archive in archives for text in documents(archive)), trainer)
    return tokenizer


def write_side_files(out: Path) -> None:
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "add_bos_token": False,
        "bos_token": END,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps({
        "bos_token_id": 0,
        "eos_token_id": 0,
        "do_sample": True,
        "temperature": 0.4,  # small models write plainer so, and repeat themselves less
        "top_p": 0.9,
        "repetition_penalty": 1.1,
    }, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--out", type=Path, required=True, help="directory")
    parser.add_argument("archive", type=Path, nargs="+")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train(args.archive, args.vocab_size).save(str(args.out / "tokenizer.json"))
    write_side_files(args.out)


if __name__ == "__main__":
    main()
