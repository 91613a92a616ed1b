// Causal decoders around the routers of mixture-of-experts that had no causal checkpoint of their
// own (models.md 2.1 to 2.5): the sparsely-gated layer of Shazeer et al. 2017 (arXiv 1701.06538),
// GShard (arXiv 2006.16668), GLaM (arXiv 2112.06905), Switch (arXiv 2101.03961) and Expert Choice
// (arXiv 2202.09368). Llama's attention and norms around them; keys and names in README.md.
// Noise, jitter and losses are of training. GLaM's positions are a bias of its own per layer, head
// and bucket of the distance (arXiv 2112.06905 sec. 4; the buckets are T5's, as in
// tensorflow/lingvo core/gshard_builder.py, DecSelfAttentionRelativeBias).
#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

// How full experts are described. kRows: expert_capacity; kShare: moe_eval_capacity_token_fraction;
// kFactor: capacity_factor, and the experts choose.
enum class CapacityKeys : uint8_t { kNone, kRows, kShare, kFactor };

struct SparseFamily {
  const char* name;
  ScoreFunction score = ScoreFunction::kSoftmax;
  int32_t top_k = 0;  // 0: num_experts_per_tok
  bool renormalize = false;
  CapacityKeys capacity = CapacityKeys::kNone;
  int32_t sparse_step = 2;          // default of decoder_sparse_step
  bool second_of_step = false;      // the second layer of each step is sparse, not the last
  bool gated_dense = false;         // the dense layers between are gated
  bool position_bias = false;       // may have one in place of rotary positions
  const char* activation = "relu";  // default of hidden_act
};

constexpr SparseFamily kSparselyGated = {
    .name = "sparsely_gated", .score = ScoreFunction::kSoftmaxOverTopK, .sparse_step = 1};
constexpr SparseFamily kGshard = {
    .name = "gshard", .top_k = 2, .renormalize = true, .capacity = CapacityKeys::kShare};
constexpr SparseFamily kGlam = {.name = "glam",
                                .top_k = 2,
                                .renormalize = true,
                                .capacity = CapacityKeys::kShare,
                                .gated_dense = true,
                                .position_bias = true,
                                .activation = "gelu"};
constexpr SparseFamily kSwitch = {
    .name = "switch", .top_k = 1, .capacity = CapacityKeys::kRows, .second_of_step = true};
constexpr SparseFamily kExpertChoice = {.name = "expert_choice", .capacity = CapacityKeys::kFactor};

// lingvo's Top2GatingOnLogits adds it to the sum; fairseq and NLLB-MoE clamp the sum at the float's
// epsilon, which the two largest of at most 4096 probabilities never reach.
constexpr float kGateEpsilon = 1e-9f;

constexpr std::array<std::string_view, 23> kCommonKeys = {"vocab_size",
                                                          "hidden_size",
                                                          "intermediate_size",
                                                          "num_hidden_layers",
                                                          "hidden_act",
                                                          "num_attention_heads",
                                                          "num_key_value_heads",
                                                          "head_dim",
                                                          "rms_norm_eps",
                                                          "rope_theta",
                                                          "max_position_embeddings",
                                                          "rope_scaling",
                                                          "layer_types",
                                                          "rope_parameters",
                                                          "partial_rotary_factor",
                                                          "sliding_window",
                                                          "num_experts",
                                                          "attention_bias",
                                                          "moe_intermediate_size",
                                                          "use_sliding_window",
                                                          "eos_token_id",
                                                          "tie_word_embeddings",
                                                          "router_bias"};
// What training, files and other loaders need; none of it changes the function.
constexpr std::array<std::string_view, 22> kNeutralKeys = {
    "model_type",
    "soft_adapter",  // AddSoftAdapter reads it
    "architectures",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "_name_or_path",
    "bos_token_id",
    "pad_token_id",
    "use_cache",
    "initializer_range",
    "attention_dropout",
    "dropout_rate",
    "router_jitter_noise",
    "router_z_loss_coef",
    "router_aux_loss_coef",
    "noisy_gating",
    "output_router_logits",
    "router_ignore_padding_tokens",
    "initializer_factor",
    "decoder_sparse_step",
    "num_experts_per_tok"};

// Keys with one value that is run; another value is another function.
struct FixedKey {
  const char* key;
  nlohmann::json value;
  const char* others;
};
const std::vector<FixedKey>& FixedKeys() {
  static const std::vector<FixedKey> keys = {
      {"second_expert_policy", "all", "a second expert by chance"},
      {"batch_prioritized_routing", false, "an order of arrival by importance"},
      {"router_dtype", "float32", "a router in another type"},
      {"mlp_bias", false, "a bias in the FFN"},
      {"softmax_over", "experts", "a softmax over tokens"},
      {"group_by_batch", false, "a group across requests"},
      {"use_layer_norm", false, "a norm of the merged experts"}};
  return keys;
}

constexpr char kBuckets[] = "relative_attention_num_buckets";
constexpr char kMaxDistance[] = "relative_attention_max_distance";

std::vector<std::string_view> CapacityKeyNames(CapacityKeys keys) {
  switch (keys) {
    case CapacityKeys::kNone:
      return {};
    case CapacityKeys::kRows:
      return {"expert_capacity"};
    case CapacityKeys::kShare:
      return {"moe_eval_capacity_token_fraction", "normalize_router_prob_before_dropping"};
    case CapacityKeys::kFactor:
      return {"capacity_factor", "min_expert_capacity", "expert_thresholds", "prefill_decide"};
  }
  return {};
}

void RefuseOtherKeys(ConfigReader& config, const SparseFamily& family) {
  std::vector<std::string_view> own = CapacityKeyNames(family.capacity);
  if (family.position_bias) own.insert(own.end(), {kBuckets, kMaxDistance});
  const auto in = [](const auto& list, std::string_view key) {
    return std::find(list.begin(), list.end(), key) != list.end();
  };
  for (const FixedKey& fixed : FixedKeys()) {
    const nlohmann::json* value = config.Member(fixed.key);
    if (value != nullptr && *value != fixed.value) config.Unimplemented(fixed.key, fixed.others);
  }
  for (const auto& [key, value] : config.object().items()) {
    if (value.is_null() || in(kCommonKeys, key) || in(kNeutralKeys, key) || in(own, key)) continue;
    const bool fixed =
        std::any_of(FixedKeys().begin(), FixedKeys().end(),
                    [&key = key](const FixedKey& known) { return key == known.key; });
    if (!fixed)
      config.Merge(
          absl::InvalidArgumentError(absl::StrCat("has the unknown key ", QuotedTensorName(key))));
  }
}

struct SparseConfig {
  DecoderShape shape;
  RouterSpec router;  // without names
  int64_t hidden = 0;
  int32_t sparse_step = 1;
  bool router_bias = false;
  std::optional<PositionBiasSpec> position_bias;  // without a name
  std::vector<std::vector<float>> thresholds;     // per sparse layer; empty: none
};

bool IsSparse(const SparseFamily& family, const SparseConfig& config, int32_t layer) {
  const int32_t place = layer % config.sparse_step;
  return place ==
         (family.second_of_step ? std::min(1, config.sparse_step - 1) : config.sparse_step - 1);
}

int32_t NumSparse(const SparseFamily& family, const SparseConfig& config) {
  int32_t count = 0;
  for (int32_t i = 0; i < config.shape.num_layers; ++i)
    count += IsSparse(family, config, i) ? 1 : 0;
  return count;
}

// One number for all, or a list of one number per expert for every sparse layer.
void ReadThresholds(ConfigReader& reader, const SparseFamily& family, SparseConfig& config) {
  const nlohmann::json* value = reader.Member("expert_thresholds");
  if (value == nullptr) return;
  const auto layers = static_cast<size_t>(NumSparse(family, config));
  const auto experts = static_cast<size_t>(config.router.num_experts);
  constexpr size_t kMaxThresholds = size_t{1} << 20;
  if (layers * experts > kMaxThresholds)
    return reader.Invalid("expert_thresholds", "are too many for all layers and experts");
  if (!value->is_array()) {
    const auto one = static_cast<float>(reader.Number("expert_thresholds", 0.0, 1.0));
    config.thresholds.assign(layers, std::vector<float>(experts, one));
    return;
  }
  const std::string form = absl::StrCat("must be a number, or a list of ", layers, " lists of ",
                                        experts, " numbers, between 0 and 1");
  if (value->size() != layers) return reader.Invalid("expert_thresholds", form);
  for (const nlohmann::json& row : *value) {
    std::vector<float>& into = config.thresholds.emplace_back();
    if (!row.is_array() || row.size() != experts) return reader.Invalid("expert_thresholds", form);
    for (const nlohmann::json& number : row) {
      const nlohmann::json wrapped = {{"expert_thresholds", number}};
      ConfigReader one(wrapped);
      into.push_back(static_cast<float>(one.Number("expert_thresholds", 0.0, 1.0)));
      reader.Merge(one.status());
    }
  }
}

void ReadCapacity(ConfigReader& reader, const SparseFamily& family, SparseConfig& config) {
  ExpertCapacitySpec capacity;
  switch (family.capacity) {
    case CapacityKeys::kNone:
      return;
    case CapacityKeys::kRows:
      if (!reader.Has("expert_capacity")) return;
      capacity.rows = reader.Int32("expert_capacity", 1, kMaxPositions);
      break;
    case CapacityKeys::kShare: {
      const bool before = reader.Bool("normalize_router_prob_before_dropping", false);
      if (!reader.Has("moe_eval_capacity_token_fraction")) return;
      capacity.share = reader.Number("moe_eval_capacity_token_fraction", 1e-6, 1.0);
      capacity.renormalize_kept = !before;
      break;
    }
    case CapacityKeys::kFactor:
      config.router.top_k = config.router.num_experts;
      config.router.pick = ExpertPick::kExpertTopK;
      if (reader.Choice("prefill_decide", {"router_topk", "router_threshold"}, 0) == 1) {
        config.router.pick = ExpertPick::kThreshold;
        if (!reader.Has("expert_thresholds")) reader.Invalid("expert_thresholds", "is missing");
      }
      capacity.factor = reader.Number("capacity_factor", 1e-6, 4'096.0);
      // The default of google/flaxformer's ExpertsChooseMaskedRouter.
      capacity.min_rows = reader.Int32("min_expert_capacity", 0, kMaxPositions, 4);
      break;
  }
  config.router.capacity = capacity;
}

void ReadPositionBias(ConfigReader& reader, SparseConfig& config) {
  if (!reader.Has(kBuckets)) {
    if (reader.Has(kMaxDistance)) reader.Invalid(kMaxDistance, "needs " + std::string(kBuckets));
    return;
  }
  PositionBiasSpec& bias = config.position_bias.emplace();
  bias.num_buckets = reader.Int32(kBuckets, 2, kMaxExperts);
  const int32_t least = bias.num_buckets / 2 + 1;  // the first half has a distance each
  bias.max_distance = reader.Int32(kMaxDistance, least, kMaxDim, std::max(least, 128));
  for (const char* key :
       {"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"}) {
    if (reader.Has(key))
      reader.Invalid(key, absl::StrCat("and '", kBuckets, "' exclude each other"));
  }
}

SparseConfig ReadConfig(ConfigReader& reader, const SparseFamily& family) {
  SparseConfig config;
  RefuseOtherKeys(reader, family);
  config.shape = ReadDecoderShape(reader, family.name);
  config.shape.activation = ReadActivation(reader, "hidden_act", family.activation);
  config.hidden = reader.Int("moe_intermediate_size", 1, kMaxHidden, config.shape.hidden);
  config.sparse_step = reader.Int32("decoder_sparse_step", 1, kMaxLayers, family.sparse_step);
  config.router_bias = reader.Bool("router_bias", false);
  RouterSpec& router = config.router;
  router.score = family.score;
  router.renormalize = family.renormalize;
  router.renormalize_epsilon = family.renormalize ? kGateEpsilon : 0.0f;
  router.num_experts = reader.Int32("num_experts", std::max(1, family.top_k), kMaxExperts);
  router.top_k = family.top_k;
  if (family.capacity == CapacityKeys::kFactor) {
    if (reader.Has("num_experts_per_tok"))
      reader.Invalid("num_experts_per_tok", "says nothing where the experts choose");
  } else if (family.top_k == 0) {
    router.top_k = reader.Int32("num_experts_per_tok", 1, router.num_experts);
  } else {
    reader.Int("num_experts_per_tok", family.top_k, family.top_k, family.top_k);
  }
  ReadCapacity(reader, family, config);
  if (family.position_bias) ReadPositionBias(reader, config);
  if (reader.status().ok()) ReadThresholds(reader, family, config);
  return config;
}

BlockSpec Dense(const SparseFamily& family, const DecoderShape& shape, const std::string& module) {
  if (family.gated_dense) return GatedFfn(shape, module, shape.hidden);
  DenseFfnSpec ffn;
  ffn.hidden = shape.hidden;
  ffn.gated = false;
  ffn.activation = shape.activation;
  ffn.up = Linear(shape.dim, shape.hidden, module + ".wi", false);
  ffn.down = Linear(shape.hidden, shape.dim, module + ".wo", false);
  return ffn;
}

// `index`: of the sparse layer among the sparse ones.
BlockSpec Sparse(const SparseConfig& config, const std::string& module, size_t index) {
  MoeFfnSpec ffn;
  ffn.router = config.router;
  ffn.router.weight = module + ".router.classifier.weight";
  if (config.router_bias) ffn.router.bias = module + ".router.classifier.bias";
  if (!config.thresholds.empty()) ffn.router.thresholds = config.thresholds[index];
  ffn.hidden = config.hidden;
  ffn.gated = false;
  ffn.activation = config.shape.activation;
  ffn.experts.up = module + ".experts.expert_{e}.wi.weight";
  ffn.experts.down = module + ".experts.expert_{e}.wo.weight";
  return ffn;
}

absl::StatusOr<ModelSpec> MapSparse(const nlohmann::json& json,
                                    const WeightStore& weights,
                                    const SparseFamily& family) {
  ConfigReader reader(json);
  const SparseConfig config = ReadConfig(reader, family);
  RETURN_IF_ERROR(reader.status());
  std::vector<LayerSpec> layers;
  size_t sparse = 0;
  for (int32_t i = 0; i < config.shape.num_layers; ++i) {
    const std::string name = LayerName(i);
    AttentionSpec attention =
        LlamaAttention(config.shape, name + ".self_attn", i, config.shape.attention_bias,
                       config.shape.attention_bias);
    if (config.position_bias.has_value()) {
      attention.rope.reset();
      attention.position_bias = config.position_bias;
      attention.position_bias->weight = name + ".self_attn.relative_attention_bias.weight";
    }
    BlockSpec ffn = IsSparse(family, config, i) ? Sparse(config, name + ".mlp", sparse++)
                                                : Dense(family, config.shape, name + ".mlp");
    layers.push_back(PreNormLayer(config.shape, i, std::move(attention), std::move(ffn)));
  }
  return LlamaModel(reader, weights, config.shape, std::move(layers));
}

}  // namespace

absl::StatusOr<ModelSpec> MapSparselyGated(const nlohmann::json& config,
                                           const WeightStore& weights) {
  return MapSparse(config, weights, kSparselyGated);
}
absl::StatusOr<ModelSpec> MapGshard(const nlohmann::json& config, const WeightStore& weights) {
  return MapSparse(config, weights, kGshard);
}
absl::StatusOr<ModelSpec> MapGlam(const nlohmann::json& config, const WeightStore& weights) {
  return MapSparse(config, weights, kGlam);
}
absl::StatusOr<ModelSpec> MapSwitch(const nlohmann::json& config, const WeightStore& weights) {
  return MapSparse(config, weights, kSwitch);
}
absl::StatusOr<ModelSpec> MapExpertChoice(const nlohmann::json& config,
                                          const WeightStore& weights) {
  return MapSparse(config, weights, kExpertChoice);
}

}  // namespace sluice
