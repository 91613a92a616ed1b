"""What the scripts share that run another engine in a process of its own (`Program` in engines.py): flags and output.

An engine has time(batch, prompt, output), which returns rates(...), and next_tokens(ids).
"""

import argparse
import json
from pathlib import Path


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", type=Path)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--prompts", type=numbers, default=[], help="lengths, each alone")
    made.add_argument("--batch-sizes", type=numbers, default=[], help="sequences decoded together")
    made.add_argument("--context", type=int, default=512, help="prompt of every sequence of a batch")
    made.add_argument("--output-tokens", type=int, default=32)
    made.add_argument("--next-of", type=numbers, help="token ids: only print what is likeliest after each")
    return made


def longest(args: argparse.Namespace) -> int:
    """Positions that the longest sequence needs."""
    return max([*args.prompts, args.context + args.output_tokens, len(args.next_of or [])])


def rates(batch: int, prompt: int, output: int, prefill_seconds: float, decode_seconds: float) -> dict:
    """Tokens per second; the first token of the output belongs to the prompt."""
    return {"batch": batch, "prompt": prompt, "prefill": batch * prompt / prefill_seconds,
            "decode": batch * (output - 1) / decode_seconds if output > 1 else None}


def answer(engine, args: argparse.Namespace) -> None:
    if args.next_of:
        print(json.dumps(engine.next_tokens(args.next_of)))
        return
    engine.time(1, 64, 4)  # warm-up
    for prompt in args.prompts:
        print(json.dumps(engine.time(1, prompt, 1)), flush=True)
    for batch in args.batch_sizes:
        print(json.dumps(engine.time(batch, args.context, args.output_tokens)), flush=True)
