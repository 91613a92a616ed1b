"""The layer of MoEUT (Csordas et al. 2024, arXiv 2405.16039): SwitchHead attention, sigma-MoE feed-forward,
and norms only in front of what feeds a softmax or a sigmoid (peri-layernorm).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import Notes, rotate
from experts import SigmaFeedForward, negative_entropy
from shape import Shape


class SwitchHead(nn.Module):
    """Each head has experts for values and outputs, chosen per row by sigmoid scores.

    All experts of a head are computed and the rest is weighted with zero: with two of four chosen that costs less
    than sorting six times as many rows."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.num_heads, self.head_dim = shape.num_heads, shape.head_dim
        self.rotary_dim = shape.universal.rotary_dim
        self.num_experts, self.per_token = shape.universal.attention_experts, shape.universal.attention_per_token
        self.balance_weight = shape.universal.attention_balance_weight
        width, total = shape.num_heads * shape.head_dim, shape.num_heads * self.num_experts
        self.q_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.v_proj = nn.Parameter(torch.empty(total, shape.head_dim, shape.hidden_size))
        self.o_proj = nn.Parameter(torch.empty(total, shape.hidden_size, shape.head_dim))
        self.v_router = nn.Linear(shape.hidden_size, total, bias=False)
        self.o_router = nn.Linear(shape.hidden_size, total, bias=False)

    def scores(self, router: nn.Linear, normalised: Tensor, notes: Notes) -> Tensor:
        """[batch, rows, heads, experts], zero where an expert was not chosen."""
        logits = (normalised.float() @ router.weight.float().T).unflatten(-1, (self.num_heads, self.num_experts))
        notes.aux.append((self.balance_weight, negative_entropy(logits.flatten(0, 1).transpose(0, 1))))
        best, place = logits.sigmoid().topk(self.per_token, dim=-1)
        chosen = (place[..., None] == torch.arange(self.num_experts, device=place.device))
        notes.expert_rows.append(chosen.sum(-2).sum((0, 1)).flatten())
        return (best[..., None] * chosen).sum(-2)

    def rotated(self, projected: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        heads = projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        turned = rotate(heads[..., :self.rotary_dim], *rope)
        return torch.cat((turned, heads[..., self.rotary_dim:]), dim=-1).to(projected.dtype)

    def forward(self, x: Tensor, normalised: Tensor, rope: tuple[Tensor, Tensor], notes: Notes) -> Tensor:
        q, k = self.rotated(self.q_proj(normalised), rope), self.rotated(self.k_proj(normalised), rope)
        v = F.linear(x, self.v_proj.flatten(0, 1)).unflatten(-1, (self.num_heads, self.num_experts, self.head_dim))
        v = (v * self.scores(self.v_router, normalised, notes)[..., None]).sum(3).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True).transpose(1, 2)
        weighed = out[:, :, :, None] * self.scores(self.o_router, normalised, notes)[..., None]
        return F.linear(weighed.flatten(2), self.o_proj.transpose(1, 2).flatten(0, 1).T)


class UniversalLayer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(shape.hidden_size, shape.norm_eps)
        self.self_attn = SwitchHead(shape)
        self.post_attention_layernorm = nn.LayerNorm(shape.hidden_size, shape.norm_eps)
        self.mlp = SigmaFeedForward(shape)

    def block(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: None, notes: Notes) -> Tensor:
        x = x + self.self_attn(x, self.input_layernorm(x), rope, notes)
        return x + self.mlp(x, self.post_attention_layernorm(x), notes)
