"""Muon: momentum whose update is orthogonalised, for the matrices inside the layers. A parameter may be a stack of
matrices [experts, out, in]: each of them is orthogonalised by itself.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon): Nesterov momentum, five Newton-Schulz
steps with the quintic coefficients below.
"""

from collections import defaultdict

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(stack: Tensor) -> Tensor:
    """Replaces the singular values of every [rows <= columns] matrix of a stack by values near 1."""
    a, b, c = QUINTIC
    x = stack / (stack.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.is_cuda:  # as the source does; on a CPU without AMX it would be slower
        x = x.bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.to(stack.dtype)


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for p in group["params"]:
                by_shape[tuple(sorted(p.shape[-2:]))].append(p)
            for members in by_shape.values():
                self._step_alike(group, members)

    def _step_alike(self, group: dict, members: list[Tensor]) -> None:
        """One batched orthogonalisation for all matrices that are equal up to a transpose."""
        wide = []
        for p in members:
            buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(buffer, group["momentum"])
            wide.append((update.mT if p.shape[-2] > p.shape[-1] else update).reshape(-1, *sorted(p.shape[-2:])))
        updates = orthogonalise(torch.cat(wide)).split([len(stack) for stack in wide])
        for p, update in zip(members, updates):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            scale = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
            p.add_((update.mT if p.shape[-2] > p.shape[-1] else update).reshape(p.shape), alpha=-group["lr"] * scale)
