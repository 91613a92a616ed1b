"""Makes the golden folders of Switch Transformers (encoder and decoder), run by Hugging Face transformers in eval mode.

expected.safetensors: encoder_ids [13], input_ids [9] (the decoder's, from its start token), hidden.<layer>: of the
encoder [13, dim], then of the decoder [9, dim], logits [9, vocab].

    pip install torch transformers; python tools/golden/switch.py [name ...]
"""

import json
import sys

import torch
import transformers
from transformers import AutoModelForSeq2SeqLM, SwitchTransformersConfig

from fixture import FOLDER, input_ids, randomize, write

SOURCE_LENGTH, LENGTH, VOCAB = 13, 9, 48
BASE = dict(vocab_size=VOCAB, d_model=24, d_kv=8, d_ff=24, num_heads=3, num_layers=2, num_decoder_layers=2,
            num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_experts=3, expert_capacity=64,
            relative_attention_num_buckets=8, relative_attention_max_distance=10, pad_token_id=0, eos_token_id=1,
            decoder_start_token_id=0)
MODELS = {
    "switch_transformers": dict(BASE),
    "switch_transformers-untied": dict(BASE, d_ff=10, num_sparse_encoder_layers=2, num_sparse_decoder_layers=0,
                                       num_experts=4, router_bias=True, tie_word_embeddings=False,
                                       relative_attention_num_buckets=6),
    # The steps follow from the numbers of sparse layers.
    "switch_transformers-uneven": dict(BASE, d_ff=10, num_layers=3, num_decoder_layers=2, num_sparse_encoder_layers=1,
                                       num_sparse_decoder_layers=2, dense_act_fn="gelu", decoder_start_token_id=5),
}


def smallest_margin(model, run) -> float:
    gaps = [float("inf")]

    def hook(_module, _inputs, output):
        best = output.sort(-1, descending=True).values
        gaps.append((best[..., 0] - best[..., 1]).min().item())

    handles = [m.register_forward_hook(hook) for n, m in model.named_modules() if n.endswith("router.classifier")]
    run()
    for handle in handles:
        handle.remove()
    return min(gaps)


def build(name: str) -> None:
    config = SwitchTransformersConfig(**MODELS[name])
    for seed in range(600, 700):
        model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
        randomize(model.named_parameters(), seed)
        for stack in (model.encoder, model.decoder):  # of their own only where nothing is tied
            stack.embed_tokens.weight.copy_(model.shared.weight)
        source = input_ids(VOCAB, SOURCE_LENGTH, seed + 1000)
        target = input_ids(VOCAB, LENGTH, seed + 2000)
        target[0] = config.decoder_start_token_id
        run = lambda: model(input_ids=source[None], decoder_input_ids=target[None], use_cache=False)
        margin = smallest_margin(model, run)
        if margin > 5e-2:
            break
    else:
        raise SystemExit(f"{name}: no seed gives a fixture without near ties")
    found = {"encoder_ids": source.int(), "input_ids": target.int()}

    def keep(key: str):
        def hook(_module, _inputs, output):
            found[key] = (output[0] if isinstance(output, tuple) else output)[0]
        return hook

    blocks = list(model.encoder.block) + list(model.decoder.block)
    for i, block in enumerate(blocks):
        block.register_forward_hook(keep(f"hidden.{i}"))
    found["logits"] = run().logits[0]
    folder = FOLDER / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    written = json.loads((folder / "config.json").read_text())
    if name.endswith("-uneven"):
        written = {k: v for k, v in written.items() if not k.endswith("_sparse_step")}
    text = (f"# {name}\nOur own random weights (seed {seed}), run by huggingface/transformers {transformers.__version__} "
            f"(`{type(model).__name__}`, eager attention, fp32, CPU, no expert over its capacity) with torch "
            f"{torch.__version__.split('+')[0]}.\nMade by tools/golden/switch.py; tensors are described there. Smallest "
            f"router margin: {margin:.1e}.\n")
    state = {k: v for k, v in model.state_dict().items() if "embed_tokens" not in k}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    write(name, written, state, found, text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        for wanted in sys.argv[1:] or MODELS:
            build(wanted)
