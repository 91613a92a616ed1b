"""Prints what each configuration costs: parameters, those a token uses, FLOPs per token in training and when served.

A multiplication and an addition are two operations; attention is counted at the mean context of a training window.
Training is three forward passes: one, and twice its products for the two gradients.

    python tools/train/sizes.py [configuration.json ...]
"""

import argparse
import json
from pathlib import Path

from model import LanguageModel
from shape import Shape


def attention_weights(shape: Shape) -> int:
    width = shape.num_heads * shape.head_dim
    if shape.universal:
        chosen = shape.universal.attention_per_token
        routers = 2 * shape.hidden_size * shape.num_heads * shape.universal.attention_experts
        return (2 + 2 * chosen) * shape.hidden_size * width + routers
    return 2 * shape.hidden_size * (width + shape.num_kv_heads * shape.head_dim)


def ffn_weights(shape: Shape) -> int:
    """Of a token: its own experts only."""
    experts = shape.experts
    if not experts:
        return 3 * shape.hidden_size * shape.intermediate_size
    width = experts.per_token * experts.size + experts.shared_size
    return (2 if shape.universal else 3) * shape.hidden_size * width + shape.hidden_size * experts.count


def executions(shape: Shape, training: bool) -> list[float]:
    """The share of a sequence's tokens that runs each execution of a layer."""
    if shape.recursion:
        times = shape.recursion.times
        shares = shape.recursion.room if training else [(times - r) / times for r in range(times)]
        return [1.0, *(share for share in shares for _ in range(shape.recursion.layers)), 1.0]
    return [shape.capacity if i in shape.routed_layers else 1.0 for i in range(shape.num_layers)]


def forward_flops(shape: Shape, length: int, training: bool) -> float:
    """Per token. A layer's keys are those of the tokens that run it."""
    weights = attention_weights(shape) + ffn_weights(shape)
    scores = 2 * shape.num_heads * shape.head_dim * length / 2
    layers = sum(share * (weights + share * scores) for share in executions(shape, training))
    routers = len(shape.routed_layers) * shape.hidden_size * (1 + shape.predictor_size)
    return 2 * (layers + routers + shape.hidden_size * shape.vocab_size)


def active_parameters(shape: Shape) -> int:
    """Weights that a token uses in the mean; tensors that are run several times count once."""
    weights = attention_weights(shape) + ffn_weights(shape)
    unique = shape.num_unique_layers if shape.universal or shape.recursion else sum(executions(shape, False))
    return round(unique * weights + shape.hidden_size * shape.vocab_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted((Path(__file__).parent / "configs").glob("*.json"))
    parser.add_argument("config", type=Path, nargs="*", default=every)
    print("| configuration | parameters | active | bf16 MB | training MFLOP/token | served MFLOP/token | tokens |\n|---|---|---|---|---|---|---|")
    for path in parser.parse_args().config:
        config = json.loads(path.read_text())
        shape, training = Shape(**config["shape"]), config["training"]
        parameters = sum(p.numel() for p in LanguageModel(shape).parameters())
        trained, served = (forward_flops(shape, training["length"], when) for when in (True, False))
        tokens = training["rows"] * training["length"] * training["total_steps"]
        print(f"| {path.stem} | {parameters:,} | {active_parameters(shape):,} | {2 * parameters / 1e6:.1f} "
              f"| {3 * trained / 1e6:.1f} | {served / 1e6:.2f} | {tokens / 1e6:.1f} M |")


if __name__ == "__main__":
    main()
