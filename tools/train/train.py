"""Trains one model from a configuration file; see README.md for the whole recipe.

Runs on CUDA where there is a device (bf16 autocast), else on CPU (fp32). Resumable: with a checkpoint present the
run continues after its step, with the same window order; --minutes ends a run early with a checkpoint. The
learning rate warms up, stays flat and then falls to zero in a straight line; a --cooldown-file with
"first_step end_step" in it moves that fall, which is how a run is shortened (use the same file for twins).
"""

import argparse
import contextlib
import csv
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from blocks import Routing
from data import Windows
from model import LanguageModel, initialise
from muon import Muon
from shape import Shape

# Biases that are set by the share they yield, not by gradient.
HELD = ("mod_router.bias", "mod_predictor.2.bias")
COLUMNS = ["step", "tokens", "seconds", "train_loss", "rate", "valid_topk", "valid_threshold", "shares"]


@dataclass
class Schedule:
    total_steps: int
    warmup_steps: int
    cooldown_first: int

    def rate(self, step: int) -> float:
        """The factor on every learning rate at this step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if step < self.cooldown_first:
            return 1.0
        return (self.total_steps - step) / (self.total_steps - self.cooldown_first)

    def shortened(self, file: Path | None) -> "Schedule":
        if file is None or not file.exists():
            return self
        first, end = (int(word) for word in file.read_text().split())
        return Schedule(end, self.warmup_steps, first)


class Run:
    """One model, its optimisers and where it stands."""

    def __init__(self, config: dict, device: str, compiled: bool = True):
        self.shape = Shape(**config["shape"])
        self.options = config["training"]
        self.device = device
        self.model = LanguageModel(self.shape)
        initialise(self.model, self.options["seed"])
        self.model.to(device)
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if "_proj" in name]
        others = [p for name, p in named if "_proj" not in name and not name.endswith(HELD)]
        decay = self.options["weight_decay"]
        self.optimisers = [
            Muon(matrices, lr=self.options["matrix_rate"], weight_decay=decay),
            torch.optim.AdamW(others, lr=self.options["other_rate"], betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.peak = [self.options["matrix_rate"], self.options["other_rate"]]
        self.step = 0
        self.seconds = 0.0
        self.objective = torch.compile(self.losses) if self.options["compile"] and compiled else self.losses

    def arithmetic(self):
        return torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else contextlib.nullcontext()

    def losses(self, ids, targets, routing: Routing):
        """(loss to descend, cross-entropy, deciding logits of routed layers, recursions chosen)."""
        logits, notes = self.model(ids, routing)
        entropy = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        return entropy + notes.aux_loss(), entropy, [route.deciding for route in notes.routes.values()], notes.depth

    def train_step(self, batch, schedule: Schedule) -> torch.Tensor:
        routing = Routing()
        if self.shape.routed_layers and self.step >= schedule.cooldown_first:
            routing.threshold_rows = len(batch) // 2
        rate = schedule.rate(self.step)
        for optimiser, peak in zip(self.optimisers, self.peak):
            optimiser.param_groups[0]["lr"] = peak * rate
        batch = batch.to(self.device)
        with self.arithmetic():
            loss, entropy, deciding, depth = self.objective(batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), routing)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        for routed, values in zip(self.model.depths().values(), deciding):
            routed.hold_share(values)
        if depth is not None:
            self.model.model.mor_router.hold_balance(depth)
        self.step += 1
        return entropy.detach()

    def save(self, path: Path) -> None:
        state = {"step": self.step, "seconds": self.seconds, "model": self.model.state_dict(),
                 "optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}
        torch.save(state, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


@dataclass
class Validation:
    loss: float              # nats per token
    shares: list[float]      # selected by each routed layer, or running each recursion
    least_load: float        # of any expert, over its fair share; 1 without experts

    def columns(self) -> str:
        return " ".join(f"{share:.3f}" for share in self.shares)


@torch.no_grad()
def validate(model: LanguageModel, windows: Windows, num_batches: int, rule: str) -> Validation:
    device = model.cos.device
    total, shares, loads = 0.0, 0.0, 0
    for i in range(num_batches):
        batch = torch.from_numpy(windows.batch(i)).to(device)
        logits, notes = model(batch[:, :-1], Routing(rule))
        total += F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten()).item()
        found = [route.chosen.float().mean().item() for route in notes.routes.values()]
        if notes.depth is not None:
            found = [(notes.depth >= r).float().mean().item() for r in range(model.shape.recursion.times)]
        shares = shares + np.array(found)
        loads = [a + b.float() for a, b in zip(loads or [0.0] * len(notes.expert_rows), notes.expert_rows)]
    least = min((float(load.min() / load.mean()) for load in loads), default=1.0)
    return Validation(total / num_batches, (shares / num_batches).tolist(), least)


def report(run: Run, valid: Windows) -> list[str]:
    with run.arithmetic():
        trained = validate(run.model, valid, run.options["valid_batches"], "topk")
        if not (run.shape.routed_layers or run.shape.recursion):
            return [f"{trained.loss:.4f}", "", f"{trained.least_load:.3f}" if run.shape.experts else ""]
        served = validate(run.model, valid, run.options["valid_batches"], "threshold")
    return [f"{trained.loss:.4f}", f"{served.loss:.4f}", served.columns()]


def train(run: Run, args: argparse.Namespace) -> None:
    options = run.options
    rows, length = options["rows"], options["length"]
    windows = Windows(np.load(args.train, mmap_mode="r"), length, rows, options["seed"])
    valid = Windows(np.load(args.valid, mmap_mode="r"), length, rows, seed=0)
    planned = Schedule(options["total_steps"], options["warmup_steps"], options["cooldown_first"])
    curve, checkpoint = args.out / "loss_curve.csv", args.out / "checkpoint.pt"
    # What an earlier call wrote after its last checkpoint is done again.
    written = curve.read_text().splitlines()[1:] if curve.exists() else []
    kept = [line for line in written if line.count(",") == len(COLUMNS) - 1 and int(line.split(",")[0]) <= run.step]
    curve.write_text("".join(line + "\n" for line in [",".join(COLUMNS), *kept]))
    recent, started, first_step = [], time.monotonic(), run.step
    last_save = started
    while True:
        begin = time.monotonic()
        schedule = planned.shortened(args.cooldown_file)
        last = min(schedule.total_steps, args.steps or schedule.total_steps)
        if run.step >= last:
            break
        recent.append(run.train_step(torch.from_numpy(windows.batch(run.step)), schedule))
        stop = run.step >= last or time.monotonic() - started > 60 * args.minutes
        row_due = run.step % 20 == 0 or stop
        loss = float(torch.stack(recent).mean()) if row_due else 0.0  # waits for the device
        run.seconds += time.monotonic() - begin
        if row_due:
            checks = report(run, valid) if run.step % options["valid_every"] == 0 or run.step >= last else ["", "", ""]
            rate = schedule.rate(run.step - 1)
            row = [run.step, run.step * rows * length, f"{run.seconds:.0f}", f"{loss:.4f}", f"{rate:.4f}", *checks]
            with open(curve, "a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            left = (time.monotonic() - started) / (run.step - first_step) * (last - run.step)
            print(*row, f"eta {left / 60:.1f} min", flush=True)
            recent = []
        if stop or time.monotonic() - last_save > options["save_seconds"]:
            run.save(checkpoint)
            last_save = time.monotonic()
        if stop:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="token ids from data.py (.npy)")
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory of checkpoint.pt and loss_curve.csv")
    parser.add_argument("--cooldown-file", type=Path)
    parser.add_argument("--steps", type=int, default=0, help="stop after this step of the schedule; a dry run")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time; call again to go on")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(json.loads(args.config.read_text()), device, compiled=not args.eager)
    if (args.out / "checkpoint.pt").exists():
        run.load(args.out / "checkpoint.pt")
    else:
        run.save(args.out / "checkpoint.pt")
    train(run, args)


if __name__ == "__main__":
    main()
