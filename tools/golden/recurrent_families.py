"""The functions of the models that recurrent.py makes golden folders of, in plain PyTorch: whole sequence at once,
float64 on float32 weights, the source of the formulae beside each class. What a row that stopped leaves to later rows
follows `halted_kv` (engine/architectures/README.md)."""

import math

import torch
from torch.nn.functional import gelu, layer_norm, linear, relu, silu, softmax

from recurrent_shapes import DIM, HEAD_DIM, HEADS, LENGTH


class Plain:
    """The parts that the families share. `margins`: how far each decision is from a tie. `rows`: the positions that
    run; `kept`: keys and values of every position by the last execution of each attention."""

    def __init__(self, config: dict, weights: dict):
        self.config = config
        self.weights = {k: v.double() for k, v in weights.items()}
        self.margins: list[float] = []
        self.found: dict = {}
        self.kept: dict = {}
        self.instance = 0

    def lin(self, x, name):
        return linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def rms(self, x, name, epsilon=1e-6):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * self.weights[f"{name}.weight"]

    def ln(self, x, name):
        return layer_norm(x, [DIM], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-6)

    def rope(self, x, positions, theta, neighbours=False):
        frequency = theta ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM)
        angle = (positions.double()[:, None] * frequency)[:, None]
        a, b = (x[..., 0::2], x[..., 1::2]) if neighbours else x.chunk(2, -1)
        turned = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return torch.stack(turned, -1).flatten(-2) if neighbours else torch.cat(turned, -1)

    def attend(self, q, k, v, rows, name, kv="own", window=0):
        """`kv`: own: keys and values of `rows`; latest: also those that other positions left at `name` before;
        first: only those that were left before."""
        old = self.kept.get(name)
        if kv == "first" and old is not None:
            k, v, where = old
        elif kv == "own" or old is None:
            where = rows
        else:
            k, v = (then.index_copy(0, rows, now) for then, now in zip(old, (k, v)))
            where = torch.arange(LENGTH)
        if kv != "own":
            self.kept[name] = (k, v, where)
        logits = torch.einsum("qhd,khd->hqk", q, k) * HEAD_DIM ** -0.5
        distance = rows[:, None] - where[None, :]
        visible = (distance >= 0) & (distance < (window or 1 << 30))
        logits = logits.masked_fill(~visible, float("-inf"))
        return torch.einsum("hqk,khd->qhd", softmax(logits, -1), v).reshape(len(rows), DIM)

    def heads(self, x):
        return x.view(len(x), HEADS, HEAD_DIM)

    def llama_attention(self, x, rows, name, **how):
        q, k = (self.rope(self.heads(self.lin(x, f"{name}.{p}_proj")), rows, 10000.0) for p in "qk")
        v = self.heads(self.lin(x, f"{name}.v_proj"))
        return self.lin(self.attend(q, k, v, rows, name, **how), f"{name}.o_proj")

    def gated(self, x, name):
        return self.lin(silu(self.lin(x, f"{name}.gate_proj")) * self.lin(x, f"{name}.up_proj"), f"{name}.down_proj")

    def show(self, x, rows, running=None):
        """One execution of a layer: what its rows became, and of a repeated one who has not stopped."""
        self.found[f"hidden.{self.instance}"] = torch.zeros(LENGTH, DIM).double().index_copy(0, rows, x)
        if running is not None:
            self.found[f"mask.{self.instance}"] = running.int()
        self.instance += 1

    def head(self, x):
        name = "lm_head" if "lm_head.weight" in self.weights else self.embedding
        self.found["logits"] = linear(x, self.weights[f"{name}.weight"])

    embedding = "model.embed_tokens"

    def embed(self, ids, scale=1.0):
        x = scale * self.weights[f"{self.embedding}.weight"][ids]
        self.found |= {"input_ids": ids.int(), "hidden.embed": x}
        return x

    def rows_of(self, running):
        """Who runs: the rows that go on, or all of them where their keys and values are wanted."""
        every = self.config.get("halted_kv") == "compute_all"
        return torch.arange(LENGTH) if every else running.nonzero()[:, 0]


class Ouro(Plain):
    """ByteDance/Ouro-1.4B, modeling_ouro.py: OuroDecoderLayer, OuroModel.forward (norm after every pass, gate on its
    output), OuroForCausalLM (the first pass whose cumulated probability reaches the threshold feeds the head)."""

    def layer(self, x, rows, i):
        name = f"model.layers.{i}"
        sliding = self.config.get("layer_types", ["full_attention"] * 8)[i] == "sliding_attention"
        kv = "own" if self.config.get("halted_kv") == "compute_all" else self.config.get("halted_kv", "latest")
        a = self.llama_attention(self.rms(x, f"{name}.input_layernorm"), rows, f"{name}.self_attn", kv=kv,
                                 window=self.config["sliding_window"] if sliding else 0)
        h = x + self.rms(a, f"{name}.input_layernorm_2")
        y = self.gated(self.rms(h, f"{name}.post_attention_layernorm"), f"{name}.mlp")
        return h + self.rms(y, f"{name}.post_attention_layernorm_2")

    def run(self, ids):
        x = self.embed(ids)
        passes, threshold = self.config["total_ut_steps"], self.config["early_exit_threshold"]
        running = torch.ones(LENGTH, dtype=torch.bool)
        result, left, total = x.clone(), torch.ones(LENGTH).double(), torch.zeros(LENGTH).double()
        for u in range(passes):
            rows = self.rows_of(running)
            z = x[rows]
            for i in range(self.config["num_hidden_layers"]):
                z = self.layer(z, rows, i)
                self.show(z, rows, running)
            x = x.index_copy(0, rows, self.rms(z, "model.norm"))
            result[running] = x[running]
            p = self.lin(x, "model.early_exit_gate")[:, 0].sigmoid()
            total, left = total + p * left, left * (1 - p)
            if threshold < 1 and u + 1 < passes:
                self.margins.append((total - threshold)[running].abs().min().item())
                running = running & (total < threshold)
            if not running.any():
                break
        self.head(result)


class Universal(Plain):
    """tensorflow/tensor2tensor, universal_transformer_util.py: universal_transformer_act (its `prev * 1 - u` is
    `basic`), step_preprocess; common_attention.py: get_timing_signal_1d, add_layer_timing_signal_*. With halted_kv
    compute_all it is that function; otherwise rows that have halted do nothing any more, as the paper's text says."""

    def signal(self, positions):
        half = DIM // 2
        rate = torch.exp(-torch.arange(half).double() * math.log(1e4) / max(half - 1, 1))
        angle = positions.double()[:, None] * rate
        return torch.cat([angle.sin(), angle.cos()], 1)

    def preprocess(self, x, rows, step):
        if self.config.get("position_signal", True):
            x = x + self.signal(rows)
        kind = self.config.get("step_signal", "learned")
        if kind == "learned":
            x = x + self.weights["model.step_signal.weight"][step]
        elif kind == "sinusoid":
            x = x + self.signal(torch.tensor([step]))
        return x

    def layer(self, x, rows, i):
        name, before = f"model.layers.{i}", self.config.get("pre_norm", True)
        kv = self.config.get("halted_kv", "latest")
        act = gelu if self.config.get("hidden_act") == "gelu" else relu

        def attention(z):
            q, k, v = (self.heads(self.lin(z, f"{name}.self_attn.{p}_proj")) for p in "qkv")
            out = self.attend(q, k, v, rows, name, kv="own" if kv == "compute_all" else kv)
            return self.lin(out, f"{name}.self_attn.o_proj")

        def ffn(z):
            return self.lin(act(self.lin(z, f"{name}.mlp.up_proj")), f"{name}.mlp.down_proj")

        for part, norm in ((attention, f"{name}.input_layernorm"), (ffn, f"{name}.post_attention_layernorm")):
            x = x + part(self.ln(x, norm)) if before else self.ln(x + part(x), norm)
        return x

    def run(self, ids):
        state = self.embed(ids, math.sqrt(DIM))
        act, steps = self.config["act_type"], self.config["act_max_steps"]
        threshold = 1 - self.config["act_epsilon"]
        halting, result = torch.zeros(LENGTH).double(), torch.zeros(LENGTH, DIM).double()
        running = torch.ones(LENGTH, dtype=torch.bool)
        for step in range(steps):
            rows = self.rows_of(running)
            z = self.preprocess(state[rows], rows, step)
            if act != "none":
                p = torch.zeros(LENGTH).double().index_copy(0, rows, self.lin(z, "model.halting")[:, 0].sigmoid())
                self.margins.append((halting + p - threshold)[running].abs().min().item())
                last = running & (halting + p > threshold)
                u = torch.where(last, 1 - halting, p) * running
                halting = halting + u
            for i in range(self.config["num_inrecurrence_layers"]):
                z = self.layer(z, rows, i)
                self.show(z, rows, running if act != "none" else None)
            state = state.index_copy(0, rows, z)
            if act == "none":
                continue
            w = u[:, None]
            mixed = {"basic": state * w + (result * 1 - w), "accumulated": state * w + result,
                     "interpolated": state * w + result * (1 - w)}[act]
            result = torch.where(running[:, None], mixed, result)
            running = running & ~last
            if not running.any():
                break
        x = state if act == "none" else result
        self.head(self.ln(x, "model.norm") if self.config.get("pre_norm", True) else x)


class Huginn(Plain):
    """seal-rg/recurrent-pretraining, raven_modeling_minimal.py: SandwichBlock, core_block_forward with a state that
    starts at zero, generate_with_adaptive_compute with criterion latent-diff, for each token alone."""

    embedding = "transformer.wte"

    def layer(self, x, rows, name, kv="own"):
        a = self.lin(self.rms(x, f"{name}.norm_1"), f"{name}.attn.Wqkv").view(len(x), -1, HEAD_DIM)
        groups = self.config.get("num_key_value_heads", HEADS)
        q, k, v = a.split([HEADS, groups, groups], 1)
        bias = self.weights.get(f"{name}.attn.qk_bias", torch.zeros(2, 1, 1, 1))
        q, k = (self.rope(part + bias[i], rows, 50000.0, True) for i, part in enumerate((q, k)))
        k, v = (part.repeat_interleave(HEADS // groups, 1) for part in (k, v))
        x = self.rms(x + self.lin(self.attend(q, k, v, rows, name, kv=kv), f"{name}.attn.proj"), f"{name}.norm_2")
        gate, up = self.lin(self.rms(x, f"{name}.norm_3"), f"{name}.mlp.fc").chunk(2, -1)
        return self.rms(x + self.lin(silu(gate) * up, f"{name}.mlp.proj"), f"{name}.norm_4")

    def run(self, ids):
        every = torch.arange(LENGTH)
        e = self.layer(self.embed(ids, self.config["init_values"]["embed_scale"]), every, "transformer.prelude.0")
        self.show(e, every)
        s, result = torch.zeros_like(e), torch.zeros_like(e)
        running = torch.ones(LENGTH, dtype=torch.bool)
        threshold = self.config.get("exit_threshold")
        steps = self.config.get("num_steps", self.config["mean_recurrence"])
        kv = self.config.get("halted_kv", "own")
        for n in range(steps):
            rows = self.rows_of(running)
            z = self.lin(torch.cat([s[rows], e[rows]], -1), "transformer.adapter")
            for i in range(self.config["n_layers_in_recurrent_block"]):
                z = self.layer(z, rows, f"transformer.core_block.{i}", "own" if kv == "compute_all" else kv)
                self.show(z, rows, None if threshold is None else running)
            before, s = s, s.index_copy(0, rows, z)
            result[running] = s[running]
            if threshold is None:
                continue
            moved = (s - before).norm(dim=-1) / s.norm(dim=-1)
            if n + 1 < steps:
                self.margins.append((moved / threshold - 1)[running].abs().min().item())
                running = running & (moved >= threshold)
            if not running.any():
                self.instance += (steps - n - 1) * self.config["n_layers_in_recurrent_block"]
                break
        x = self.layer(self.rms(result, "transformer.ln_f"), every, "transformer.coda.0")
        self.show(x, every)
        self.head(self.rms(x, "transformer.ln_f"))


class Recursions(Plain):
    """raymin0223/mixture_of_recursions, token_choice_router.py, expert_choice_router.py, util.py (MLPRouter); with
    kv_sharing later recursions read the keys and values that the first one left of every token."""

    def layer(self, x, rows, name, kv="own"):
        h = x + self.llama_attention(self.rms(x, f"{name}.input_layernorm", 1e-5), rows, f"{name}.self_attn", kv=kv)
        return h + self.gated(self.rms(h, f"{name}.post_attention_layernorm", 1e-5), f"{name}.mlp")

    def router(self, x, name):
        x = x / self.config["mor"].get("temp", 1.0)
        if self.config["mor"].get("router_type") == "mlp":
            return self.lin(gelu(self.lin(x, f"{name}.0")), f"{name}.2")
        return self.lin(x, name)

    def by_token(self, x):
        rules, repeats = self.config["mor"], self.config["mor"]["num_recursion"]
        logits = self.router(x, "model.layers.1.mor_router.router")
        scores = logits.sigmoid() if rules.get("router_func") == "sigmoid" else softmax(logits, -1)
        scores = rules.get("alpha", 1.0) * scores
        decides = scores if "balancing" not in rules else scores + self.weights["model.layers.1.mor_router.router_bias"]
        ordered = (logits if "balancing" not in rules else decides).sort(-1, descending=True).values
        self.margins.append((ordered[:, 0] - ordered[:, 1]).min().item())
        depth = decides.argmax(-1)
        weight = scores.gather(-1, depth[:, None])[:, 0]
        z = x.clone()
        for r in range(repeats):
            running = depth >= r
            rows = running.nonzero()[:, 0]
            part = z[rows]
            for j in range(2):
                part = self.layer(part, rows, f"model.layers.1.block_list.0.{j}",
                                  "first" if rules.get("kv_sharing") else "own")
                self.show(part, rows, running)
            z = z.index_copy(0, rows, part)
        return x + weight[:, None] * z

    def by_expert(self, x):
        rules, repeats = self.config["mor"], self.config["mor"]["num_recursion"]
        mask = torch.ones(LENGTH, dtype=torch.bool)
        for r in range(repeats):
            logits = self.router(x, f"model.layers.{1 + r}.mor_router.router")[:, 0]
            if rules.get("prefill_decide") == "router_topk":
                k = max(1, int(rules["capacity"][r] * LENGTH))
                ordered = logits[mask].sort(descending=True).values
                k = min(k, len(ordered))
                if k < len(ordered):
                    self.margins.append((ordered[k - 1] - ordered[k]).item())
                mask = mask & (logits >= ordered[k - 1])
            else:
                self.margins.append(logits[mask].abs().min().item())
                mask = mask & (logits > 0)
            rows = mask.nonzero()[:, 0]
            gate = rules["alpha"] * {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "identity": lambda z: z}[
                rules["router_func"]](logits)
            part = x[rows]
            part = self.layer(part, rows, f"model.layers.{1 + r}.block.0")
            x = x.index_add(0, rows, gate[rows][:, None] * part)
            self.show(x, torch.arange(LENGTH), mask)
        return x

    def run(self, ids):
        every = torch.arange(LENGTH)
        x = self.layer(self.embed(ids), every, "model.layers.0")
        self.show(x, every)
        token = self.config["mor"]["type"] == "token"
        x = self.by_token(x) if token else self.by_expert(x)
        x = self.layer(x, every, f"model.layers.{2 if token else self.config['mor']['num_recursion'] + 1}")
        self.show(x, every)
        self.head(self.rms(x, "model.norm", 1e-5))


FUNCTIONS = {"ouro": Ouro, "universal_transformer": Universal, "huginn_raven": Huginn, "mor": Recursions}
