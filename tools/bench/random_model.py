#!/usr/bin/env python3
"""Writes a model of random bf16 weights in the shape of a well-known one, for `sluice bench`.

    tools/bench/random_model.py --shape llama-1b --tokenizer models/tiny-dense /tmp/llama-1b

Speed does not depend on the values; a model that answers is not what this makes. Needs numpy.
"""
import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
         "rope_theta": 500000.0, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
SHAPES = {
    # Llama-3.2-1B: the head is the embedding table.
    "llama-1b": LLAMA | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                         "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
                         "max_position_embeddings": 4096, "tie_word_embeddings": True},
    # OLMoE-1B-7B cut to four layers.
    "olmoe-4": {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "hidden_act": "silu", "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
                "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16,
                "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False,
                "vocab_size": 50304, "max_position_embeddings": 4096, "tie_word_embeddings": False},
}
BLOCK = 1 << 22  # random values that are repeated


def tensors(config):
    """Names and shapes, as transformers writes them."""
    dim, hidden, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim", dim // config["num_attention_heads"])
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocab, dim)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", (dim,)
        yield at + "post_attention_layernorm.weight", (dim,)
        for name, shape in {"q": (queries, dim), "k": (keys, dim), "v": (keys, dim), "o": (dim, queries)}.items():
            yield f"{at}self_attn.{name}_proj.weight", shape
        if "num_experts" in config:
            yield at + "self_attn.q_norm.weight", (queries,)
            yield at + "self_attn.k_norm.weight", (keys,)
            yield at + "mlp.gate.weight", (config["num_experts"], dim)
        blocks = [f"experts.{e}." for e in range(config["num_experts"])] if "num_experts" in config else [""]
        for block in blocks:
            yield f"{at}mlp.{block}gate_proj.weight", (hidden, dim)
            yield f"{at}mlp.{block}up_proj.weight", (hidden, dim)
            yield f"{at}mlp.{block}down_proj.weight", (dim, hidden)
    yield "model.norm.weight", (dim,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, dim)


def write_weights(config, path):
    header, offset, listed = {}, 0, list(tensors(config))
    for name, shape in listed:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    values = np.random.default_rng(1).normal(0.0, 0.02, BLOCK).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for index, (_, shape) in enumerate(listed):
            left = int(np.prod(shape))
            block = np.full(BLOCK, 0x3F80, np.uint16) if len(shape) == 1 else np.roll(bits, 4099 * index)
            while left > 0:
                file.write(block[:min(left, BLOCK)].tobytes())
                left -= BLOCK
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="directory whose tokenizer is copied")
    parser.add_argument("--layers", type=int, help="instead of the shape's own")
    parser.add_argument("output", type=pathlib.Path)
    options = parser.parse_args()
    if not any(options.tokenizer.glob("tokenizer*")):
        parser.error(f"--tokenizer: {options.tokenizer} has no tokenizer file")
    options.output.mkdir(parents=True, exist_ok=True)
    for file in options.tokenizer.glob("tokenizer*"):
        shutil.copy(file, options.output)
    config = dict(SHAPES[options.shape])
    if options.layers is not None:
        if options.layers < 1:
            parser.error("--layers: at least 1")
        config["num_hidden_layers"] = options.layers
    (options.output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    size = write_weights(config, options.output / "model.safetensors")
    print(f"{options.output}: {size / 1e9:.2f} GB of weights")


if __name__ == "__main__":
    main()
