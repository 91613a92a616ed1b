// Qwen2 (q, k, v biases) and Qwen3 (per-head q and k norms), dense. Source:
// huggingface/transformers models/qwen2/modeling_qwen2.py, models/qwen3/modeling_qwen3.py.
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

absl::StatusOr<ModelSpec> MapDense(const nlohmann::json& json,
                                   const WeightStore& weights,
                                   bool third) {
  ConfigReader config(json);
  const DecoderShape shape = ReadDecoderShape(config, third ? "qwen3" : "qwen2");
  RETURN_IF_ERROR(config.status());
  const bool qkv_bias = third ? shape.attention_bias : true;
  const bool o_bias = third && shape.attention_bias;
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    const std::string name = LayerName(i);
    AttentionSpec attention = LlamaAttention(shape, name + ".self_attn", i, qkv_bias, o_bias);
    if (third) {
      attention.q_norm = RmsNorm(shape, name + ".self_attn.q_norm");
      attention.k_norm = RmsNorm(shape, name + ".self_attn.k_norm");
    }
    layers.push_back(
        PreNormLayer(shape, i, std::move(attention), GatedFfn(shape, name + ".mlp", shape.hidden)));
  }
  return LlamaModel(config, weights, shape, std::move(layers));
}

}  // namespace

absl::StatusOr<ModelSpec> MapQwen2(const nlohmann::json& config, const WeightStore& weights) {
  return MapDense(config, weights, false);
}

absl::StatusOr<ModelSpec> MapQwen3(const nlohmann::json& config, const WeightStore& weights) {
  return MapDense(config, weights, true);
}

}  // namespace sluice
