"""Measures every model of a folder with the running server; writes its README's table and plots and the measured part
of each model card (make models-report).

Losses and bits per byte come from /v1/completions, routing from the server's metrics, speed from `sluice bench`
against the dense model in one run. Where PyTorch is installed the loss is compared with the recipe's own on the same
windows (--weights f32 on the server's side); a difference above 1e-3 is an error.

    python tools/train/report.py --valid WORK/valid.npy --eval ../shared/data/eval [--models models]
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np

import measure
from cards import measured
from data import Windows
from plots import chart
from served import ROOT, Sluice, logprobs

BEGIN, END = "<!-- measured: written by tools/train/report.py -->", "<!-- end of measured -->"
LENGTH = 512
TOLERANCE = 1e-3
CAPACITIES = [0.0, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0]


def windows_of(path: Path, count: int) -> tuple[list[list[int]], float]:
    tokens = np.load(path)
    order = Windows(tokens, LENGTH, count, seed=0)
    return order.batch(0).tolist(), int(path.with_suffix(".bytes").read_text()) / len(tokens)


def pytorch_difference(directory: Path, windows: list[list[int]]) -> float | None:
    """Server minus PyTorch, nats per token, both in fp32; None without PyTorch or the recipe's file."""
    if importlib.util.find_spec("torch") is None or not (directory / "recipe.json").exists():
        return None
    import torch
    import torch.nn.functional as F

    from blocks import Routing
    from evaluate import open_model
    model, total = open_model(directory), 0.0
    with torch.no_grad():
        for window in windows:
            ids = torch.tensor([window])
            total += F.cross_entropy(model(ids, Routing("threshold"))[0][0, :-1], ids[0, 1:]).item()
    with Sluice("--weights", "f32", model=str(directory)) as server:
        values = [value for start in range(0, len(windows), 4) for row in logprobs(server, windows[start:start + 4]) for value in row]
    return -sum(values) / len(values) - total / len(windows)


def knob(server: Sluice, meta: dict) -> tuple[str, list]:
    """The knob of the model's depth and the settings to try; none: ("", [])."""
    if meta["routed_layers"] and meta["capacity_table"] and "predictor" not in meta["routing_modes"][0]:
        return "capacity", CAPACITIES
    return ("max_depth", list(range(1, meta["max_depth"] + 1))) if meta["max_depth"] else ("", [])


def measure_model(directory: Path, args, windows: list[list[int]], bytes_per_token: float) -> dict:
    row: dict = {"name": directory.name}
    # A window is one token longer than what it predicts, and top-k over a prompt takes it in one step.
    with Sluice("--max-batch-tokens", str(2 * LENGTH), model=str(directory)) as server:
        meta = server.get("/v1/models").json()["data"][0]["meta"]
        row |= {"parameters": meta["parameters_total"], "active": meta["parameters_active"]}
        row["scores"] = measure.score_windows(server, windows)
        row["bits"] = measure.bits_per_byte(row["scores"].loss, bytes_per_token)
        if args.eval:
            row["blimp"] = measure.blimp(server, args.eval / "BLiMP.zip", args.pairs)
            row["lambada"] = measure.lambada(server, args.eval / "lambada_test.jsonl", args.passages)
        name, settings = knob(server, meta)
        if settings:
            scores = [measure.score_windows(server, windows[:8], routing={name: value}) for value in settings]
            speeds = measure.knob_speeds(server, [{name: value} for value in settings], 8, args.rounds)
            row["knob"] = (name, list(zip(settings, scores, speeds)))
        # How it was trained, where that looks at later tokens and is no way to generate.
        row["other_rules"] = {mode: measure.score_windows(server, windows, routing={"mode": mode})
                              for mode in meta["routing_modes"] if mode == "topk_prompt"}
        row["samples"], row["sample_tokens"] = measure.samples(server, args.samples), args.samples
    row["difference"] = pytorch_difference(directory, windows[:8])
    row["bench"] = measure.bench(directory, args.models / args.baseline, args.rounds)
    return row


def percent(part: tuple[int, int] | None) -> str:
    return f"{100 * part[0] / part[1]:.1f} %" if part else "-"


def table(rows: list[dict], args, tokens: int) -> str:
    sets = f"BLiMP: {args.pairs} pairs of each of 67 paradigms, LAMBADA: {args.passages} passages, seed {measure.SEED}; " if args.eval else ""
    lines = [f"{tokens:,} validation tokens in windows of {LENGTH}; {sets}speed: decoding, bf16, over `{args.baseline}` in the same run, "
             "whose own row shows the noise.",
             "", "| model | parameters | active | nats/token | bits/byte | fp32 less PyTorch's | MFLOP/token | without skipping | BLiMP | LAMBADA "
             "| speed at batch 1, 8, 32 |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        scores, difference = row["scores"], row["difference"]
        speed = ", ".join(f"{ratio:.2f}" for _, ratio in row["bench"].values())
        lines.append(f"| `{row['name']}` | {row['parameters']:,} | {row['active']:,} | {scores.loss:.4f} | {row['bits']:.4f} | "
                     f"{'-' if difference is None else f'{difference:+.0e}'} | {scores.flops / 1e6:.2f} | {scores.dense_flops / 1e6:.2f} | "
                     f"{percent(row.get('blimp'))} | {percent(row.get('lambada'))} | {speed} |")
    lines += ["", "| model | executed share of routed layers or repeats | least expert load, of its fair share |", "|---|---|---|"]
    for row in rows:
        executed = ", ".join(f"{layer}: {share:.3f}" for layer, share in row["scores"].executed.items())
        least = row["scores"].least_load
        if executed or least is not None:
            lines.append(f"| `{row['name']}` | {executed or '-'} | {'-' if least is None else f'{least:.2f}'} |")
    for row in rows:
        if "knob" in row:
            name, points = row["knob"]
            lines += ["", f"`{row['name']}`, `routing.{name}` (8 windows; tokens/s at batch 8 through HTTP):", "",
                      f"| {name} | nats/token | MFLOP/token | tokens/s |", "|---|---|---|---|"]
            lines += [f"| {value} | {scores.loss:.4f} | {scores.flops / 1e6:.2f} | {speed:.0f} |" for value, scores, speed in points]
    return "\n".join(lines)


def plot(rows: list[dict], out: Path) -> list[str]:
    out.mkdir(exist_ok=True)
    chart(out / "loss_flops.svg", "Validation loss and executed FLOPs", "executed MFLOP per token", "nats per token",
          {row["name"]: [(row["scores"].flops / 1e6, row["scores"].loss)] for row in rows})
    chart(out / "loss_speed.svg", "Validation loss and decoding speed, batch 8", "tokens per second", "nats per token",
          {row["name"]: [(row["bench"][8][0], row["scores"].loss)] for row in rows})
    names = ["loss_flops", "loss_speed"]
    for row in rows:
        if "knob" not in row:
            continue
        name, points = row["knob"]
        for kind, label, value in (("loss", "nats per token", lambda p: p[1].loss), ("speed", "tokens per second", lambda p: p[2])):
            names.append(f"{row['name']}_{kind}")
            chart(out / f"{names[-1]}.svg", f"{row['name']}: {label} over routing.{name}", f"routing.{name}", label,
                  {row["name"]: [(float(point[0]), value(point)) for point in points]})
    return names


def rewrite(file: Path, text: str) -> None:
    """Puts the text between the two marks, or at the end where there are none."""
    page = file.read_text() if file.exists() else f"# {file.parent.name}\n"
    head, _, rest = page.partition(BEGIN)
    file.write_text(f"{head.rstrip()}\n\n{BEGIN}\n\n{text}\n\n{END}\n{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--valid", type=Path, required=True, help="token ids from data.py (.npy); <name>.bytes beside it")
    parser.add_argument("--eval", type=Path, help="folder of BLiMP.zip and lambada_test.jsonl")
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--baseline", default="tiny-dense")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=15, help="of each BLiMP paradigm")
    parser.add_argument("--passages", type=int, default=300, help="of LAMBADA")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=50, help="tokens of each continuation in the model cards")
    args = parser.parse_args()
    args.models = args.models.resolve()
    directories = sorted(path.parent for path in args.models.glob("*/config.json"))
    if args.models / args.baseline not in directories:
        sys.exit(f"--baseline: {args.models / args.baseline} has no config.json")
    windows, bytes_per_token = windows_of(args.valid, args.windows)
    rows = []
    for directory in directories:
        rows.append(measure_model(directory, args, windows, bytes_per_token))
        rewrite(directory / "MODEL_CARD.md", measured(rows[-1], args.windows * LENGTH, LENGTH))
        print(f"{directory.name}: {rows[-1]['scores'].loss:.4f} nats per token", flush=True)
    plots = plot(rows, args.models / "plots")
    images = "\n".join(f"![{name}](plots/{name}.svg)" for name in plots)
    rewrite(args.models / "README.md", table(rows, args, args.windows * LENGTH) + "\n\n" + images)
    wrong = [row["name"] for row in rows if abs(row["difference"] or 0.0) > TOLERANCE]
    if wrong:
        sys.exit(f"server and PyTorch differ by more than {TOLERANCE}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
