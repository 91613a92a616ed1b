"""Makes the golden folders of softly merged adapters (MoV, MoLORA) over a Llama and a GPT-2 base.

Stated in plain PyTorch, float64 on float32 weights, after models.md 2.15 and for-ai/parameter-efficient-moe
(src/routing.py, src/mov.py, src/molora.py), whose own model is a T5 in Flax. expected.safetensors: input_ids [16],
hidden.embed, hidden.<layer>, logits.

    pip install torch safetensors; python tools/golden/soft_adapter.py [name ...]
"""

import torch
from torch.nn.functional import gelu, silu, softmax

import mod
import mot
from fixture import Draft, input_ids, make, random_weights, search, smallest, source, stated, write

LENGTH, DIM, VOCAB = 16, mod.DIM, mod.VOCAB
LLAMA = dict(mod.SMALL, model_type="llama")
GPT2 = dict(model_type="gpt2", vocab_size=VOCAB, n_embd=DIM, n_layer=2, n_head=mot.HEADS, n_positions=32, n_inner=40,
            layer_norm_epsilon=mot.EPSILON, activation_function="gelu_new", bos_token_id=1, eos_token_id=2)

MODELS = {
    "mov-llama": dict(LLAMA, soft_adapter=dict(type="mov", num_experts=5)),
    "mov-gpt2": dict(GPT2, soft_adapter=dict(type="mov", num_experts=6, top_k=2)),
    "molora-llama": dict(LLAMA, soft_adapter=dict(type="molora", num_experts=4, top_k=3, rank=3, alpha=6)),
    "molora-gpt2": dict(GPT2, soft_adapter=dict(type="molora", num_experts=3, targets=["q", "v", "o", "up", "down"])),
}
BIASED = ["mov-llama", "molora-gpt2"]  # routers with a bias


def routed(shapes: dict, module: str, adapter: dict, width: int, bias: bool) -> None:
    shapes[f"{module}.router.kernel"] = [width, adapter["num_experts"]]
    if bias:
        shapes[f"{module}.router.bias"] = [adapter["num_experts"]]


def adapter_shapes(name: str, config: dict) -> dict:
    adapter, bias, shapes = config["soft_adapter"], name in BIASED, {}
    experts, rank = adapter["num_experts"], adapter.get("rank", 4)
    llama = config["model_type"] == "llama"
    heads, size = (mod.KV_HEADS, mod.HEAD_DIM) if llama else (mot.HEADS, DIM // mot.HEADS)
    hidden = config["intermediate_size"] if llama else config["n_inner"]
    for i in range(2):
        layer = f"model.layers.{i}" if llama else f"transformer.h.{i}"
        attention, mlp = (f"{layer}.self_attn", f"{layer}.mlp") if llama else (f"{layer}.attn", f"{layer}.mlp")
        places = ({"q": (f"{attention}.q_proj", DIM, mod.HEADS * size), "k": (f"{attention}.k_proj", DIM, heads * size),
                   "v": (f"{attention}.v_proj", DIM, heads * size), "o": (f"{attention}.o_proj", mod.HEADS * size, DIM),
                   "gate": (f"{mlp}.gate_proj", DIM, hidden), "up": (f"{mlp}.up_proj", DIM, hidden),
                   "down": (f"{mlp}.down_proj", hidden, DIM)} if llama else
                  {"q": (f"{attention}.c_attn.q", DIM, DIM), "k": (f"{attention}.c_attn.k", DIM, DIM),
                   "v": (f"{attention}.c_attn.v", DIM, DIM), "o": (f"{attention}.c_proj", DIM, DIM),
                   "up": (f"{mlp}.c_fc", DIM, hidden), "down": (f"{mlp}.c_proj", hidden, DIM)})
        if adapter["type"] == "molora":
            for target, (module, width, out) in places.items():
                if target in adapter.get("targets", places):
                    shapes |= {f"{module}.lora_A": [experts, width, rank], f"{module}.lora_B": [experts, rank, out]}
                    routed(shapes, module, adapter, width, bias)
            continue
        for target in ("k", "v"):
            module = places[target][0]
            shapes[f"{module}.mov_scaling"] = [heads, experts, size]
            routed(shapes, module, adapter, size, bias)
        shapes[f"{mlp}.mov_scaling"] = [experts, hidden]
        routed(shapes, mlp, adapter, hidden, bias)
    return shapes


def gpt2_shapes(config: dict) -> dict:
    shapes = mot.port_shapes(dict(config, n_expert=1, group_size=1))
    shapes = {k: v for k, v in shapes.items() if not k.endswith(("controller", "lin1", "lin2"))}
    for i in range(config["n_layer"]):
        mlp, hidden = f"transformer.h.{i}.mlp", config["n_inner"]
        shapes |= {f"{mlp}.c_fc.weight": [DIM, hidden], f"{mlp}.c_fc.bias": [hidden],
                   f"{mlp}.c_proj.weight": [hidden, DIM], f"{mlp}.c_proj.bias": [DIM]}
    return shapes


class Adapted:
    """What an adapter does, for the bases below. `margins`: how far each top-k choice is from a tie."""

    def probabilities(self, x, module):
        w, top_k = self.weights, self.config["soft_adapter"].get("top_k")
        p = softmax(x @ w[f"{module}.router.kernel"] + w.get(f"{module}.router.bias", 0.0), -1)
        if top_k is None:
            return p
        ordered = p.sort(-1, descending=True).values
        self.margins.append((ordered[..., top_k - 1] - ordered[..., top_k]).min().item())
        return p * (p >= ordered[..., top_k - 1 : top_k])

    def scaled(self, y, module):
        """MoV: of rows, or of heads [..., heads, size]."""
        vectors = self.weights.get(f"{module}.mov_scaling")
        if vectors is None:
            return y
        return y * torch.einsum("...e,...ed->...d", self.probabilities(y, module), vectors)

    def delta(self, x, module):
        """MoLORA."""
        a, b = self.weights.get(f"{module}.lora_A"), self.weights.get(f"{module}.lora_B")
        if a is None:
            return 0.0
        parts = torch.einsum("...d,edr,erf->...ef", x, a, b)
        adapter = self.config["soft_adapter"]
        scale = adapter.get("alpha", 16) / adapter.get("rank", 4)
        return scale * torch.einsum("...e,...ef->...f", self.probabilities(x, module), parts)


class Llama(Adapted, mod.Plain):
    def lin(self, x, name):
        y = super().lin(x, name) + self.delta(x, name)
        if f"{name}.mov_scaling" not in self.weights:
            return y
        return self.scaled(y.unflatten(-1, (mod.KV_HEADS, mod.HEAD_DIM)), name).flatten(-2)

    def gated(self, x, name):
        hidden = silu(self.lin(x, f"{name}.gate_proj")) * self.lin(x, f"{name}.up_proj")
        return self.lin(self.scaled(hidden, name), f"{name}.down_proj")


class Gpt2(Adapted, mot.Plain):
    def conv(self, x, name):
        return x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def port_attention(self, x, name):
        fused = f"{name}.c_attn"
        parts = [t + self.delta(x, f"{fused}.{part}") for t, part in zip(self.conv(x, fused).split(DIM, -1), "qkv")]
        q, k, v = (t.unflatten(-1, (mot.HEADS, -1)) for t in parts)
        attended = self.attend(q, self.scaled(k, f"{fused}.k"), self.scaled(v, f"{fused}.v"))
        return self.conv(attended, f"{name}.c_proj") + self.delta(attended, f"{name}.c_proj")

    def mixture(self, x, name):  # in its place: the dense feed-forward
        hidden = gelu(self.conv(x, f"{name}.c_fc") + self.delta(x, f"{name}.c_fc"), approximate="tanh")
        hidden = self.scaled(hidden, name)
        return self.conv(hidden, f"{name}.c_proj") + self.delta(hidden, f"{name}.c_proj")


def draft(name: str, seed: int) -> Draft:
    config = MODELS[name]
    llama = config["model_type"] == "llama"
    base = mod.model_shapes(config) if llama else gpt2_shapes(config)
    weights = random_weights(base | adapter_shapes(name, config), seed, {"lora_B": 0.5})
    mot.scale_experts(weights, 1.5, "kernel", "lora_A")
    for key, tensor in weights.items():
        if key.endswith("mov_scaling"):
            tensor.mul_(tensor.shape[-1] ** 0.5 * 0.3).add_(1.0)
    ids = input_ids(VOCAB, LENGTH, seed + 1000)
    plain = (Llama if llama else Gpt2)(config, weights)
    found = plain.run(ids) if llama else {"input_ids": ids.int(), **plain.run(ids[None], "")}
    return Draft(weights, found, plain.margins)


def build(name: str) -> None:
    seed, kept = search(name, range(1400, 1700), draft, 2e-4)
    more = [smallest(kept, "distance of a top-k choice from a tie")] if kept.margins else []
    write(name, MODELS[name], kept.weights, kept.expected,
          source(name, seed, stated("soft_adapter.py", "after models.md 2.15"), *more))


if __name__ == "__main__":
    make(MODELS, build)
