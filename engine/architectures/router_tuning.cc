// CASE-Lab-UMD/Router-Tuning-Mixture-of-Depths utils/model/model_patch.py (models.md 1.3): the
// router of a layer reads input_layernorm(x); a row, or by the mean of its rows a whole prompt,
// takes the attention, the FFN or both when sigmoid(logit) >= threshold. Every row leaves its keys
// and values. While generating, the mean is that of one row.
#include "engine/architectures/router_tuning.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "engine/architectures/config_reader.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using nlohmann::json;

enum class Target : uint8_t { kAttention, kBlock, kFfn };

struct RouterTuning {
  std::vector<bool> layers;
  std::vector<double> capacity;  // per layer
  Target target = Target::kAttention;
  DepthRouterSpec router;  // without names and capacity
};

void ReadLayers(ConfigReader& config, size_t count, RouterTuning& tuning) {
  const json* list = config.Member("is_mod");
  if (!list->is_array() || list->size() != count)
    return config.Invalid("is_mod", "must be a list with true or false per layer");
  for (const json& item : *list) {
    if (!item.is_boolean())
      return config.Invalid("is_mod", "must be a list with true or false per layer");
    tuning.layers.push_back(item.get<bool>());
  }
}

// The share that was trained for: one for all layers, one per layer, or none.
void ReadCapacity(ConfigReader& config, size_t count, RouterTuning& tuning) {
  tuning.capacity.assign(count, 0.0);
  const json* value = config.Member("mod_capacity");
  if (value == nullptr) return;
  if (!value->is_array()) {
    tuning.capacity.assign(count, config.Number("mod_capacity", 0.0, 1.0));
    return;
  }
  if (value->size() != count)
    return config.Invalid("mod_capacity", "must be a number, or a list with one entry per layer");
  for (size_t i = 0; i < count; ++i) {
    if ((*value)[i].is_null()) continue;  // none
    const json wrapped = {{"mod_capacity", (*value)[i]}};
    ConfigReader one(wrapped);
    tuning.capacity[i] = one.Number("mod_capacity", 0.0, 1.0);
    config.Merge(one.status());
  }
}

// The place of the granularity among these, in the target's order. Case and hyphens do not matter,
// as in the published code; its shorter spellings are refused.
size_t ReadGranularity(ConfigReader& config) {
  constexpr const char* kNames[] = {"attn_sequence", "attn_token",   "block_sequence",
                                    "block_token",   "mlp_sequence", "mlp_token"};
  const std::string name = absl::StrReplaceAll(
      absl::AsciiStrToLower(config.String("granularity", kNames[0])), {{"-", "_"}});
  const auto* found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found != std::end(kNames)) return static_cast<size_t>(found - std::begin(kNames));
  config.Invalid("granularity", "must be one of " + absl::StrJoin(kNames, ", "));
  return 0;
}

RouterTuning ReadRouterTuning(ConfigReader& config, size_t num_layers) {
  RouterTuning tuning;
  ReadLayers(config, num_layers, tuning);
  ReadCapacity(config, num_layers, tuning);
  const size_t granularity = ReadGranularity(config);
  tuning.target = static_cast<Target>(granularity / 2);
  DepthRouterSpec& router = tuning.router;
  router.reads_normed = true;
  router.threshold = static_cast<float>(config.Number("threshold", 0.0, 1.0, 0.5));
  router.threshold_inclusive = true;
  router.gate = GateFunction::kOne;
  router.combine = DepthCombine::kOnlyBlock;
  if (granularity % 2 == 0) router.prefill_decide = DepthDecide::kPromptMean;
  if (tuning.target == Target::kFfn) {
    router.first_sublayer = 1;
  } else {
    router.kv = DepthKv::kAllTokens;
  }
  return tuning;
}

bool IsPlain(const SublayerSpec& sublayer) {
  return sublayer.input_norm.has_value() && !sublayer.output_norm.has_value() &&
         !sublayer.residual_norm.has_value() && sublayer.residual_scale == 1.0f;
}

// What the published patch asks of a layer: x + attention(norm x), then h + mlp(norm h).
bool MayBeTuned(const LayerSpec& layer) {
  return !layer.depth.has_value() && layer.sublayers.size() == 2 && IsPlain(layer.sublayers[0]) &&
         IsPlain(layer.sublayers[1]) &&
         absl::EndsWith(layer.sublayers[0].input_norm->weight, ".input_layernorm.weight") &&
         std::holds_alternative<AttentionSpec>(layer.sublayers[0].block) &&
         std::holds_alternative<DenseFfnSpec>(layer.sublayers[1].block);
}

// Where only the attention is routed, the FFN becomes a layer of its own.
void AddLayer(LayerSpec layer, Target target, DepthRouterSpec router, std::vector<LayerSpec>& to) {
  layer.depth = std::move(router);
  if (target != Target::kAttention) {
    to.push_back(std::move(layer));
    return;
  }
  LayerSpec ffn;
  ffn.sublayers = {std::move(layer.sublayers[1])};
  layer.sublayers.pop_back();
  to.push_back(std::move(layer));
  to.push_back(std::move(ffn));
}

}  // namespace

absl::Status AddRouterTuning(const json& config, ModelSpec& spec) {
  ConfigReader reader(config);
  if (!reader.Has("is_mod")) return absl::OkStatus();
  std::vector<LayerGroupSpec>& groups = spec.stacks.back().groups;
  if (spec.stacks.size() > 1 || groups.size() != 1 || !(groups[0].repeat == RepeatSpec{})) {
    reader.Unimplemented("is_mod", "routing of other than a decoder's layers that run once");
    return reader.status();
  }
  const std::vector<LayerSpec> plain = groups[0].layers;
  // A prompt has one rule: that of all its routed layers.
  if (std::any_of(plain.begin(), plain.end(), [](const auto& layer) { return layer.depth; })) {
    reader.Unimplemented("is_mod", "routing beside other depth-routed layers");
    return reader.status();
  }
  const RouterTuning tuning = ReadRouterTuning(reader, plain.size());
  RETURN_IF_ERROR(reader.status());
  groups[0].layers.clear();
  for (size_t i = 0; i < plain.size(); ++i) {
    if (!tuning.layers[i]) {
      groups[0].layers.push_back(plain[i]);
      continue;
    }
    if (!MayBeTuned(plain[i])) {
      reader.Unimplemented("is_mod", "routing of layers that are not a Llama's");
      return reader.status();
    }
    DepthRouterSpec router = tuning.router;
    router.weight = absl::StrCat(LayerName(static_cast<int32_t>(i)), ".router.weight");
    router.capacity = tuning.capacity[i];
    AddLayer(plain[i], tuning.target, std::move(router), groups[0].layers);
  }
  return absl::OkStatus();
}

}  // namespace sluice
