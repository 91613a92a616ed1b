#!/usr/bin/env python3
"""Converts a MoEUT training checkpoint (RobertCsordas/moeut_training_code, *.ckpt) to a directory the server reads.

    moeut.py C4_44M.ckpt --out DIR

The checkpoint is a Python pickle: it is read here, offline, with torch's weights_only loader, never by the server.
Tensor names stay as they are (models.md 3.4); counters are left out. The tokenizer is a separate SentencePiece file
of the same release: copy it to DIR/tokenizer.model.

    pip install torch safetensors
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

COUNTERS = (".pkm.iter", ".pkm.kv_sel_counts_100")


def config_of(args: dict, tensors: dict) -> dict:
    """Sizes from the tensors where they are there, the rest from the stored hyper-parameters."""
    heads = args["transformer.n_heads"]
    attention = tensors["unique_layers.0.self_attn.projections.v"]
    keys = tensors["unique_layers.0.pkm.keys"]
    vocab, dim = tensors["embedding.weight"].shape
    head_dim = attention.shape[-1]
    if args.get("transformer.variant", "preln_moe_universal") != "preln_moe_universal" or not args.get("moe.nonorm", 1):
        raise SystemExit("only the peri-layernorm variant (preln_moe_universal with moe.nonorm) is supported")
    return {
        "model_type": "moeut",
        "vocab_size": vocab,
        "hidden_size": dim,
        "num_hidden_layers": args["transformer.encoder_n_layers"],
        "group_size": args["transformer.universal.group_size"],
        "layer_order": args.get("transformer.universal.group_type", "abab"),
        "num_attention_heads": heads,
        "head_dim": head_dim,
        "rotary_dim": int(args.get("rope.rotate_fraction", 0.5) * head_dim) // 2 * 2,
        "rope_theta": float(args.get("rope.base", 10000.0)),
        "num_experts": keys.shape[0],
        "moe_intermediate_size": keys.shape[2],
        "num_experts_per_tok": args["pkm.n_heads"],
        "num_attention_experts": attention.shape[0] // heads,
        "num_attention_experts_per_tok": args["moe.att.k"],
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    stored = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    tensors = {k: v for k, v in stored["model"].items() if not k.endswith(COUNTERS)}
    config = config_of(stored["run_invariants"]["args"], tensors)
    dtype = getattr(torch, options.dtype)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.to(dtype).contiguous() for k, v in tensors.items()}, options.out / "model.safetensors",
              metadata={"format": "pt"})
    (options.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{options.out}: {sum(v.numel() for v in tensors.values())} parameters")


if __name__ == "__main__":
    main()
