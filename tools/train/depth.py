"""Mixture-of-Depths: a layer that only some rows run.

A routed layer runs its whole block (attention and feed-forward, both with their residuals) on the rows its
router selects:

    y = x + sigmoid(router(x)) * (Block(x) - x)    selected rows
    y = x                                          the others, which leave no key or value either

Source: Raposo et al. 2024 (arXiv 2404.02258), sec. 3; the gate is a sigmoid and the router reads the raw
residual stream. Top-k looks at later rows, which a server cannot; what decides there by threshold is the router
itself or, with predictor_size, a second small network. Either learns to predict membership.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import Notes, Route, Routing, packed_mask
from shape import Shape

MEMBERSHIP_WEIGHT = 0.02
BIAS_RATE = 0.1


def make_predictor(shape: Shape) -> nn.Sequential:
    return nn.Sequential(nn.Linear(shape.hidden_size, shape.predictor_size), nn.SiLU(), nn.Linear(shape.predictor_size, 1))


class Depth:
    """The routing of one forward pass through one layer; the layer owns the parameters."""

    def __init__(self, layer: nn.Module, capacity: float):
        self.layer, self.capacity = layer, capacity

    def run(self, index: int, x: Tensor, rope: tuple[Tensor, Tensor], routing: Routing, notes: Notes) -> Tensor:
        """x [batch, length, hidden]; rope: cos and sin [length, rotated / 2]."""
        logits = self.router_logits(x)
        # The stream it reads is not pulled towards being predictable.
        predicted = self.deciding_logits(x.detach())
        deciding = predicted.detach() if self.has_predictor() else logits.detach()
        place, kept = self.select(logits.detach(), deciding, routing)
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, place, kept)

        z = x.gather(1, place[..., None].expand(-1, -1, x.shape[-1]))
        mask = packed_mask(kept) if routing.rule == "threshold" or routing.threshold_rows else None
        y = self.layer.block(z, (rope[0][place][:, None], rope[1][place][:, None]), mask, notes)
        gate = torch.sigmoid(logits.gather(1, place)) * kept
        out = x.scatter_add(1, place[..., None].expand_as(z), (gate[..., None] * (y - z)).to(x.dtype))

        best = logits.detach().topk(self.rows_of(x.shape[1]), dim=1).indices
        target = torch.zeros_like(logits).scatter(1, best, 1.0)
        notes.aux.append((MEMBERSHIP_WEIGHT, F.binary_cross_entropy_with_logits(predicted, target)))
        notes.routes[index] = Route(logits, deciding, chosen)
        return out

    def has_predictor(self) -> bool:
        return hasattr(self.layer, "mod_predictor")

    def router_logits(self, x: Tensor) -> Tensor:
        logits = (x.float() * self.layer.mod_router.weight[0]).sum(-1)
        return logits if self.layer.mod_router.bias is None else logits + self.layer.mod_router.bias

    def deciding_logits(self, x: Tensor) -> Tensor:
        return self.layer.mod_predictor(x)[..., 0].float() if self.has_predictor() else self.router_logits(x)

    def deciding_bias(self) -> Tensor:
        return self.layer.mod_predictor[2].bias if self.has_predictor() else self.layer.mod_router.bias

    @torch.no_grad()
    def hold_share(self, deciding: Tensor) -> None:
        """Moves the bias so that logit > 0 selects the capacity's share of a batch."""
        flat = deciding.flatten()
        edge = flat.kthvalue(round((1 - self.capacity) * len(flat))).values
        self.deciding_bias().sub_(BIAS_RATE * edge)

    def rows_of(self, length: int) -> int:
        return max(1, round(self.capacity * length))

    def select(self, logits: Tensor, deciding: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
        """Returns (positions gathered, ascending [batch, rows]; which of them count [batch, rows])."""
        batch, length = logits.shape
        quota = self.rows_of(length)
        by_threshold = torch.full((batch, 1), True, device=logits.device)
        if routing.rule == "threshold":
            rows = max(1, int((deciding > 0).sum(1).max()))
        else:
            rows = max(quota, int(routing.room * length)) if routing.threshold_rows else quota
            by_threshold = (torch.arange(batch, device=logits.device) < routing.threshold_rows)[:, None]
        best, order = torch.where(by_threshold, deciding, logits).topk(rows, dim=1)
        by_rank = (torch.arange(rows, device=logits.device) < quota).expand(batch, rows)
        kept = torch.where(by_threshold, best > 0, by_rank)
        place, rank = order.sort(dim=1)
        return place, kept.gather(1, rank)
