"""What the server costs: tokens per second of streaming HTTP clients over those of the engine alone at the same batch,
interleaved (A B B A), medians, ratio. The load generator runs on the same cores; its share is printed beside the ratio.

  python3 tools/bench/server_in_loop.py build/release/sluice models/tiny-mod
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from running_server import RunningServer


def bare(args: argparse.Namespace) -> dict:
    """`sluice bench`, in one process, without HTTP."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run(
            [args.sluice, "bench", f"--model={args.model}", f"--batch-sizes={args.clients}", "--rounds=1",
             f"--prompt-tokens={args.prompt_tokens}", f"--output-tokens={args.output_tokens}",
             f"--threads={args.threads}", f"--json-file={file.name}"], check=True, stdout=subprocess.DEVNULL)
        return json.load(open(file.name))[0]


def served(args: argparse.Namespace) -> dict:
    command = [args.sluice, "serve", f"--model={args.model}", "--port={port}", "--grpc-port=-1", "--metrics-port=-1",
               "--generation-config=none", f"--max-sequences={max(64, args.clients)}", f"--threads={args.threads}"]
    with RunningServer([str(word) for word in command]) as server:
        run = subprocess.run(
            [args.sluice, "bench", "serve", f"--url={server.url}", f"--concurrency={args.clients}",
             f"--requests={args.clients * args.waves}", f"--warmup-requests={args.clients}",
             f"--prompt-tokens={args.prompt_tokens}", f"--output-tokens={args.output_tokens}", "--json"],
            check=True, stdout=subprocess.PIPE)
        return json.loads(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sluice", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--waves", type=int, default=2, help="requests of each client")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    runs: dict[str, list[dict]] = {"bare": [], "served": []}
    for i in range(args.rounds):
        for name in (("bare", "served"), ("served", "bare"))[i % 2]:
            runs[name].append({"bare": bare, "served": served}[name](args))
    if any(run["failed"] for run in runs["served"]):
        raise SystemExit("requests failed: " + json.dumps(runs["served"][0]["errors"]))
    rate = {name: statistics.median(run["output_tokens_per_second"] for run in runs[name]) for name in runs}
    cores = len(os.sched_getaffinity(0))
    share = statistics.median(run["generator_cpu_seconds"] / run["elapsed_seconds"] / cores for run in runs["served"])
    print(f"{args.model.name}, {args.clients} sequences of {args.prompt_tokens} + {args.output_tokens} tokens, medians "
          f"of {args.rounds} interleaved rounds")
    print(f"output tokens/s: engine alone {rate['bare']:.1f}, over HTTP {rate['served']:.1f}, "
          f"ratio {rate['served'] / rate['bare']:.3f}")
    print(f"meanwhile the load generator took {100 * share:.1f} % of {cores} cores")


if __name__ == "__main__":
    main()
