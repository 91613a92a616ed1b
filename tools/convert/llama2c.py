#!/usr/bin/env python3
"""Converts a llama2.c checkpoint (version 0, fp32) and its tokenizer to a Hugging Face style directory.

    llama2c.py stories260K.bin tok512.bin --out DIR [--as dense|moe|mod]

Standard library only. llama2.c rotates neighbouring pairs of a head's dimensions, the written model rotates
halves, so the rows of q and k are permuted. --as moe writes a Mixtral model whose experts are all the dense FFN
(so it computes the same function), --as mod a Mixture-of-Depths model whose routers take every row (bit for bit
the same function: gate "binary" is the constant 1, combine "only_block" takes the block's output as it is).
Source of the formats: karpathy/llama2.c run.c (read_checkpoint, build_tokenizer, encode).
"""

import argparse
import json
import struct
from array import array
from pathlib import Path

SPACE = "\u2581"
FIRST_PIECE = 259  # after <unk>, <s>, </s> and 256 bytes
NUM_EXPERTS = 4
TOP_K = 2


def read_checkpoint(path: Path) -> tuple[dict, dict]:
    """The header's numbers, and name -> (shape, floats) with Hugging Face names."""
    data = path.read_bytes()
    names = ["dim", "hidden", "layers", "heads", "kv_heads", "vocab", "context"]
    shape = dict(zip(names, struct.unpack("<7i", data[:28])))
    tied = shape["vocab"] > 0
    shape["vocab"] = abs(shape["vocab"])
    floats = array("f")
    floats.frombytes(data[28:])
    position = 0

    def take(count: int) -> array:
        nonlocal position
        position += count
        if position > len(floats):
            raise SystemExit(f"{path}: shorter than its header says")
        return floats[position - count:position]

    dim, hidden, layers = shape["dim"], shape["hidden"], shape["layers"]
    head_dim = dim // shape["heads"]
    kv_dim = head_dim * shape["kv_heads"]
    tensors = {"model.embed_tokens.weight": ([shape["vocab"], dim], take(shape["vocab"] * dim))}
    per_layer = [
        ("input_layernorm", [dim]),
        ("self_attn.q_proj", [dim, dim]),
        ("self_attn.k_proj", [kv_dim, dim]),
        ("self_attn.v_proj", [kv_dim, dim]),
        ("self_attn.o_proj", [dim, dim]),
        ("post_attention_layernorm", [dim]),
        ("mlp.gate_proj", [hidden, dim]),
        ("mlp.down_proj", [dim, hidden]),
        ("mlp.up_proj", [hidden, dim]),
    ]
    for name, size in per_layer:
        count = size[0] * (size[1] if len(size) > 1 else 1)
        for i in range(layers):
            values = take(count)
            if name in ("self_attn.q_proj", "self_attn.k_proj"):
                values = to_half_style(values, size[0], dim, head_dim)
            tensors[f"model.layers.{i}.{name}.weight"] = (size, values)
    tensors["model.norm.weight"] = ([dim], take(dim))
    take(shape["context"] * head_dim)  # rotary tables, recomputed when the model runs
    if not tied:
        tensors["lm_head.weight"] = ([shape["vocab"], dim], take(shape["vocab"] * dim))
    shape["tied"] = tied
    return shape, tensors


def to_half_style(values: array, rows: int, dim: int, head_dim: int) -> array:
    """Pair (2i, 2i + 1) of each head becomes pair (i, i + head_dim / 2)."""
    out = array("f")
    for head in range(rows // head_dim):
        order = list(range(0, head_dim, 2)) + list(range(1, head_dim, 2))
        for row in (head * head_dim + i for i in order):
            out.extend(values[row * dim:(row + 1) * dim])
    return out


def base_config(shape: dict) -> dict:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": shape["dim"],
        "intermediate_size": shape["hidden"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "hidden_act": "silu",
        "vocab_size": shape["vocab"],
        "max_position_embeddings": shape["context"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape["tied"],
        "bos_token_id": 1,
        "eos_token_id": [1, 2],  # llama2.c ends at <s>, which separates stories
        "torch_dtype": "float32",
    }


def as_moe(shape: dict, config: dict, tensors: dict) -> None:
    """Every expert is the dense FFN; the weights of the chosen ones sum to 1."""
    config.update(model_type="mixtral", architectures=["MixtralForCausalLM"], num_local_experts=NUM_EXPERTS,
                  num_experts_per_tok=TOP_K)
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    for i in range(shape["layers"]):
        dense, sparse = f"model.layers.{i}.mlp", f"model.layers.{i}.block_sparse_moe"
        for old, new in names.items():
            tensor = tensors.pop(f"{dense}.{old}.weight")
            for expert in range(NUM_EXPERTS):
                tensors[f"{sparse}.experts.{expert}.{new}.weight"] = tensor
        # Any router will do; this one sends different rows to different experts.
        count = NUM_EXPERTS * shape["dim"]
        values = array("f", (((j * 2654435761 + i) % 2001) / 1000.0 - 1.0 for j in range(count)))
        tensors[f"{sparse}.gate.weight"] = ([NUM_EXPERTS, shape["dim"]], values)


def as_mod(shape: dict, config: dict, tensors: dict) -> None:
    """Routers on the odd layers that take every row."""
    layers = list(range(1, shape["layers"], 2))
    config.update(model_type="mod", architectures=["ModForCausalLM"])
    config["mod"] = {"layers": layers, "gate_fn": "binary", "combine": "only_block", "decide": "router_threshold",
                     "prefill_decide": "router_threshold", "threshold": 0.5, "pos": "absolute",
                     "kv": "routed_only", "capacity": 1.0}
    for i in layers:
        tensors[f"model.layers.{i}.mod_router.weight"] = ([1, shape["dim"]], array("f", [0.0] * shape["dim"]))
        tensors[f"model.layers.{i}.mod_router.bias"] = ([1], array("f", [100.0]))


def write_safetensors(path: Path, tensors: dict) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        size, values = tensors[name]
        header[name] = {"dtype": "F32", "shape": size, "data_offsets": [offset, offset + 4 * len(values)]}
        offset += 4 * len(values)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(tensors[name][1].tobytes())


def read_pieces(path: Path, vocab: int) -> list[tuple[float, str]]:
    data = path.read_bytes()
    position, pieces = 4, []
    for _ in range(vocab):
        score, length = struct.unpack("<fi", data[position:position + 8])
        position += 8
        pieces.append((score, data[position:position + length].decode()))
        position += length
    return pieces


def tokenizer(pieces: list[tuple[float, str]]) -> dict:
    """BPE with byte fallback. llama2.c merges the neighbours whose joined piece has the highest score."""
    texts = ["<unk>", "<s>", "</s>"] + [text for _, text in pieces[3:FIRST_PIECE]]
    texts += [text.replace(" ", SPACE) for _, text in pieces[FIRST_PIECE:]]
    ids = {text: i for i, text in enumerate(texts)}
    merges = []
    for i in range(FIRST_PIECE, len(texts)):
        text = texts[i]
        splits = [(text[:n], text[n:]) for n in range(1, len(text)) if text[:n] in ids and text[n:] in ids]
        merges += [(-pieces[i][0], ids[left], ids[right], [left, right]) for left, right in splits]
    special = [{"id": i, "content": texts[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in range(3)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": ids, "merges": [pair for _, _, _, pair in sorted(merges)]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--as", dest="kind", choices=["dense", "moe", "mod"], default="dense")
    args = parser.parse_args()
    shape, tensors = read_checkpoint(args.checkpoint)
    config = base_config(shape)
    if args.kind == "moe":
        as_moe(shape, config, tensors)
    elif args.kind == "mod":
        as_mod(shape, config, tensors)
    args.out.mkdir(parents=True, exist_ok=True)
    write_safetensors(args.out / "model.safetensors", tensors)
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    pieces = read_pieces(args.tokenizer, shape["vocab"])
    (args.out / "tokenizer.json").write_text(json.dumps(tokenizer(pieces), indent=1, ensure_ascii=False) + "\n")
    (args.out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
         "add_bos_token": True, "add_eos_token": False}, indent=2) + "\n")
    print(f"{args.out}: {config['model_type']}, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
