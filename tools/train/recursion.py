"""Mixture-of-Recursions, token choice (Bae et al. 2025, arXiv 2507.10524): before the shared layers a router
chooses how often each row runs them; a row sees keys and values only of rows that run as deep.

    e = argmax(p + bias), w = p[e], p = softmax(router(x))
    y = x + w * state, the state after e + 1 recursions

The bias balances the depths without a loss: it moves against each depth's load (DeepSeek's auxiliary-loss-free
balancing, arXiv 2408.15664). In training a recursion has room for a share of a sequence; rows beyond it stop one
recursion early. Otherwise there is room for all.
"""

import torch
from torch import Tensor, nn

from blocks import Notes, Routing, packed_mask
from shape import Shape

BIAS_RATE = 0.01


class RecursionRouter(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape.recursion
        self.router = nn.Linear(shape.hidden_size, self.shape.times, bias=False)
        self.register_buffer("router_bias", torch.zeros(self.shape.times))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], routing: Routing, notes: Notes, layers) -> Tensor:
        scores = (x.float() @ self.router.weight.float().T).softmax(-1)
        depth = (scores + self.router_bias).argmax(-1)
        notes.depth = depth
        state, alive = x, torch.ones_like(depth, dtype=torch.bool)
        for r in range(self.shape.times):
            alive = alive & (depth >= r)
            place, kept = self.pack(alive, r, routing)
            alive = torch.zeros_like(alive).scatter(1, place, kept)
            across = place[..., None].expand(-1, -1, x.shape[-1])
            z = before = state.gather(1, across)
            angles = (rope[0][place][:, None], rope[1][place][:, None])
            mask = packed_mask(kept) if r > 0 else None
            for layer in layers:
                z = layer.block(z, angles, mask, notes)
            state = state.scatter(1, across, torch.where(kept[..., None], z, before).to(state.dtype))
        weight = scores.gather(-1, depth[..., None])
        return x + (weight * state).to(x.dtype)

    def pack(self, alive: Tensor, r: int, routing: Routing) -> tuple[Tensor, Tensor]:
        """Returns (positions gathered, those that count ascending and first; which of them count)."""
        length = alive.shape[1]
        if routing.rule == "threshold":
            rows = max(1, int(alive.sum(1).max()))
        else:
            rows = length if r == 0 else max(1, int(self.shape.room[r] * length))
        position = torch.arange(length, device=alive.device)
        order = torch.where(alive, position, position + length).topk(rows, dim=1, largest=False, sorted=True).values
        return order % length, order < length

    @torch.no_grad()
    def hold_balance(self, depth: Tensor) -> None:
        load = torch.stack([(depth == r).float().mean() for r in range(self.shape.times)])
        self.router_bias.sub_(BIAS_RATE * (load - 1 / self.shape.times))
