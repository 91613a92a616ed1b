"""Makes the golden folders of Switch Transformers (encoder and decoder), run by Hugging Face transformers in eval mode.

expected.safetensors: encoder_ids [13], input_ids [9] (the decoder's, from its start token), hidden.<layer>: of the
encoder [13, dim], then of the decoder [9, dim], logits [9, vocab].

    pip install torch transformers; python tools/golden/switch.py [name ...]
"""

import torch
from transformers import AutoModelForSeq2SeqLM, SwitchTransformersConfig

from fixture import (Draft, input_ids, keep_output, made_by, make, randomize, run_by_transformers, saved_config, search,
                     smallest, source, write)

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


def run(model, source_ids: torch.Tensor, ids: torch.Tensor) -> tuple[dict, list[float]]:
    """What expected.safetensors holds, and how far each router's choice is from a tie."""
    found, gaps = {"encoder_ids": source_ids.int(), "input_ids": ids.int()}, []

    def hook(_module, _inputs, output):
        best = output.sort(-1, descending=True).values
        gaps.append((best[..., 0] - best[..., 1]).min().item())

    handles = [m.register_forward_hook(hook) for n, m in model.named_modules() if n.endswith("router.classifier")]
    handles += [keep_output(found, f"hidden.{i}", block)
                for i, block in enumerate([*model.encoder.block, *model.decoder.block])]
    found["logits"] = model(input_ids=source_ids[None], decoder_input_ids=ids[None], use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return found, gaps


def draft(name: str, seed: int) -> Draft:
    config = SwitchTransformersConfig(**MODELS[name])
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    randomize(model.named_parameters(), seed)
    for stack in (model.encoder, model.decoder):  # of their own only where nothing is tied
        stack.embed_tokens.weight.copy_(model.shared.weight)
    ids = input_ids(VOCAB, LENGTH, seed + 2000)
    ids[0] = config.decoder_start_token_id
    found, gaps = run(model, input_ids(VOCAB, SOURCE_LENGTH, seed + 1000), ids)
    state = {k: v for k, v in model.state_dict().items() if "embed_tokens" not in k}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    return Draft(state, found, gaps, model=model)


def build(name: str) -> None:
    seed, kept = search(name, range(600, 700), draft, 5e-2)
    config = saved_config(kept.model, name)
    if name.endswith("-uneven"):
        config = {k: v for k, v in config.items() if not k.endswith("_sparse_step")}
    how = run_by_transformers(kept.model, ", no expert over its capacity")
    write(name, config, kept.weights, kept.expected,
          source(name, seed, how, made_by("switch.py"), smallest(kept, "router margin")))


if __name__ == "__main__":
    make(MODELS, build)
