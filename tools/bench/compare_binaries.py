"""Speed of one build of Sluice over another on the same model: interleaved (A B B A), medians; a ratio is the median of the
rounds' own. What else is given goes to both, as in

  tools/bench/compare_binaries.py OLD_SLUICE NEW_SLUICE /tmp/llama-1b --batch-sizes 1,8 --weights=int8
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

WHAT = {"prefill": "prefill_tokens_per_second", "decode": "decode_tokens_per_second"}


def measure(binary: Path, args: argparse.Namespace) -> dict[tuple[int, str], float]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run(
            [binary, "bench", f"--model={args.model}", f"--batch-sizes={args.batch_sizes}", "--rounds=1",
             f"--prompt-tokens={args.prompt_tokens}", f"--output-tokens={args.output_tokens}",
             f"--threads={args.threads}", f"--json-file={file.name}", *args.both], check=True, stdout=subprocess.DEVNULL)
        rows = json.load(open(file.name))
    own = rows[0]["subject"]
    return {(row["batch"], name): row[key] for row in rows if row["subject"] == own for name, key in WHAT.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=4)
    args, args.both = parser.parse_known_args()
    runs: dict[str, list[dict[tuple[int, str], float]]] = {"old": [], "new": []}
    for i in range(args.rounds):
        for name in (("old", "new"), ("new", "old"))[i % 2]:
            runs[name].append(measure(getattr(args, name), args))
    for batch, what in runs["old"][0]:
        old, new = ([run[batch, what] for run in runs[name]] for name in ("old", "new"))
        ratio = statistics.median(b / a for a, b in zip(old, new))
        print(f"{args.model.name} batch {batch} {what}: {statistics.median(old):.1f} -> {statistics.median(new):.1f} tok/s, "
              f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
