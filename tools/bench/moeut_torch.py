"""MoEUT (arXiv 2405.16039) in plain PyTorch, with a KV cache; the peer that Sluice is compared with.

The function is RobertCsordas/moeut@87f0497; its Triton kernel does not run on CPUs and its cache turns decoded
queries to position 0, so this is our own code: all copies of an expert's rows in one grouped product, or, where that
is faster, the chosen matrices gathered. Checked against the repository's outputs, whole and token by token:

  tools/bench/moeut_torch.py ../shared/goldens/moeut-g2
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor


@dataclass
class Cache:
    keys: Tensor    # [layer instances, batch, heads, positions, head_dim]
    values: Tensor
    length: int = 0


def gathered(rows: Tensor, chosen: Tensor, matrices: Tensor) -> Tensor:
    """rows [n, k or 1, in], chosen [n, k], matrices [experts, in, out] -> [n, k, out]"""
    n, k = chosen.shape
    taken = matrices[chosen.flatten()]
    return torch.bmm(rows.expand(n, k, -1).reshape(n * k, 1, -1), taken).view(n, k, -1)


def grouped(rows: Tensor, chosen: Tensor, matrices: Tensor) -> Tensor:
    """The same, every matrix read once."""
    n, k = chosen.shape
    order = chosen.flatten().argsort(stable=True)
    ends = torch.bincount(chosen.flatten(), minlength=len(matrices)).cumsum(0).to(torch.int32)
    out = F.grouped_mm(rows.expand(n, k, -1).reshape(n * k, -1)[order], matrices, offs=ends)
    return torch.empty_like(out).index_copy_(0, order, out).view(n, k, -1)


class Moeut:
    def __init__(self, config: dict, weights: dict[str, Tensor]):
        self.config = config = SimpleNamespace(**config)
        self.weights = weights
        steps = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
        angles = torch.arange(config.max_position_embeddings)[:, None] * config.rope_theta ** -steps
        self.cos, self.sin = angles.cos(), angles.sin()
        self.product = {}  # rows of one pass -> the faster of the two products

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.weights[name + ".bias"],
                            self.config.layer_norm_eps)

    def rotated(self, heads: Tensor, begin: int) -> Tensor:
        """heads [batch, heads, rows, head_dim]: the first rotary_dim numbers turn, half style."""
        end, turning = begin + heads.shape[2], self.config.rotary_dim
        low, high = heads[..., :turning].float().chunk(2, dim=-1)
        cos, sin = self.cos[begin:end], self.sin[begin:end]
        return torch.cat((low * cos - high * sin, high * cos + low * sin, heads[..., turning:].float()), -1).to(heads.dtype)

    def picks(self, selector: str, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """Per row and head the best experts of the layer's [heads x experts], and their sigmoid scores as they are."""
        config = self.config
        scores = F.linear(normalised, self.weights[selector]).float().sigmoid()
        per_head = scores.unflatten(-1, (config.num_attention_heads, -1))
        best, place = per_head.topk(config.num_attention_experts_per_tok, dim=-1)
        first = torch.arange(config.num_attention_heads)[:, None] * config.num_attention_experts
        return best.flatten(-2).to(normalised.dtype), (place + first).flatten(-2)

    def attention(self, name: str, x: Tensor, instance: int, cache: Cache, multiply) -> Tensor:
        config, (batch, rows, dim) = self.config, x.shape
        heads, begin = config.num_attention_heads, cache.length
        assert begin == 0 or rows == 1, "is_causal below means one whole prompt, or one token"
        normalised = self.norm(name + "ln1", x)
        at = name + "attention."

        def split(projected: Tensor) -> Tensor:
            return projected.view(batch, rows, heads, -1).transpose(1, 2)

        q = self.rotated(split(F.linear(normalised, self.weights[at + "q.weight"])), begin)
        k = self.rotated(split(F.linear(normalised, self.weights[at + "k.weight"])), begin)
        score, chosen = self.picks(at + "sel_v", normalised)
        v = multiply(x.reshape(-1, 1, dim), chosen.flatten(0, 1), self.weights[at + "v"])
        v = (v * score.flatten(0, 1)[..., None]).unflatten(1, (heads, -1)).sum(2)
        seen = slice(0, begin + rows)
        cache.keys[instance, :, :, begin:begin + rows] = k
        cache.values[instance, :, :, begin:begin + rows] = split(v)
        out = F.scaled_dot_product_attention(q, cache.keys[instance, :, :, seen], cache.values[instance, :, :, seen],
                                             is_causal=rows > 1)
        score, chosen = self.picks(at + "sel_o", normalised)
        per_expert = out.transpose(1, 2).reshape(batch * rows, heads, -1)
        per_expert = per_expert.repeat_interleave(config.num_attention_experts_per_tok, dim=1)
        per_expert = per_expert * score.flatten(0, 1)[..., None]
        return multiply(per_expert, chosen.flatten(0, 1), self.weights[at + "o"]).sum(1).view_as(x)

    def feed_forward(self, name: str, x: Tensor, multiply) -> Tensor:
        flat = x.reshape(-1, 1, x.shape[-1])
        scores = F.linear(self.norm(name + "ln2", x), self.weights[name + "ffn.expert_sel"]).float().sigmoid()
        best, chosen = scores.flatten(0, 1).topk(self.config.num_experts_per_tok, dim=-1)
        hidden = F.relu(multiply(flat, chosen, self.weights[name + "ffn.keys"])) * best[..., None].to(x.dtype)
        return multiply(hidden, chosen, self.weights[name + "ffn.values"]).sum(1).view_as(x)

    def new_cache(self, batch: int, positions: int) -> Cache:
        shape = (self.config.num_hidden_layers, batch, self.config.num_attention_heads, positions, self.config.head_dim)
        dtype = self.weights["embedding.weight"].dtype
        return Cache(torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype))

    @torch.no_grad()
    def run(self, ids: Tensor, cache: Cache, multiply, last_only: bool) -> Tensor:
        x = self.weights["embedding.weight"][ids]
        for instance in range(self.config.num_hidden_layers):
            name = f"transformer.layers.{instance % self.config.group_size}."
            x = x + self.attention(name, x, instance, cache, multiply)
            x = x + self.feed_forward(name, x, multiply)
        cache.length += ids.shape[1]
        x = self.norm("out_norm", x[:, -1:] if last_only else x)
        return F.linear(x, self.weights["lm_head.weight"], self.weights["lm_head.bias"])

    def __call__(self, ids: Tensor, cache: Cache, last_only: bool = True) -> Tensor:
        """Logits. Few rows: their first pass tries both products and keeps the faster."""
        rows = ids.numel()
        if rows > 64:
            return self.run(ids, cache, grouped, last_only)
        if rows not in self.product:
            seconds = {}
            for multiply in (gathered, grouped, gathered, grouped):  # the first of each warms up
                before, begin = cache.length, time.perf_counter()
                self.run(ids, cache, multiply, last_only)
                seconds[multiply] = time.perf_counter() - begin
                cache.length = before
            self.product[rows] = min(seconds, key=seconds.get)
        return self.run(ids, cache, self.product[rows], last_only)


# What the goldens call a value of our config.json.
GOLDEN_NAMES = {
    "num_hidden_layers": "n_layers", "group_size": "group_size", "num_attention_heads": "n_heads", "head_dim": "d_head",
    "rotary_dim": "n_rotate", "rope_theta": "rope_base", "num_experts_per_tok": "ff_k",
    "num_attention_experts": "att_n_experts", "num_attention_experts_per_tok": "att_k", "layer_norm_eps": "ln_eps",
    "max_position_embeddings": "T",
}


def load(directory: Path, dtype: torch.dtype) -> Moeut:
    weights = {name: tensor.to(dtype) for name, tensor in load_file(directory / "model.safetensors").items()}
    return Moeut(json.loads((directory / "config.json").read_text()), weights)


def check(folder: Path) -> None:
    old = json.loads((folder / "config.json").read_text())
    model = Moeut({name: old[theirs] for name, theirs in GOLDEN_NAMES.items()}, load_file(folder / "weights.safetensors"))
    expected = load_file(folder / "expected.safetensors")
    ids, logits = expected["input_ids"].long(), expected["logits"]
    for multiply in (gathered, grouped):
        cache = model.new_cache(*ids.shape)
        whole = model.run(ids, model.new_cache(*ids.shape), multiply, last_only=False)
        stepwise = torch.cat([model.run(column, cache, multiply, True) for column in ids.split(1, dim=1)], dim=1)
        for way, found in (("whole", whole), ("token by token", stepwise)):
            error = (found - logits).abs().max().item()
            print(f"{folder.name}, {multiply.__name__}, {way}: largest difference {error:.1e} "
                  f"of logits up to {logits.abs().max():.2f}")
            if error > 1e-5:
                raise SystemExit("not the reference's function")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path)
    check(parser.parse_args().golden)
