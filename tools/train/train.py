"""Trains one tiny model from a configuration file; see README.md for the whole recipe.

Resumable: with a checkpoint present the run continues after its step, with the same window order. The
learning rate warms up, stays flat and then falls to zero in a straight line; a --cooldown-file with
"first_step end_step" in it moves that fall, which is how a run is shortened (use the same file for twins).
"""

import argparse
import csv
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import Windows
from model import LanguageModel, Routing, Shape, initialise
from muon import Muon

ROUTER_LOSS_WEIGHT = 0.02
BIAS_RATE = 0.1
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

    def __init__(self, config: dict):
        self.shape = Shape(**config["shape"])
        self.options = config["training"]
        self.model = LanguageModel(self.shape)
        initialise(self.model, self.options["seed"])
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if "_proj" in name]
        # A router bias is set by the share it yields, not by gradient.
        others = [p for name, p in named if "_proj" not in name and not name.endswith("mod_router.bias")]
        decay = self.options["weight_decay"]
        self.optimisers = [
            Muon(matrices, lr=self.options["matrix_rate"], weight_decay=decay),
            torch.optim.AdamW(others, lr=self.options["other_rate"], betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.peak = [self.options["matrix_rate"], self.options["other_rate"]]
        self.step = 0
        self.seconds = 0.0
        self.objective = torch.compile(self.losses) if self.options["compile"] else self.losses

    def losses(self, ids, targets, routing: Routing):
        """(loss to descend, cross-entropy, router logits by layer)."""
        logits, routes = self.model(ids, routing)
        entropy = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        aux = sum((route.aux_loss for route in routes.values()), torch.zeros(()))
        return entropy + ROUTER_LOSS_WEIGHT * aux, entropy, [route.logits for route in routes.values()]

    def train_step(self, batch, schedule: Schedule) -> float:
        routing = Routing()
        if self.shape.routed_layers and self.step >= schedule.cooldown_first:
            routing.threshold_rows = len(batch) // 2
        rate = schedule.rate(self.step)
        for optimiser, peak in zip(self.optimisers, self.peak):
            optimiser.param_groups[0]["lr"] = peak * rate
        loss, entropy, logits = self.objective(batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), routing)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.hold_shares([each.detach() for each in logits])
        self.step += 1
        return entropy.item()

    @torch.no_grad()
    def hold_shares(self, logits: list) -> None:
        """Moves each router bias so that logit > 0 selects the capacity's share of a batch."""
        for layer, values in zip(self.model.routed().values(), logits):
            flat = values.flatten()
            edge = flat.kthvalue(round((1 - self.shape.capacity) * len(flat))).values
            layer.mod_router.bias -= BIAS_RATE * edge

    def save(self, path: Path) -> None:
        state = {"step": self.step, "seconds": self.seconds, "model": self.model.state_dict(),
                 "optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}
        torch.save(state, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


@torch.no_grad()
def validate(model: LanguageModel, windows: Windows, num_batches: int, rule: str) -> tuple[float, list[float]]:
    """(mean loss in nats per token, selected share of each routed layer)."""
    total, shares = 0.0, np.zeros(len(model.routed()))
    for i in range(num_batches):
        batch = torch.from_numpy(windows.batch(i))
        logits, routes = model(batch[:, :-1], Routing(rule))
        total += F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item()
        shares += [route.chosen.float().mean().item() for route in routes.values()]
    return total / num_batches, (shares / num_batches).tolist()


def report(run: Run, valid: Windows) -> list[str]:
    topk, _ = validate(run.model, valid, run.options["valid_batches"], "topk")
    if not run.shape.routed_layers:
        return [f"{topk:.4f}", "", ""]
    threshold, shares = validate(run.model, valid, run.options["valid_batches"], "threshold")
    return [f"{topk:.4f}", f"{threshold:.4f}", " ".join(f"{share:.3f}" for share in shares)]


def train(run: Run, args: argparse.Namespace) -> None:
    options = run.options
    rows, length = options["rows"], options["length"]
    windows = Windows(np.load(args.train, mmap_mode="r"), length, rows, options["seed"])
    valid = Windows(np.load(args.valid, mmap_mode="r"), length, rows, seed=0)
    planned = Schedule(options["total_steps"], options["warmup_steps"], options["cooldown_first"])
    curve, checkpoint = args.out / "loss_curve.csv", args.out / "checkpoint.pt"
    if not curve.exists():
        curve.write_text(",".join(COLUMNS) + "\n")
    recent, last_save = [], time.monotonic()
    while True:
        begin = time.monotonic()
        schedule = planned.shortened(args.cooldown_file)
        if run.step >= schedule.total_steps:
            break
        recent.append(run.train_step(torch.from_numpy(windows.batch(run.step)), schedule))
        run.seconds += time.monotonic() - begin
        done = run.step >= schedule.total_steps
        if run.step % 20 == 0 or done:
            checks = report(run, valid) if run.step % options["valid_every"] == 0 or done else ["", "", ""]
            rate = schedule.rate(run.step - 1)
            row = [run.step, run.step * rows * length, f"{run.seconds:.0f}", f"{np.mean(recent):.4f}", f"{rate:.4f}", *checks]
            with open(curve, "a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(*row, flush=True)
            recent = []
        if done or time.monotonic() - last_save > options["save_seconds"]:
            run.save(checkpoint)
            last_save = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="token ids from data.py (.npy)")
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory of checkpoint.pt and loss_curve.csv")
    parser.add_argument("--cooldown-file", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(json.loads(args.config.read_text()))
    if (args.out / "checkpoint.pt").exists():
        run.load(args.out / "checkpoint.pt")
    else:
        run.save(args.out / "checkpoint.pt")
    train(run, args)


if __name__ == "__main__":
    main()
