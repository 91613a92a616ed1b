// Granite and GraniteMoE (models.md 2.12): Llama's layers with four multipliers; GraniteMoE's FFN
// is a softmax over the k largest logits, its experts stacked with the gate rows first. The
// multipliers have no default: a file without them means something else. Source:
// huggingface/transformers models/granite/modeling_granite.py,
// models/granitemoe/modeling_granitemoe.py.
#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct Multipliers {
  float embedding = 1.0f;
  float attention = 1.0f;  // of the logits, instead of 1 / sqrt(head_dim)
  float residual = 1.0f;
  float logits = 1.0f;  // the file has its inverse
};

Multipliers ReadMultipliers(ConfigReader& config) {
  Multipliers found;
  found.embedding = static_cast<float>(config.Number("embedding_multiplier", 1e-6, 1e6));
  found.attention = static_cast<float>(config.Number("attention_multiplier", 1e-6, 1e3));
  found.residual = static_cast<float>(config.Number("residual_multiplier", 1e-6, 1e3));
  found.logits = static_cast<float>(1.0 / config.Number("logits_scaling", 1e-6, 1e6));
  if (config.String("position_embedding_type", "rope") != "rope")
    config.Unimplemented("position_embedding_type", "a kind other than rope");
  return found;
}

MoeFfnSpec Experts(const DecoderShape& shape,
                   const ExpertShape& experts,
                   const WeightStore& weights,
                   int32_t layer) {
  const std::string module = LayerName(layer) + ".block_sparse_moe";
  MoeFfnSpec ffn;
  ffn.hidden = experts.hidden;
  ffn.activation = shape.activation;
  ffn.router.score = ScoreFunction::kSoftmaxOverTopK;
  ffn.router.num_experts = experts.num_experts;
  ffn.router.top_k = experts.top_k;
  ffn.experts.fused_gate_up = true;
  // Published files have the first names, what transformers 5 has in memory the second.
  const bool in_memory = weights.Contains(module + ".experts.gate_up_proj");
  ffn.router.weight = module + (in_memory ? ".router.weight" : ".router.layer.weight");
  ffn.experts.up = module + (in_memory ? ".experts.gate_up_proj" : ".input_linear.weight");
  ffn.experts.down = module + (in_memory ? ".experts.down_proj" : ".output_linear.weight");
  return ffn;
}

absl::StatusOr<ModelSpec> MapGraniteKind(const nlohmann::json& json,
                                         const WeightStore& weights,
                                         bool sparse) {
  ConfigReader config(json);
  const DecoderShape shape = ReadDecoderShape(config, sparse ? "granitemoe" : "granite");
  const Multipliers multipliers = ReadMultipliers(config);
  const ExpertShape experts = sparse ? ReadMixtralExperts(config, shape) : ExpertShape();
  RETURN_IF_ERROR(config.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    const std::string name = LayerName(i);
    AttentionSpec attention =
        LlamaAttention(shape, name + ".self_attn", i, shape.attention_bias, shape.attention_bias);
    attention.scale = multipliers.attention;
    BlockSpec ffn = sparse ? BlockSpec(Experts(shape, experts, weights, i))
                           : BlockSpec(GatedFfn(shape, name + ".mlp", shape.hidden));
    LayerSpec layer = PreNormLayer(shape, i, std::move(attention), std::move(ffn));
    for (SublayerSpec& sublayer : layer.sublayers) sublayer.residual_scale = multipliers.residual;
    layers.push_back(std::move(layer));
  }
  ASSIGN_OR_RETURN(ModelSpec spec, LlamaModel(config, weights, shape, std::move(layers)));
  spec.stacks[0].embedding.scale = multipliers.embedding;
  spec.head.logit_scale = multipliers.logits;
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> MapGranite(const nlohmann::json& config, const WeightStore& weights) {
  return MapGraniteKind(config, weights, false);
}

absl::StatusOr<ModelSpec> MapGraniteMoe(const nlohmann::json& config, const WeightStore& weights) {
  return MapGraniteKind(config, weights, true);
}

}  // namespace sluice
