"""Writing one golden folder: config.json, model.safetensors, expected.safetensors, SOURCE.md."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "golden"
LIMIT_BYTES = 150_000


def randomize(parameters, seed: int) -> None:
    """Weights whose effect is visible everywhere: a missing norm, bias or scale changes the logits.

    `parameters`: (name, tensor) pairs; matrices get variance 1 / inputs, norms 1 + noise, biases noise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in parameters:
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("bias"):
                tensor.copy_(0.2 * noise)
            elif tensor.dim() == 1:
                tensor.copy_(1.0 + 0.2 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name:
                tensor.copy_(0.7 * noise)
            else:
                tensor.copy_(noise * tensor.shape[-1] ** -0.5)


def input_ids(vocab: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(vocab, (length,), generator=torch.Generator().manual_seed(seed))


def write(name: str, config: dict | None, weights: dict | None, expected: dict, source: str) -> None:
    """`config` or `weights` None: the folder has them already."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if weights is not None:
        save_file({k: v.detach().contiguous().clone() for k, v in weights.items()}, folder / "model.safetensors")
    save_file({k: v.detach().contiguous().clone() for k, v in expected.items()}, folder / "expected.safetensors")
    (folder / "SOURCE.md").write_text(source)
    size = sum(f.stat().st_size for f in folder.iterdir())
    assert size <= LIMIT_BYTES, f"{name}: {size} bytes"
    print(f"tests/golden/{name}: {size} bytes")
