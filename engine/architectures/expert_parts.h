// Expert FFNs of the families with softmax routers: their config keys and both ways their files
// name the experts (one tensor per expert, or stacked). Not for MoEUT.
#pragma once

#include <string>

#include "engine/architectures/decoder_parts.h"

namespace sluice {

struct ExpertShape {
  int32_t num_experts = 0;
  int32_t num_null_experts = 0;
  int32_t top_k = 0;
  int64_t hidden = 0;
  bool renormalize = false;
  float renormalize_epsilon = 0.0f;
};

// num_local_experts, num_experts_per_tok, intermediate_size; always renormalised (models.md 2.7).
ExpertShape ReadMixtralExperts(ConfigReader& config, const DecoderShape& shape);
// num_experts (or num_local_experts), num_experts_per_tok, `hidden_key`, norm_topk_prob
// (models.md 2.8 to 2.10).
ExpertShape ReadQwenExperts(ConfigReader& config, const char* hidden_key);

// `module`: "model.layers.0.mlp". Experts are `module`.experts.{e}.{gate,up,down}_proj.weight, or
// stacked as `module`.experts.{gate_up,down}_proj; the router is `module`.gate.weight.
MoeFfnSpec GatedExperts(const DecoderShape& shape,
                        const ExpertShape& experts,
                        const WeightStore& weights,
                        const std::string& module);
// Mixtral's names (block_sparse_moe, w1, w3, w2), or the ones above when the file has those.
MoeFfnSpec MixtralExperts(const DecoderShape& shape,
                          const ExpertShape& experts,
                          const WeightStore& weights,
                          int32_t layer);

}  // namespace sluice
