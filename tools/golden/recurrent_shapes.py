"""The tensors of the models of recurrent.py beside the embedding, named as published, and the sizes that all share."""

LENGTH, VOCAB, DIM, HEADS, HEAD_DIM, HIDDEN = 24, 64, 32, 4, 8, 40


def llama_shapes(name: str, hidden: int = HIDDEN) -> dict:
    square = {f"{name}.self_attn.{p}_proj.weight": [DIM, DIM] for p in "qkvo"}
    return square | {f"{name}.input_layernorm.weight": [DIM], f"{name}.post_attention_layernorm.weight": [DIM],
                     f"{name}.mlp.gate_proj.weight": [hidden, DIM], f"{name}.mlp.up_proj.weight": [hidden, DIM],
                     f"{name}.mlp.down_proj.weight": [DIM, hidden]}


def ouro_shapes(config: dict) -> dict:
    shapes = {"model.norm.weight": [DIM], "model.early_exit_gate.weight": [1, DIM], "model.early_exit_gate.bias": [1],
              "lm_head.weight": [VOCAB, DIM]}
    if config["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    for i in range(config["num_hidden_layers"]):
        name = f"model.layers.{i}"
        shapes |= llama_shapes(name) | {f"{name}.input_layernorm_2.weight": [DIM],
                                        f"{name}.post_attention_layernorm_2.weight": [DIM]}
    return shapes


def universal_shapes(config: dict) -> dict:
    shapes = {}
    if config["act_type"] != "none":
        shapes |= {"model.halting.weight": [1, DIM], "model.halting.bias": [1]}
    if config.get("step_signal", "learned") == "learned":
        shapes["model.step_signal.weight"] = [config["act_max_steps"], DIM]
    if not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = [VOCAB, DIM]
    if config.get("pre_norm", True):
        shapes |= {"model.norm.weight": [DIM], "model.norm.bias": [DIM]}
    for i in range(config["num_inrecurrence_layers"]):
        name = f"model.layers.{i}"
        shapes |= {f"{name}.self_attn.{p}_proj.weight": [DIM, DIM] for p in "qkvo"}
        shapes |= {f"{name}.mlp.up_proj.weight": [HIDDEN, DIM], f"{name}.mlp.up_proj.bias": [HIDDEN],
                   f"{name}.mlp.down_proj.weight": [DIM, HIDDEN], f"{name}.mlp.down_proj.bias": [DIM]}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{name}.{norm}.weight": [DIM], f"{name}.{norm}.bias": [DIM]}
    return shapes


def huginn_shapes(config: dict) -> dict:
    shapes = {"transformer.adapter.weight": [DIM, 2 * DIM], "transformer.ln_f.weight": [DIM]}
    if config.get("bias"):
        shapes["transformer.adapter.bias"] = [DIM]
    if not config["tie_embeddings"]:
        shapes["lm_head.weight"] = [VOCAB, DIM]
    kv = config.get("num_key_value_heads", HEADS) * HEAD_DIM
    for part, count in (("prelude", 1), ("core_block", config["n_layers_in_recurrent_block"]), ("coda", 1)):
        for i in range(count):
            name = f"transformer.{part}.{i}"
            shapes |= {f"{name}.norm_{n}.weight": [DIM] for n in (1, 2, 3, 4)}
            shapes[f"{name}.attn.Wqkv.weight"] = [DIM + 2 * kv, DIM]
            if config["qk_bias"]:
                shapes[f"{name}.attn.qk_bias"] = [2, 1, HEADS, HEAD_DIM]
            shapes |= {f"{name}.attn.proj.weight": [DIM, DIM], f"{name}.mlp.fc.weight": [32, DIM],
                       f"{name}.mlp.proj.weight": [DIM, 16]}
    return shapes


def mor_shapes(config: dict) -> dict:
    rules = config["mor"]
    repeats, token = rules["num_recursion"], rules["type"] == "token"
    base = (config["num_hidden_layers"] - 2) // repeats
    last = 2 if token else repeats + 1
    shapes = {"model.norm.weight": [DIM]}
    shapes |= llama_shapes("model.layers.0", 16) | llama_shapes(f"model.layers.{last}", 16)
    for r in range(1 if token else repeats):
        layer = f"model.layers.{1 + r}"
        for j in range(base):
            shapes |= llama_shapes(f"{layer}.block_list.0.{j}" if token else f"{layer}.block.{j}", 16)
        outputs, router = repeats if token else 1, f"{layer}.mor_router.router"
        if rules.get("router_type") == "mlp":
            shapes |= {f"{router}.0.weight": [2 * DIM, DIM], f"{router}.2.weight": [outputs, 2 * DIM]}
        else:
            shapes |= {f"{router}.weight": [outputs, DIM]}
        if rules.get("balancing") == "loss_free":
            shapes[f"{layer}.mor_router.router_bias"] = [outputs]
    return shapes


SHAPES = {"ouro": ouro_shapes, "universal_transformer": universal_shapes, "huginn_raven": huginn_shapes,
          "mor": mor_shapes}
