// Mixture-of-Depths over a Llama decoder (models.md 1.2; keys in README.md). Experts in the FFN,
// with Mixtral's or Qwen's keys, give staged MoDE; num_null_experts gives integrated MoDE. The
// tensor names of the published code bases are mod_names.
#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/architectures/mod_names.h"
#include "engine/status_macros.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr size_t kNumQuantiles = 101;

constexpr const char* kModKeys[] = {
    "layers",     "target", "gate_fn",        "combine",     "decide",   "prefill_decide",
    "pos",        "kv",     "threshold",      "force_first", "capacity", "capacity_tokens",
    "min_tokens", "strict", "score_quantiles"};

// The part of a layer that is routed.
enum class DepthTarget : uint8_t { kBlock, kAttention, kFfn };

struct DepthConfig {
  std::vector<int64_t> layers;
  DepthTarget target = DepthTarget::kBlock;
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

// ffn_gated_double of sramshetty/mixture-of-depths routing_transformer.py: the gate multiplies the
// FFN, and the block, residuals included, is added to the row it came from.
void ReadMerge(ConfigReader& config, DepthRouterSpec& router) {
  const size_t gate =
      config.Choice("gate_fn", {"identity", "sigmoid", "binary", "softmax_over_selected"}, 1);
  router.softmax_over_selected = gate == 3;
  router.gate =
      router.softmax_over_selected ? GateFunction::kIdentity : static_cast<GateFunction>(gate);
  const size_t combine = config.Choice(
      "combine", {"scaled_update", "plus_block", "only_block", "ffn_gated_double"}, 0);
  if (combine == 3) {
    router.combine = DepthCombine::kPlusBlock;
    router.gate_place = DepthGatePlace::kLastSublayer;
  } else {
    router.combine = static_cast<DepthCombine>(combine);
  }
}

void ReadRules(ConfigReader& config, DepthRouterSpec& router) {
  ReadMerge(config, router);
  router.decide = ReadDecide(config, "decide", DepthDecide::kRouterThreshold);
  router.prefill_decide = ReadDecide(config, "prefill_decide", router.decide);
  router.position = static_cast<DepthPosition>(config.Choice("pos", {"absolute", "compact"}, 0));
  router.kv =
      static_cast<DepthKv>(config.Choice("kv", {"routed_only", "all_tokens", "zero_rows"}, 0));
  router.threshold = static_cast<float>(config.Number("threshold", 0.0, 1.0, 0.5));
  router.force_first = config.Bool("force_first", false);
  router.capacity = config.Number("capacity", 0.0, 1.0, 0.0);
  if (config.Has("capacity_tokens")) {
    router.capacity_rows = config.Int32("capacity_tokens", 1, kMaxPositions);
    if (config.Has("capacity"))
      config.Invalid("capacity_tokens", "and 'capacity' exclude each other");
  }
  router.min_rows = config.Int32("min_tokens", 0, kMaxPositions, 1);
  router.strict_top_k = config.Bool("strict", false);
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
  for (const auto& entry : member->items()) {
    if (std::find(std::begin(kModKeys), std::end(kModKeys), entry.key()) == std::end(kModKeys))
      config.Invalid("mod", "has the unknown key " + QuotedTensorName(entry.key()));
  }
  if (!mod.Has("layers")) mod.Invalid("layers", "is missing");
  depth.layers = mod.Ints("layers", 0, shape.num_layers - 1, kMaxLayers);
  for (size_t i = 1; i < depth.layers.size(); ++i) {
    if (depth.layers[i] <= depth.layers[i - 1]) mod.Invalid("layers", "must be ascending");
  }
  depth.target = static_cast<DepthTarget>(mod.Choice("target", {"block", "attention", "ffn"}, 0));
  ReadRules(mod, depth.router);
  if (depth.router.gate_place == DepthGatePlace::kLastSublayer &&
      depth.target != DepthTarget::kBlock)
    mod.Invalid("combine", "ffn_gated_double needs the target block");
  if (depth.target == DepthTarget::kFfn && depth.router.position != DepthPosition::kAbsolute)
    mod.Invalid("pos", "says nothing about the target ffn");
  if (depth.target == DepthTarget::kFfn && depth.router.kv != DepthKv::kRoutedOnly)
    mod.Invalid("kv", "says nothing about the target ffn");
  // The share of a full context, for the rows of a step; the rule itself is the number.
  if (depth.router.capacity_rows > 0) {
    depth.router.capacity =
        std::min(1.0, static_cast<double>(depth.router.capacity_rows) / shape.max_positions);
  }
  ReadQuantiles(mod, depth);
  config.Merge(mod.status());
  return depth;
}

std::optional<DepthRouterSpec> DepthOf(const DepthConfig& depth,
                                       int32_t layer,
                                       int64_t dim,
                                       const WeightStore& weights) {
  const int64_t routed = depth.RoutedIndex(layer);
  if (routed < 0) return std::nullopt;
  DepthRouterSpec router = depth.router;
  NameDepthRouter(weights, layer, dim, router);
  if (!depth.score_quantiles.empty()) {
    router.score_quantiles = depth.score_quantiles[static_cast<size_t>(routed)];
  }
  return router;
}

// A layer is a routed list of sublayers: where only one of them is routed, the other becomes a
// layer of its own.
void AddLayer(LayerSpec layer,
              std::optional<DepthRouterSpec> depth,
              DepthTarget target,
              std::vector<LayerSpec>& layers) {
  if (!depth.has_value() || target == DepthTarget::kBlock) {
    layer.depth = std::move(depth);
    layers.push_back(std::move(layer));
    return;
  }
  LayerSpec attention, ffn;
  attention.sublayers = {std::move(layer.sublayers[0])};
  ffn.sublayers = {std::move(layer.sublayers[1])};
  (target == DepthTarget::kAttention ? attention : ffn).depth = std::move(depth);
  layers.push_back(std::move(attention));
  layers.push_back(std::move(ffn));
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
  DecoderShape shape = ReadDecoderShape(config, "mod");
  // Meta's checkpoints rotate neighbouring pairs.
  if (HasMetaNames(weights)) shape.rope.style = RopeStyle::kInterleaved;
  const bool tower = HasTowerNames(weights);
  if (tower)
    shape.norm_epsilon = static_cast<float>(config.Number("layer_norm_eps", 0.0, 1.0, 1e-5));
  const FfnConfig ffn = ReadFfn(config, shape);
  if (tower && ffn.kind != FfnConfig::Kind::kDense)
    config.Unimplemented("num_experts", "an expert in the FFN of this tensor layout");
  const DepthConfig depth = ReadDepth(config, shape);
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    LayerSpec layer = tower
                          ? TowerLayer(shape, weights, i)
                          : PreNormLayer(shape, i,
                                         LlamaAttention(shape, LayerName(i) + ".self_attn", i,
                                                        shape.attention_bias, shape.attention_bias),
                                         Ffn(shape, ffn, weights, i));
    if (!tower) NameSublayers(weights, i, layer);
    AddLayer(std::move(layer), DepthOf(depth, i, shape.dim, weights), depth.target, layers);
  }
  ASSIGN_OR_RETURN(ModelSpec spec, LlamaModel(config, weights, shape, std::move(layers)));
  NameAround(config, weights, spec);
  return spec;
}

}  // namespace sluice
