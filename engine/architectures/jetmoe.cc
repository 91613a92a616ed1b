// JetMoE (Shen et al. 2024, arXiv 2404.07413; models.md 2.13): Mixture-of-Attention with rotary
// positions and a mixture of gated FFNs, both behind a softmax over the k largest logits and with a
// bias that is added once. The norms of the blocks have their class default as epsilon, only the
// last one has rms_norm_eps. Source: huggingface/transformers models/jetmoe/modeling_jetmoe.py.
#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/architectures/rope_parts.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

RouterSpec Router(const ExpertShape& experts, const std::string& module) {
  RouterSpec router;
  router.score = ScoreFunction::kSoftmaxOverTopK;
  router.num_experts = experts.num_experts;
  router.top_k = experts.top_k;
  router.weight = module + ".router.layer.weight";
  return router;
}

// Head h of every choice attends to key and value head h; kv_proj has the keys first.
AttentionSpec Attention(const DecoderShape& shape, const ExpertShape& experts, int32_t layer) {
  const std::string module = LayerName(layer) + ".self_attention";
  const int64_t width = int64_t{shape.num_kv_heads} * shape.head_dim;
  AttentionSpec attention;
  attention.num_heads = attention.num_kv_heads = shape.num_kv_heads;
  attention.head_dim = shape.head_dim;
  attention.q = Linear(shape.dim, width, module + ".experts.input_linear", false);
  attention.q.experts = Router(experts, module + ".experts");
  attention.k = Linear(shape.dim, width, module + ".kv_proj", false);
  attention.v = attention.k;
  attention.v.row_begin = width;
  attention.o = Linear(width, shape.dim, module + ".experts.output_linear", false);
  attention.o.bias = module + ".experts.bias";
  attention.rope = shape.rope;
  return attention;
}

MoeFfnSpec Ffn(const DecoderShape& shape, const ExpertShape& experts, int32_t layer) {
  const std::string module = LayerName(layer) + ".mlp";
  MoeFfnSpec ffn;
  ffn.router = Router(experts, module);
  ffn.hidden = experts.hidden;
  ffn.activation = shape.activation;
  ffn.experts.up = module + ".input_linear.weight";
  ffn.experts.down = module + ".output_linear.weight";
  ffn.experts.fused_gate_up = true;
  ffn.output_bias = module + ".bias";
  return ffn;
}

}  // namespace

absl::StatusOr<ModelSpec> MapJetMoe(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader config(json);
  DecoderShape shape = ReadDecoderSizes(config, "jetmoe");
  shape.activation = ReadActivation(config, "activation_function", "silu");
  shape.num_kv_heads = config.Int32("num_key_value_heads", 1, kMaxHeads);
  shape.head_dim = config.Int32("kv_channels", 1, kMaxDim);
  if (shape.head_dim % 2 != 0) config.Invalid("kv_channels", "must be even");
  shape.rope = ReadRopeConfig(config, shape.head_dim, shape.max_positions).rope;
  const ExpertShape experts = ReadMixtralExperts(config, shape);
  RETURN_IF_ERROR(config.status());
  DecoderShape block = shape;
  block.norm_epsilon = 1e-6f;
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    layers.push_back(PreNormLayer(block, i, Attention(shape, experts, i), Ffn(shape, experts, i)));
  }
  return LlamaModel(config, weights, shape, std::move(layers));
}

}  // namespace sluice
