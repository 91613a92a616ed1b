"""Writes a checkpoint of random bf16 weights in the shape of a known model, big enough to leave the caches.

Same shape is not the same speed where routing decides: random experts are chosen nearly uniformly (the worst
case for weights read), and the routed layers of `mod` take one row in eight, each layer others.

  tools/bench/random_checkpoint.py llama-1b /tmp/llama-1b
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
COMMON = {
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False, "max_position_embeddings": 4096,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "torch_dtype": "bfloat16",
}
LLAMA_1B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "vocab_size": 128256, "rope_theta": 500000.0, "tie_word_embeddings": True,
}
OLMOE = {
    "model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "hidden_size": 2048, "intermediate_size": 1024,
    "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
    "num_experts_per_tok": 8, "norm_topk_prob": False, "vocab_size": 50304, "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
# Qwen3-30B-A3B with a vocabulary of 32,000: of 12 layers, or fewer, the real one would be nearly all head.
QWEN3_MOE = {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "intermediate_size": 6144,
    "moe_intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 32, "num_key_value_heads": 4,
    "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "vocab_size": 32000, "rope_theta": 1000000.0, "tie_word_embeddings": False,
}
# OLMoE's sizes under the name of a model that ik_llama.cpp knows.
OLMOE_AS_QWEN3 = QWEN3_MOE | {
    "moe_intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16,
    "num_experts": 64, "norm_topk_prob": False, "vocab_size": 50304,
}
DENSE_1_4B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 128,
    "vocab_size": 32000, "rope_theta": 10000.0,
    # A head of random weights of its own says every token next; a tied one the last again, and routes it as before.
    "tie_word_embeddings": False,
}
MOD_1_4B = DENSE_1_4B | {
    "model_type": "mod", "architectures": ["ModForCausalLM"],
    "mod": {"gate_fn": "sigmoid", "combine": "scaled_update", "decide": "router_threshold", "threshold": 0.5,
            "prefill_decide": "router_threshold", "pos": "absolute", "kv": "routed_only", "capacity": 0.125},
}
# Table of arXiv 2405.16039 and the sweeps of RobertCsordas/moeut_training_code: two layers, nine times.
MOEUT_244M = {
    "model_type": "moeut", "vocab_size": 8000, "hidden_size": 1024, "num_hidden_layers": 18, "group_size": 2,
    "num_attention_heads": 4, "head_dim": 128, "rotary_dim": 64, "rope_theta": 10000.0, "num_experts": 387,
    "moe_intermediate_size": 128, "num_experts_per_tok": 16, "num_attention_experts": 10,
    "num_attention_experts_per_tok": 2, "layer_norm_eps": 1e-5, "max_position_embeddings": 1024,
}
SHAPES = {"llama-1b": LLAMA_1B, "olmoe": OLMOE, "olmoe-as-qwen3": OLMOE_AS_QWEN3, "qwen3-moe": QWEN3_MOE, "dense-1.4b": DENSE_1_4B, "mod-1.4b": MOD_1_4B,
          "moeut-244m": MOEUT_244M}
ONE_IN_EIGHT = 1.1503  # of a standard normal variable, above it lies an eighth


def random(*shape: int, std: float = 0.02) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=std)


def layer(config: dict, i: int) -> dict[str, torch.Tensor]:
    dim, hidden = config["hidden_size"], config.get("moe_intermediate_size", config["intermediate_size"])
    head = config.get("head_dim", dim // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    at = f"model.layers.{i}."
    found = {
        at + "input_layernorm.weight": torch.ones(dim, dtype=torch.bfloat16),
        at + "post_attention_layernorm.weight": torch.ones(dim, dtype=torch.bfloat16),
        at + "self_attn.q_proj.weight": random(q, dim), at + "self_attn.k_proj.weight": random(kv, dim),
        at + "self_attn.v_proj.weight": random(kv, dim), at + "self_attn.o_proj.weight": random(dim, q),
    }
    if "num_experts" in config:
        whole = config["model_type"] == "olmoe"  # norms of the whole projection, not of each head
        found[at + "self_attn.q_norm.weight"] = torch.ones(q if whole else head, dtype=torch.bfloat16)
        found[at + "self_attn.k_norm.weight"] = torch.ones(kv if whole else head, dtype=torch.bfloat16)
        found[at + "mlp.gate.weight"] = random(config["num_experts"], dim)
    experts = config.get("num_experts", 0)
    for name in [f"mlp.experts.{e}." for e in range(experts)] or ["mlp."]:
        found[at + name + "gate_proj.weight"] = random(hidden, dim)
        found[at + name + "up_proj.weight"] = random(hidden, dim)
        found[at + name + "down_proj.weight"] = random(dim, hidden)
    if i in config.get("mod", {}).get("layers", []):
        # Reads a column of its own that only the embedding writes: a standard normal score.
        router = torch.zeros(1, dim, dtype=torch.bfloat16)
        router[0, i] = 1.0
        found[at + "mod_router.weight"] = router
        found[at + "mod_router.bias"] = torch.tensor([-ONE_IN_EIGHT], dtype=torch.bfloat16)
    return found


def moeut(config: dict) -> dict[str, torch.Tensor]:
    """Names of RobertCsordas/moeut."""
    dim, vocab, wide = config["hidden_size"], config["vocab_size"], config["moe_intermediate_size"]
    heads, head, experts = config["num_attention_heads"], config["head_dim"], config["num_experts"]
    attention = heads * config["num_attention_experts"]
    ones, zeros = torch.ones(dim, dtype=torch.bfloat16), torch.zeros(dim, dtype=torch.bfloat16)
    found = {"embedding.weight": random(vocab, dim, std=1.0), "lm_head.weight": random(vocab, dim),
             "lm_head.bias": random(vocab), "out_norm.weight": ones, "out_norm.bias": zeros}
    for i in range(config["group_size"]):
        at = f"transformer.layers.{i}."
        for norm in ("ln1", "ln2"):
            found |= {at + norm + ".weight": ones.clone(), at + norm + ".bias": zeros.clone()}
        found |= {
            at + "attention.q.weight": random(heads * head, dim), at + "attention.k.weight": random(heads * head, dim),
            at + "attention.v": random(attention, dim, head), at + "attention.o": random(attention, head, dim),
            at + "attention.sel_v": random(attention, dim), at + "attention.sel_o": random(attention, dim),
            at + "ffn.keys": random(experts, dim, wide), at + "ffn.values": random(experts, wide, dim),
            at + "ffn.expert_sel": random(experts, dim),
        }
    return found


def decoder(config: dict) -> dict[str, torch.Tensor]:
    """Names of transformers' Llama, OLMoE and Qwen3-MoE, and what `mod` adds."""
    dim, vocab = config["hidden_size"], config["vocab_size"]
    tensors = {"model.embed_tokens.weight": random(vocab, dim),
               "model.norm.weight": torch.ones(dim, dtype=torch.bfloat16)}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random(vocab, dim)
    for i in range(config["num_hidden_layers"]):
        tensors |= layer(config, i)
    if "mod" in config:
        columns = config["mod"]["layers"]
        tensors["model.embed_tokens.weight"][:, columns] = random(vocab, len(columns), std=1.0)
        for name, tensor in tensors.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                tensor[columns] = 0.0
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, help="cut to so many layers")
    args = parser.parse_args()
    torch.manual_seed(0)
    config = COMMON | SHAPES[args.shape]
    config["num_hidden_layers"] = args.layers or config["num_hidden_layers"]
    if "mod" in config:
        config["mod"] = config["mod"] | {"layers": list(range(1, config["num_hidden_layers"], 2))}
    if config["num_hidden_layers"] % config.get("group_size", 1) != 0:
        raise SystemExit(f"--layers: {args.shape} repeats {config['group_size']} layers")
    tensors = moeut(config) if config["model_type"] == "moeut" else decoder(config)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):  # any will do: the ids are random
        shutil.copy(ROOT / "models" / "tiny-dense" / name, args.out / name)
    size = sum(tensor.numel() for tensor in tensors.values())
    print(f"{args.out}: {len(tensors)} tensors, {size / 1e6:.0f} M parameters")


if __name__ == "__main__":
    main()
