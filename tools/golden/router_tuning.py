"""Makes the golden folders of Router-Tuning (He et al. 2024, arXiv 2410.13184): base models whose layers got depth
routers, after CASE-Lab-UMD/Router-Tuning-Mixture-of-Depths utils/model/model_patch.py in eval mode.

The function is stated in plain PyTorch, whole sequence at once, float64 on float32 weights; as there, everything is
computed for every token and masked afterwards. expected.safetensors: as mod.py writes it; short.*: of the first 9
tokens alone, where a whole prompt is decided at once.

    pip install torch safetensors; python tools/golden/router_tuning.py [name ...]
"""

import torch

from fixture import Draft, input_ids, make, random_weights, search, smallest, source, stated, write
from mod import BASE, DIM, HEAD_DIM, HEADS, KV_HEADS, LENGTH, VOCAB, Plain, model_shapes

SHORT = 9


def tuned(model_type: str, layers: list[int], **keys) -> dict:
    return dict(BASE, model_type=model_type, intermediate_size=24, gradient_scale=0.0,
                is_mod=[i in layers for i in range(BASE["num_hidden_layers"])], **keys)


MODELS = {
    "router_tuning": tuned("llama", [1, 2], mod_capacity=0.5),
    "router_tuning-attn-token": tuned("qwen2", [0, 2], granularity="attn_token", threshold=0.4,
                                      mod_capacity=[0.4, 1.0, 0.6, 1.0]),
    "router_tuning-block-token": tuned("mistral", [1, 2], granularity="block_token", threshold=0.6, mod_capacity=None,
                                       sliding_window=9),
    "router_tuning-block-sequence": tuned("llama", [0, 1, 2], granularity="block_sequence", threshold=0.45),
    "router_tuning-mlp-token": tuned("llama", [1, 3], granularity="mlp_token", mod_capacity=0.5),
    "router_tuning-mlp-sequence": tuned("llama", [0, 1, 2], granularity="mlp_sequence", threshold=0.55),
}


def shapes_of(config: dict) -> dict[str, list[int]]:
    shapes = model_shapes(config)
    for i, routed in enumerate(config["is_mod"]):
        if routed:
            shapes[f"model.layers.{i}.router.weight"] = [1, DIM]
        if config["model_type"] == "qwen2":
            for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
                shapes[f"model.layers.{i}.self_attn.{part}_proj.bias"] = [heads * HEAD_DIM]
    return shapes


class Tuned(Plain):
    def mask(self, x, i, instance, found):
        layer, granularity = f"model.layers.{i}", self.config.get("granularity", "attn_sequence")
        read = self.norm(x, f"{layer}.input_layernorm")
        if "sequence" in granularity:
            read = read.mean(0, keepdim=True)
        logit = self.lin(read, f"{layer}.router")
        threshold = self.config.get("threshold", 0.5)
        self.margins.append((logit - torch.logit(torch.tensor(threshold).double())).abs().min().item())
        mask = (logit.sigmoid() - threshold >= 0).double().expand(len(x), 1)
        found[f"mask.{instance}"] = mask[:, 0].int()
        return mask

    def layers(self, positions, i):
        if not self.config["is_mod"][i]:
            return [lambda x, instance, found: self.block(x, positions, i)]
        target = self.config.get("granularity", "attn_sequence").split("_")[0]

        def attention(x, instance, found):
            return x + self.mask(x, i, instance, found) * (self.attention_part(x, positions, i) - x)

        def block(x, instance, found):
            return x + self.mask(x, i, instance, found) * (self.block(x, positions, i) - x)

        def mlp(x, instance, found):
            mask, h = self.mask(x, i, instance, found), self.attention_part(x, positions, i)
            return h + mask * (self.ffn_part(h, i) - h)

        if target == "attn":
            return [attention, lambda x, instance, found: self.ffn_part(x, i)]
        return [{"block": block, "mlp": mlp}[target]]


def run(config: dict, weights: dict, ids) -> tuple[dict, list[float]]:
    plain = Tuned(config, weights)
    found = plain.run(ids)
    if "sequence" in config.get("granularity", "attn_sequence"):
        short = plain.run(ids[:SHORT])
        found |= {f"short.{name}": tensor for name, tensor in short.items() if name != "input_ids"}
    return found, plain.margins


def is_useful(found: dict, sequences: bool) -> bool:
    """Every routed layer takes some rows and leaves some; of whole prompts some layers all and some none, and not the
    same for the short one."""
    shares = {k: v.double().mean().item() for k, v in found.items() if "mask." in k}
    if not sequences:
        return all(0.25 <= share <= 0.75 for share in shares.values())
    whole = [share for name, share in shares.items() if not name.startswith("short.")]
    return set(whole) == {0.0, 1.0} and any(shares[f"short.{k}"] != v for k, v in shares.items() if "short" not in k)


def draft(name: str, seed: int) -> Draft:
    config = MODELS[name]
    sequences = "sequence" in config.get("granularity", "attn_sequence")
    weights = random_weights(shapes_of(config), seed, {"router.weight": 4.0 if sequences else 2.0})
    found, margins = run(config, weights, input_ids(VOCAB, LENGTH, seed + 1000))
    return Draft(weights, found, margins, is_useful(found, sequences))


def build(name: str) -> None:
    seed, kept = search(name, range(300, 1500), draft, 5e-3)
    how = stated("router_tuning.py", "after CASE-Lab-UMD's utils/model/model_patch.py")
    write(name, MODELS[name], kept.weights, kept.expected, source(name, seed, how, smallest(kept)))


if __name__ == "__main__":
    make(MODELS, build)
