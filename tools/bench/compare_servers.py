"""Servers under the same Poisson load: goodput, latencies, peak memory and time until they answer. Each is started in turn, A B B A.

Each --server is NAME=COMMAND; in the command {port} is a port that is free. What follows `--` goes to `sluice bench serve`.

  tools/bench/compare_servers.py build/release/sluice --rounds 2 \\
    --server "sluice=build/release/sluice serve --model M.gguf --port {port} --grpc-port -1 --metrics-port -1 --generation-config none" \\
    --server "llama.cpp=llama-server -m M.gguf --port {port} -t 2 --parallel 16 -c 16384" \\
    -- --rate 0.5 --requests 60 --prompt-tokens 256 --output-tokens 64
"""

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from running_server import RunningServer

COLUMNS = ("good/s", "tokens/s", "TTFT p50, ms", "TTFT p99, ms", "gap p99, ms", "failed", "peak MB", "ready, s")


def descendants(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += descendants(int(child))
    return found


def peak_bytes(pid: int) -> int:
    """Most resident memory of the process and what it started; pages of files that they map are counted."""
    peak = 0
    for process in descendants(pid):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak += int(line.split()[1]) * 1024
    return peak


def measure(name: str, command: str, sluice: Path, load: list[str]) -> dict[str, float]:
    log_path = Path(tempfile.gettempdir()) / f"compare_servers.{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.log"
    print(f"{name}: its output goes to {log_path}", flush=True)
    with open(log_path, "w") as log, RunningServer(shlex.split(command), log) as server:
        run = subprocess.run([sluice, "bench", "serve", f"--url={server.url}", "--json", *load], stdout=subprocess.PIPE,
                             check=True)
        found, peak = json.loads(run.stdout), peak_bytes(server.process.pid)
    nothing = {"p50": float("nan"), "p99": float("nan")}
    first, gaps = found["ttft_ms"] or nothing, found["itl_ms"] or nothing
    values = (found["goodput_requests_per_second"], found["output_tokens_per_second"], first["p50"], first["p99"],
              gaps["p99"], found["failed"], peak / 1e6, server.ready_seconds)
    print(f"{name}: " + ", ".join(f"{title} {value:.2f}" for title, value in zip(COLUMNS, values)), flush=True)
    return dict(zip(COLUMNS, values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sluice", type=Path, help="the binary, as the load generator")
    parser.add_argument("--server", action="append", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=2)
    words, load = sys.argv[1:], []
    if "--" in words:
        words, load = words[:words.index("--")], words[words.index("--") + 1:]
    args = parser.parse_args(words)
    servers = [server.split("=", 1) for server in args.server]
    found: dict[str, list[dict]] = {name: [] for name, _ in servers}
    for i in range(args.rounds):
        for name, command in servers if i % 2 == 0 else servers[::-1]:
            found[name].append(measure(name, command, args.sluice, load))
    print(f"\n`sluice bench serve {shlex.join(load)}`, medians of {args.rounds} rounds\n")
    print("| | " + " | ".join(COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    for name, rounds in found.items():
        print(f"| {name} | " + " | ".join(f"{statistics.median(r[c] for r in rounds):.2f}" for c in COLUMNS) + " |")


if __name__ == "__main__":
    main()
