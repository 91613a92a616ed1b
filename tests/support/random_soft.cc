#include "tests/support/random_soft.h"

#include <optional>
#include <random>
#include <string>

namespace sluice::testing {
namespace {

class SoftDraw {
 public:
  explicit SoftDraw(uint32_t seed) : engine_(seed * 31 + 5) {}

  void Layer(LayerSpec& layer) {
    for (SublayerSpec& sublayer : layer.sublayers) {
      if (auto* ffn = std::get_if<DenseFfnSpec>(&sublayer.block)) {
        if (Chance(0.3)) {
          sublayer.block = Mixture(ffn->up.weight);
        } else if (Chance(0.4)) {
          Adapt(*ffn);
        }
      }
      auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
      if (attention != nullptr && !attention->v.experts.has_value() && Chance(0.4))
        Adapt(*attention);
    }
  }

 private:
  int32_t Int(int32_t lo, int32_t hi) {
    return std::uniform_int_distribution<int32_t>(lo, hi)(engine_);
  }
  bool Chance(double p) { return std::bernoulli_distribution(p)(engine_); }

  MixtureFfnSpec Mixture(const std::string& name) {
    MixtureFfnSpec mixture;
    mixture.group_size = Int(1, 9);
    mixture.num_experts = Int(1, 70);
    mixture.hidden = Int(1, 70);
    mixture.activation = Chance(0.5) ? Activation::kRelu : Activation::kGeluTanh;
    mixture.temperature = Chance(0.5) ? 1.0f : 0.6f;
    mixture.emit_over_experts = Chance(0.4);
    mixture.discrete = Chance(0.2);
    mixture.controller = name + ".controller";
    mixture.up = name + ".lin1";
    mixture.down = name + ".lin2";
    return mixture;
  }

  SoftRouterSpec Router(const std::string& name) {
    SoftRouterSpec router;
    router.num_experts = Int(1, 6);
    if (Chance(0.4)) router.top_k = Int(1, router.num_experts);
    router.weight = name + ".router.kernel";
    if (Chance(0.4)) router.bias = name + ".router.bias";
    return router;
  }
  std::optional<SoftScalingSpec> Scaling(const std::string& name, int32_t heads) {
    if (Chance(0.3)) return std::nullopt;
    return SoftScalingSpec{Router(name + ".scaled"), heads, name + ".mov_scaling"};
  }
  // Projections of one fused tensor have its name in common.
  void AddLowRank(ProjectionSpec& projection, const char* part) {
    if (Chance(0.3)) return;
    const std::string name = projection.weight + "." + part;
    projection.low_rank = SoftLowRankSpec{.router = Router(name),
                                          .rank = Int(1, 5),
                                          .scale = Chance(0.5) ? 4.0f : 0.5f,
                                          .down = name + ".lora_A",
                                          .up = name + ".lora_B"};
  }

  void Adapt(DenseFfnSpec& ffn) {
    ffn.hidden_scaling = Scaling(ffn.up.weight, 0);
    if (ffn.gated) AddLowRank(ffn.gate, "gate");
    AddLowRank(ffn.up, "up");
    AddLowRank(ffn.down, "down");
  }
  void Adapt(AttentionSpec& attention) {
    if (attention.q.experts.has_value()) return;  // of these not one projection is adapted
    attention.k.scaling = Scaling(attention.k.weight + ".k", attention.num_kv_heads);
    attention.v.scaling = Scaling(attention.v.weight + ".v", attention.num_kv_heads);
    AddLowRank(attention.q, "q");
    AddLowRank(attention.k, "k");
    AddLowRank(attention.v, "v");
    if (!attention.o.experts.has_value()) AddLowRank(attention.o, "o");
  }

  std::mt19937 engine_;
};

}  // namespace

void DrawSoftParts(uint32_t seed, ModelSpec& spec) {
  SoftDraw draw(seed);
  for (LayerGroupSpec& group : spec.stacks.front().groups) {
    if (group.repeat.halting == HaltingKind::kStickBreaking) continue;
    for (LayerSpec& layer : group.layers) draw.Layer(layer);
  }
}

}  // namespace sluice::testing
