"""Makes the golden folders of the families that Hugging Face transformers implements.

Tiny random weights, fp32, eager attention, one prompt of 24 tokens. expected.safetensors: input_ids [24],
hidden.embed and hidden.<layer> [24, dim] (after the layer), logits [24, vocab].

    pip install torch transformers; python tools/golden/transformers_models.py [name ...]
"""

import json
import sys

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from fixture import FOLDER, input_ids, randomize, write

LENGTH = 24
VOCAB = 64
BASE = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, tie_word_embeddings=False)
MOE = dict(BASE, num_hidden_layers=2)
MODELS = {
    "llama": ("llama", dict(BASE, rope_theta=500.0)),
    "llama-tied-bias": ("llama", dict(BASE, num_hidden_layers=2, tie_word_embeddings=True, attention_bias=True,
                                      mlp_bias=True, head_dim=16, num_key_value_heads=1)),
    "mistral": ("mistral", dict(BASE, sliding_window=7)),
    "qwen2": ("qwen2", dict(BASE)),
    "qwen3": ("qwen3", dict(BASE, head_dim=12, num_hidden_layers=2)),
    "gpt2": ("gpt2", dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
                          eos_token_id=2)),
    "mixtral": ("mixtral", dict(MOE, num_local_experts=5, num_experts_per_tok=2, intermediate_size=20)),
    "olmoe": ("olmoe", dict(MOE, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False, clip_qkv=1.5,
                            intermediate_size=16)),
    "qwen2_moe": ("qwen2_moe", dict(MOE, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=12,
                                    shared_expert_intermediate_size=20, norm_topk_prob=False)),
    "qwen2_moe-renormalized": ("qwen2_moe", dict(
        MOE, num_hidden_layers=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12,
        shared_expert_intermediate_size=20, norm_topk_prob=True, mlp_only_layers=[0])),
    "qwen3_moe": ("qwen3_moe", dict(MOE, num_experts=7, num_experts_per_tok=3, moe_intermediate_size=12,
                                    norm_topk_prob=True, head_dim=12)),
    # As above with the experts as they are in memory: experts.gate_up_proj [E, 2I, D], experts.down_proj [E, D, I].
    "mixtral-stacked": ("mixtral", dict(MOE, num_local_experts=4, num_experts_per_tok=2, intermediate_size=16)),
}


def layers_of(model) -> list:
    inner = getattr(model, "model", None) or model.transformer
    return list(getattr(inner, "layers", None) or inner.h)


@torch.no_grad()
def run(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {}

    def keep(name: str):
        def hook(_module, _inputs, output):
            found[name] = (output[0] if isinstance(output, tuple) else output)[0].clone()
        return hook

    layers = layers_of(model)
    handles = [layer.register_forward_hook(keep(f"hidden.{i}")) for i, layer in enumerate(layers)]
    handles.append(layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: found.update({"hidden.embed": (args or [kwargs["hidden_states"]])[0][0].clone()}),
        with_kwargs=True))
    logits = model(ids[None], use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return {"input_ids": ids.int(), **found, "logits": logits}


def smallest_margin(model, ids: torch.Tensor) -> float:
    """The smallest gap between the k-th and the next router logit: near ties would make the test depend on rounding."""
    gaps = [float("inf")]

    def hook(module, inputs, _output):
        values = torch.nn.functional.linear(inputs[0].reshape(-1, inputs[0].shape[-1]), module.weight)
        values = values.sort(-1, descending=True).values
        k = model.config.num_experts_per_tok
        gaps.append((values[:, k - 1] - values[:, k]).min().item())

    handles = [m.register_forward_hook(hook) for n, m in model.named_modules() if n.endswith("mlp.gate")]
    with torch.no_grad():
        model(ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return min(gaps)


def build(name: str) -> None:
    kind, options = MODELS[name]
    config = AutoConfig.for_model(kind, **options)
    for seed in range(100, 140):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
        parameters = [(n, p) for n, p in model.named_parameters()]
        randomize(parameters, seed)
        ids = input_ids(VOCAB, LENGTH, seed + 1000)
        margin = smallest_margin(model, ids)
        if margin > 2e-3:
            break
    folder = FOLDER / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    stacked = dict(model.state_dict()) if name.endswith("-stacked") else None
    source = (f"# {name}\nOur own random weights (seed {seed}), run by huggingface/transformers "
              f"{transformers.__version__} (`{type(model).__name__}`, eager attention, fp32, CPU) with torch "
              f"{torch.__version__.split('+')[0]}.\nMade by tools/golden/transformers_models.py; tensors are "
              f"described there. Smallest router margin: "
              f"{'none (dense)' if margin == float('inf') else f'{margin:.1e}'}.\n")
    write(name, config, stacked, run(model, ids), source)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for wanted in sys.argv[1:] or MODELS:
        build(wanted)
