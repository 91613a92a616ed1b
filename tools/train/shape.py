"""What a model is made of, as data: a configuration file's "shape" object becomes a Shape.

Absent parts are None: a Shape without any of them is a dense Llama.
"""

from dataclasses import dataclass, field


@dataclass
class ExpertShape:
    """The feed-forward of every layer is `count` experts of which each row takes `per_token`."""
    count: int
    per_token: int
    size: int
    shared_size: int = 0       # width of an expert that every row takes; 0: none
    balance_weight: float = 0.01


@dataclass
class UniversalShape:
    """MoEUT: `group_size` layers run one after another until num_layers executions are done."""
    group_size: int
    rotary_dim: int
    attention_experts: int     # of values and outputs, per head
    attention_per_token: int
    attention_balance_weight: float = 0.001


@dataclass
class RecursionShape:
    """Mixture-of-Recursions, token choice: `layers` shared layers run 1 to `times` times per row."""
    times: int
    layers: int
    room: list[float]          # per recursion: share of a sequence that a training step has room for


@dataclass
class Shape:
    vocab_size: int = 4096
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 8        # executions of a layer, at most
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 32
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    routed_layers: list[int] = field(default_factory=list)
    capacity: float = 0.125
    predictor_size: int = 0    # width of the predictor of membership; 0: the router itself decides
    experts: ExpertShape | None = None
    universal: UniversalShape | None = None
    recursion: RecursionShape | None = None

    def __post_init__(self):
        for name, kind in (("experts", ExpertShape), ("universal", UniversalShape), ("recursion", RecursionShape)):
            part = getattr(self, name)
            if isinstance(part, dict):
                setattr(self, name, kind(**part))
        if self.recursion and self.num_layers != 2 + self.recursion.times * self.recursion.layers:
            raise ValueError("num_layers must be 2 + recursion.times * recursion.layers")
        if self.universal and (self.experts is None or self.num_layers % self.universal.group_size):
            raise ValueError("universal needs experts and a group_size that divides num_layers")
        if bool(self.routed_layers) + bool(self.universal) + bool(self.recursion) > 1:
            raise ValueError("routed_layers, universal and recursion exclude each other")

    @property
    def family(self) -> str:
        """model_type of the exported config.json."""
        if self.universal:
            return "moeut"
        if self.recursion:
            return "mor"
        if self.routed_layers:
            return "mod"
        return "deepseek" if self.experts else "llama"

    @property
    def num_unique_layers(self) -> int:
        if self.universal:
            return self.universal.group_size
        return 2 + self.recursion.layers if self.recursion else self.num_layers
