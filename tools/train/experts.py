"""Feed-forwards of experts. Rows are sorted by expert and multiplied in one grouped product, so that no row is
dropped and none is padded, on CPU and GPU alike.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import FeedForward, Notes
from shape import Shape


class Take(torch.autograd.Function):
    """rows -> rows[place], where `back` are the places in the result that each row went to, [rows, copies].

    Indexing alone would give a scattered sum as its gradient; this one is a gather too."""

    @staticmethod
    def forward(ctx, rows: Tensor, place: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rows[place]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        back, = ctx.saved_tensors
        return gradient[back].sum(1), None, None


def grouped(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """rows [n, in] sorted by expert, matrices [experts, out, in], ends: where each expert's rows end."""
    device = rows.device.type
    if torch.is_autocast_enabled(device):  # the grouped product is not on autocast's list
        rows, matrices = (t.to(torch.get_autocast_dtype(device)) for t in (rows, matrices))
    return F.grouped_mm(rows, matrices.mT, offs=ends)


def dispatch(x: Tensor, chosen: Tensor, weight: Tensor, count: int, function) -> tuple[Tensor, Tensor]:
    """Sum over a row's experts of weight * function(rows, ends); also the rows of each expert.

    x [n, hidden], chosen and weight [n, k]."""
    n, k = chosen.shape
    order = chosen.flatten().argsort(stable=True)
    back = torch.empty_like(order).scatter(0, order, torch.arange(n * k, device=x.device))
    rows_of_expert = (chosen.flatten()[:, None] == torch.arange(count, device=x.device)).sum(0)
    ends = rows_of_expert.cumsum(0).to(torch.int32)
    out = function(Take.apply(x, order // k, back.view(n, k)), ends)
    out = Take.apply(out, back, order[:, None]).view(n, k, -1)
    return (out * weight[..., None]).sum(1).to(x.dtype), rows_of_expert


class ExpertFeedForward(nn.Module):
    """Fine-grained SwiGLU experts with softmax scores of which the k best are kept and renormalised, and a
    shared expert (DeepSeekMoE, Dai et al. 2024, arXiv 2401.06066, sec. 3)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = experts = shape.experts
        self.router = nn.Linear(shape.hidden_size, experts.count, bias=False)
        self.gate_proj = nn.Parameter(torch.empty(experts.count, experts.size, shape.hidden_size))
        self.up_proj = nn.Parameter(torch.empty(experts.count, experts.size, shape.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts.count, shape.hidden_size, experts.size))
        if experts.shared_size:
            self.shared_experts = FeedForward(shape.hidden_size, experts.shared_size)

    def forward(self, x: Tensor, notes: Notes) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        scores = (flat.float() @ self.router.weight.float().T).softmax(-1)
        weight, chosen = scores.topk(self.shape.per_token, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        out, rows = dispatch(flat, chosen, weight, self.shape.count, self.run)
        notes.expert_rows.append(rows)
        # Switch Transformer's balance loss over k choices: 1 when balanced.
        share = rows.float() / chosen.numel()
        notes.aux.append((self.shape.balance_weight, self.shape.count * (share * scores.mean(0)).sum()))
        if self.shape.shared_size:
            out = out + self.shared_experts(flat)
        return out.view_as(x)

    def run(self, rows: Tensor, ends: Tensor) -> Tensor:
        hidden = F.silu(grouped(rows, self.gate_proj, ends)) * grouped(rows, self.up_proj, ends)
        return grouped(hidden, self.down_proj, ends)


def negative_entropy(logits: Tensor) -> Tensor:
    """Of the mean choice: sum p log p with p = mean over rows of softmax(logits) [..., rows, experts]; the
    balance loss of sigma-MoE and MoEUT (Csordas et al. 2024, arXiv 2405.16039, sec. 2.2)."""
    p = logits.float().softmax(-1).mean(-2)
    return (p * p.log()).sum(-1).mean()


class SigmaFeedForward(nn.Module):
    """sigma-MoE: sigmoid scores, used as they are; ReLU experts. The router reads a normalised input, the
    experts the raw one."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = experts = shape.experts
        self.router = nn.Linear(shape.hidden_size, experts.count, bias=False)
        self.up_proj = nn.Parameter(torch.empty(experts.count, experts.size, shape.hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts.count, shape.hidden_size, experts.size))

    def forward(self, x: Tensor, normalised: Tensor, notes: Notes) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        logits = normalised.reshape(flat.shape).float() @ self.router.weight.float().T
        weight, chosen = logits.sigmoid().topk(self.shape.per_token, dim=-1)
        out, rows = dispatch(flat, chosen, weight, self.shape.count, self.run)
        notes.expert_rows.append(rows)
        notes.aux.append((self.shape.balance_weight, negative_entropy(logits)))
        return out.view_as(x)

    def run(self, rows: Tensor, ends: Tensor) -> Tensor:
        return grouped(F.relu(grouped(rows, self.up_proj, ends)), self.down_proj, ends)
