"""Norms, attention and feed-forward of a Llama layer, and what a forward pass hands around."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shape import Shape


@dataclass
class Routing:
    """How routed layers choose rows in one forward pass."""
    rule: str = "topk"      # "topk": as trained, the best `capacity` share of each sequence; "threshold": as served
    threshold_rows: int = 0  # under "topk" in training: this many leading sequences use the threshold
    room: float = 0.25      # share of a sequence gathered at most when some rows use the threshold


@dataclass
class Route:
    """What one routed layer decided."""
    logits: Tensor    # [batch, length], of the router
    deciding: Tensor  # [batch, length], of what decides by threshold: the router or the predictor
    chosen: Tensor    # bool [batch, length]


@dataclass
class Notes:
    """What the layers of one forward pass leave for the loss, the biases and the reports."""
    routes: dict[int, Route] = field(default_factory=dict)
    aux: list[tuple[float, Tensor]] = field(default_factory=list)  # (weight, loss)
    depth: Tensor | None = None       # recursions chosen per row, from 0 [batch, length]
    expert_rows: list[Tensor] = field(default_factory=list)  # per execution: rows of each expert

    def aux_loss(self) -> Tensor | float:
        return sum(weight * loss for weight, loss in self.aux)


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-style rotary embedding: pairs are (i, i + head_dim / 2)."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.head_dim = shape.head_dim
        kv_size = shape.num_kv_heads * shape.head_dim
        self.group = shape.num_heads // shape.num_kv_heads
        self.q_proj = nn.Linear(shape.hidden_size, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """x [batch, rows, hidden]; rope: cos and sin [batch or 1, 1, rows, head_dim / 2]; mask None is causal."""
        batch, rows, _ = x.shape
        heads = [p(x).view(batch, rows, -1, self.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)]
        q, k, v = rotate(heads[0], *rope), rotate(heads[1], *rope), heads[2]
        k = k.repeat_interleave(self.group, dim=1)
        v = v.repeat_interleave(self.group, dim=1)
        q, k = q.to(v.dtype), k.to(v.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(out.transpose(1, 2).reshape(batch, rows, -1))


class FeedForward(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def packed_mask(kept: Tensor) -> Tensor:
    """Causal mask [batch, 1, rows, rows] among packed rows in order of position, of which only `kept` are seen.

    A row that is only padding attends to itself, so that its softmax is not empty."""
    rows = kept.shape[1]
    causal = torch.ones(rows, rows, dtype=torch.bool, device=kept.device).tril()
    return (causal & (kept[:, None, :] | torch.eye(rows, dtype=torch.bool, device=kept.device)))[:, None]
