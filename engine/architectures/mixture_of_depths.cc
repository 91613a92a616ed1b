// Mixture-of-Depths over a Llama decoder (models.md 1.2; keys in README.md). Experts in the FFN,
// with Mixtral's or Qwen's keys, give staged MoDE; num_null_experts gives integrated MoDE.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kNumQuantiles = 101;

struct DepthConfig {
  std::vector<int64_t> layers;
  DepthRouterSpec router;                           // without names and quantiles
  std::vector<std::vector<float>> score_quantiles;  // empty, or one list per routed layer

  // The position of `layer` among the routed layers, or -1.
  int64_t RoutedIndex(int32_t layer) const {
    const auto it = std::find(layers.begin(), layers.end(), layer);
    return it == layers.end() ? -1 : it - layers.begin();
  }
};

DepthDecide ReadDecide(ConfigReader& config, const char* key, DepthDecide fallback) {
  return static_cast<DepthDecide>(
      config.Choice(key, {"router_threshold", "predictor_threshold", "router_topk"},
                    static_cast<size_t>(fallback)));
}

void ReadRules(ConfigReader& config, DepthRouterSpec& router) {
  if (config.String("gate_fn", "sigmoid") == "softmax_over_selected") {
    config.Unimplemented("gate_fn", "softmax_over_selected");
  } else {
    router.gate =
        static_cast<GateFunction>(config.Choice("gate_fn", {"identity", "sigmoid", "binary"}, 1));
  }
  router.combine = static_cast<DepthCombine>(
      config.Choice("combine", {"scaled_update", "plus_block", "only_block"}, 0));
  router.decide = ReadDecide(config, "decide", DepthDecide::kRouterThreshold);
  router.prefill_decide = ReadDecide(config, "prefill_decide", router.decide);
  router.position = static_cast<DepthPosition>(config.Choice("pos", {"absolute", "compact"}, 0));
  router.kv =
      static_cast<DepthKv>(config.Choice("kv", {"routed_only", "all_tokens", "zero_rows"}, 0));
  router.threshold = static_cast<float>(config.Number("threshold", 0.0, 1.0, 0.5));
  router.capacity = config.Number("capacity", 0.0, 1.0, 0.0);
  if (config.Bool("force_first", false))
    config.Unimplemented("force_first", "a forced first token");
  if (config.Bool("strict", false)) config.Unimplemented("strict", "a strict top-k");
}

void ReadQuantiles(ConfigReader& config, DepthConfig& depth) {
  const json* lists = config.Member("score_quantiles");
  if (lists == nullptr) return;
  if (!lists->is_array() || lists->size() != depth.layers.size()) {
    return config.Invalid("score_quantiles", "must be a list with one entry per routed layer");
  }
  for (const json& list : *lists) {
    if (!list.is_array() || list.size() != kNumQuantiles) {
      return config.Invalid("score_quantiles",
                            "must hold lists of 101 numbers, the percentiles 0 to 100");
    }
    std::vector<float>& quantiles = depth.score_quantiles.emplace_back();
    for (const json& item : list) {
      const json wrapped = {{"score_quantiles", item}};
      ConfigReader value(wrapped);
      quantiles.push_back(static_cast<float>(value.Number("score_quantiles", -1e30, 1e30)));
      config.Merge(value.status());
    }
    if (!std::is_sorted(quantiles.begin(), quantiles.end())) {
      config.Invalid("score_quantiles", "must not decrease");
    }
  }
}

DepthConfig ReadDepth(ConfigReader& config, const DecoderShape& shape) {
  DepthConfig depth;
  const json* member = config.Member("mod");
  if (member == nullptr || !member->is_object()) {
    config.Invalid("mod", member == nullptr ? "is missing" : "must be an object");
    return depth;
  }
  ConfigReader mod(*member, "mod.");
  if (!mod.Has("layers")) mod.Invalid("layers", "is missing");
  depth.layers = mod.Ints("layers", 0, shape.num_layers - 1, kMaxLayers);
  for (size_t i = 1; i < depth.layers.size(); ++i) {
    if (depth.layers[i] <= depth.layers[i - 1]) mod.Invalid("layers", "must be ascending");
  }
  ReadRules(mod, depth.router);
  ReadQuantiles(mod, depth);
  config.Merge(mod.status());
  return depth;
}

// Linear, or Linear - SiLU - Linear; biases where the file has them.
std::vector<ProjectionSpec> Predictor(const std::string& module,
                                      int64_t dim,
                                      const WeightStore& weights) {
  const std::string first = module + ".0";
  const std::string second = module + ".2";
  const absl::StatusOr<TensorRange> range = weights.Find(first + ".weight");
  if (!range.ok()) return {};
  const int64_t hidden = range->shape.empty() ? 1 : range->shape[0];
  std::vector<ProjectionSpec> layers = {
      Linear(dim, hidden, first, weights.Contains(first + ".bias"))};
  if (weights.Contains(second + ".weight")) {
    layers.push_back(Linear(hidden, 1, second, weights.Contains(second + ".bias")));
  }
  return layers;
}

std::optional<DepthRouterSpec> DepthOf(const DepthConfig& depth,
                                       int32_t layer,
                                       int64_t dim,
                                       const WeightStore& weights) {
  const int64_t routed = depth.RoutedIndex(layer);
  if (routed < 0) return std::nullopt;
  const std::string name = LayerName(layer);
  DepthRouterSpec router = depth.router;
  router.weight = name + ".mod_router.weight";
  if (weights.Contains(name + ".mod_router.bias")) router.bias = name + ".mod_router.bias";
  router.predictor = Predictor(name + ".mod_predictor", dim, weights);
  if (!depth.score_quantiles.empty()) {
    router.score_quantiles = depth.score_quantiles[static_cast<size_t>(routed)];
  }
  return router;
}

struct FfnConfig {
  enum class Kind { kDense, kMixtral, kQwen } kind = Kind::kDense;
  ExpertShape experts;
};

FfnConfig ReadFfn(ConfigReader& config, const DecoderShape& shape) {
  FfnConfig ffn;
  if (config.Has("num_local_experts")) {
    ffn.kind = FfnConfig::Kind::kMixtral;
    ffn.experts = ReadMixtralExperts(config, shape);
  } else if (config.Has("num_experts")) {
    ffn.kind = FfnConfig::Kind::kQwen;
    ffn.experts = ReadQwenExperts(config, "moe_intermediate_size");
  }
  ffn.experts.num_null_experts = config.Int32("num_null_experts", 0, kMaxExperts, 0);
  if (ffn.kind == FfnConfig::Kind::kDense && ffn.experts.num_null_experts > 0) {
    config.Invalid("num_null_experts", "needs num_local_experts or num_experts");
  }
  return ffn;
}

BlockSpec Ffn(const DecoderShape& shape,
              const FfnConfig& ffn,
              const WeightStore& weights,
              int32_t layer) {
  const std::string module = LayerName(layer) + ".mlp";
  switch (ffn.kind) {
    case FfnConfig::Kind::kDense:
      return GatedFfn(shape, module, shape.hidden);
    case FfnConfig::Kind::kMixtral:
      return MixtralExperts(shape, ffn.experts, weights, layer);
    case FfnConfig::Kind::kQwen:
      break;
  }
  return GatedExperts(shape, ffn.experts, weights, module);
}

}  // namespace

absl::StatusOr<ModelSpec> MapMixtureOfDepths(const json& json, const WeightStore& weights) {
  ConfigReader config(json);
  const DecoderShape shape = ReadDecoderShape(config, "mod");
  const FfnConfig ffn = ReadFfn(config, shape);
  const DepthConfig depth = ReadDepth(config, shape);
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    LayerSpec layer = PreNormLayer(shape, i,
                                   LlamaAttention(shape, LayerName(i) + ".self_attn", i,
                                                  shape.attention_bias, shape.attention_bias),
                                   Ffn(shape, ffn, weights, i));
    layer.depth = DepthOf(depth, i, shape.dim, weights);
    layers.push_back(std::move(layer));
  }
  return LlamaModel(config, weights, shape, std::move(layers));
}

}  // namespace sluice
