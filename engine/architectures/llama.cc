// Llama and Mistral: pre-norm RMS, GQA, half-style RoPE, SwiGLU. Source: huggingface/transformers
// models/llama/modeling_llama.py, models/mistral/modeling_mistral.py (window on every layer, no
// biases). sparse_attention: Llama with a causal sparse pattern (sparse_parts.h).
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

absl::StatusOr<ModelSpec> MapDense(const nlohmann::json& json,
                                   const WeightStore& weights,
                                   const char* family) {
  ConfigReader config(json);
  const DecoderShape shape = ReadDecoderShape(config, family);
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    const std::string name = LayerName(i);
    layers.push_back(PreNormLayer(
        shape, i,
        LlamaAttention(shape, name + ".self_attn", i, shape.attention_bias, shape.attention_bias),
        GatedFfn(shape, name + ".mlp", shape.hidden)));
  }
  return LlamaModel(config, weights, shape, std::move(layers));
}

}  // namespace

absl::StatusOr<ModelSpec> MapLlama(const nlohmann::json& config, const WeightStore& weights) {
  return MapDense(config, weights, "llama");
}

absl::StatusOr<ModelSpec> MapMistral(const nlohmann::json& config, const WeightStore& weights) {
  return MapDense(config, weights, "mistral");
}

absl::StatusOr<ModelSpec> MapSparseAttention(const nlohmann::json& config,
                                             const WeightStore& weights) {
  ConfigReader reader(config);
  if (!reader.Has("sparse_attention")) reader.Invalid("sparse_attention", "is missing");
  RETURN_IF_ERROR(reader.status());
  return MapDense(config, weights, "sparse_attention");
}

}  // namespace sluice
