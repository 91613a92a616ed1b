"""Times transformers on the weights that Sluice serves, interleaved with `sluice bench`, and prints ratios.

Both run on the same number of threads, greedy, bf16 weights, batch and prompt as given, A B B A over the rounds;
medians. transformers keeps its own KV cache and computes in bf16; Sluice keeps activations in f32.

  tools/bench/random_checkpoint.py llama-1b /tmp/llama-1b
  tools/bench/peer_torch.py /tmp/llama-1b --batch-sizes 1,8 --prompt-tokens 512
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]


@torch.no_grad()
def peer(model: torch.nn.Module, batch: int, prompt: int, output: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(0, model.config.vocab_size, (batch, prompt), generator=generator)
    begin = time.perf_counter()
    step = model(ids, use_cache=True, logits_to_keep=1)
    prefilled = time.perf_counter()
    for _ in range(output - 1):
        step = model(step.logits[:, -1].argmax(-1, keepdim=True), past_key_values=step.past_key_values)
    end = time.perf_counter()
    return {"prefill": batch * prompt / (prefilled - begin), "decode": batch * (output - 1) / (end - prefilled)}


def ours(binary: Path, directory: Path, args: argparse.Namespace, batch: int) -> dict[str, float]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run(
            [binary, "bench", f"--model={directory}", f"--batch-sizes={batch}", "--rounds=1",
             f"--prompt-tokens={args.prompt_tokens}", f"--output-tokens={args.output_tokens}",
             f"--threads={args.threads}", f"--json-file={file.name}"], check=True, stdout=subprocess.DEVNULL)
        row = json.load(open(file.name))[0]
    return {"prefill": row["prefill_tokens_per_second"], "decode": row["decode_tokens_per_second"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", type=Path, default=ROOT / "build" / "release" / "sluice")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    peer(model, 1, 16, 2)  # warm-up
    for batch in map(int, args.batch_sizes.split(",")):
        found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for i in range(args.rounds):
            for who in (("ours", "peer"), ("peer", "ours"))[i % 2]:
                found[who].append(ours(args.binary, args.model, args, batch) if who == "ours" else
                                  peer(model, batch, args.prompt_tokens, args.output_tokens))
        for what in ("prefill", "decode"):
            mine, theirs = (statistics.median(r[what] for r in found[who]) for who in ("ours", "peer"))
            print(f"{args.model.name} batch {batch} {what}: sluice {mine:.1f} tok/s, transformers {theirs:.1f} tok/s, "
                  f"ratio {mine / theirs:.2f}", flush=True)


if __name__ == "__main__":
    main()
