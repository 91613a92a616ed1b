"""Makes the golden folders of the families that Hugging Face transformers implements.

Tiny random weights, fp32, eager attention, one prompt of 24 tokens. expected.safetensors: input_ids [24],
hidden.embed and hidden.<layer> [24, dim] (after the layer), logits [24, vocab].

    pip install torch transformers; python tools/golden/transformers_models.py [name ...]
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fixture import (FOLDER, Draft, input_ids, keep_output, made_by, make, randomize, run_by_transformers, saved_config,
                     search, smallest, source, write)

LENGTH = 24
VOCAB = 64
BASE = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, tie_word_embeddings=False)
MOE = dict(BASE, num_hidden_layers=2)
# Latent attention; a query head is 6 + 4 wide, a value head 8, the cached latent 12.
MLA = dict(MOE, num_key_value_heads=4, q_lora_rank=10, kv_lora_rank=12, qk_nope_head_dim=6, qk_rope_head_dim=4,
           v_head_dim=8, first_k_dense_replace=1, moe_intermediate_size=12)
YARN_MSCALE = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=32, beta_fast=8.0,
                   mscale=0.8, mscale_all_dim=1.2)
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
    "llama-llama3": ("llama", dict(BASE, num_hidden_layers=2, head_dim=16, rope_parameters=dict(
        rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32))),
    "llama-linear": ("llama", dict(BASE, num_hidden_layers=2, rope_parameters=dict(
        rope_type="linear", rope_theta=100.0, factor=4.0))),
    "qwen3-yarn": ("qwen3", dict(BASE, num_hidden_layers=2, head_dim=16, rope_parameters=dict(
        rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=32, beta_fast=8.0))),
    "granite": ("granite", dict(BASE, num_hidden_layers=2, attention_bias=True, tie_word_embeddings=True,
                                embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4,
                                logits_scaling=2.5)),
    "granitemoe": ("granitemoe", dict(MOE, num_local_experts=5, num_experts_per_tok=2, intermediate_size=12,
                                      embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4,
                                      logits_scaling=2.5)),
    "gpt_oss": ("gpt_oss", dict(
        MOE, num_hidden_layers=3, num_local_experts=4, num_experts_per_tok=2, intermediate_size=12, head_dim=8,
        sliding_window=6, swiglu_limit=0.8, rope_parameters=dict(
            rope_type="yarn", rope_theta=150.0, factor=8.0, beta_fast=8.0, beta_slow=1.0, truncate=False,
            original_max_position_embeddings=32))),
    "gpt_oss-mxfp4": ("gpt_oss", dict(
        MOE, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, head_dim=8,
        sliding_window=6, rope_parameters=dict(rope_type="default", rope_theta=150.0))),
    "granitemoe-stacked": ("granitemoe", dict(MOE, num_local_experts=4, num_experts_per_tok=3, intermediate_size=12,
                                              attention_bias=True, tie_word_embeddings=True, embedding_multiplier=0.5,
                                              attention_multiplier=0.5, residual_multiplier=1.0, logits_scaling=0.5)),
    "deepseek_v2": ("deepseek_v2", dict(
        MLA, q_lora_rank=None, n_routed_experts=5, num_experts_per_tok=2, n_shared_experts=2,
        topk_method="greedy", routed_scaling_factor=1.3, rope_parameters=YARN_MSCALE)),
    "deepseek_v2-groups": ("deepseek_v2", dict(
        MLA, q_lora_rank=10, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, attention_bias=True,
        topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=2.0)),
    "deepseek_v3": ("deepseek_v3", dict(
        MLA, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
        n_group=4, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=True, rope_parameters=YARN_MSCALE)),
    "deepseek_v3-half": ("deepseek_v3", dict(
        MLA, q_lora_rank=None, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1, n_group=2,
        topk_group=1, routed_scaling_factor=1.0, norm_topk_prob=False, rope_interleave=False)),
    "jetmoe": ("jetmoe", dict(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_key_value_heads=2, kv_channels=8,
        intermediate_size=20, max_position_embeddings=64, num_local_experts=4, num_experts_per_tok=2,
        rms_norm_eps=1e-3, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)),
    "jetmoe-untied": ("jetmoe", dict(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_key_value_heads=3, kv_channels=6,
        intermediate_size=16, max_position_embeddings=64, num_local_experts=4, num_experts_per_tok=3,
        activation_function="gelu", tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=2.0))),
    "olmo2": ("olmo2", dict(BASE, num_hidden_layers=2)),
    "olmo2-tied-bias": ("olmo2", dict(BASE, num_hidden_layers=2, num_key_value_heads=1, attention_bias=True,
                                      tie_word_embeddings=True, hidden_act="gelu", rope_theta=300.0)),
    # The switches of families above, turned.
    "mixtral-window-tied": ("mixtral", dict(MOE, num_local_experts=4, num_experts_per_tok=1, intermediate_size=12,
                                            sliding_window=5, tie_word_embeddings=True)),
    "mistral-full": ("mistral", dict(BASE, num_hidden_layers=2, sliding_window=None, head_dim=12)),
    "qwen2-window-tied": ("qwen2", dict(BASE, use_sliding_window=True, sliding_window=5, max_window_layers=1,
                                        tie_word_embeddings=True)),
    "qwen3-bias": ("qwen3", dict(BASE, num_hidden_layers=2, head_dim=8, attention_bias=True,
                                 use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "olmoe-renormalized": ("olmoe", dict(MOE, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True,
                                         intermediate_size=12, attention_bias=True, tie_word_embeddings=True)),
    "qwen2_moe-no-bias": ("qwen2_moe", dict(
        MOE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, shared_expert_intermediate_size=12,
        norm_topk_prob=True, qkv_bias=False, decoder_sparse_step=2, tie_word_embeddings=True)),
    "qwen3_moe-plain": ("qwen3_moe", dict(
        MOE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=False, head_dim=8,
        attention_bias=True, mlp_only_layers=[1], tie_word_embeddings=True)),
    "gpt2-untied": ("gpt2", dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=64, n_inner=40,
                                 activation_function="gelu", layer_norm_epsilon=1e-3, tie_word_embeddings=False,
                                 bos_token_id=1, eos_token_id=2)),
    "gpt2-bare": ("gpt2", dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=40,
                               activation_function="relu", bos_token_id=1, eos_token_id=2)),
    "llama-yarn": ("llama", dict(BASE, num_hidden_layers=2, hidden_act="gelu_pytorch_tanh", rope_parameters=dict(
        rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=32, beta_fast=6.0,
        beta_slow=0.5, attention_factor=1.3))),
    "qwen3-tied": ("qwen3", dict(BASE, head_dim=8, hidden_act="relu", tie_word_embeddings=True, rope_theta=200.0,
                                 use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "mixtral-one": ("mixtral", dict(MOE, num_local_experts=1, num_experts_per_tok=1, intermediate_size=12)),
    "qwen2_moe-window": ("qwen2_moe", dict(
        MOE, num_experts=4, num_experts_per_tok=1, moe_intermediate_size=12, shared_expert_intermediate_size=8,
        use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "granite-untied": ("granite", dict(BASE, num_hidden_layers=2, mlp_bias=True, embedding_multiplier=0.5,
                                       attention_multiplier=0.5, residual_multiplier=1.5, logits_scaling=0.5)),
    "gpt_oss-plain": ("gpt_oss", dict(
        MOE, num_local_experts=4, num_experts_per_tok=1, intermediate_size=12, head_dim=8, sliding_window=4,
        attention_bias=False, tie_word_embeddings=True, rope_parameters=dict(
            rope_type="yarn", rope_theta=150.0, factor=8.0, beta_fast=8.0, original_max_position_embeddings=32))),
    "deepseek_v2-tied": ("deepseek_v2", dict(
        MLA, first_k_dense_replace=0, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
        topk_method="greedy", routed_scaling_factor=1.7, norm_topk_prob=True, tie_word_embeddings=True)),
    "deepseek_v3-bias": ("deepseek_v3", dict(
        MLA, first_k_dense_replace=0, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=2, n_group=1,
        topk_group=1, routed_scaling_factor=1.5, attention_bias=True, tie_word_embeddings=True)),
    # As above with the experts as they are in memory: experts.gate_up_proj [E, 2I, D], experts.down_proj [E, D, I].
    "mixtral-stacked": ("mixtral", dict(MOE, num_local_experts=4, num_experts_per_tok=2, intermediate_size=16)),
}


# Configs as older files have them: rope_theta and rope_scaling, no layer_types, defaults left out.
OLDER = {"llama-yarn": [], "qwen3-tied": ["layer_types"],
         "gpt_oss-plain": ["layer_types", "rms_norm_eps", "swiglu_alpha", "swiglu_limit"]}


def older(config: dict, without: list[str]) -> dict:
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] != "default":
        config["rope_scaling"] = {"type" if k == "rope_type" else k: v for k, v in rope.items()}
    return {k: v for k, v in config.items() if k not in without}


def renormalize(model) -> None:
    """norm_topk_prob of deepseek-ai/DeepSeek-V2, modeling_deepseek.py (MoEGate): the weights that are kept sum to 1 and
    are not scaled. transformers 5.23 does not read the key of this family."""
    def hook(_module, _inputs, output):
        logits, weight, index = output
        return logits, weight / (weight.sum(-1, keepdim=True) + 1e-20), index
    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(hook)


def layers_of(model) -> list:
    inner = getattr(model, "model", None) or model.transformer
    return list(getattr(inner, "layers", None) or inner.h)


@torch.no_grad()
def run(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    found, layers = {}, layers_of(model)
    handles = [keep_output(found, f"hidden.{i}", layer) for i, layer in enumerate(layers)]
    handles.append(layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: found.update({"hidden.embed": (args or [kwargs["hidden_states"]])[0][0].clone()}),
        with_kwargs=True))
    logits = model(ids[None], use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return {"input_ids": ids.int(), **found, "logits": logits}


def margins(model, ids: torch.Tensor) -> list[float]:
    """The smallest gap between the k-th and the next router logit, for each choice of each router."""
    gaps = []

    def gap(values: torch.Tensor, k: int) -> None:
        if k < values.shape[-1]:
            values = values.sort(-1, descending=True).values
            gaps.append((values[:, k - 1] - values[:, k]).min().item())

    def hook(module, inputs, _output):
        x = inputs[0].reshape(-1, inputs[0].shape[-1])
        values = torch.nn.functional.linear(x, module.weight, getattr(module, "bias", None))
        if hasattr(module, "e_score_correction_bias"):
            values = values.sigmoid() + module.e_score_correction_bias
        groups = getattr(module, "num_group", None) or 1
        if groups > 1:
            grouped = values.view(len(values), groups, -1)
            two = hasattr(module, "e_score_correction_bias")
            best = grouped.topk(2 if two else 1, dim=-1).values.sum(-1)
            gap(best, module.topk_group)
            kept = torch.zeros_like(best).scatter_(1, best.topk(module.topk_group).indices, 1.0)
            values = grouped.masked_fill(kept[..., None] == 0, -1e9).view_as(values)
        gap(values, model.config.num_experts_per_tok)

    routers = ("mlp.gate", "mlp.router", "block_sparse_moe.router", "router.layer")
    handles = [m.register_forward_hook(hook) for n, m in model.named_modules()
               if n.endswith(routers) and hasattr(m, "weight")]
    with torch.no_grad():
        model(ids[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return gaps


MXFP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


@torch.no_grad()
def quantize_experts(model, seed: int) -> dict[str, torch.Tensor]:
    """Draws mxfp4 experts (blocks and scales as in the published files), gives the model their values, and returns
    its state with the two tensors in place of each matrix."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            state[name] = tensor
            continue
        experts, inputs, outputs = tensor.shape  # in memory [E, in, out]
        blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(122, 127, (experts, outputs, inputs // 32), generator=generator, dtype=torch.uint8)
        pairs = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()  # the low half is first
        values = torch.tensor(MXFP4)[pairs] * 2.0 ** (scales[..., None].float() - 127)
        tensor.copy_(values.view(experts, outputs, inputs).transpose(1, 2))
        state[name + "_blocks"], state[name + "_scales"] = blocks, scales
    return state


def draft(name: str, seed: int) -> Draft:
    kind, options = MODELS[name]
    config = AutoConfig.for_model(kind, **options)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    parameters = [(n, p) for n, p in model.named_parameters()]
    parameters += [(n, b) for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")]
    randomize(parameters, seed)
    if kind == "deepseek_v2" and config.norm_topk_prob:
        renormalize(model)
    quantized = quantize_experts(model, seed) if name.endswith("-mxfp4") else None
    ids = input_ids(VOCAB, LENGTH, seed + 1000)
    return Draft(quantized, run(model, ids), margins(model, ids), model=model)


def build(name: str) -> None:
    seed, kept = search(name, range(100, 140), draft, 2e-3)
    model, quantized = kept.model, kept.weights
    config = saved_config(model, name)
    stacked = dict(model.state_dict()) if name.endswith("-stacked") else quantized
    if stacked is not None and config.get("tie_word_embeddings"):
        del stacked["lm_head.weight"]
    if name in OLDER:
        config = older(config, OLDER[name])
    if name.endswith("-bare"):  # as saved without a head
        (FOLDER / name / "model.safetensors").unlink()
        stacked = {k.removeprefix("transformer."): v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    if quantized is not None:
        config["quantization_config"] = {"quant_method": "mxfp4"}
    write(name, config, stacked, kept.expected,
          source(name, seed, run_by_transformers(model), made_by("transformers_models.py"),
                 smallest(kept, "router margin")))


if __name__ == "__main__":
    make(MODELS, build)
