"""Makes the golden folders of encoders. BigBird is run by Hugging Face transformers in eval mode, once per prompt
length, because a short prompt switches the model to full attention for good; ETC's pattern is stated here in plain
PyTorch. expected.safetensors: input_ids [45], hidden.embed and hidden.<layer> [45, dim], logits (what the head
gives: the last hidden states) [45, dim], and the same under short. for the first tokens.

    pip install torch transformers; python tools/golden/encoders.py [name ...]
"""

import json

import torch
import transformers
from torch.nn.functional import gelu, layer_norm, linear, softmax
from transformers import AutoModel, BigBirdConfig

from fixture import TORCH, input_ids, keep_output, made_by, make, randomize, source, write

LENGTH, SHORT, VOCAB, SEED = 45, 11, 64, 500
BASE = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=48, type_vocab_size=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            sep_token_id=3, block_size=4, num_random_blocks=2)
# 45 tokens are twelve blocks, the last one of one token; up to 36 tokens attention is full.
MODELS = {
    "big_bird": dict(BASE),
    "big_bird-full": dict(BASE, attention_type="original_full", rescale_embeddings=True, use_bias=False,
                          hidden_act="gelu"),
    "big_bird-prefixed": dict(BASE, num_hidden_layers=1, block_size=3, num_random_blocks=1),  # as saved with a head
    "etc": dict(BASE, model_type="etc", global_tokens=3, local_radius=4, hidden_act="gelu", layer_norm_eps=1e-6),
}


def run_transformers(config: BigBirdConfig, state: dict, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model = AutoModel.from_config(config, attn_implementation="eager", add_pooling_layer=False).eval()
    model.load_state_dict(state)
    found = {}
    keep_output(found, "hidden.embed", model.embeddings)
    for i, layer in enumerate(model.encoder.layer):
        keep_output(found, f"hidden.{i}", layer)
    logits = model(ids[None]).last_hidden_state[0]
    return {k: v[:len(ids)] for k, v in found.items()} | {"logits": logits}  # the last block is padded


def run_plain(config: dict, state: dict, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """BERT's layers with ETC's mask: the first tokens see all and are seen by all."""
    w = {k: v.double() for k, v in state.items()}
    lin = lambda x, name: linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))
    norm = lambda x, name: layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"],
                                      config["layer_norm_eps"])
    n, heads = len(ids), config["num_attention_heads"]
    at = torch.arange(n)
    is_global = at < config["global_tokens"]
    visible = is_global[:, None] | is_global[None, :] | ((at[:, None] - at[None, :]).abs() <= config["local_radius"])
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:n]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    found = {"hidden.embed": x}
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        q, k, v = (lin(x, f"{name}.attention.self.{part}").view(n, heads, -1) for part in ("query", "key", "value"))
        scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~visible, float("-inf"))
        mixed = torch.einsum("hqk,khd->qhd", softmax(scores, -1), v).reshape(n, -1)
        x = norm(x + lin(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = gelu(lin(x, f"{name}.intermediate.dense"))
        x = norm(x + lin(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        found[f"hidden.{i}"] = x
    return {k: v.float() for k, v in (found | {"logits": x}).items()}


def build(name: str) -> None:
    options = {k: v for k, v in MODELS[name].items()
               if k not in ("model_type", "global_tokens", "local_radius")}
    config = BigBirdConfig(**options)
    model = AutoModel.from_config(config, attn_implementation="eager", add_pooling_layer=False)
    randomize(model.named_parameters(), SEED)
    state = model.state_dict()
    ids = input_ids(VOCAB, LENGTH, SEED + 1000)
    if "model_type" in MODELS[name]:
        run, written = lambda some: run_plain(MODELS[name], state, some), MODELS[name]
        how = "stated in tools/golden/encoders.py (float64"
    else:
        run, written = lambda some: run_transformers(config, state, some), json.loads(config.to_json_string())
        how = (f"run by huggingface/transformers {transformers.__version__} (`{type(model).__name__}`, eval mode: every "
               f"random block is block 0, counted again; fp32, CPU")
    if name == "big_bird-full":
        written["pooling"] = "cls"
    found = {"input_ids": ids.int()} | run(ids) | {f"short.{k}": v for k, v in run(ids[:SHORT]).items()}
    if name == "big_bird-prefixed":
        state = {f"bert.{k}": v for k, v in state.items()}
    write(name, written, state, found, source(name, SEED, f", {how}, torch {TORCH})", made_by("encoders.py")))


if __name__ == "__main__":
    make(MODELS, build)
