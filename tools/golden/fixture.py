"""What the makers of golden folders share: random weights, the search for a seed without near ties, and one folder:
config.json, model.safetensors, expected.safetensors, SOURCE.md.

A maker says what its family is: MODELS (name -> config), draft(name, seed) where a seed is searched, build(name); and
ends with make(MODELS, build)."""

import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "golden"
LIMIT_BYTES = 150_000
TORCH = torch.__version__.split("+")[0]


def randomize(parameters, seed: int, factors: dict[str, float] | None = None) -> None:
    """Weights whose effect is visible everywhere: a missing norm, bias or scale changes the logits.

    `parameters`: (name, tensor) pairs; matrices get variance 1 / inputs, norms 1 + noise, biases noise.
    `factors`: of the tensors whose name contains the key.
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
            for part, factor in (factors or {}).items():
                if part in name:
                    tensor.mul_(factor)


def random_weights(shapes: dict, seed: int, factors: dict[str, float] | None = None) -> dict[str, torch.Tensor]:
    weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    randomize(weights.items(), seed, factors)
    return weights


def input_ids(vocab: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(vocab, (length,), generator=torch.Generator().manual_seed(seed))


def keep_output(found: dict, name: str, module: torch.nn.Module):
    """A hook that puts into found[name] what the module gives for the one sequence of the batch."""
    def hook(_module, _inputs, output):
        found[name] = (output[0] if isinstance(output, tuple) else output)[0].clone()
    return module.register_forward_hook(hook)


def saved_config(model: torch.nn.Module, name: str) -> dict:
    """Leaves in the folder what transformers saves of a model to run; its config.json."""
    model.save_pretrained(FOLDER / name)
    (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
    return json.loads((FOLDER / name / "config.json").read_text())


@dataclass
class Draft:
    """What one seed gives. `margins`: how far each discrete choice is from a tie; empty where nothing is chosen.
    `useful`: the choices differ enough to test something. `model`: the torch module that ran, where one did; its own
    weights where `weights` is None."""

    weights: dict | None
    expected: dict
    margins: list[float] = field(default_factory=list)
    useful: bool = True
    model: torch.nn.Module | None = None

    @property
    def margin(self) -> float:
        return min(self.margins, default=math.inf)


def search(name: str, seeds: Iterable[int], draft: Callable[[str, int], Draft], wanted: float,
           least: float | None = None) -> tuple[int, Draft]:
    """The first seed whose draft is useful and has a margin above `wanted`: near ties would make the test depend on
    rounding. Where no seed has, the one with the largest margin, if that is above `least`."""
    best, kept = wanted if least is None else least, None
    for seed in seeds:
        found = draft(name, seed)
        if found.useful and found.margin > best:
            best, kept = found.margin, (seed, found)
        if best > wanted:
            break
    if kept is None:
        raise SystemExit(f"{name}: no seed gives a fixture without near ties")
    return kept


def stated(where: str, after: str, what: str = "function") -> str:
    """How numbers were made, for `source`: by a maker's own code, which follows `after`."""
    return f"; the {what} is stated in tools/golden/{where} (float64, torch {TORCH}), {after}"


def run_by_transformers(model: torch.nn.Module, how: str = "") -> str:
    return (f", run by huggingface/transformers {version('transformers')} (`{type(model).__name__}`, eager attention, "
            f"fp32, CPU{how}) with torch {TORCH}")


def made_by(maker: str) -> str:
    return f"Made by tools/golden/{maker}; tensors are described there."


def smallest(draft: Draft, what: str = "distance of a routing decision from a tie") -> str:
    return f"Smallest {what}: " + (f"{draft.margin:.1e}." if draft.margins else "none (dense).")


def source(name: str, seed: int, how: str, *sentences: str) -> str:
    """The text of SOURCE.md."""
    return f"# {name}\nOur own random weights (seed {seed}){how}.\n" + (" ".join(sentences) + "\n" if sentences else "")


def write(name: str, config: dict | None, weights: dict | None, expected: dict, text: str) -> None:
    """`config` or `weights` None: the folder has them already. `text`: of SOURCE.md."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if weights is not None:
        save_file({k: v.detach().contiguous().clone() for k, v in weights.items()}, folder / "model.safetensors")
    save_file({k: v.detach().contiguous().clone() for k, v in expected.items()}, folder / "expected.safetensors")
    (folder / "SOURCE.md").write_text(text)
    size = sum(f.stat().st_size for f in folder.iterdir())
    assert size <= LIMIT_BYTES, f"{name}: {size} bytes"
    print(f"tests/golden/{name}: {size} bytes")


def make(models: dict, build: Callable[[str], None]) -> None:
    """A maker's command line: the folders that are named there, or all."""
    names = sys.argv[1:] or list(models)
    for name in names:
        if name not in models:
            raise SystemExit(f"{name}: {Path(sys.argv[0]).name} does not make it; it makes {', '.join(models)}")
    torch.set_num_threads(1)  # sums have one order
    with torch.no_grad():
        for name in names:
            build(name)
