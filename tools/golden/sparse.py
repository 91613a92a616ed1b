"""Makes the golden folders of causal sparse attention: positional sinks beside a window, and BigBird's causal form
(models.md 6.3), of a Llama and of a Mixture-of-Depths. No published code computes these; the mask is stated here
position by position, the rest of the model in mod.py.

    pip install torch safetensors; python tools/golden/sparse.py [name ...]
"""

import torch

import mod
from fixture import Draft, input_ids, make, random_weights, search, smallest, source, stated, write

SINKS = dict(type="sinks", sink_tokens=3, window=5)
BLOCKS = dict(type="bigbird", block_size=2, global_blocks=1, window_blocks=1, random_blocks=2, random_seed=9)
MODELS = {
    "sparse-sinks": dict(mod.SMALL, model_type="sparse_attention", sparse_attention=SINKS),
    "sparse-bigbird": dict(mod.SMALL, num_hidden_layers=3, model_type="sparse_attention",
                           sparse_attention=dict(BLOCKS, layers=[0, 2])),
    "mod-sparse": dict(mod.BASE, model_type="mod", mod=mod.mod([1, 3]), sparse_attention=BLOCKS),
    "mod-sparse-compact": dict(mod.BASE, model_type="mod", mod=mod.mod([1, 3], pos="compact"), sparse_attention=SINKS),
}
MASK = (1 << 64) - 1


def mix(x: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def random_blocks(seed: int, head: int, block: int, count: int, candidates: list[int]) -> set[int]:
    """`count` of the candidates (fewer where there are not so many) by Floyd's algorithm."""
    golden = 0x9E3779B97F4A7C15
    state = mix(seed + golden & MASK)
    state = mix(state ^ head) + golden & MASK
    state = mix(state ^ block)
    chosen: list[int] = []
    count = min(count, len(candidates))
    for last in range(len(candidates) - count, len(candidates)):
        state = state + golden & MASK
        drawn = (mix(state) >> 32) * (last + 1) >> 32
        chosen.append(last if drawn in chosen else drawn)
    return {candidates[i] for i in chosen}


def sees(rules: dict, layer: int, head: int, i: int, j: int) -> bool:
    if j > i:
        return False
    if rules["type"] == "sinks":
        return j < rules["sink_tokens"] or j > i - rules["window"]
    size, first, near = rules["block_size"], rules["global_blocks"], rules["window_blocks"]
    own, block = i // size, j // size
    drawn = random_blocks(rules["random_seed"] * 4096 + layer, head, own, rules["random_blocks"],
                          list(range(first, own - near)))
    return block < first or block >= own - near or block in drawn


class Sparse(mod.Plain):
    def masked(self, logits, name, positions, places):
        rules, layer = self.config["sparse_attention"], int(name.split(".")[2])
        if layer not in rules.get("layers", range(self.config["num_hidden_layers"])):
            return super().masked(logits, name, positions, places)
        visible = torch.tensor([[[sees(rules, layer, h, i, j) for j in places.tolist()] for i in positions.tolist()]
                                for h in range(mod.HEADS)])
        return logits.masked_fill(~visible, float("-inf"))


def draft(name: str, seed: int) -> Draft:
    weights = random_weights(mod.model_shapes(MODELS[name]), seed)
    plain = Sparse(MODELS[name], weights)
    found = plain.run(input_ids(mod.VOCAB, mod.LENGTH, seed + 1000))
    return Draft(weights, found, plain.margins, mod.is_useful(found))


def build(name: str) -> None:
    seed, kept = search(name, range(300, 700), draft, 4e-2)  # bf16 decides the same
    how = stated("sparse.py, the rest in mod.py", "after models.md 6.3 and 6.4: there is no official code", "mask")
    write(name, MODELS[name], kept.weights, kept.expected, source(name, seed, how, smallest(kept)))


if __name__ == "__main__":
    make(MODELS, build)
