#include "engine/architectures/expert_parts.h"

namespace sluice {
namespace {

MoeFfnSpec BaseExperts(const DecoderShape& shape,
                       const ExpertShape& experts,
                       const std::string& module) {
  MoeFfnSpec ffn;
  ffn.hidden = experts.hidden;
  ffn.activation = shape.activation;
  ffn.router.score = ScoreFunction::kSoftmax;
  ffn.router.num_experts = experts.num_experts;
  ffn.router.num_null_experts = experts.num_null_experts;
  ffn.router.top_k = experts.top_k;
  ffn.router.renormalize = experts.renormalize;
  ffn.router.renormalize_epsilon = experts.renormalize_epsilon;
  ffn.router.weight = module + ".gate.weight";
  return ffn;
}

}  // namespace

ExpertShape ReadMixtralExperts(ConfigReader& config, const DecoderShape& shape) {
  ExpertShape experts;
  experts.num_experts = config.Int32("num_local_experts", 1, kMaxExperts);
  experts.top_k = config.Int32("num_experts_per_tok", 1, experts.num_experts);
  experts.hidden = shape.hidden;
  experts.renormalize = true;
  return experts;
}

ExpertShape ReadQwenExperts(ConfigReader& config, const char* hidden_key) {
  ExpertShape experts;
  // transformers 5 writes "num_local_experts" for some of these families.
  const bool newer = !config.Has("num_experts") && config.Has("num_local_experts");
  experts.num_experts = config.Int32(newer ? "num_local_experts" : "num_experts", 1, kMaxExperts);
  experts.top_k = config.Int32("num_experts_per_tok", 1, experts.num_experts);
  experts.hidden = config.Int(hidden_key, 1, kMaxHidden);
  experts.renormalize = config.Bool("norm_topk_prob", false);
  return experts;
}

MoeFfnSpec GatedExperts(const DecoderShape& shape,
                        const ExpertShape& experts,
                        const WeightStore& weights,
                        const std::string& module) {
  MoeFfnSpec ffn = BaseExperts(shape, experts, module);
  const std::string prefix = module + ".experts.";
  if (weights.Contains(prefix + "gate_up_proj")) {
    ffn.experts.up = prefix + "gate_up_proj";
    ffn.experts.down = prefix + "down_proj";
    ffn.experts.fused_gate_up = true;
    return ffn;
  }
  ffn.experts.gate = prefix + "{e}.gate_proj.weight";
  ffn.experts.up = prefix + "{e}.up_proj.weight";
  ffn.experts.down = prefix + "{e}.down_proj.weight";
  return ffn;
}

MoeFfnSpec MixtralExperts(const DecoderShape& shape,
                          const ExpertShape& experts,
                          const WeightStore& weights,
                          int32_t layer) {
  const std::string newer = LayerName(layer) + ".mlp";
  if (weights.Contains(newer + ".gate.weight")) return GatedExperts(shape, experts, weights, newer);
  const std::string module = LayerName(layer) + ".block_sparse_moe";
  MoeFfnSpec ffn = BaseExperts(shape, experts, module);
  ffn.experts.gate = module + ".experts.{e}.w1.weight";
  ffn.experts.up = module + ".experts.{e}.w3.weight";
  ffn.experts.down = module + ".experts.{e}.w2.weight";
  return ffn;
}

}  // namespace sluice
