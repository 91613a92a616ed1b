"""Makes the golden folders of causal decoders around the mixture-of-experts routers that have no causal checkpoint:
Shazeer's sparsely-gated layer, GShard, GLaM, Switch and Expert Choice (models.md 2.1 to 2.5).

The models are stated here in plain PyTorch, whole sequence at once, float64 on float32 weights. The routers follow
tensorflow/tensor2tensor utils/expert_utils.py (NoisyTopKGating without its noise), huggingface/transformers
models/nllb_moe/modeling_nllb_moe.py (NllbMoeTop2Router, policy "all") and
models/switch_transformers/modeling_switch_transformers.py (SwitchTransformersTop1Router, a dropped token gets 0), and
google/flaxformer architectures/moe/routing.py (ExpertsChooseMaskedRouter). Attention and norms are those of mod.py.
expected.safetensors: input_ids [24], hidden.embed, hidden.<layer> [24, dim], logits [24, vocab], and per sparse layer
route.<layer>.ffn.idx [24, choices]: the experts of each token, the likeliest first; num_experts stands where a choice
was not kept. capacity.*: the same with full experts refusing tokens; short.*: of the first 11 tokens alone.

Every weight of GShard, GLaM and Switch is held against transformers' own router modules, with and without drops.

    pip install torch safetensors transformers; python tools/golden/sparse_experts.py [name ...]
"""

import math
from importlib.metadata import version

import torch
from torch.nn.functional import gelu, relu, softmax

from fixture import Draft, input_ids, make, random_weights, search, smallest, source, stated, write
from mod import BASE, DIM, EPSILON, HEADS, LENGTH, THETA, VOCAB, Plain, attention_shapes, gated_shapes

assert EPSILON == BASE["rms_norm_eps"] and THETA == BASE["rope_theta"]
SHORT = 11
PLAIN = {k: v for k, v in BASE.items() if k not in ("hidden_act",)}
TWO = dict(PLAIN, num_hidden_layers=2, moe_intermediate_size=24)
FOUR = dict(PLAIN, num_hidden_layers=4, moe_intermediate_size=16)
UNROTATED = {k: v for k, v in FOUR.items() if k != "rope_theta"}

MODELS = {
    "sparsely_gated": dict(TWO, model_type="sparsely_gated", num_experts=5, num_experts_per_tok=2),
    "sparsely_gated-stepped": dict(FOUR, model_type="sparsely_gated", num_experts=6, num_experts_per_tok=3,
                                   decoder_sparse_step=3, router_bias=True, hidden_act="silu"),
    "gshard": dict(TWO, model_type="gshard", num_experts=6, moe_eval_capacity_token_fraction=0.3),
    "gshard-before": dict(TWO, model_type="gshard", num_experts=4, decoder_sparse_step=1, router_bias=True,
                          moe_eval_capacity_token_fraction=0.36, normalize_router_prob_before_dropping=True),
    "glam": dict(FOUR, model_type="glam", num_experts=4, intermediate_size=16, moe_intermediate_size=12, moe_eval_capacity_token_fraction=0.4),
    "glam-bias": dict(UNROTATED, model_type="glam", num_experts=4, intermediate_size=16, moe_intermediate_size=12,
                      relative_attention_num_buckets=8, relative_attention_max_distance=14),
    "switch": dict(TWO, model_type="switch", num_experts=6, expert_capacity=4),
    "switch-stepped": dict(FOUR, model_type="switch", num_experts=4, intermediate_size=16, expert_capacity=5, decoder_sparse_step=3,
                           router_bias=True, hidden_act="gelu"),
    "expert_choice": dict(TWO, model_type="expert_choice", num_experts=4, capacity_factor=1.0, min_expert_capacity=0,
                          decoder_sparse_step=1),
    "expert_choice-least": dict(TWO, model_type="expert_choice", num_experts=5, capacity_factor=0.5),
    "expert_choice-threshold": dict(TWO, model_type="expert_choice", num_experts=4, capacity_factor=1.5,
                                    prefill_decide="router_threshold", decoder_sparse_step=1, router_bias=True,
                                    expert_thresholds=[[0.3, 0.45, 0.2, 0.4], [0.4, 0.15, 0.45, 0.3]]),
}


def is_sparse(config: dict, layer: int) -> bool:
    step = config.get("decoder_sparse_step", 1 if config["model_type"] == "sparsely_gated" else 2)
    if config["model_type"] == "switch":  # SwitchTransformersStack
        return step == 1 or layer % step == 1
    return (layer + 1) % step == 0


def shapes_of(config: dict) -> dict[str, list[int]]:
    shapes = {"model.embed_tokens.weight": [VOCAB, DIM], "model.norm.weight": [DIM]}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= attention_shapes(layer)
        if "relative_attention_num_buckets" in config:
            bias = f"{layer}.self_attn.relative_attention_bias.weight"
            shapes[bias] = [config["relative_attention_num_buckets"], HEADS]
        hidden = config["intermediate_size"]
        if is_sparse(config, i):
            shapes[f"{layer}.mlp.router.classifier.weight"] = [config["num_experts"], DIM]
            if config.get("router_bias"):
                shapes[f"{layer}.mlp.router.classifier.bias"] = [config["num_experts"]]
            for e in range(config["num_experts"]):
                expert = f"{layer}.mlp.experts.expert_{e}"
                shapes |= {f"{expert}.wi.weight": [config["moe_intermediate_size"], DIM],
                           f"{expert}.wo.weight": [DIM, config["moe_intermediate_size"]]}
        elif config["model_type"] == "glam":
            shapes |= gated_shapes(f"{layer}.mlp", hidden)
        else:
            shapes |= {f"{layer}.mlp.wi.weight": [hidden, DIM], f"{layer}.mlp.wo.weight": [DIM, hidden]}
    return shapes


class Sparse(Plain):
    """`drops`: experts refuse tokens beyond their capacity. `dropped` counts the choices they refused."""

    def __init__(self, config: dict, weights: dict, drops: bool):
        super().__init__(config, weights)
        self.drops, self.dropped, self.routes, self.compares = drops, 0, [], False
        default = "gelu" if config["model_type"] == "glam" else "relu"
        self.act = {"relu": relu, "gelu": gelu, "silu": torch.nn.functional.silu}[config.get("hidden_act", default)]

    def margin(self, ordered, k):
        if k < ordered.shape[-1]:
            self.margins.append((ordered[..., k - 1] - ordered[..., k]).min().item())

    def expert(self, x, name):
        return self.lin(self.act(self.lin(x, f"{name}.wi")), f"{name}.wo")

    def route(self, logits):
        """The weight [tokens, experts] of every expert, 0 where it does not run."""
        c, kind = self.config, self.config["model_type"]
        p = softmax(logits, -1)
        if kind == "sparsely_gated":
            k = c["num_experts_per_tok"]
            self.margin(logits.sort(-1, descending=True).values, k)
            top = logits.topk(k, -1)
            return torch.zeros_like(p).scatter(-1, top.indices, softmax(top.values, -1)), top.indices
        if kind == "switch":
            self.margin(p.sort(-1, descending=True).values, 1)
            index = p.argmax(-1)
            mask = torch.nn.functional.one_hot(index, c["num_experts"])
            if self.drops:
                kept = mask * (mask.cumsum(0) <= c["expert_capacity"])
                self.dropped += int((mask - kept).sum())
                mask = kept
            return mask * p.max(-1, keepdim=True).values, index[:, None]
        if kind == "expert_choice":
            return self.choose(p)
        return self.top_two(logits, p)

    def top_two(self, logits, p):
        c = self.config
        self.margin(p.sort(-1, descending=True).values, 1)
        self.margin(p.sort(-1, descending=True).values, 2)
        first = torch.nn.functional.one_hot(p.argmax(-1), c["num_experts"])
        second = torch.nn.functional.one_hot(logits.masked_fill(first.bool(), float("-inf")).argmax(-1),
                                             c["num_experts"])
        index = torch.stack([first.argmax(-1), second.argmax(-1)], -1)

        def normalized():
            one, two = (p * first).sum(-1), (p * second).sum(-1)
            total = (one + two).clamp(min=torch.finfo(torch.float32).eps)
            return one / total, two / total

        gates = normalized()
        if self.drops:
            capacity = math.ceil(c["moe_eval_capacity_token_fraction"] * len(p))
            places = second.cumsum(0) - 1 + first.sum(0, keepdim=True)
            before = first.sum() + second.sum()
            first = first * (first.cumsum(0) - 1 < capacity)
            second = second * (places < capacity)
            self.dropped += int(before - first.sum() - second.sum())
            if not c.get("normalize_router_prob_before_dropping", False):
                gates = normalized()
        return gates[0][:, None] * first + gates[1][:, None] * second, index

    def choose(self, p):
        c = self.config
        order = p.sort(dim=-1, descending=True, stable=True).indices
        if c.get("prefill_decide") == "router_threshold":
            thresholds = torch.tensor(c["expert_thresholds"][len(self.routes)]).double()
            self.margins.append((p - thresholds).abs().min().item())
            self.margins.append(p.sort(-1).values.diff(dim=-1).min().item())  # the stored order
            return p * (p > thresholds), order
        count = max(round(c["capacity_factor"] * len(p) / c["num_experts"]), c.get("min_expert_capacity", 4))
        count = min(count, len(p))
        self.margin(p.t().sort(-1, descending=True).values, count)
        self.margins.append((p.sort(-1).values.diff(dim=-1)).min().item())  # the stored order
        chosen = torch.zeros_like(p).scatter(0, p.topk(count, 0).indices, 1.0)
        return p * chosen, order

    def rope(self, x, positions):
        return x if "relative_attention_num_buckets" in self.config else super().rope(x, positions)

    def masked(self, logits, name, positions, places):
        """With a bias per head and bucket of the distance in place of rotary positions, where the config has one."""
        buckets = self.config.get("relative_attention_num_buckets")
        if buckets is not None:
            from transformers.models.t5.modeling_t5 import T5Attention
            bucket = T5Attention._relative_position_bucket(places[None, :] - positions[:, None], False, buckets,
                                                           self.config["relative_attention_max_distance"])
            logits = logits + self.weights[f"{name}.relative_attention_bias.weight"][bucket].permute(2, 0, 1)
        return super().masked(logits, name, positions, places)

    def ffn_part(self, h, i, gate=1.0):
        layer = f"model.layers.{i}"
        z = self.norm(h, f"{layer}.post_attention_layernorm")
        name = f"{layer}.mlp"
        if not is_sparse(self.config, i):
            if self.config["model_type"] == "glam":
                return h + self.lin(self.act(self.lin(z, f"{name}.gate_proj")) * self.lin(z, f"{name}.up_proj"),
                                    f"{name}.down_proj")
            return h + self.expert(z, name)
        classifier = f"{name}.router.classifier"
        weights, index = self.route(self.lin(z, classifier))
        if self.compares:
            published = published_weights(self.config, z, self.weights[f"{classifier}.weight"],
                                          self.weights.get(f"{classifier}.bias"), self.drops)
            assert published is None or torch.allclose(weights.float(), published, rtol=0, atol=2e-6)
        kept = weights.gather(-1, index) > 0
        self.routes.append((i, torch.where(kept, index, self.config["num_experts"]).int()))
        return h + sum(weights[:, e:e + 1] * self.expert(z, f"{name}.experts.expert_{e}")
                       for e in range(self.config["num_experts"]))

    def run(self, ids):
        found = super().run(ids)
        return found | {f"route.{i}.ffn.idx": index for i, index in self.routes}


def published_weights(config: dict, z, weight, bias, drops: bool):
    """The weight [tokens, experts] as the routers of transformers compute it; None where it has none."""
    common = dict(num_experts=config["num_experts"], router_bias=bias is not None, router_dtype="float32")
    if config["model_type"] == "switch":
        from transformers.models.switch_transformers import modeling_switch_transformers as code
        from transformers import SwitchTransformersConfig
        router = code.SwitchTransformersTop1Router(SwitchTransformersConfig(
            d_model=DIM, expert_capacity=config["expert_capacity"] if drops else len(z), **common))
    elif config["model_type"] in ("gshard", "glam"):
        from transformers.models.nllb_moe import modeling_nllb_moe as code
        from transformers import NllbMoeConfig
        router = code.NllbMoeTop2Router(NllbMoeConfig(
            d_model=DIM, second_expert_policy="all",
            moe_eval_capacity_token_fraction=config["moe_eval_capacity_token_fraction"] if drops else 1.0,
            normalize_router_prob_before_dropping=config.get("normalize_router_prob_before_dropping", False),
            **common))
    else:
        return None
    router, z = router.eval(), z.float()
    router.classifier.weight.copy_(weight)
    if bias is not None:
        router.classifier.bias.copy_(bias)
    if config["model_type"] == "switch":
        index, probability, _ = router(z[None])
        return (index * probability)[0]
    return router(z)[1]


def variants(config: dict) -> dict[str, tuple[int, bool]]:
    """Prefix -> (tokens, with drops)."""
    found = {"": (LENGTH, False)}
    if "expert_capacity" in config or "moe_eval_capacity_token_fraction" in config:
        found["capacity."] = (LENGTH, True)
    if config["model_type"] == "expert_choice":
        found["short."] = (SHORT, False)
    return found


def is_useful(config: dict, run: Sparse) -> bool:
    """Experts refuse some tokens and keep most; thresholds give some tokens none and some several."""
    if run.drops:
        return 3 <= run.dropped <= 0.4 * sum(index.numel() for _, index in run.routes)
    if config["model_type"] != "expert_choice":
        return True
    numbers = [(index < config["num_experts"]).sum(-1) for _, index in run.routes]
    return all(n.max() >= 2 and (n.min() == 0 or len(n) == SHORT) for n in numbers)


def draft(name: str, seed: int) -> Draft:
    config = MODELS[name]
    weights = random_weights(shapes_of(config), seed, {"classifier.weight": 1.5, "relative_attention_bias": 3.0})
    ids = input_ids(VOCAB, LENGTH, seed + 1000)
    made = Draft(weights, {"input_ids": ids.int()})
    for prefix, (length, drops) in variants(config).items():
        run = Sparse(config, weights, drops)
        values = run.run(ids[:length])
        made.margins += run.margins
        made.useful &= is_useful(config, run)
        made.expected |= {prefix + key: value for key, value in values.items() if key != "input_ids"}
    return made


def compare(config: dict, kept: Draft) -> int:
    """Holds the routers against the published ones; how many choices full experts refuse."""
    dropped = 0
    for length, drops in variants(config).values():
        run = Sparse(config, kept.weights, drops)
        run.compares = True
        run.run(kept.expected["input_ids"][:length])
        dropped += run.dropped
    return dropped


def build(name: str) -> None:
    config = MODELS[name]
    # Experts' choices meet more near ties; those of rows must survive products rounded to 8 bits.
    seed, kept = search(name, range(2000, 6000), draft, 1e-3 if config["model_type"] == "expert_choice" else 8e-3)
    dropped = compare(config, kept)
    more = [f"With the capacity {dropped} choices are refused.\nThe weights of its routers equal those of transformers "
            f"{version('transformers')}'s own router module."] if dropped else []
    how = stated("sparse_experts.py", "after the sources named there: no causal checkpoint is published")
    write(name, config, kept.weights, kept.expected, source(name, seed, how, smallest(kept), *more))


if __name__ == "__main__":
    make(MODELS, build)
