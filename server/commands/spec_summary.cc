#include "server/commands/spec_summary.h"

#include <algorithm>
#include <variant>

#include "engine/model/parameter_count.h"

namespace sluice::server {
namespace {

constexpr int64_t kKvBytesPerNumber = 2;  // bf16

class Summarizer {
 public:
  explicit Summarizer(const ModelSpec& spec) : spec_(spec) {}

  SpecSummary Run() {
    const EmbeddingSpec& embedding = spec_.decoder().embedding;
    summary_.family = spec_.family;
    summary_.vocab_size = embedding.vocab_size;
    summary_.dim = embedding.dim;
    summary_.max_positions = spec_.max_positions;
    const ParameterCount parameters = CountParameters(spec_);
    summary_.parameters_total = parameters.total;
    summary_.parameters_active = parameters.active;
    for (const StackSpec& stack : spec_.stacks) {
      for (const LayerGroupSpec& group : stack.groups) AddGroup(group);
    }
    if (!summary_.capacities.empty()) {
      double sum = 0.0;
      for (const double capacity : summary_.capacities) sum += capacity;
      summary_.expected_skip_ratio = 1.0 - sum / static_cast<double>(summary_.capacities.size());
    }
    return summary_;
  }

 private:
  void AddGroup(const LayerGroupSpec& group) {
    const int64_t times = group.repeat.times;
    if (times > 1) ++summary_.loops;
    for (const LayerSpec& layer : group.layers) {
      ++summary_.layers;
      summary_.layer_instances += times;
      if (layer.depth.has_value()) {
        summary_.routed_instances += times;
        summary_.capacities.insert(summary_.capacities.end(), static_cast<size_t>(times),
                                   TrainedShare(*layer.depth).value_or(1.0));
      }
      for (size_t i = 0; i < layer.sublayers.size(); ++i)
        AddSublayer(layer.sublayers[i], SharesOf(layer.depth, i), times);
    }
  }

  void AddSublayer(const SublayerSpec& sublayer, const SublayerShares& shares, int64_t times) {
    int64_t stored = 0;
    if (const auto* attention = std::get_if<AttentionSpec>(&sublayer.block))
      stored = 2 * int64_t{attention->num_kv_heads} * attention->head_dim;
    if (const auto* latent = std::get_if<LatentAttentionSpec>(&sublayer.block))
      stored = int64_t{latent->latent_dim} + latent->rope_dim;
    const int64_t bytes = stored * kKvBytesPerNumber;
    summary_.kv_bytes_per_token_bf16 += bytes * times;
    summary_.expected_kv_bytes_per_token += shares.keys * static_cast<double>(bytes * times);
    if (const auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block)) {
      summary_.moe_instances += times;
      summary_.experts_per_layer =
          std::max<int64_t>(summary_.experts_per_layer, moe->router.num_experts);
      summary_.experts_per_token =
          std::max<int64_t>(summary_.experts_per_token, moe->router.mean_experts());
    }
  }

  const ModelSpec& spec_;
  SpecSummary summary_;
};

}  // namespace

SpecSummary SummarizeSpec(const ModelSpec& spec) { return Summarizer(spec).Run(); }

nlohmann::json ToJson(const SpecSummary& summary) {
  return {{"family", summary.family},
          {"layers", summary.layers},
          {"layer_instances", summary.layer_instances},
          {"routed_instances", summary.routed_instances},
          {"loops", summary.loops},
          {"capacities", summary.capacities},
          {"moe_instances", summary.moe_instances},
          {"experts_per_layer", summary.experts_per_layer},
          {"experts_per_token", summary.experts_per_token},
          {"vocab_size", summary.vocab_size},
          {"dim", summary.dim},
          {"max_positions", summary.max_positions},
          {"parameters_total", summary.parameters_total},
          {"parameters_active", static_cast<int64_t>(summary.parameters_active)},
          {"expected_skip_ratio", summary.expected_skip_ratio},
          {"kv_bytes_per_token_bf16", summary.kv_bytes_per_token_bf16},
          {"expected_kv_bytes_per_token", summary.expected_kv_bytes_per_token}};
}

}  // namespace sluice::server
