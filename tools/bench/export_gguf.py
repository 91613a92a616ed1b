"""Writes a checkpoint of random_checkpoint.py as GGUF, for Sluice and llama.cpp alike.

The vocabulary is that of the checkpoint's tokenizer.json, filled up to the embedding as converters do.

    pip install torch transformers gguf
    tools/bench/export_gguf.py /tmp/llama-1b Q8_0 /tmp/llama-1b-q8_0.gguf
"""

import argparse
import json
import re
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
from gguf_models import MODELS, keys, permuted, stored, target_of  # noqa: E402


def tokens(writer: gguf.GGUFWriter, directory: Path, size: int) -> None:
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    names = sorted(model["vocab"], key=model["vocab"].get)
    kinds = [gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(names) - 1)  # <|endoftext|> is the first
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names + [f"[PAD{i}]" for i in range(len(names), size)])
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * (size - len(names)))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)


def published(file: safe_open) -> dict[str, list[str]]:
    """The published name, and the tensors that are stacked for it: one, or one for each expert."""
    found: dict[str, list[str]] = {}
    for name in file.keys():
        found.setdefault(re.sub(r"experts\.\d+\.", "experts.", name), []).append(name)
    for parts in found.values():
        parts.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    return found


def export(directory: Path, kind: Type, out: Path) -> None:
    config = AutoConfig.from_pretrained(directory)
    architecture, permutes = next((row[2], row[4]) for row in MODELS.values() if row[0] == config.model_type)
    half = out.with_suffix(".part")  # so that what was interrupted is not taken for a model
    writer = gguf.GGUFWriter(half, architecture)
    keys(writer, config, architecture)
    tokens(writer, directory, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    with safe_open(directory / "model.safetensors", "pt") as file:
        for name, parts in published(file).items():
            target = target_of(names, name)
            each = []
            for part in parts:
                weight = file.get_tensor(part).to(torch.float32).numpy()
                if permutes and target.endswith(("attn_q.weight", "attn_k.weight")):
                    is_query = target.endswith("attn_q.weight")
                    weight = permuted(weight, config.num_attention_heads if is_query else config.num_key_value_heads)
                is_matrix = weight.ndim > 1 and "ffn_gate_inp" not in target
                each.append(stored(np.ascontiguousarray(weight), kind if is_matrix else Type.F32)[0])
            data = each[0] if "experts." not in name else np.stack(each)
            writer.add_tensor(target, data, raw_dtype=kind if is_matrix and kind != Type.F16 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    half.rename(out)
    print(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("type", choices=["Q8_0", "F16", "BF16"])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    export(args.directory, Type[args.type], args.out)


if __name__ == "__main__":
    main()
