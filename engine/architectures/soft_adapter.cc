// MoV and MoLORA (Zadouri et al. 2023, arXiv 2309.05444; for-ai/parameter-efficient-moe src/mov.py,
// src/molora.py, configs of flaxformer's T5): which places have one, and under which names.
#include "engine/architectures/soft_adapter.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/architectures/config_reader.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr const char* kKeys[] = {"type", "num_experts", "top_k", "rank", "alpha", "targets"};
constexpr const char* kScaled[] = {"k", "v", "hidden"};
constexpr const char* kLowRank[] = {"q", "k", "v", "o", "gate", "up", "down"};

struct Adapter {
  bool low_rank = false;
  int32_t num_experts = 0;
  int32_t top_k = 0;
  int64_t rank = 0;
  float scale = 1.0f;
  std::vector<std::string> targets;
  bool chosen = false;  // the config lists the targets

  bool Has(const char* target) const {
    return std::find(targets.begin(), targets.end(), target) != targets.end();
  }
};

void ReadTargets(ConfigReader& config, Adapter& adapter) {
  std::vector<std::string> known(std::begin(kScaled), std::end(kScaled));
  if (adapter.low_rank) known.assign(std::begin(kLowRank), std::end(kLowRank));
  const json* list = config.Member("targets");
  adapter.chosen = list != nullptr;
  if (list == nullptr) {
    adapter.targets = known;
    return;
  }
  if (!list->is_array() || list->empty() || list->size() > known.size())
    return config.Invalid("targets", "must be a list of names");
  for (const json& item : *list) {
    const auto* name = item.get_ptr<const json::string_t*>();
    if (name == nullptr || std::find(known.begin(), known.end(), *name) == known.end()) {
      return config.Invalid("targets", adapter.low_rank ? "must name q, k, v, o, gate, up or down"
                                                        : "must name k, v or hidden");
    }
    if (adapter.Has(name->c_str())) return config.Invalid("targets", "names a target twice");
    adapter.targets.push_back(*name);
  }
}

Adapter ReadAdapter(ConfigReader& config) {
  Adapter adapter;
  for (const auto& entry : config.object().items()) {
    if (std::find(std::begin(kKeys), std::end(kKeys), entry.key()) == std::end(kKeys))
      config.Invalid("type", "stands beside the unknown key " + QuotedTensorName(entry.key()));
  }
  adapter.low_rank = config.Choice("type", {"mov", "molora"}, std::nullopt) == 1;
  adapter.num_experts = config.Int32("num_experts", 1, kMaxExperts);
  adapter.top_k = config.Int32("top_k", 1, std::max(1, adapter.num_experts), adapter.num_experts);
  if (adapter.top_k == adapter.num_experts) adapter.top_k = 0;
  if (adapter.low_rank) {
    adapter.rank = config.Int("rank", 1, kMaxDim, 4);
    const double alpha = config.Number("alpha", 1e-3, 1e6, 16.0);
    adapter.scale =
        static_cast<float>(alpha / static_cast<double>(std::max<int64_t>(1, adapter.rank)));
  }
  for (const char* key : {"rank", "alpha"}) {
    if (!adapter.low_rank && config.Has(key)) config.Invalid(key, "says nothing about mov");
  }
  ReadTargets(config, adapter);
  return adapter;
}

// Gives the parts of a layer their adapters.
class AdaptedLayer {
 public:
  AdaptedLayer(const Adapter& adapter, const WeightStore& weights, ConfigReader& config)
      : adapter_(adapter), weights_(weights), config_(config) {}

  void Adapt(BlockSpec& block) {
    if (auto* attention = std::get_if<AttentionSpec>(&block)) return Adapt(*attention);
    if (auto* ffn = std::get_if<DenseFfnSpec>(&block)) return Adapt(*ffn);
    if (std::holds_alternative<LatentAttentionSpec>(block)) {
      if (HasAny({"q", "k", "v", "o"}))
        config_.Unimplemented("targets", "an adapter of latent attention");
    } else if (HasAny({"hidden", "gate", "up", "down"})) {
      config_.Unimplemented("targets", "an adapter of an FFN of experts");
    }
  }

 private:
  bool HasAny(std::initializer_list<const char*> targets) const {
    return std::any_of(targets.begin(), targets.end(),
                       [this](const char* target) { return adapter_.Has(target); });
  }

  void Adapt(AttentionSpec& attention) {
    const bool experts = attention.q.experts.has_value() || attention.v.experts.has_value() ||
                         attention.o.experts.has_value();
    if (experts && HasAny({"q", "k", "v", "o"}))
      return config_.Unimplemented("targets", "an adapter of attention with experts");
    const bool fused = attention.q.weight == attention.k.weight;
    AdaptProjection(attention.q, "q", fused, 0);
    AdaptProjection(attention.k, "k", fused, attention.num_kv_heads);
    AdaptProjection(attention.v, "v", fused, attention.num_kv_heads);
    AdaptProjection(attention.o, "o", false, 0);
  }

  void Adapt(DenseFfnSpec& ffn) {
    const bool fused = ffn.gated && ffn.gate.weight == ffn.up.weight;
    if (ffn.gated) {
      AdaptProjection(ffn.gate, "gate", fused, 0);
    } else if (adapter_.chosen && adapter_.Has("gate")) {
      config_.Invalid("targets", "names the gate of an FFN that has none");
    }
    AdaptProjection(ffn.up, "up", fused, 0);
    AdaptProjection(ffn.down, "down", false, 0);
    if (!adapter_.Has("hidden")) return;
    const std::string up = Module(ffn.up);
    const std::string module = up.substr(0, up.rfind('.'));
    ffn.hidden_scaling = SoftScalingSpec{Router(module), 0, module + ".mov_scaling"};
  }

  // `heads`: of the projection's outputs.
  void AdaptProjection(ProjectionSpec& projection, const char* target, bool fused, int32_t heads) {
    if (!adapter_.Has(target)) return;
    const std::string module = Module(projection) + (fused ? absl::StrCat(".", target) : "");
    if (!adapter_.low_rank) {
      projection.scaling = SoftScalingSpec{Router(module), heads, module + ".mov_scaling"};
      return;
    }
    projection.low_rank = SoftLowRankSpec{.router = Router(module),
                                          .rank = adapter_.rank,
                                          .scale = adapter_.scale,
                                          .down = module + ".lora_A",
                                          .up = module + ".lora_B"};
  }

  static std::string Module(const ProjectionSpec& projection) {
    return std::string(absl::StripSuffix(projection.weight, ".weight"));
  }

  SoftRouterSpec Router(const std::string& module) const {
    SoftRouterSpec router{.num_experts = adapter_.num_experts, .top_k = adapter_.top_k};
    router.weight = module + ".router.kernel";
    if (weights_.Contains(module + ".router.bias")) router.bias = module + ".router.bias";
    return router;
  }

  const Adapter& adapter_;
  const WeightStore& weights_;
  ConfigReader& config_;
};

}  // namespace

absl::Status AddSoftAdapter(const json& config, const WeightStore& weights, ModelSpec& spec) {
  ConfigReader whole(config);
  const json* member = whole.Member("soft_adapter");
  if (member == nullptr) return absl::OkStatus();
  if (!member->is_object()) {
    whole.Invalid("soft_adapter", "must be an object");
    return whole.status();
  }
  if (spec.stacks.size() > 1) {
    whole.Unimplemented("soft_adapter", "adapters of an encoder-decoder");
    return whole.status();
  }
  ConfigReader reader(*member, "soft_adapter.");
  const Adapter adapter = ReadAdapter(reader);
  if (!reader.status().ok()) return reader.status();
  AdaptedLayer adapted(adapter, weights, reader);
  for (LayerGroupSpec& group : spec.stacks.back().groups) {
    for (LayerSpec& layer : group.layers) {
      for (SublayerSpec& sublayer : layer.sublayers) adapted.Adapt(sublayer.block);
    }
  }
  return reader.status();
}

}  // namespace sluice
