"""Measures an exported model: validation loss, bits per byte, selected shares and sample text.

Reads only the exported directory, so what it reports is what the server loads (bf16 weights, fp32 sums).
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from blocks import Routing
from data import Windows
from export import RECIPE
from layouts import state_of
from model import LanguageModel
from shape import Shape
from train import validate

PROMPTS = ["Once upon a time there was a little", "The old man looked at the sea and", '"Mother," said the boy,']


def open_model(directory: Path) -> LanguageModel:
    model = LanguageModel(Shape(**json.loads((directory / RECIPE).read_text())["shape"]))
    tensors = {name: t.float() for name, t in load_file(directory / "model.safetensors").items()}
    model.load_state_dict(state_of(model.shape, list(model.state_dict()), tensors))
    return model.eval()


@torch.no_grad()
def continuation(model: LanguageModel, ids: list[int], num_new: int, temperature: float, seed: int) -> list[int]:
    """Greedy when the temperature is 0. Recomputes the prefix each time: slow and plain."""
    generator = torch.Generator().manual_seed(seed)
    ids = list(ids)
    for _ in range(num_new):
        logits, _ = model(torch.tensor([ids]), Routing("threshold"))
        last = logits[0, -1]
        if temperature == 0:
            ids.append(int(last.argmax()))
        else:
            ids.append(int(torch.multinomial((last / temperature).softmax(-1), 1, generator=generator)))
        if ids[-1] == 0:
            break
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="exported directory")
    parser.add_argument("--valid", type=Path, required=True, help="token ids (.npy); <name>.bytes lies beside it")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batches", type=int, default=0, help="0: the whole file")
    parser.add_argument("--samples", type=int, default=0, help="tokens per sample continuation")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = open_model(args.model)
    tokens = np.load(args.valid)
    windows = Windows(tokens, args.length, args.rows, seed=0)
    count = args.batches or windows.num_windows // args.rows
    bytes_per_token = int(args.valid.with_suffix(".bytes").read_text()) / len(tokens)
    print(f"{args.model}: {sum(p.numel() for p in model.parameters())} parameters; "
          f"{count * args.rows * args.length} validation tokens, {bytes_per_token:.4f} bytes per token")
    for rule in ["threshold", "topk"] if model.shape.routed_layers else ["threshold"]:
        found = validate(model, windows, count, rule)
        note = f" {rule}, shares " + " ".join(f"{share:.4f}" for share in found.shares) if found.shares else ""
        note += f", least expert load {found.least_load:.3f} of fair" if model.shape.experts else ""
        print(f"loss {found.loss:.4f} nats per token, {found.loss / math.log(2) / bytes_per_token:.4f} bits per byte{note}",
              flush=True)
    if args.samples:
        tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
        for prompt in PROMPTS:
            for temperature in (0.0, 0.8):
                ids = continuation(model, tokenizer.encode(prompt).ids, args.samples, temperature, seed=1)
                print(f"--- temperature {temperature}\n{tokenizer.decode(ids, skip_special_tokens=False)}", flush=True)


if __name__ == "__main__":
    main()
