"""Makes the golden folders that no published implementation covers: Mixture-of-Depths in the form of
models.md 1.2, MoDE staged and integrated, DeepSeekMoE v1.

The model is stated here in plain PyTorch, whole sequence at once, float64 on float32 weights.
expected.safetensors: input_ids [24], hidden.embed and hidden.<layer> [24, dim], logits [24, vocab], and per
routed layer mask.<layer> [24] (1: taken) and score.<layer> [24] (router logit).

    pip install torch safetensors; python tools/golden/mod.py [name ...]
"""

import sys

import torch
from torch.nn.functional import linear, silu, softmax

from fixture import input_ids, randomize, write

LENGTH, VOCAB, DIM, HEADS, KV_HEADS, HEAD_DIM = 24, 64, 32, 4, 2, 8
EPSILON, THETA = 1e-5, 10000.0

BASE = dict(vocab_size=VOCAB, hidden_size=DIM, intermediate_size=32, num_hidden_layers=4, num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, hidden_act="silu", max_position_embeddings=64,
            rms_norm_eps=EPSILON, rope_theta=THETA, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
SMALL = dict(BASE, num_hidden_layers=2)


def mod(layers, **rules) -> dict:
    return dict(dict(layers=layers, gate_fn="sigmoid", combine="scaled_update", decide="router_threshold",
                     threshold=0.5, pos="absolute", kv="routed_only", capacity=0.5), **rules)


MODELS = {
    "mod-threshold": dict(BASE, model_type="mod", mod=mod([1, 3])),
    "mod-predictor": dict(BASE, model_type="mod", mod=mod([0, 2], gate_fn="identity", combine="plus_block",
                                                          decide="predictor_threshold", threshold=0.4)),
    "mod-only-block": dict(BASE, model_type="mod", mod=mod([1, 2], combine="only_block", threshold=0.6)),
    "mod-binary": dict(BASE, model_type="mod", mod=mod([1, 3], gate_fn="binary", combine="plus_block")),
    "mod-topk": dict(BASE, model_type="mod", mod=mod([1, 3], prefill_decide="router_topk", capacity=0.3)),
    "mode-staged": dict(SMALL, model_type="mod", mod=mod([1]), num_local_experts=4, num_experts_per_tok=2,
                        intermediate_size=24),
    "mode-integrated": dict(SMALL, model_type="mod", mod=mod([]), num_experts=4, num_experts_per_tok=2,
                            moe_intermediate_size=24, norm_topk_prob=False, num_null_experts=2),
    "deepseek": dict(SMALL, model_type="deepseek", num_hidden_layers=3, n_routed_experts=4, n_shared_experts=2,
                     num_experts_per_tok=2, moe_intermediate_size=12, first_k_dense_replace=1, moe_layer_freq=1,
                     norm_topk_prob=True, scoring_func="softmax"),
    "deepseek-unshared": dict(SMALL, model_type="deepseek", num_hidden_layers=3, n_routed_experts=4,
                              num_experts_per_tok=2, moe_intermediate_size=12, first_k_dense_replace=0,
                              moe_layer_freq=2, norm_topk_prob=False, scoring_func="softmax"),
}


def is_sparse(config: dict, layer: int) -> bool:
    if "n_routed_experts" in config:
        return layer >= config["first_k_dense_replace"] and layer % config["moe_layer_freq"] == 0
    return "num_local_experts" in config or "num_experts" in config


def make_weights(config: dict) -> dict[str, torch.Tensor]:
    """Names as published: Mixtral's for num_local_experts, Qwen's and DeepSeek's otherwise."""
    shapes = {"model.embed_tokens.weight": [VOCAB, DIM], "model.norm.weight": [DIM]}
    gated = lambda name, hidden: {f"{name}.gate_proj.weight": [hidden, DIM], f"{name}.up_proj.weight": [hidden, DIM],
                                  f"{name}.down_proj.weight": [DIM, hidden]}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.input_layernorm.weight": [DIM], f"{layer}.post_attention_layernorm.weight": [DIM],
                   f"{layer}.self_attn.q_proj.weight": [HEADS * HEAD_DIM, DIM],
                   f"{layer}.self_attn.k_proj.weight": [KV_HEADS * HEAD_DIM, DIM],
                   f"{layer}.self_attn.v_proj.weight": [KV_HEADS * HEAD_DIM, DIM],
                   f"{layer}.self_attn.o_proj.weight": [DIM, HEADS * HEAD_DIM]}
        if not is_sparse(config, i):
            shapes |= gated(f"{layer}.mlp", config["intermediate_size"])
        elif "num_local_experts" in config:
            name, hidden = f"{layer}.block_sparse_moe", config["intermediate_size"]
            shapes[f"{name}.gate.weight"] = [config["num_local_experts"], DIM]
            for e in range(config["num_local_experts"]):
                shapes |= {f"{name}.experts.{e}.w1.weight": [hidden, DIM], f"{name}.experts.{e}.w2.weight": [DIM, hidden],
                           f"{name}.experts.{e}.w3.weight": [hidden, DIM]}
        else:
            experts = config.get("num_experts") or config["n_routed_experts"]
            shapes[f"{layer}.mlp.gate.weight"] = [experts + config.get("num_null_experts", 0), DIM]
            for e in range(experts):
                shapes |= gated(f"{layer}.mlp.experts.{e}", config["moe_intermediate_size"])
            if "n_shared_experts" in config:
                shapes |= gated(f"{layer}.mlp.shared_experts",
                                config["n_shared_experts"] * config["moe_intermediate_size"])
        if i in config.get("mod", {}).get("layers", []):
            shapes |= {f"{layer}.mod_router.weight": [1, DIM], f"{layer}.mod_router.bias": [1]}
            if config["mod"]["decide"] == "predictor_threshold":
                shapes |= {f"{layer}.mod_predictor.0.weight": [12, DIM], f"{layer}.mod_predictor.0.bias": [12],
                           f"{layer}.mod_predictor.2.weight": [1, 12], f"{layer}.mod_predictor.2.bias": [1]}
    return {name: torch.empty(shape) for name, shape in shapes.items()}


class Plain:
    """The function, one line per formula. `margins` collects how far each decision is from a tie."""

    def __init__(self, config: dict, weights: dict):
        self.config = config
        self.weights = {k: v.double() for k, v in weights.items()}
        self.margins: list[float] = []

    def lin(self, x, name):
        return linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weights[f"{name}.weight"]

    def rope(self, x, positions):
        frequency = THETA ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM)
        angle = (positions.double()[:, None] * frequency).repeat(1, 2)[:, None]
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def attention(self, x, positions, name):
        n = len(x)
        q = self.rope(self.lin(x, f"{name}.q_proj").view(n, HEADS, HEAD_DIM), positions)
        k = self.rope(self.lin(x, f"{name}.k_proj").view(n, KV_HEADS, HEAD_DIM), positions)
        v = self.lin(x, f"{name}.v_proj").view(n, KV_HEADS, HEAD_DIM)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
        logits = torch.einsum("qhd,khd->hqk", q, k) * HEAD_DIM ** -0.5
        logits = logits.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
        return self.lin(torch.einsum("hqk,khd->qhd", softmax(logits, -1), v).reshape(n, -1), f"{name}.o_proj")

    def gated(self, x, name, gate="gate_proj", up="up_proj", down="down_proj"):
        return self.lin(silu(self.lin(x, f"{name}.{gate}")) * self.lin(x, f"{name}.{up}"), f"{name}.{down}")

    def experts(self, x, layer):
        """Softmax over real and null experts, top-k, null experts contribute nothing."""
        c = self.config
        mixtral = "num_local_experts" in c
        name = f"{layer}.block_sparse_moe" if mixtral else f"{layer}.mlp"
        real = c.get("num_local_experts") or c.get("num_experts") or c["n_routed_experts"]
        k = c["num_experts_per_tok"]
        logits = self.lin(x, f"{name}.gate")
        ordered = logits.sort(-1, descending=True).values
        self.margins.append((ordered[:, k - 1] - ordered[:, k]).min().item())
        weight, index = softmax(logits, -1).topk(k, -1)
        if mixtral or c["norm_topk_prob"]:
            weight = weight / weight.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for e in range(real):
            part = (weight * (index == e)).sum(-1, keepdim=True)
            expert = f"{name}.experts.{e}"
            out += part * (self.gated(x, expert, "w1", "w3", "w2") if mixtral else self.gated(x, expert))
        if "n_shared_experts" in c:
            out += self.gated(x, f"{name}.shared_experts")
        return out

    def block(self, x, positions, i):
        layer = f"model.layers.{i}"
        h = x + self.attention(self.norm(x, f"{layer}.input_layernorm"), positions, f"{layer}.self_attn")
        z = self.norm(h, f"{layer}.post_attention_layernorm")
        return h + (self.experts(z, layer) if is_sparse(self.config, i) else self.gated(z, f"{layer}.mlp"))

    def decide(self, x, score, layer):
        rules = self.config["mod"]
        rule = rules.get("prefill_decide", rules["decide"])
        if rule == "router_topk":
            k = max(1, int(rules["capacity"] * len(x)))
            ordered = score.sort(descending=True).values
            self.margins.append((ordered[k - 1] - ordered[k]).item())
            return score >= ordered[k - 1]
        if rule == "predictor_threshold":
            score = self.lin(silu(self.lin(x, f"{layer}.mod_predictor.0")), f"{layer}.mod_predictor.2")[:, 0]
        distance = score - torch.logit(torch.tensor(rules["threshold"]).double())
        self.margins.append(distance.abs().min().item())
        return distance > 0

    def routed_block(self, x, positions, i, found):
        layer, rules = f"model.layers.{i}", self.config["mod"]
        score = self.lin(x, f"{layer}.mod_router")[:, 0]
        mask = self.decide(x, score, layer)
        found[f"mask.{i}"], found[f"score.{i}"] = mask.int(), score
        gate = {"identity": score, "sigmoid": score.sigmoid(), "binary": torch.ones_like(score)}[rules["gate_fn"]]
        kept, g = x[mask], gate[mask][:, None]
        y = self.block(kept, positions[mask], i)
        out = x.clone()
        out[mask] = {"scaled_update": kept + g * (y - kept), "plus_block": kept + g * y,
                     "only_block": g * y}[rules["combine"]]
        return out

    def run(self, ids):
        positions = torch.arange(len(ids))
        x = self.weights["model.embed_tokens.weight"][ids]
        found = {"input_ids": ids.int(), "hidden.embed": x}
        for i in range(self.config["num_hidden_layers"]):
            routed = i in self.config.get("mod", {}).get("layers", [])
            x = self.routed_block(x, positions, i, found) if routed else self.block(x, positions, i)
            found[f"hidden.{i}"] = x
        found["logits"] = linear(self.norm(x, "model.norm"), self.weights["model.embed_tokens.weight"])
        return {k: v if v.dtype == torch.int32 else v.float() for k, v in found.items()}


def is_useful(found: dict) -> bool:
    """Every routed layer takes some rows and leaves some."""
    shares = [v.float().mean().item() for k, v in found.items() if k.startswith("mask.")]
    return all(0.25 <= share <= 0.75 for share in shares)


def build(name: str) -> None:
    config = MODELS[name]
    for seed in range(300, 700):
        weights = make_weights(config)
        randomize(weights.items(), seed)
        for tensor_name, tensor in weights.items():
            if "mod_router.weight" in tensor_name:
                tensor.mul_(2.0)
        plain = Plain(config, weights)
        found = plain.run(input_ids(VOCAB, LENGTH, seed + 1000))
        if is_useful(found) and min(plain.margins) > 5e-3:
            break
    else:
        raise SystemExit(f"{name}: no seed gives a fixture without near ties")
    source = (f"# {name}\nOur own random weights (seed {seed}); the function is stated in tools/golden/mod.py (float64, "
              f"torch {torch.__version__.split('+')[0]}), after models.md 1.2 and 2.6: there is no official code.\n"
              f"Smallest distance of a routing decision from a tie: {min(plain.margins):.1e}.\n")
    write(name, config, weights, found, source)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        for wanted in sys.argv[1:] or MODELS:
            build(wanted)
