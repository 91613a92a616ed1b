// Mixture of Tokens (models.md 5): a GPT-2 whose feed-forwards mix the tokens of a group. Two
// layouts, seen from the names: the Hugging Face port's (transformers pull request 29371,
// models/mot/modeling_mot.py) and llm-random's own tower (research/conditional/moe_layers/
// continuous_moe.py), which may have dense layers between.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/architectures/mod_names.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

std::string MixtureModule(const WeightStore& weights, int32_t layer) {
  if (HasTowerNames(weights)) {
    return absl::StrCat("encoder.blocks.block_", layer,
                        ".block.residual_feedforward.layer.feedforward");
  }
  const char* prefix = weights.Contains("transformer.wte.weight") ? "transformer." : "";
  return absl::StrCat(prefix, "h.", layer, ".mlp");
}

// Dimension `axis` of a tensor of `rank` dimensions; 0 when there is no such tensor.
int64_t SizeOf(const WeightStore& weights, const std::string& name, size_t rank, size_t axis) {
  const absl::StatusOr<TensorRange> range = weights.Find(name);
  return range.ok() && range->shape.size() == rank ? range->shape[axis] : 0;
}

// `n_inner` is the width of all experts, padded up to a whole number of them, or, in the first
// version of the port and with llm-random's flop_matched, that width over group_size. Which one it
// is only the tensors say.
void ReadExpertSizes(ConfigReader& config,
                     const WeightStore& weights,
                     const std::string& module,
                     MixtureFfnSpec& ffn) {
  const int64_t inner = config.Int("n_inner", 1, kMaxHidden, 4 * config.Int("n_embd", 1, kMaxDim));
  int64_t part = 1;  // what the total is padded to a multiple of
  if (config.Has("n_expert")) {
    ffn.num_experts = config.Int32("n_expert", 1, kMaxExperts);
    ffn.hidden = SizeOf(weights, module + ".lin1", 3, 2);
    part = ffn.num_experts;
  } else if (config.Has("expert_size")) {
    ffn.hidden = config.Int("expert_size", 1, kMaxHidden);
    ffn.num_experts = static_cast<int32_t>(
        std::min<int64_t>(kMaxExperts, SizeOf(weights, module + ".controller", 2, 1)));
    part = ffn.hidden;
  } else {
    config.Invalid("n_expert", "is missing");
  }
  if (ffn.hidden < 1 || ffn.num_experts < 1) {  // the check of the weights names the tensor
    ffn.hidden = ffn.num_experts = 1;
    return;
  }
  const int64_t total = ffn.hidden * ffn.num_experts;
  if (total != (inner + part - 1) / part * part && total != inner * ffn.group_size)
    config.Invalid("n_inner", "does not agree with the sizes of the experts' tensors");
}

MixtureFfnSpec ReadMixture(ConfigReader& config,
                           const WeightStore& weights,
                           const std::string& module) {
  MixtureFfnSpec ffn;
  ffn.group_size = config.Int32("group_size", 1, kMaxExperts, 32);
  ffn.temperature = static_cast<float>(config.Number("temperature", 1e-3, 1e6, 1.0));
  ffn.emit_over_experts = config.Bool("emit_softmax_over_experts", false);
  ffn.discrete = config.Bool("use_discrete_routing", false);
  ffn.activation =
      ReadActivation(config, "activation_function", HasTowerNames(weights) ? "relu" : "gelu_new");
  if (config.Int("sparsity_dim", 0, 1, 0) != 0)
    config.Unimplemented("sparsity_dim", "a group of tokens of one sequence");
  if (config.Bool("add_cross_attention", false))
    config.Unimplemented("add_cross_attention", "cross-attention");
  if (weights.Contains(module + ".temperature_merge"))
    config.Unimplemented("temperature", "a learned temperature");
  ReadExpertSizes(config, weights, module, ffn);
  return ffn;
}

absl::StatusOr<ModelSpec> MapTower(ConfigReader& config, const WeightStore& weights) {
  DecoderShape shape;
  shape.family = "mot";
  shape.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  shape.dim = config.Int("n_embd", 1, kMaxDim);
  shape.hidden = config.Int("n_inner", 1, kMaxHidden, 4 * shape.dim);
  shape.num_layers = config.Int32("n_layer", 1, kMaxLayers);
  shape.num_heads = config.Int32("n_head", 1, kMaxHeads);
  shape.max_positions = config.Int32("n_positions", 1, kMaxPositions, 1'024);
  shape.norm_epsilon = static_cast<float>(config.Number("layer_norm_epsilon", 0.0, 1.0, 1e-5));
  shape.activation = ReadActivation(config, "activation_function", "relu");
  if (shape.dim % shape.num_heads != 0) config.Invalid("n_head", "must divide n_embd");
  shape.head_dim = static_cast<int32_t>(shape.dim / shape.num_heads);
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) layers.push_back(TowerLayer(shape, weights, i));
  ASSIGN_OR_RETURN(ModelSpec spec, LlamaModel(config, weights, shape, std::move(layers)));
  NameAround(config, weights, spec);
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> MapMixtureOfTokens(const nlohmann::json& json,
                                             const WeightStore& weights) {
  ConfigReader config(json);
  const bool tower = HasTowerNames(weights);
  absl::StatusOr<ModelSpec> dense = tower ? MapTower(config, weights) : MapGpt2(json, weights);
  if (!dense.ok()) return dense.status();
  ModelSpec spec = *std::move(dense);
  spec.family = "mot";
  std::vector<LayerSpec>& layers = spec.stacks.front().groups.front().layers;
  std::optional<MixtureFfnSpec> mixture;
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string module = MixtureModule(weights, static_cast<int32_t>(i));
    if (tower && weights.Contains(module + ".logging_ff_pre_relu.weight")) continue;
    if (!mixture.has_value()) mixture = ReadMixture(config, weights, module);
    mixture->controller = module + ".controller";
    mixture->up = module + ".lin1";
    mixture->down = module + ".lin2";
    layers[i].sublayers[1].block = *mixture;
  }
  RETURN_IF_ERROR(config.status());
  return spec;
}

}  // namespace sluice
