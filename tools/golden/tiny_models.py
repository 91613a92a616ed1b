"""Writes tests/golden_shipped/<model>/expected.safetensors: reference logits and routing masks of the tiny models.

Weights are the exported bf16 values, arithmetic is fp32. For prompt n the file holds input_ids.n [tokens],
logits.n [8, vocab] (the last eight positions) and, per routed layer, mask.n.layerI [tokens] (1: selected
under the threshold rule) and router_logits.n.layerI [tokens], what decided it. Of layers that rows run by their depth router_logits is
how far the chosen depth is ahead of the next.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "train"))

from blocks import Routing  # noqa: E402
from evaluate import open_model  # noqa: E402
from recursion import RecursionRouter  # noqa: E402

PROMPTS = [
    "Once upon a time there was a little girl who lived with her mother in a small house near the forest. "
    "Every morning she went to the well, and one day she saw a",
    '"Where are you going?" said the captain, and he looked at the boy for a long time without a word. '
    '"I am going home," the boy answered, "if you will',
]
LAST = 8


def add_depths(found: dict, n: int, model, depth: torch.Tensor, lead: torch.Tensor) -> None:
    """The masks of the layers of a recursion, which stand behind one layer that all rows run."""
    recursion = model.shape.recursion
    for i in range(recursion.times * recursion.layers):
        found[f"mask.{n}.layer{1 + i}"] = (depth >= i // recursion.layers).long()
        found[f"router_logits.{n}.layer{1 + i}"] = lead.clone()


@torch.no_grad()
def expected(directory: Path) -> dict[str, torch.Tensor]:
    model = open_model(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    found, leads = {}, []

    def note_lead(router, arguments, _):
        scores = (arguments[0].float() @ router.router.weight.float().T).softmax(-1) + router.router_bias
        best = scores.topk(2, dim=-1).values[0]
        leads.append((best[:, 0] - best[:, 1]).contiguous())

    for module in model.modules():
        if isinstance(module, RecursionRouter):
            module.register_forward_hook(note_lead)
    for n, prompt in enumerate(PROMPTS):
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        logits, notes = model(ids, Routing("threshold"))
        found[f"input_ids.{n}"] = ids[0].contiguous()
        found[f"logits.{n}"] = logits[0, -LAST:].contiguous()
        for i, route in notes.routes.items():
            found[f"mask.{n}.layer{i}"] = route.chosen[0].long()
            found[f"router_logits.{n}.layer{i}"] = route.deciding[0].contiguous()
        if leads:
            add_depths(found, n, model, notes.depth[0], leads.pop())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="*", default=["tiny-mod", "tiny-dense"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.model:
        out = ROOT / "tests" / "golden_shipped" / name / "expected.safetensors"
        out.parent.mkdir(parents=True, exist_ok=True)
        tensors = expected(ROOT / "models" / name)
        save_file(tensors, out)
        out.chmod(0o644)
        print(f"{out.relative_to(ROOT)}: {len(tensors)} tensors, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
