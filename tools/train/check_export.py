"""Trains each configuration for a few steps on small windows, exports it, and compares the server with PyTorch.

Checks, for every architecture of configs/: that a resumed run continues bit by bit, that calibration and export
give a directory that build/release/sluice loads, and that its log-probabilities are PyTorch's within 1e-3 (fp32
arithmetic on the exported bf16 weights). Needs no corpus: the text is random token ids. Exit code 77: no torch.

    python tools/train/check_export.py [--compile] [configuration.json ...]
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

if any(importlib.util.find_spec(name) is None for name in ("torch", "safetensors", "tokenizers", "numpy")):
    print("skipped: needs the packages of tools/train/requirements.txt")
    sys.exit(77)

import numpy as np  # noqa: E402
import torch  # noqa: E402

import export  # noqa: E402
from blocks import Routing  # noqa: E402
from data import Windows  # noqa: E402
from evaluate import open_model  # noqa: E402
from served import ROOT, Sluice, logprobs  # noqa: E402
from train import Run, Schedule  # noqa: E402

LENGTH, ROWS, STEPS = 96, 4, 4
TOLERANCE = 1e-3
SCHEDULE = Schedule(total_steps=STEPS + 1, warmup_steps=1, cooldown_first=2)  # the cooldown's routing runs too


def tokens_like_text(count: int, vocab_size: int) -> np.ndarray:
    return (np.random.default_rng(7).zipf(1.2, count) % vocab_size).astype(np.uint16)


def train(run: Run, windows: Windows, last: int) -> None:
    while run.step < last:
        loss = run.train_step(torch.from_numpy(windows.batch(run.step)), SCHEDULE)
        if not torch.isfinite(loss):
            raise AssertionError(f"the loss of step {run.step} is {loss}")


def check_resume(config: dict, run: Run, windows: Windows, directory: Path, compiled: bool) -> None:
    """`run` went straight to STEPS; another one that stops half way and is loaded again must be the same."""
    half = Run(config, run.device, compiled)
    train(half, windows, STEPS // 2)
    half.save(directory / "half.pt")
    resumed = Run(config, run.device, compiled)
    resumed.load(directory / "half.pt")
    train(resumed, windows, STEPS)
    for name, value in run.model.state_dict().items():
        if run.device == "cpu" and not torch.equal(value, resumed.model.state_dict()[name]):
            raise AssertionError(f"a resumed run differs from a straight one in {name}")


def write(config_file: Path, run: Run, tokens: np.ndarray, directory: Path) -> None:
    run.save(directory / "checkpoint.pt")
    np.save(directory / "tokens.npy", tokens)
    out = directory / "model"
    argv, sys.argv = sys.argv, ["export.py", str(config_file), "--run", str(directory), "--out", str(out), "--windows", "8",
                                "--tokenizer", str(ROOT / "models" / "tiny-dense"),
                                "--train", str(directory / "tokens.npy"), "--valid", str(directory / "tokens.npy")]
    try:
        export.main()
    finally:
        sys.argv = argv


@torch.no_grad()
def worst_difference(directory: Path, sequences: list[list[int]]) -> float:
    model = open_model(directory)
    with Sluice("--weights", "f32", model=str(directory)) as server:
        served = logprobs(server, sequences)
    worst = 0.0
    for ids, found in zip(sequences, served):
        logits, _ = model(torch.tensor([ids]), Routing("threshold"))
        expected = logits[0].log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        worst = max(worst, (expected - torch.tensor(found)).abs().max().item())
    return worst


def check(config_file: Path, compiled: bool) -> float:
    config = json.loads(config_file.read_text())
    config["training"] |= {"rows": ROWS, "length": LENGTH}
    tokens = tokens_like_text(20_000, config["shape"]["vocab_size"])
    windows = Windows(tokens, LENGTH, ROWS, seed=1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        short = directory / config_file.name
        short.write_text(json.dumps(config))
        run = Run(config, "cuda" if torch.cuda.is_available() else "cpu", compiled)
        train(run, windows, STEPS)
        check_resume(config, run, windows, directory, compiled)
        write(short, run, tokens, directory)
        sequences = [tokens[i * 500:i * 500 + length].tolist() for i, length in enumerate((200, 65, 2))]
        return worst_difference(directory / "model", sequences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="*", default=sorted((ROOT / "tools/train/configs").glob("tiny-*.json")))
    parser.add_argument("--compile", action="store_true", help="train as train.py does, which takes minutes more")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failures = 0
    for config in args.config:
        worst = check(config, args.compile)
        failures += worst > TOLERANCE
        print(f"{config.stem}: worst difference {worst:.2e} of {TOLERANCE:.0e}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
