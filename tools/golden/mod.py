"""Makes the golden folders that no published implementation covers: Mixture-of-Depths in the form of
models.md 1.2, MoDE staged and integrated, DeepSeekMoE v1.

The model is stated here in plain PyTorch, whole sequence at once, float64 on float32 weights.
expected.safetensors: input_ids [24], hidden.embed and hidden.<layer> [24, dim], logits [24, vocab], and per
routed layer mask.<layer> [24] (1: taken) and score.<layer> [24] (router logit). Where only the attention or the
FFN of a layer is routed, each of the two counts as a layer.

    pip install torch safetensors; python tools/golden/mod.py [name ...]
"""

import torch
from torch.nn.functional import linear, silu, softmax

from fixture import Draft, input_ids, make, random_weights, search, smallest, source, stated, write

LENGTH, VOCAB, DIM, HEADS, KV_HEADS, HEAD_DIM = 24, 64, 32, 4, 2, 8
EPSILON, THETA = 1e-5, 10000.0

BASE = dict(vocab_size=VOCAB, hidden_size=DIM, intermediate_size=32, num_hidden_layers=4, num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, hidden_act="silu", max_position_embeddings=64,
            rms_norm_eps=EPSILON, rope_theta=THETA, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
SMALL = dict(BASE, num_hidden_layers=2)


def mod(layers, **rules) -> dict:
    return dict(dict(layers=layers, gate_fn="sigmoid", combine="scaled_update", decide="router_threshold",
                     threshold=0.5, pos="absolute", kv="routed_only", capacity=0.5), **rules)


def counted(layers, tokens, **rules) -> dict:
    """A capacity in tokens instead of a share."""
    rules = mod(layers, capacity_tokens=tokens, **rules)
    del rules["capacity"]
    return rules


LINEAR_PREDICTOR = ["mod-gated-double"]  # one layer; the others have two with SiLU between

MODELS = {
    "mod-threshold": dict(BASE, model_type="mod", mod=mod([1, 3])),
    "mod-predictor": dict(BASE, model_type="mod", mod=mod([0, 2], gate_fn="identity", combine="plus_block",
                                                          decide="predictor_threshold", threshold=0.4)),
    "mod-only-block": dict(BASE, model_type="mod", mod=mod([1, 2], combine="only_block", threshold=0.6)),
    "mod-binary": dict(BASE, model_type="mod", mod=mod([1, 3], gate_fn="binary", combine="plus_block")),
    "mod-topk": dict(BASE, model_type="mod", mod=mod([1, 3], prefill_decide="router_topk", capacity=0.3)),
    "mod-attention-only": dict(BASE, model_type="mod", mod=mod([1, 2], target="attention")),
    "mod-ffn-only": dict(BASE, model_type="mod", mod=mod([0, 3], target="ffn", gate_fn="identity",
                                                         combine="plus_block", threshold=0.45)),
    "mod-gated-double": dict(BASE, model_type="mod", mod=counted([1, 3], 6, combine="ffn_gated_double",
                                                                 decide="predictor_threshold")),
    "mod-compact": dict(BASE, model_type="mod", sliding_window=6, mod=mod([1, 3], pos="compact")),
    "mod-zero-rows": dict(BASE, model_type="mod", sliding_window=9, mod=mod([1, 2], kv="zero_rows",
                                                                            force_first=True)),
    "mod-all-tokens": dict(BASE, model_type="mod", sliding_window=9, mod=mod([1, 3], kv="all_tokens")),
    "mod-topk-strict": dict(BASE, model_type="mod", mod=counted([1, 3], 8, gate_fn="identity", combine="only_block",
                                                                prefill_decide="router_topk", strict=True)),
    "mod-topk-softmax": dict(BASE, model_type="mod", mod=mod([1, 3], gate_fn="softmax_over_selected", threshold=1.0,
                                                             combine="plus_block", prefill_decide="router_topk",
                                                             capacity=0.3, min_tokens=0, pos="compact")),
    "mode-staged": dict(SMALL, model_type="mod", mod=mod([1]), num_local_experts=4, num_experts_per_tok=2,
                        intermediate_size=24),
    "mode-integrated": dict(SMALL, model_type="mod", mod=mod([]), num_experts=4, num_experts_per_tok=2,
                            moe_intermediate_size=24, norm_topk_prob=False, num_null_experts=2),
    "mode-renormalized": dict(SMALL, model_type="mod", mod=mod([0]), num_experts=3, num_experts_per_tok=2,
                              moe_intermediate_size=16, norm_topk_prob=True),
    "deepseek-dense": dict(SMALL, model_type="deepseek"),
    "llama-partial": dict(SMALL, model_type="llama", partial_rotary_factor=0.5),
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


def attention_shapes(layer: str) -> dict[str, list[int]]:
    """Of the attention of a layer and of its two norms."""
    return {f"{layer}.input_layernorm.weight": [DIM], f"{layer}.post_attention_layernorm.weight": [DIM],
            f"{layer}.self_attn.q_proj.weight": [HEADS * HEAD_DIM, DIM],
            f"{layer}.self_attn.k_proj.weight": [KV_HEADS * HEAD_DIM, DIM],
            f"{layer}.self_attn.v_proj.weight": [KV_HEADS * HEAD_DIM, DIM],
            f"{layer}.self_attn.o_proj.weight": [DIM, HEADS * HEAD_DIM]}


def gated_shapes(name: str, hidden: int) -> dict[str, list[int]]:
    return {f"{name}.gate_proj.weight": [hidden, DIM], f"{name}.up_proj.weight": [hidden, DIM],
            f"{name}.down_proj.weight": [DIM, hidden]}


def model_shapes(config: dict, linear_predictor: bool = False) -> dict[str, list[int]]:
    """Names as published: Mixtral's for num_local_experts, Qwen's and DeepSeek's otherwise."""
    shapes = {"model.embed_tokens.weight": [VOCAB, DIM], "model.norm.weight": [DIM]}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= attention_shapes(layer)
        if not is_sparse(config, i):
            shapes |= gated_shapes(f"{layer}.mlp", config["intermediate_size"])
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
                shapes |= gated_shapes(f"{layer}.mlp.experts.{e}", config["moe_intermediate_size"])
            if "n_shared_experts" in config:
                shapes |= gated_shapes(f"{layer}.mlp.shared_experts",
                                       config["n_shared_experts"] * config["moe_intermediate_size"])
        if i in config.get("mod", {}).get("layers", []):
            shapes |= {f"{layer}.mod_router.weight": [1, DIM], f"{layer}.mod_router.bias": [1]}
            if config["mod"]["decide"] == "predictor_threshold" and linear_predictor:
                shapes |= {f"{layer}.mod_predictor.0.weight": [1, DIM], f"{layer}.mod_predictor.0.bias": [1]}
            elif config["mod"]["decide"] == "predictor_threshold":
                shapes |= {f"{layer}.mod_predictor.0.weight": [12, DIM], f"{layer}.mod_predictor.0.bias": [12],
                           f"{layer}.mod_predictor.2.weight": [1, 12], f"{layer}.mod_predictor.2.bias": [1]}
    return shapes


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
        """partial_rotary_factor: the first dimensions turn, as in transformers' GLM and StableLM."""
        width = int(HEAD_DIM * self.config.get("partial_rotary_factor", 1.0))
        return torch.cat([self.turned(x[..., :width], positions), x[..., width:]], -1)

    def turned(self, x, positions):
        width = x.shape[-1]
        frequency = THETA ** (-torch.arange(0, width, 2).double() / width)
        angle = (positions.double()[:, None] * frequency).repeat(1, 2)[:, None]
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def attention(self, x, positions, name, zero_rows=None):
        """`zero_rows`: how many positions there are; those that are not among `positions` have keys and values of
        zeros."""
        n = len(x)
        q = self.rope(self.lin(x, f"{name}.q_proj").view(n, HEADS, HEAD_DIM), positions)
        k = self.rope(self.lin(x, f"{name}.k_proj").view(n, KV_HEADS, HEAD_DIM), positions)
        v = self.lin(x, f"{name}.v_proj").view(n, KV_HEADS, HEAD_DIM)
        places = positions
        if zero_rows is not None:
            places = torch.arange(zero_rows)
            k, v = (t.new_zeros(zero_rows, *t.shape[1:]).index_copy(0, positions, t) for t in (k, v))
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
        logits = torch.einsum("qhd,khd->hqk", q, k) * HEAD_DIM ** -0.5
        logits = self.masked(logits, name, positions, places)
        return self.lin(torch.einsum("hqk,khd->qhd", softmax(logits, -1), v).reshape(n, -1), f"{name}.o_proj")

    def masked(self, logits, name, positions, places):
        """[heads, queries at positions, keys at places] of the attention `name`: -inf where a query does not see."""
        distance = positions[:, None] - places[None, :]
        visible = (distance >= 0) & (distance < self.config.get("sliding_window", 1 << 30))
        return logits.masked_fill(~visible, float("-inf"))

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

    def attention_part(self, x, positions, i, zero_rows=None):
        layer = f"model.layers.{i}"
        z = self.norm(x, f"{layer}.input_layernorm")
        return x + self.attention(z, positions, f"{layer}.self_attn", zero_rows)

    def ffn_part(self, h, i, gate=1.0):
        layer = f"model.layers.{i}"
        z = self.norm(h, f"{layer}.post_attention_layernorm")
        return h + gate * (self.experts(z, layer) if is_sparse(self.config, i) else self.gated(z, f"{layer}.mlp"))

    def block(self, x, positions, i, zero_rows=None, gate=1.0):
        return self.ffn_part(self.attention_part(x, positions, i, zero_rows), i, gate)

    def decide(self, x, score, layer):
        rules = self.config["mod"]
        rule = rules.get("prefill_decide", rules["decide"])
        if rule == "router_topk":
            k = min(len(x), rules.get("capacity_tokens") or max(rules.get("min_tokens", 1),
                                                                int(rules.get("capacity", 0.0) * len(x))))
            k -= 1 if rules.get("strict") and k > 1 else 0  # those above the k-th value
            ordered = score.sort(descending=True).values
            self.margins.append((ordered[k - 1] - ordered[k]).item())
            return score >= ordered[k - 1]
        if rule == "predictor_threshold":
            name = f"{layer}.mod_predictor"
            hidden = self.lin(x, f"{name}.0")
            score = (self.lin(silu(hidden), f"{name}.2") if f"{name}.2.weight" in self.weights else hidden)[:, 0]
        distance = score - torch.logit(torch.tensor(rules["threshold"]).double())
        self.margins.append(distance.abs().min().item())
        mask = distance > 0
        mask[0] |= rules.get("force_first", False)
        return mask

    def routed(self, x, positions, i, instance, found):
        layer, rules = f"model.layers.{i}", self.config["mod"]
        score = self.lin(x, f"{layer}.mod_router")[:, 0]
        mask = self.decide(x, score, layer)
        found[f"mask.{instance}"], found[f"score.{instance}"] = mask.int(), score
        kept, s = x[mask], score[mask][:, None]
        g = {"identity": s, "sigmoid": s.sigmoid(), "binary": torch.ones_like(s),
             "softmax_over_selected": softmax(s, 0)}[rules["gate_fn"]]
        where = torch.arange(len(kept)) if rules["pos"] == "compact" else positions[mask]
        zero_rows = len(x) if rules["kv"] == "zero_rows" else None
        combine, target = rules["combine"], rules.get("target", "block")
        if rules["kv"] == "all_tokens":  # computed for every row: each leaves its key
            part = self.attention_part if target == "attention" else self.block
            y = part(x, positions, i)[mask]
        elif combine == "ffn_gated_double":
            y, g, combine = self.block(kept, where, i, zero_rows, gate=g), 1.0, "plus_block"
        elif target == "attention":
            y = self.attention_part(kept, where, i, zero_rows)
        elif target == "ffn":
            y = self.ffn_part(kept, i)
        else:
            y = self.block(kept, where, i, zero_rows)
        out = x.clone()
        out[mask] = {"scaled_update": kept + g * (y - kept), "plus_block": kept + g * y, "only_block": g * y}[combine]
        return out

    def layers(self, positions, i):
        """The steps of layer i, each a function of (x, number of the step, found)."""
        rules = self.config.get("mod", {})
        routed = lambda x, instance, found: self.routed(x, positions, i, instance, found)
        if i not in rules.get("layers", []):
            return [lambda x, instance, found: self.block(x, positions, i)]
        if rules.get("target") == "attention":
            return [routed, lambda x, instance, found: self.ffn_part(x, i)]
        if rules.get("target") == "ffn":
            return [lambda x, instance, found: self.attention_part(x, positions, i), routed]
        return [routed]

    def run(self, ids):
        positions = torch.arange(len(ids))
        x = self.weights["model.embed_tokens.weight"][ids]
        found = {"input_ids": ids.int(), "hidden.embed": x}
        steps = [step for i in range(self.config["num_hidden_layers"]) for step in self.layers(positions, i)]
        for instance, step in enumerate(steps):
            x = step(x, instance, found)
            found[f"hidden.{instance}"] = x
        found["logits"] = linear(self.norm(x, "model.norm"), self.weights["model.embed_tokens.weight"])
        return {k: v if v.dtype == torch.int32 else v.float() for k, v in found.items()}


def is_useful(found: dict) -> bool:
    """Every routed layer takes some rows and leaves some."""
    shares = [v.float().mean().item() for k, v in found.items() if k.startswith("mask.")]
    return all(0.25 <= share <= 0.75 for share in shares)


def draft(name: str, seed: int) -> Draft:
    weights = random_weights(model_shapes(MODELS[name], name in LINEAR_PREDICTOR), seed, {"mod_router.weight": 2.0})
    plain = Plain(MODELS[name], weights)
    found = plain.run(input_ids(VOCAB, LENGTH, seed + 1000))
    return Draft(weights, found, plain.margins, is_useful(found))


def build(name: str) -> None:
    seed, kept = search(name, range(300, 700), draft, 5e-3)
    how = stated("mod.py", "after models.md 1.2 and 2.6: there is no official code")
    write(name, MODELS[name], kept.weights, kept.expected, source(name, seed, how, smallest(kept)))


if __name__ == "__main__":
    make(MODELS, build)
