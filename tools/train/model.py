"""One language model whose layers are data: dense, Mixture-of-Depths, experts, both, MoEUT, Mixture-of-Recursions.

Parameter names are those of a Hugging Face Llama where it has such a tensor; layouts.py turns the others into
the names of the exported checkpoint.
"""

import zlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks import Attention, FeedForward, Notes, RmsNorm, Routing
from depth import Depth, make_predictor
from experts import ExpertFeedForward
from recursion import RecursionRouter
from shape import Shape
from universal import UniversalLayer


class Layer(nn.Module):
    def __init__(self, shape: Shape, routed: bool):
        super().__init__()
        self.capacity = shape.capacity
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.norm_eps)
        dense = shape.experts is None
        self.mlp = FeedForward(shape.hidden_size, shape.intermediate_size) if dense else ExpertFeedForward(shape)
        if routed:
            self.mod_router = nn.Linear(shape.hidden_size, 1, bias=not shape.predictor_size)
            if shape.predictor_size:
                self.mod_predictor = make_predictor(shape)

    def depth(self) -> Depth | None:
        return Depth(self, self.capacity) if hasattr(self, "mod_router") else None

    def block(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, notes: Notes) -> Tensor:
        h = x + self.self_attn(self.input_layernorm(x), rope, mask)
        z = self.post_attention_layernorm(h)
        return h + (self.mlp(z) if isinstance(self.mlp, FeedForward) else self.mlp(z, notes))


class Body(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        universal = shape.universal is not None
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(UniversalLayer(shape) if universal else Layer(shape, i in shape.routed_layers)
                                    for i in range(shape.num_unique_layers))
        if shape.recursion:
            self.mor_router = RecursionRouter(shape)
        norm = nn.LayerNorm if universal else RmsNorm
        self.norm = norm(shape.hidden_size, shape.norm_eps)


class LanguageModel(nn.Module):
    """The output projection is the embedding matrix (tied), but in MoEUT."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        if shape.universal:
            self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size)
        rotated = shape.universal.rotary_dim if shape.universal else shape.head_dim
        frequency = shape.rope_theta ** (-torch.arange(0, rotated, 2).float() / rotated)
        angle = torch.arange(shape.max_positions).float()[:, None] * frequency
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Tensor, routing: Routing) -> tuple[Tensor, Notes]:
        """ids int64 [batch, length] -> logits [batch, length, vocab]."""
        notes = Notes()
        x = self.model.embed_tokens(ids)
        rope = (self.cos[:ids.shape[1]], self.sin[:ids.shape[1]])
        dense_rope = (rope[0][None, None], rope[1][None, None])
        layers = list(self.model.layers)
        recursive = layers[1:-1] if self.shape.recursion else []
        for i in range(self.shape.num_layers if self.shape.universal else len(layers)):
            layer = layers[i % len(layers)]
            if layer in recursive:
                if layer is recursive[0]:
                    x = self.model.mor_router(x, rope, routing, notes, recursive)
            elif i in self.shape.routed_layers:
                x = layer.depth().run(i, x, rope, routing, notes)
            else:
                x = layer.block(x, dense_rope, None, notes)
        x = self.model.norm(x)
        return (self.lm_head(x) if self.shape.universal else F.linear(x, self.model.embed_tokens.weight)), notes

    def depths(self) -> dict[int, Depth]:
        return {i: self.model.layers[i].depth() for i in self.shape.routed_layers}


def initialise(model: LanguageModel, seed: int) -> None:
    """Each tensor draws from its own generator, so tensors two models share by name start out equal."""
    depth = (2 * model.shape.num_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
        std = 0.02 if "embed" in name or "router" in name else 0.5 * parameter.shape[-1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight", "o_proj", "down_proj")):
            std *= depth
        parameter.data.normal_(0.0, std, generator=generator)
