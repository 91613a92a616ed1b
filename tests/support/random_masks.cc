#include "tests/support/random_masks.h"

#include <algorithm>
#include <random>
#include <string>

namespace sluice::testing {
namespace {

class Draw {
 public:
  explicit Draw(uint32_t seed) : engine_(seed ^ 0x5EEDu) {}
  int32_t Int(int32_t lo, int32_t hi) {
    return std::uniform_int_distribution<int32_t>(lo, hi)(engine_);
  }
  bool Chance(double p) { return std::bernoulli_distribution(p)(engine_); }

 private:
  std::mt19937 engine_;
};

SparsePatternSpec DrawPattern(Draw& draw, MaskKind mask) {
  SparsePatternSpec sparse;
  sparse.block = draw.Int(1, 4);
  sparse.first_blocks = draw.Int(0, 2);
  sparse.behind = draw.Int(0, 3);
  sparse.random_blocks = draw.Chance(0.5) ? draw.Int(1, 3) : 0;
  sparse.seed = draw.Int(0, 99);
  if (mask == MaskKind::kCausal) return sparse;
  sparse.last_blocks = draw.Int(0, 2);
  sparse.ahead = draw.Int(0, 2);
  sparse.global_queries = draw.Chance(0.5);
  sparse.first_repeats = draw.Chance(0.3) ? draw.Int(1, 3) : 0;
  sparse.full_up_to = draw.Chance(0.3) ? draw.Int(1, 16) : 0;
  return sparse;
}

template <typename Function>
void ForAttentions(StackSpec& stack, const Function& function) {
  for (LayerGroupSpec& group : stack.groups) {
    for (LayerSpec& layer : group.layers) {
      for (SublayerSpec& sublayer : layer.sublayers) {
        auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
        if (attention != nullptr) function(layer, *attention);
      }
    }
  }
}

PositionBiasSpec DrawBias(Draw& draw, const AttentionSpec& attention) {
  const bool full = attention.mask == MaskKind::kFull;
  return {.weight = attention.o.weight + (full ? ".bias_full" : ".bias_causal"),
          .num_buckets = 4 * draw.Int(1, 3),
          .max_distance = draw.Int(8, 20)};
}

void MakeFull(Draw& draw, StackSpec& stack) {
  stack.role = StackRole::kEncoder;
  ForAttentions(stack, [&](const LayerSpec&, AttentionSpec& attention) {
    attention.mask = MaskKind::kFull;
    attention.window = 0;
    attention.sparse.reset();
    if (draw.Chance(0.6)) attention.sparse = DrawPattern(draw, MaskKind::kFull);
    if (draw.Chance(0.3)) attention.position_bias = DrawBias(draw, attention);
  });
}

ProjectionSpec Plain(const std::string& name, int64_t in, int64_t out) {
  return {.in = in, .out = out, .weight = name + ".weight", .bias = name + ".bias"};
}

}  // namespace

void AddEncoder(uint32_t seed, ModelSpec& spec) {
  Draw draw(seed);
  spec.decoder_start_token_id = draw.Int(0, 5);
  spec.stacks.insert(spec.stacks.begin(), spec.stacks[0]);
  MakeFull(draw, spec.stacks[0]);
  const int64_t dim = spec.stacks[1].embedding.dim;
  int32_t number = 0;
  for (LayerGroupSpec& group : spec.stacks[1].groups) {
    for (LayerSpec& layer : group.layers) {
      const std::string name = "cross" + std::to_string(number++);
      AttentionSpec cross;
      cross.num_kv_heads = draw.Int(1, 2);
      cross.num_heads = cross.num_kv_heads * draw.Int(1, 2);
      cross.head_dim = draw.Int(3, 17);
      cross.kv_source = KvSource::kEncoder;
      const int64_t width = int64_t{cross.num_heads} * cross.head_dim;
      const int64_t kv_width = int64_t{cross.num_kv_heads} * cross.head_dim;
      cross.q = Plain(name + ".q", dim, width);
      cross.k = Plain(name + ".k", dim, kv_width);
      cross.v = Plain(name + ".v", dim, kv_width);
      cross.o = Plain(name + ".o", width, dim);
      layer.sublayers.insert(layer.sublayers.begin() + 1, SublayerSpec{.block = cross});
    }
  }
}

void DrawMasks(uint32_t seed, ModelSpec& spec) {
  Draw draw(seed);
  // A distance counts slots: not where rows may be missing.
  const bool whole = std::none_of(spec.stacks[0].groups.begin(), spec.stacks[0].groups.end(),
                                  [](const auto& group) { return group.repeat.rows_may_stop(); });
  ForAttentions(spec.stacks[0], [&](const LayerSpec& layer, AttentionSpec& attention) {
    if (!attention.q.experts.has_value() && draw.Chance(0.2) && whole && !layer.depth.has_value())
      attention.position_bias = DrawBias(draw, attention);
    const bool zero_rows = layer.depth.has_value() && layer.depth->kv == DepthKv::kZeroRows;
    if (attention.q.experts.has_value() || zero_rows || !draw.Chance(0.3)) return;
    attention.window = 0;
    attention.sparse = DrawPattern(draw, MaskKind::kCausal);
  });
}

void MakeEncoder(uint32_t seed, ModelSpec& spec) {
  Draw draw(seed);
  spec.head = {.pooling = draw.Chance(0.5) ? Pooling::kMean : Pooling::kFirst};
  if (draw.Chance(0.5)) {
    spec.stacks[0].embedding.token_type_weight = "token_types.weight";
    spec.stacks[0].embedding.num_token_types = draw.Int(1, 3);
  }
  MakeFull(draw, spec.stacks[0]);
}

}  // namespace sluice::testing
