"""A small Llama-shaped language model whose layers may be Mixture-of-Depths blocks.

Parameter names are the tensor names of the exported checkpoint. A routed layer runs its whole block
(attention and feed-forward, both with their residuals) on the rows its router selects:

    y = x + sigmoid(router(x)) * (Block(x) - x)    selected rows
    y = x                                          the others, which leave no key or value either

Source: Raposo et al. 2024 (arXiv 2404.02258), sec. 3; the gate is a sigmoid and the router reads the
raw residual stream.
"""

import zlib
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Shape:
    vocab_size: int = 4096
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 8
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 32
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    routed_layers: list[int] = field(default_factory=list)
    capacity: float = 0.125


@dataclass
class Routing:
    """How routed layers choose rows in one forward pass."""
    rule: str = "topk"      # "topk": the best `capacity` share of each sequence; "threshold": logit > 0
    threshold_rows: int = 0  # under "topk" in training: this many leading sequences use the threshold
    room: float = 0.25      # share of a sequence gathered at most when some rows use the threshold


@dataclass
class Route:
    """What one routed layer decided; the training loss and the reports read it."""
    logits: Tensor  # [batch, length]
    chosen: Tensor  # bool [batch, length]
    aux_loss: Tensor


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
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape, routed: bool):
        super().__init__()
        self.capacity = shape.capacity
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.norm_eps)
        self.mlp = FeedForward(shape)
        if routed:
            self.mod_router = nn.Linear(shape.hidden_size, 1, bias=True)

    @property
    def routed(self) -> bool:
        return hasattr(self, "mod_router")

    def block(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        h = x + self.self_attn(self.input_layernorm(x), rope, mask)
        return h + self.mlp(self.post_attention_layernorm(h))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], routing: Routing) -> tuple[Tensor, Route | None]:
        """x [batch, length, hidden]; rope: cos and sin [length, head_dim / 2]."""
        if not self.routed:
            return self.block(x, (rope[0][None, None], rope[1][None, None]), None), None
        weight, bias = self.mod_router.weight[0], self.mod_router.bias
        logits = (x.float() * weight).sum(-1) + bias
        index, kept = self.select(logits.detach(), routing)
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, index, kept)

        z = x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
        mask = None
        if routing.rule == "threshold" or routing.threshold_rows:
            rows = index.shape[1]
            causal = torch.ones(rows, rows, dtype=torch.bool).tril()
            # A row that is only padding attends to itself, so that its softmax is not empty.
            mask = (causal & (kept[:, None, :] | torch.eye(rows, dtype=torch.bool)))[:, None]
        y = self.block(z, (rope[0][index][:, None], rope[1][index][:, None]), mask)
        gate = torch.sigmoid(logits.gather(1, index)) * kept
        out = x.scatter_add(1, index[..., None].expand_as(z), (gate[..., None] * (y - z)).to(x.dtype))

        # The router learns to predict membership; the stream it reads is not pulled towards being predictable.
        predicted = (x.detach().float() * weight).sum(-1) + bias
        target = torch.zeros_like(logits).scatter(1, logits.detach().topk(self.rows_of(x.shape[1]), dim=1).indices, 1.0)
        return out, Route(logits, chosen, F.binary_cross_entropy_with_logits(predicted, target))

    def rows_of(self, length: int) -> int:
        return max(1, round(self.capacity * length))

    def select(self, logits: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
        """Returns (positions gathered, ascending [batch, rows]; which of them count [batch, rows])."""
        batch, length = logits.shape
        quota = self.rows_of(length)
        if routing.rule == "threshold":
            rows = max(1, int((logits > 0).sum(1).max()))
        else:
            rows = max(quota, int(routing.room * length)) if routing.threshold_rows else quota
        best, order = logits.topk(rows, dim=1)
        kept = best > 0
        if routing.rule == "topk":
            by_rank = (torch.arange(rows) < quota).expand(batch, rows)
            by_threshold = (torch.arange(batch) < routing.threshold_rows)[:, None]
            kept = torch.where(by_threshold, kept, by_rank)
        index, place = order.sort(dim=1)
        return index, kept.gather(1, place)


class Body(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, i in shape.routed_layers) for i in range(shape.num_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.norm_eps)


class LanguageModel(nn.Module):
    """The output projection is the embedding matrix (tied)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        frequency = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angle = torch.arange(shape.max_positions).float()[:, None] * frequency
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Tensor, routing: Routing) -> tuple[Tensor, dict[int, Route]]:
        """ids int64 [batch, length] -> (logits [batch, length, vocab], routes by layer)."""
        x = self.model.embed_tokens(ids)
        rope = (self.cos[:ids.shape[1]], self.sin[:ids.shape[1]])
        routes = {}
        for i, layer in enumerate(self.model.layers):
            x, route = layer(x, rope, routing)
            if route is not None:
                routes[i] = route
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight), routes

    def routed(self) -> dict[int, Layer]:
        return {i: layer for i, layer in enumerate(self.model.layers) if layer.routed}


def initialise(model: LanguageModel, seed: int) -> None:
    """Each tensor draws from its own generator, so tensors two models share by name start out equal."""
    depth = (2 * model.shape.num_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
        std = 0.02 if "embed" in name or "router" in name else 0.5 * parameter.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std *= depth
        parameter.data.normal_(0.0, std, generator=generator)
