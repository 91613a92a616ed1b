// Mixtral (models.md 2.7): Llama's attention, softmax over all experts, top-k, always renormalised.
#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {

absl::StatusOr<ModelSpec> MapMixtral(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader config(json);
  const DecoderShape shape = ReadDecoderShape(config, "mixtral");
  const ExpertShape experts = ReadMixtralExperts(config, shape);
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    layers.push_back(
        PreNormLayer(shape, i, LlamaAttention(shape, LayerName(i) + ".self_attn", i, false, false),
                     MixtralExperts(shape, experts, weights, i)));
  }
  return LlamaModel(config, weights, shape, std::move(layers));
}

}  // namespace sluice
