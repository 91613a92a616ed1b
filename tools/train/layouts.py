"""config.json and tensor names of the families that the server loads, for each Shape (engine/architectures/README.md)."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from shape import Shape

ARCHITECTURES = {"llama": "LlamaForCausalLM", "deepseek": "DeepseekForCausalLM", "mod": "ModForCausalLM",
                 "mor": "MorForCausalLM", "moeut": "MoeutForCausalLM"}


@dataclass
class Place:
    """Where a parameter goes: one tensor, or one per matrix of its stack."""
    names: list[str]
    stacked: bool = False     # one tensor holds the whole parameter
    transposed: bool = False

    def write(self, parameter: Tensor) -> dict[str, Tensor]:
        value = parameter.mT if self.transposed else parameter
        return {self.names[0]: value} if self.stacked else dict(zip(self.names, value))

    def read(self, tensors: dict[str, Tensor]) -> Tensor:
        value = tensors[self.names[0]] if self.stacked else torch.stack([tensors[name] for name in self.names])
        return value.mT if self.transposed else value


def place_of(shape: Shape, name: str) -> Place:
    """Where the parameter of this name stands in the exported file."""
    if shape.family == "moeut":
        return moeut_place(name)
    if shape.family == "mor":
        name = mor_name(shape, name)
    expert = re.fullmatch(r"(model\.layers\.\d+\.mlp)\.(gate|up|down)_proj", name)
    if expert:
        return Place([f"{expert[1]}.experts.{e}.{expert[2]}_proj.weight" for e in range(shape.experts.count)])
    return Place([name.replace(".mlp.router.", ".mlp.gate.")], stacked=True)


def mor_name(shape: Shape, name: str) -> str:
    def layer(found: re.Match) -> str:
        i = int(found[1])
        if i == 0:
            return "model.layers.0."
        return "model.layers.2." if i == shape.recursion.layers + 1 else f"model.layers.1.block_list.0.{i - 1}."
    name = re.sub(r"^model\.layers\.(\d+)\.", layer, name)
    return name.replace("model.mor_router.", "model.layers.1.mor_router.")


def moeut_place(name: str) -> Place:
    for ours, theirs in (("model.embed_tokens", "embedding"), ("model.norm", "out_norm"), ("model.layers", "transformer.layers"),
                         ("input_layernorm", "ln1"), ("post_attention_layernorm", "ln2"), ("v_router.weight", "sel_v"),
                         ("o_router.weight", "sel_o"), ("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "o"),
                         ("self_attn", "attention"), ("mlp.router.weight", "ffn.expert_sel"), ("mlp.up_proj", "ffn.keys"),
                         ("mlp.down_proj", "ffn.values")):
        name = name.replace(ours, theirs)
    return Place([name], stacked=True, transposed=name.endswith((".v", ".o", ".keys", ".values")))


def tensors_of(shape: Shape, state: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in state.items():
        found |= place_of(shape, name).write(parameter)
    return found


def state_of(shape: Shape, names: list[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of tensors_of."""
    return {name: place_of(shape, name).read(tensors) for name in names}


def config_of(shape: Shape) -> dict:
    config = {"model_type": shape.family, "architectures": [ARCHITECTURES[shape.family]], "hidden_size": shape.hidden_size}
    if not shape.universal:
        config["intermediate_size"] = shape.intermediate_size
    config |= {"num_hidden_layers": shape.num_layers, "num_attention_heads": shape.num_heads}
    if not shape.universal:
        config["num_key_value_heads"] = shape.num_kv_heads
    config["head_dim"] = shape.head_dim
    if not shape.universal:
        config["hidden_act"] = "silu"
    config |= {"vocab_size": shape.vocab_size, "max_position_embeddings": shape.max_positions,
               "layer_norm_eps" if shape.universal else "rms_norm_eps": shape.norm_eps, "rope_theta": shape.rope_theta,
               "tie_word_embeddings": not shape.universal, "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16"}
    return config | expert_keys(shape) | depth_keys(shape)


def expert_keys(shape: Shape) -> dict:
    experts = shape.experts
    if not experts:
        return {}
    keys = {"num_experts_per_tok": experts.per_token, "moe_intermediate_size": experts.size}
    if shape.family == "deepseek":
        if experts.shared_size % experts.size:
            raise ValueError("experts.shared_size must be a multiple of experts.size in this layout")
        return keys | {"n_routed_experts": experts.count, "n_shared_experts": experts.shared_size // experts.size,
                       "first_k_dense_replace": 0, "moe_layer_freq": 1, "norm_topk_prob": True, "scoring_func": "softmax"}
    if experts.shared_size:
        raise ValueError(f"experts.shared_size: the layout {shape.family} has no shared expert")
    keys["num_experts"] = experts.count
    if not shape.universal:
        return keys | {"norm_topk_prob": True}
    universal = shape.universal
    return keys | {"group_size": universal.group_size, "rotary_dim": universal.rotary_dim, "layer_order": "abab",
                   "num_attention_experts": universal.attention_experts,
                   "num_attention_experts_per_tok": universal.attention_per_token}


def depth_keys(shape: Shape) -> dict:
    if shape.recursion:
        return {"mor": {"type": "token", "num_recursion": shape.recursion.times, "sharing": "middle_cycle",
                        "router_type": "linear", "router_func": "softmax", "alpha": 1.0, "balancing": "loss_free"}}
    if not shape.routed_layers:
        return {}
    rule = "predictor_threshold" if shape.predictor_size else "router_threshold"
    return {"mod": {"layers": shape.routed_layers, "gate_fn": "sigmoid", "combine": "scaled_update", "decide": rule,
                    "threshold": 0.5, "prefill_decide": rule, "pos": "absolute", "kv": "routed_only",
                    "capacity": shape.capacity}}
