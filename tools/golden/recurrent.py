"""Makes the golden folders of models whose rows run a group of layers a varying number of times: Ouro, the Universal
Transformer with ACT, Huginn's adaptive exit, Mixture-of-Recursions with shared keys and values.

The functions are stated in recurrent_families.py, their tensors in recurrent_shapes.py. expected.safetensors:
input_ids [24], hidden.embed, hidden.<execution of a layer> [24, dim] with zeros for rows that did not run it,
mask.<execution> [24] of the repeated layers (1: not stopped), logits [24, vocab].

    pip install torch safetensors; python tools/golden/recurrent.py [name ...]
"""

import torch

from fixture import Draft, input_ids, make, random_weights, search, smallest, source, stated, write
from recurrent_families import FUNCTIONS
from recurrent_shapes import DIM, HEADS, HIDDEN, LENGTH, SHAPES, VOCAB

LLAMA = dict(vocab_size=VOCAB, hidden_size=DIM, intermediate_size=HIDDEN, num_attention_heads=HEADS,
             num_key_value_heads=HEADS, hidden_act="silu", max_position_embeddings=64, rms_norm_eps=1e-6,
             rope_theta=10000.0, tie_word_embeddings=False, eos_token_id=2)
OURO = dict(LLAMA, model_type="ouro", num_hidden_layers=2, total_ut_steps=4, early_exit_threshold=1.0)
UNIVERSAL = dict(model_type="universal_transformer", vocab_size=VOCAB, hidden_size=DIM, intermediate_size=HIDDEN,
                 num_attention_heads=HEADS, num_inrecurrence_layers=1, act_max_steps=5, act_epsilon=0.05,
                 max_position_embeddings=64, eos_token_id=2)
HUGINN = dict(model_type="huginn_raven", vocab_size=VOCAB, n_embd=DIM, n_heads=HEADS, intermediate_size=16,
              n_layers_in_prelude=1, n_layers_in_recurrent_block=1, n_layers_in_coda=1, mean_recurrence=6,
              block_size=64, rope_base=50000.0, norm_eps=1e-6, qk_bias=True, tie_embeddings=True,
              init_values=dict(embed_scale=1.0), exit_criterion="latent-diff", exit_threshold=0.6, eos_token_id=2)
MOR = dict(LLAMA, model_type="mor", intermediate_size=16, rms_norm_eps=1e-5, tie_word_embeddings=True)
EXPERT = dict(type="expert", num_recursion=2)


def mor(num_recursion=3, **rules) -> dict:
    layers = 2 + num_recursion * (2 if rules["type"] == "token" else 1)
    return dict(MOR, num_hidden_layers=layers, mor=dict(rules, num_recursion=num_recursion))


MODELS = {
    "ouro": dict(OURO, layer_types=["full_attention", "sliding_attention"], sliding_window=6),
    "ouro-exit": dict(OURO, early_exit_threshold=0.6, halted_kv="compute_all",
                      layer_types=["sliding_attention", "full_attention"], sliding_window=7),
    "ouro-exit-latest": dict(OURO, early_exit_threshold=0.6, halted_kv="latest",
                             layer_types=["sliding_attention", "full_attention"], sliding_window=7),
    "ouro-exit-own": dict(OURO, early_exit_threshold=0.6, halted_kv="own"),
    "ouro-tied": dict(OURO, tie_word_embeddings=True, total_ut_steps=3),
    "universal_transformer": dict(UNIVERSAL, act_type="basic", step_signal="learned"),
    "universal_transformer-all": dict(UNIVERSAL, act_type="basic", step_signal="sinusoid", halted_kv="compute_all",
                                      tie_word_embeddings=False),
    "universal_transformer-accumulated": dict(UNIVERSAL, act_type="accumulated", step_signal="none",
                                              num_inrecurrence_layers=2, act_max_steps=4, halted_kv="own"),
    "universal_transformer-post": dict(UNIVERSAL, act_type="interpolated", position_signal=False, pre_norm=False,
                                       hidden_act="gelu", halted_kv="compute_all"),
    "universal_transformer-fixed": dict(UNIVERSAL, act_type="none", step_signal="sinusoid", act_max_steps=3),
    "huginn-exit": dict(HUGINN, halted_kv="own"),
    "huginn-exit-latest": dict(HUGINN, halted_kv="latest", num_steps=4),
    "huginn-exit-all": dict(HUGINN, halted_kv="compute_all"),
    "huginn-plain": dict({k: v for k, v in HUGINN.items() if not k.startswith("exit_")}, num_key_value_heads=2,
                         n_layers_in_recurrent_block=2, qk_bias=False, bias=True, tie_embeddings=False,
                         mean_recurrence=3, init_values=dict(embed_scale=2.0)),
    "mor-shared": mor(type="token", kv_sharing=True),
    "mor-mlp": mor(type="token", router_type="mlp", temp=0.5, router_func="sigmoid", alpha=0.9, kv_sharing=True),
    "mor-loss-free": mor(type="token", balancing="loss_free", alpha=1.2),
    "mor-expert-identity": mor(**EXPERT, router_func="identity", alpha=0.2),
    "mor-expert-mlp": mor(**EXPERT, router_type="mlp", temp=2.0, router_func="sigmoid", alpha=0.3),
    "mor-expert-tanh": mor(**EXPERT, router_func="tanh", alpha=0.4, temp=0.5, prefill_decide="router_topk",
                           capacity=[0.8, 0.4]),
}

FACTORS = {"early_exit_gate.weight": 2.0, "mor_router": 3.0, "qk_bias": 0.5}  # routers: decisions far from ties


def is_useful(found: dict) -> bool:
    """Rows stop at different depths: of the repeats some are run by some rows only."""
    shares = [v.float().mean().item() for k, v in found.items() if k.startswith("mask.")]
    return not shares or len({s for s in shares if 0.1 <= s <= 0.9}) >= 2


def draft(name: str, seed: int) -> Draft:
    config = MODELS[name]
    function, shapes = FUNCTIONS[config["model_type"]], SHAPES[config["model_type"]]
    weights = random_weights({f"{function.embedding}.weight": [VOCAB, DIM], **shapes(config)}, seed, FACTORS)
    plain = function(config, weights)
    plain.run(input_ids(VOCAB, LENGTH, seed + 1000))
    fixed = config.get("early_exit_threshold") == 1.0 or config.get("act_type") == "none"
    found = {k: v if v.dtype == torch.int32 else v.float() for k, v in plain.found.items()}
    return Draft(weights, found, plain.margins or [1.0], fixed or is_useful(found))  # 1: nothing is decided


def build(name: str) -> None:
    seed, kept = search(name, range(500, 1500), draft, 2e-2, least=5e-3)
    function = FUNCTIONS[MODELS[name]["model_type"]].__name__
    how = stated("recurrent_families.py", f"class {function}, which names its source")
    write(name, MODELS[name], kept.weights, kept.expected,
          source(name, seed, how, smallest(kept, "distance of a decision from a tie")))


if __name__ == "__main__":
    make(MODELS, build)
