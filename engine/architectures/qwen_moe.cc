// Qwen2-MoE (models.md 2.9: q, k, v biases, gated shared expert) and Qwen3-MoE (2.10: per-head q
// and k norms, no shared expert). Which layers are sparse follows mlp_only_layers and
// decoder_sparse_step in both.
#include <algorithm>

#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct QwenMoeConfig {
  DecoderShape shape;
  ExpertShape experts;
  bool third = false;
  bool qkv_bias = false;
  int64_t shared_hidden = 0;
  int32_t sparse_step = 1;
  std::vector<int64_t> dense_layers;

  bool IsSparse(int32_t layer) const {
    const bool listed =
        std::find(dense_layers.begin(), dense_layers.end(), layer) != dense_layers.end();
    return !listed && (layer + 1) % sparse_step == 0;
  }
};

QwenMoeConfig ReadConfig(ConfigReader& config, bool third) {
  QwenMoeConfig found;
  found.third = third;
  found.shape = ReadDecoderShape(config, third ? "qwen3_moe" : "qwen2_moe");
  found.experts = ReadQwenExperts(config, "moe_intermediate_size");
  found.qkv_bias = third ? found.shape.attention_bias : config.Bool("qkv_bias", true);
  if (!third) found.shared_hidden = config.Int("shared_expert_intermediate_size", 1, kMaxHidden);
  found.sparse_step = config.Int32("decoder_sparse_step", 1, kMaxLayers, 1);
  found.dense_layers = config.Ints("mlp_only_layers", 0, kMaxLayers, kMaxLayers);
  return found;
}

BlockSpec Ffn(const QwenMoeConfig& config, const WeightStore& weights, int32_t layer) {
  const std::string module = LayerName(layer) + ".mlp";
  if (!config.IsSparse(layer)) return GatedFfn(config.shape, module, config.shape.hidden);
  MoeFfnSpec ffn = GatedExperts(config.shape, config.experts, weights, module);
  if (!config.third) {
    ffn.shared = GatedFfn(config.shape, module + ".shared_expert", config.shared_hidden);
    ffn.shared_gate = module + ".shared_expert_gate.weight";
  }
  return ffn;
}

absl::StatusOr<ModelSpec> MapQwenMoe(const nlohmann::json& json,
                                     const WeightStore& weights,
                                     bool third) {
  ConfigReader reader(json);
  const QwenMoeConfig config = ReadConfig(reader, third);
  RETURN_IF_ERROR(reader.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < config.shape.num_layers; ++i) {
    const std::string module = LayerName(i) + ".self_attn";
    AttentionSpec attention = LlamaAttention(config.shape, module, i, config.qkv_bias,
                                             third && config.shape.attention_bias);
    if (third) {
      attention.q_norm = RmsNorm(config.shape, module + ".q_norm");
      attention.k_norm = RmsNorm(config.shape, module + ".k_norm");
    }
    layers.push_back(PreNormLayer(config.shape, i, std::move(attention), Ffn(config, weights, i)));
  }
  return LlamaModel(reader, weights, config.shape, std::move(layers));
}

}  // namespace

absl::StatusOr<ModelSpec> MapQwen2Moe(const nlohmann::json& config, const WeightStore& weights) {
  return MapQwenMoe(config, weights, false);
}

absl::StatusOr<ModelSpec> MapQwen3Moe(const nlohmann::json& config, const WeightStore& weights) {
  return MapQwenMoe(config, weights, true);
}

}  // namespace sluice
