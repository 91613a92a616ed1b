"""Writes a training checkpoint as a Hugging Face style directory (bf16 safetensors, tied head).

For a Mixture-of-Depths model the biases of what decides are first calibrated, layer by layer and with the weights
already rounded to bf16, so that logit > 0 selects the configured share. The calibration text is the end of
the training file's window order, which a run shorter than one epoch has not trained on.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from blocks import Routing
from data import Windows
from layouts import config_of, tensors_of
from model import LanguageModel
from shape import Shape

RECIPE = "recipe.json"  # the configuration file, for evaluate.py; the server does not read it
SIDE_FILES = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]


def batches_of(tokens: Path, training: dict, seed: int, count: int, last: bool = False) -> list[torch.Tensor]:
    """The first (or last) `count` batches of a file's window order."""
    windows = Windows(np.load(tokens, mmap_mode="r"), training["length"], training["rows"], seed)
    first = windows.num_windows // training["rows"] - count if last else 0
    return [torch.from_numpy(windows.batch(first + i)) for i in range(count)]


def load(config: Path, checkpoints: list[Path]) -> LanguageModel:
    """The mean of the checkpoints' weights, rounded to bf16 and held in fp32."""
    model = LanguageModel(Shape(**json.loads(config.read_text())["shape"]))
    states = [torch.load(path, weights_only=True, map_location="cpu")["model"] for path in checkpoints]
    model.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    for value in model.state_dict().values():
        value.copy_(value.bfloat16())
    return model


@torch.no_grad()
def route_values(model: LanguageModel, batches: list, field: str) -> dict[int, torch.Tensor]:
    """All of that field's values of the routed layers under the threshold rule, by layer."""
    found: dict[int, list] = {i: [] for i in model.depths()}
    for batch in batches:
        _, notes = model(batch[:, :-1], Routing("threshold"))
        for i, route in notes.routes.items():
            found[i].append(getattr(route, field).flatten())
    return {i: torch.cat(values) for i, values in found.items()}


def calibrate(model: LanguageModel, batches: list) -> None:
    """Sets the biases from the first routed layer to the last: a layer's input depends on those before it."""
    for i, depth in model.depths().items():
        values = route_values(model, batches, "deciding")[i]
        bias = depth.deciding_bias()
        bias.data = (bias.data - torch.quantile(values, 1 - model.shape.capacity)).bfloat16().float()


def score_quantiles(model: LanguageModel, batches: list) -> list[list[float]]:
    """Per routed layer the 0th to 100th percentile of the router logit, also where a predictor decides:
    the capacity knob is the router's."""
    points = torch.linspace(0, 1, 101)
    return [[round(q, 5) for q in torch.quantile(values, points).tolist()]
            for values in route_values(model, batches, "logits").values()]


def write(model: LanguageModel, config: dict, recipe: Path, tokenizer: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({k: v for k, v in config.items() if k != "mod"}, indent=2)
    if "mod" in config:
        # One line per list: 101 numbers a layer would otherwise fill hundreds of lines.
        fields = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in config["mod"].items())
        text = text[:-2] + ',\n  "mod": {\n' + fields + "\n  }\n}"
    (out / "config.json").write_text(text + "\n")
    tensors = {name: t.detach().bfloat16().contiguous() for name, t in tensors_of(model.shape, model.state_dict()).items()}
    assert all(torch.isfinite(t).all() for t in tensors.values())
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    shutil.copyfile(recipe, out / RECIPE)
    for name in SIDE_FILES:
        shutil.copyfile(tokenizer / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="directory written by train.py")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory written by tokenizer.py")
    parser.add_argument("--train", type=Path, required=True, help="token ids (.npy) to calibrate on")
    parser.add_argument("--valid", type=Path, required=True, help="token ids (.npy) for score_quantiles")
    parser.add_argument("--average", type=Path, nargs="*", default=[],
                        help="checkpoints to average instead; for a run stopped before its cooldown")
    parser.add_argument("--windows", type=int, default=256, help="windows read of each, rounded up to whole batches")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load(args.config, args.average or [args.run / "checkpoint.pt"])
    training = json.loads(args.config.read_text())["training"]
    count = -(-args.windows // training["rows"]) if model.shape.routed_layers else 0
    calibrate(model, batches_of(args.train, training, training["seed"], count, last=True))
    config = config_of(model.shape)
    if count:
        config["mod"]["score_quantiles"] = score_quantiles(model, batches_of(args.valid, training, 0, count))
    write(model, config, args.config, args.tokenizer, args.out)
    if (args.run / "loss_curve.csv").exists():
        shutil.copyfile(args.run / "loss_curve.csv", args.out / "loss_curve.csv")
    print(f"{args.out}: {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
