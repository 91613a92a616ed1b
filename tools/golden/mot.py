"""Makes the golden folders of Mixture of Tokens: the switches that no run of the published code covers.

The model is stated here in plain PyTorch after models.md 5.1, float64 on float32 weights: real groups of g rows,
with zero rows appended where a group lacks some, as the Hugging Face port does. expected.safetensors: input_ids
[g, 16]; of the first sequence alone hidden.embed, hidden.<layer>, logits; of all of them as one group the same
under cohort., of the first two under partial2. (g > 2).

    pip install torch safetensors; python tools/golden/mot.py [name ...]
"""

import torch
from torch.nn.functional import gelu, layer_norm, linear, pad, relu, silu, softmax

from fixture import Draft, input_ids, make, random_weights, search, smallest, source, stated, write

LENGTH, VOCAB, DIM, HEADS, LAYERS, EPSILON = 16, 64, 32, 4, 2, 1e-5

PORT = dict(model_type="mot", vocab_size=VOCAB, n_embd=DIM, n_layer=LAYERS, n_head=HEADS, n_positions=32,
            layer_norm_epsilon=EPSILON, bos_token_id=1, eos_token_id=2)
TOWER = dict(PORT, tie_word_embeddings=False)

# The published config of the port has n_inner as the width of all experts; its first version over group_size.
MODELS = {
    "mot": dict(PORT, n_inner=50, n_expert=4, group_size=3, temperature=0.8),  # padded up: 13 per expert
    "mot-emit": dict(PORT, n_inner=24, expert_size=12, group_size=2, temperature=1.5, activation_function="silu",
                     emit_softmax_over_experts=True),
    "mot-discrete": dict(PORT, n_inner=40, n_expert=2, group_size=2, n_layer=1, use_discrete_routing=True),
    "mot-single": dict(PORT, n_inner=20, n_expert=2, group_size=1, activation_function="gelu"),
    "mot-tower": dict(TOWER, n_inner=40, n_expert=5, group_size=3, temperature=0.7),
}
DENSE = {"mot-tower": [0]}  # layers with a plain feed-forward
ACTIVATIONS = {"gelu_new": lambda x: gelu(x, approximate="tanh"), "gelu": gelu, "silu": silu, "relu": relu}


def expert_sizes(config: dict) -> tuple[int, int]:
    """Number and size of the experts."""
    if "n_expert" in config:
        return config["n_expert"], -(-config["n_inner"] // config["n_expert"])
    return config["n_inner"] * config["group_size"] // config["expert_size"], config["expert_size"]


def mixture_shapes(module: str, config: dict) -> dict:
    experts, size = expert_sizes(config)
    return {f"{module}.controller": [DIM, experts], f"{module}.lin1": [experts, DIM, size],
            f"{module}.lin2": [experts, size, DIM]}


def norm_shapes(*names: str) -> dict:
    return {f"{name}.{part}": [DIM] for name in names for part in ("weight", "bias")}


def port_shapes(config: dict) -> dict:
    shapes = {"transformer.wte.weight": [VOCAB, DIM], "transformer.wpe.weight": [config["n_positions"], DIM],
              **norm_shapes("transformer.ln_f")}
    for i in range(config["n_layer"]):
        h = f"transformer.h.{i}"
        shapes |= norm_shapes(f"{h}.ln_1", f"{h}.ln_2")
        shapes |= {f"{h}.attn.c_attn.weight": [DIM, 3 * DIM], f"{h}.attn.c_attn.bias": [3 * DIM],
                   f"{h}.attn.c_proj.weight": [DIM, DIM], f"{h}.attn.c_proj.bias": [DIM],
                   **mixture_shapes(f"{h}.mlp", config)}
    return shapes


def tower_shapes(config: dict, dense: list) -> dict:
    shapes = {"embedding_layer.layers.0.weight": [VOCAB, DIM], "head.weight": [VOCAB, DIM],
              "embedding_layer.layers.1.layer.weight": [config["n_positions"], DIM]}
    for i in range(config["n_layer"]):
        block = f"encoder.blocks.block_{i}.block"
        attention, ffn = f"{block}.residual_attention.layer", f"{block}.residual_feedforward.layer"
        shapes |= norm_shapes(f"{attention}.pre_norm", f"{ffn}.pre_norm")
        shapes |= {f"{attention}.attention.input_projection.weight": [3 * DIM, DIM],
                   f"{attention}.attention.output_projection.weight": [DIM, DIM]}
        if i in dense:
            shapes |= {f"{ffn}.feedforward.logging_ff_pre_relu.weight": [config["n_inner"], DIM],
                       f"{ffn}.feedforward.logging_ff_post_relu.weight": [DIM, config["n_inner"]]}
        else:
            shapes |= mixture_shapes(f"{ffn}.feedforward", config)
    return shapes


class Plain:
    """x is [slots, T, DIM] with at most group_size slots. `margins`: how far a discrete choice is from a tie."""

    def __init__(self, config: dict, weights: dict):
        self.config, self.weights = config, {k: v.double() for k, v in weights.items()}
        self.tower = "head.weight" in weights
        self.act = ACTIVATIONS[config.get("activation_function", "relu" if self.tower else "gelu_new")]
        self.margins: list[float] = []

    def norm(self, x, name):
        return layer_norm(x, (DIM,), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], EPSILON)

    def attend(self, q, k, v):
        """[slots, T, HEADS, size] each."""
        n = q.shape[1]
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        logits = logits.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
        return torch.einsum("bhqk,bkhd->bqhd", softmax(logits, -1), v).flatten(2)

    def port_attention(self, x, name):
        conv = lambda x, part: x @ self.weights[f"{name}.{part}.weight"] + self.weights[f"{name}.{part}.bias"]
        q, k, v = (t.unflatten(-1, (HEADS, -1)) for t in conv(x, "c_attn").split(DIM, -1))
        return conv(self.attend(q, k, v), "c_proj")

    def tower_attention(self, x, name):
        fused = linear(x, self.weights[f"{name}.input_projection.weight"]).unflatten(-1, (HEADS, -1))
        return linear(self.attend(*fused.chunk(3, -1)), self.weights[f"{name}.output_projection.weight"])

    def one_hot(self, weight, dim):
        best = weight.sort(dim, descending=True).values
        if weight.shape[dim] > 1:
            self.margins.append((best.select(dim, 0) - best.select(dim, 1)).min().item())
        return (weight == weight.amax(dim, keepdim=True)).double()

    def mixture(self, x, module):
        c, w = self.config, self.weights
        real = x.shape[0]
        x = pad(x, (0, 0, 0, 0, 0, c["group_size"] - real))
        logits = (x @ w[f"{module}.controller"]) / c.get("temperature", 1.0)
        merge = emit = softmax(logits, 0)
        if c.get("emit_softmax_over_experts"):
            emit = softmax(logits, -1)
        if c.get("use_discrete_routing"):
            emit = self.one_hot(emit, -1 if c.get("emit_softmax_over_experts") else 0)
            merge = self.one_hot(merge, 0)
        z = torch.einsum("cte,ctd->etd", merge, x)
        out = self.act(z @ w[f"{module}.lin1"]) @ w[f"{module}.lin2"]
        return torch.einsum("cte,etd->ctd", emit, out)[:real]

    def block(self, x, i):
        if not self.tower:
            h = f"transformer.h.{i}"
            x = x + self.port_attention(self.norm(x, f"{h}.ln_1"), f"{h}.attn")
            return x + self.mixture(self.norm(x, f"{h}.ln_2"), f"{h}.mlp")
        block = f"encoder.blocks.block_{i}.block"
        attention, ffn = f"{block}.residual_attention.layer", f"{block}.residual_feedforward.layer"
        x = x + self.tower_attention(self.norm(x, f"{attention}.pre_norm"), f"{attention}.attention")
        z, module = self.norm(x, f"{ffn}.pre_norm"), f"{ffn}.feedforward"
        up = self.weights.get(f"{module}.logging_ff_pre_relu.weight")
        if up is None:
            return x + self.mixture(z, module)
        return x + linear(self.act(linear(z, up)), self.weights[f"{module}.logging_ff_post_relu.weight"])

    def run(self, ids, prefix):
        tokens, places = (("embedding_layer.layers.0", "embedding_layer.layers.1.layer") if self.tower
                          else ("transformer.wte", "transformer.wpe"))
        x = self.weights[f"{tokens}.weight"][ids] + self.weights[f"{places}.weight"][: ids.shape[-1]]
        found = {"hidden.embed": x}
        for i in range(self.config["n_layer"]):
            x = found[f"hidden.{i}"] = self.block(x, i)
        found["logits"] = (linear(x, self.weights["head.weight"]) if self.tower
                           else linear(self.norm(x, "transformer.ln_f"), self.weights["transformer.wte.weight"]))
        alone = prefix == ""
        return {prefix + k: (v[0] if alone else v).float() for k, v in found.items()}


def scale_experts(weights: dict, factor: float, *endings: str) -> None:
    """For tensors [.., inputs, outputs]: randomize takes the last dimension for the inputs."""
    for name, tensor in weights.items():
        if name.endswith(endings):
            tensor.mul_(factor * tensor.shape[-1] ** 0.5 * tensor.shape[-2] ** -0.5)


def draft(name: str, seed: int) -> Draft:
    config, group = MODELS[name], MODELS[name]["group_size"]
    weights = random_weights(tower_shapes(config, DENSE[name]) if name in DENSE else port_shapes(config), seed)
    scale_experts(weights, 1.0, "controller", "lin1", "lin2")
    ids = input_ids(VOCAB, group * LENGTH, seed + 1000).view(group, LENGTH)
    plain = Plain(config, weights)
    found = {"input_ids": ids.int(), **plain.run(ids[:1], "")}
    if group > 1:
        found |= plain.run(ids, "cohort.")
    if group > 2:
        found |= plain.run(ids[:2], "partial2.")
    return Draft(weights, found, plain.margins)


def build(name: str) -> None:
    seed, kept = search(name, range(900, 1300), draft, 2e-2)
    more = [smallest(kept, "distance of a discrete choice from a tie")] if kept.margins else []
    write(name, MODELS[name], kept.weights, kept.expected,
          source(name, seed, stated("mot.py", "after models.md 5.1"), *more))


if __name__ == "__main__":
    make(MODELS, build)
