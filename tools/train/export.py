"""Writes a training checkpoint as a Hugging Face style directory (bf16 safetensors, tied head).

For a Mixture-of-Depths model the router biases are first calibrated, layer by layer and with the weights
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

from data import Windows
from model import LanguageModel, Routing, Shape

SIDE_FILES = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]


def batches_of(tokens: Path, training: dict, seed: int, count: int, last: bool = False) -> list[torch.Tensor]:
    """The first (or last) `count` batches of a file's window order."""
    windows = Windows(np.load(tokens, mmap_mode="r"), training["length"], training["rows"], seed)
    first = windows.num_windows // training["rows"] - count if last else 0
    return [torch.from_numpy(windows.batch(first + i)) for i in range(count)]


def load(config: Path, checkpoints: list[Path]) -> LanguageModel:
    """The mean of the checkpoints' weights, rounded to bf16 and held in fp32."""
    model = LanguageModel(Shape(**json.loads(config.read_text())["shape"]))
    states = [torch.load(path, weights_only=True)["model"] for path in checkpoints]
    model.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


@torch.no_grad()
def router_logits(model: LanguageModel, batches: list) -> dict[int, torch.Tensor]:
    """All router logits of the batches under the threshold rule, by layer."""
    found: dict[int, list] = {i: [] for i in model.routed()}
    for batch in batches:
        _, routes = model(batch[:, :-1], Routing("threshold"))
        for i, route in routes.items():
            found[i].append(route.logits.flatten())
    return {i: torch.cat(values) for i, values in found.items()}


def calibrate(model: LanguageModel, batches: list) -> None:
    """Sets the biases from the first routed layer to the last: a layer's input depends on those before it."""
    for i, layer in model.routed().items():
        values = router_logits(model, batches)[i]
        edge = torch.quantile(values, 1 - model.shape.capacity)
        layer.mod_router.bias.data = (layer.mod_router.bias.data - edge).bfloat16().float()


def hugging_face_config(model: LanguageModel, batches: list) -> dict:
    shape = model.shape
    routed = bool(shape.routed_layers)
    config = {
        "model_type": "mod" if routed else "llama",
        "architectures": ["ModForCausalLM" if routed else "LlamaForCausalLM"],
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    if routed:
        config["mod"] = {
            "layers": shape.routed_layers,
            "gate_fn": "sigmoid",
            "combine": "scaled_update",
            "decide": "router_threshold",
            "threshold": 0.5,
            "prefill_decide": "router_threshold",
            "pos": "absolute",
            "kv": "routed_only",
            "capacity": shape.capacity,
            "score_quantiles": score_quantiles(model, batches),
        }
    return config


def score_quantiles(model: LanguageModel, batches: list) -> list[list[float]]:
    """Per routed layer the 0th to 100th percentile of the router logit."""
    points = torch.linspace(0, 1, 101)
    return [[round(q, 5) for q in torch.quantile(values, points).tolist()]
            for values in router_logits(model, batches).values()]


def write(model: LanguageModel, config: dict, tokenizer: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({k: v for k, v in config.items() if k != "mod"}, indent=2)
    if "mod" in config:
        # One line per list: 101 numbers a layer would otherwise fill hundreds of lines.
        fields = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in config["mod"].items())
        text = text[:-2] + ',\n  "mod": {\n' + fields + "\n  }\n}"
    (out / "config.json").write_text(text + "\n")
    tensors = {name: p.detach().bfloat16().contiguous() for name, p in model.named_parameters()}
    assert all(torch.isfinite(t).all() for t in tensors.values())
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
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
    parser.add_argument("--batches", type=int, default=32, help="batches read of each")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load(args.config, args.average or [args.run / "checkpoint.pt"])
    training = json.loads(args.config.read_text())["training"]
    count = args.batches if model.shape.routed_layers else 0
    calibrate(model, batches_of(args.train, training, training["seed"], count, last=True))
    valid = batches_of(args.valid, training, 0, count)
    write(model, hugging_face_config(model, valid), args.tokenizer, args.out)
    if (args.run / "loss_curve.csv").exists():
        shutil.copyfile(args.run / "loss_curve.csv", args.out / "loss_curve.csv")
    print(f"{args.out}: {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
