// DeepSeekMoE v1 (models.md 2.6): Llama's attention; routed experts plus shared experts fused into
// one FFN of n_shared_experts * moe_intermediate_size; the first layers are dense.
#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct DeepseekConfig {
  ExpertShape experts;  // num_experts == 0: every layer is dense
  int64_t shared_hidden = 0;
  int32_t first_sparse_layer = 0;
  int32_t sparse_step = 1;

  bool IsSparse(int32_t layer) const {
    return experts.num_experts > 0 && layer >= first_sparse_layer && layer % sparse_step == 0;
  }
};

DeepseekConfig ReadConfig(ConfigReader& config) {
  DeepseekConfig found;
  if (!config.Has("n_routed_experts")) return found;
  ExpertShape& experts = found.experts;
  experts.num_experts = config.Int32("n_routed_experts", 1, kMaxExperts);
  experts.top_k = config.Int32("num_experts_per_tok", 1, experts.num_experts);
  experts.hidden = config.Int("moe_intermediate_size", 1, kMaxHidden);
  experts.renormalize = config.Bool("norm_topk_prob", false) && experts.top_k > 1;
  experts.renormalize_epsilon = 1e-20f;
  const int64_t shared = config.Int("n_shared_experts", 0, kMaxExperts, 0);
  if (shared * experts.hidden > kMaxHidden)
    config.Invalid("n_shared_experts", "makes the shared FFN too wide");
  found.shared_hidden = shared * experts.hidden;
  found.first_sparse_layer = config.Int32("first_k_dense_replace", 0, kMaxLayers, 0);
  found.sparse_step = config.Int32("moe_layer_freq", 1, kMaxLayers, 1);
  if (config.String("scoring_func", "softmax") != "softmax") {
    config.Unimplemented("scoring_func", "a score other than softmax");
  }
  return found;
}

BlockSpec Ffn(const DecoderShape& shape,
              const DeepseekConfig& config,
              const WeightStore& weights,
              int32_t layer) {
  const std::string module = LayerName(layer) + ".mlp";
  if (!config.IsSparse(layer)) return GatedFfn(shape, module, shape.hidden);
  MoeFfnSpec ffn = GatedExperts(shape, config.experts, weights, module);
  if (config.shared_hidden > 0)
    ffn.shared = GatedFfn(shape, module + ".shared_experts", config.shared_hidden);
  return ffn;
}

}  // namespace

absl::StatusOr<ModelSpec> MapDeepseek(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader reader(json);
  const DecoderShape shape = ReadDecoderShape(reader, "deepseek");
  const DeepseekConfig config = ReadConfig(reader);
  RETURN_IF_ERROR(reader.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    layers.push_back(PreNormLayer(shape, i,
                                  LlamaAttention(shape, LayerName(i) + ".self_attn", i,
                                                 shape.attention_bias, shape.attention_bias),
                                  Ffn(shape, config, weights, i)));
  }
  return LlamaModel(reader, weights, shape, std::move(layers));
}

}  // namespace sluice
