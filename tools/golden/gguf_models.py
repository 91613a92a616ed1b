"""Makes tests/golden_gguf: GGUF files of tiny random models, and what transformers says of the same weights.

Names of tensors and keys come from the gguf package, not from our tables; q and k of the Llama kind are permuted as
convert_hf_to_gguf.py does. The expected values are those of the weights after quantisation. Also writes
tests/weights/fixtures/ggml_blocks.json: blocks of every type with their numbers.

    pip install torch transformers gguf; python tools/golden/gguf_models.py
"""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from fixture import ROOT, input_ids, randomize
from transformers_models import run

FOLDER = ROOT / "tests" / "golden_gguf"
BLOCKS = ROOT / "tests" / "weights" / "fixtures" / "ggml_blocks.json"
BASE = dict(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, tie_word_embeddings=False, rope_theta=500.0)
EXPERTS = dict(BASE, num_experts=4, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32)

# name: (transformers' type, its config, gguf's architecture, type of the matrices, whether q and k are permuted)
MODELS = {
    "llama": ("llama", dict(BASE, max_position_embeddings=16384, rope_theta=1e4, rope_parameters=dict(
        rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192)), "llama", Type.Q8_0, True),
    "llama-bias": ("llama", dict(BASE, num_hidden_layers=1, attention_bias=True, mlp_bias=True), "llama", Type.Q8_0, True),
    "mixtral": ("mixtral", EXPERTS, "llama", Type.Q4_0, True),
    "qwen2": ("qwen2", dict(BASE, tie_word_embeddings=True), "qwen2", Type.BF16, False),
    "qwen3": ("qwen3", dict(BASE, head_dim=32, rope_parameters=dict(
        rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=32)), "qwen3", Type.Q5_0, False),
    "qwen2moe": ("qwen2_moe", dict(EXPERTS, moe_intermediate_size=32, shared_expert_intermediate_size=64,
                                   norm_topk_prob=False), "qwen2moe", Type.Q5_1, False),
    "qwen3moe": ("qwen3_moe", dict(EXPERTS, moe_intermediate_size=32, norm_topk_prob=True, head_dim=16), "qwen3moe",
                 Type.Q4_1, False),
    "olmoe": ("olmoe", dict(EXPERTS, norm_topk_prob=False, num_hidden_layers=1), "olmoe", Type.F16, False),
    "olmo2": ("olmo2", dict(BASE), "olmo2", Type.Q8_0, False),
    "granite": ("granite", dict(BASE, embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4,
                                logits_scaling=2.5, rope_parameters=dict(rope_type="linear", rope_theta=500.0,
                                                                        factor=4.0)), "granite", Type.Q8_0, True),
}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (half, pair) to (pair, half) order."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def stored(weight: np.ndarray, kind: Type) -> tuple[np.ndarray, np.ndarray]:
    """(as it stands in the file, the numbers it means)"""
    if kind == Type.F32:
        return weight, weight
    data = gguf.quants.quantize(weight, kind)
    return data, gguf.quants.dequantize(data, kind).astype(np.float32)


def keys(writer: gguf.GGUFWriter, config, architecture: str) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if hasattr(config, "shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    if architecture == "granite":
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def published(state: dict) -> dict:
    """The names of published checkpoints, experts stacked: what the converter has before it names tensors."""
    found = {}
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            found[name.replace("gate_up_proj", "gate_proj.weight")] = gate
            found[name.replace("gate_up_proj", "up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            found[name + ".weight"] = tensor
        else:
            found[name] = tensor
    return found


def target_of(names: gguf.TensorNameMap, full: str) -> str:
    """gguf's name of a published tensor."""
    stem, suffix = full.rsplit(".", 1)
    target = names.get_name(stem.replace("block_sparse_moe", "mlp")) or names.get_name(stem)
    assert target, full
    return f"{target}.{suffix}"


def make(name: str) -> None:
    model_type, values, architecture, kind, permutes = MODELS[name]
    config = AutoConfig.for_model(model_type, **values)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomize(model.named_parameters(), seed=sum(map(ord, name)))
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
    keys(writer, config, architecture)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    state = model.state_dict()
    for full, tensor in published(state).items():
        if full == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target, suffix = target_of(names, full).rsplit(".", 1)
        weight = tensor.detach().numpy()
        if target.endswith("ffn_gate_inp_shexp"):
            weight = weight[0]
        is_matrix = weight.ndim > 1 and not target.endswith("ffn_gate_inp")
        data, meant = stored(np.ascontiguousarray(weight), kind if is_matrix else Type.F32)
        if permutes and target.endswith(("attn_q", "attn_k")):
            heads = config.num_attention_heads if target.endswith("attn_q") else config.num_key_value_heads
            data, _ = stored(permuted(np.ascontiguousarray(weight), heads), kind if is_matrix else Type.F32)
        writer.add_tensor(f"{target}.{suffix}", data, raw_dtype=kind if is_matrix and kind != Type.F16 else None)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(meant).reshape(tensor.shape))
    if config.rope_parameters["rope_type"] == "llama3":
        plain = 1e4 ** -(np.arange(0, 16, 2) / 16)
        scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        writer.add_tensor("rope_freqs.weight", (plain / scaled.numpy()).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = run(model, input_ids(config.vocab_size, 24, seed=5))
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    (folder / "SOURCE.md").write_text(
        f"`tools/golden/gguf_models.py`, transformers {transformers.__version__}, {model_type}, matrices in {kind.name}.\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    assert size <= 150_000, f"{name}: {size} bytes"
    print(f"tests/golden_gguf/{name}: {size} bytes")


def make_blocks() -> None:
    """Random bits with sane scales: every bit of a block shows in its numbers."""
    generator = np.random.default_rng(7)
    found = {}
    for kind in (Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K):
        _, size = gguf.GGML_QUANT_SIZES[kind]
        block = generator.integers(0, 256, size=size, dtype=np.uint8)
        scales = np.array([0.37, -0.021], dtype=np.float16).view(np.uint8)
        if kind == Type.Q6_K:
            block[-2:] = scales[:2]
        else:
            wide = kind in (Type.Q4_1, Type.Q5_1, Type.Q4_K, Type.Q5_K)
            block[: 4 if wide else 2] = scales[: 4 if wide else 2]
        numbers = gguf.quants.dequantize(block[None], kind)[0]
        found[kind.name] = {"id": int(kind), "bytes": [int(b) for b in block],
                            "values": [float(v) for v in numbers.astype(np.float32)]}
    BLOCKS.parent.mkdir(parents=True, exist_ok=True)
    BLOCKS.write_text(json.dumps(found) + "\n")


def main() -> None:
    for name in MODELS:
        make(name)
    make_blocks()


if __name__ == "__main__":
    main()
