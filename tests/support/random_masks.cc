#include "tests/support/random_masks.h"

#include <random>

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
void ForAttentions(ModelSpec& spec, const Function& function) {
  for (LayerGroupSpec& group : spec.stacks[0].groups) {
    for (LayerSpec& layer : group.layers) {
      for (SublayerSpec& sublayer : layer.sublayers) {
        auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
        if (attention != nullptr) function(layer, *attention);
      }
    }
  }
}

}  // namespace

void DrawMasks(uint32_t seed, ModelSpec& spec) {
  Draw draw(seed);
  ForAttentions(spec, [&](const LayerSpec& layer, AttentionSpec& attention) {
    const bool zero_rows = layer.depth.has_value() && layer.depth->kv == DepthKv::kZeroRows;
    if (attention.q.experts.has_value() || zero_rows || !draw.Chance(0.3)) return;
    attention.window = 0;
    attention.sparse = DrawPattern(draw, MaskKind::kCausal);
  });
}

void MakeEncoder(uint32_t seed, ModelSpec& spec) {
  Draw draw(seed);
  spec.stacks[0].role = StackRole::kEncoder;
  spec.head = {.pooling = draw.Chance(0.5) ? Pooling::kMean : Pooling::kFirst};
  if (draw.Chance(0.5)) {
    spec.stacks[0].embedding.token_type_weight = "token_types.weight";
    spec.stacks[0].embedding.num_token_types = draw.Int(1, 3);
  }
  ForAttentions(spec, [&](const LayerSpec&, AttentionSpec& attention) {
    attention.mask = MaskKind::kFull;
    attention.window = 0;
    attention.sparse.reset();
    if (draw.Chance(0.6)) attention.sparse = DrawPattern(draw, MaskKind::kFull);
  });
}

}  // namespace sluice::testing
