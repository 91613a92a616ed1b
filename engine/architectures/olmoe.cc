// OLMoE (models.md 2.8): q and k are normed over the whole projected vector, then q, k, v are
// clamped; the router is renormalised only with norm_topk_prob.
#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {

absl::StatusOr<ModelSpec> MapOlmoe(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader config(json);
  DecoderShape shape = ReadDecoderShape(config, "olmoe");
  if (!config.Has("rms_norm_eps")) shape.norm_epsilon = 1e-5f;
  const ExpertShape experts = ReadQwenExperts(config, "intermediate_size");
  const auto clip = static_cast<float>(config.Number("clip_qkv", 0.0, 1e6, 0.0));
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    const std::string name = LayerName(i);
    AttentionSpec attention =
        LlamaAttention(shape, name + ".self_attn", i, shape.attention_bias, shape.attention_bias);
    attention.q_norm = RmsNorm(shape, name + ".self_attn.q_norm");
    attention.k_norm = RmsNorm(shape, name + ".self_attn.k_norm");
    attention.norm_per_head = false;
    attention.clip_qkv = clip;
    layers.push_back(PreNormLayer(shape, i, std::move(attention),
                                  GatedExperts(shape, experts, weights, name + ".mlp")));
  }
  return LlamaModel(config, weights, shape, std::move(layers));
}

}  // namespace sluice
