// DeepSeekMoE v1 (models.md 2.6): Llama's attention; routed experts plus shared experts fused into
// one FFN of n_shared_experts * moe_intermediate_size; the first layers are dense. DeepSeek-V2 and
// V3 (2.11): the same with latent attention and routers that choose among groups of experts.
// Source: deepseek-ai/DeepSeek-V3 inference/model.py; huggingface/transformers models/deepseek_v2,
// models/deepseek_v3.
#include <cmath>

#include "engine/architectures/expert_parts.h"
#include "engine/architectures/families.h"
#include "engine/architectures/rope_parts.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct DeepseekConfig {
  ExpertShape experts;  // num_experts == 0: every layer is dense
  int64_t shared_hidden = 0;
  int32_t first_sparse_layer = 0;
  int32_t sparse_step = 1;
  RouterSpec router;  // score, scale and groups
  bool has_selection_bias = false;

  bool IsSparse(int32_t layer) const {
    return experts.num_experts > 0 && layer >= first_sparse_layer && layer % sparse_step == 0;
  }
};

// `defaults`: of the keys whose absence the published loaders of V2 and V3 fill in with values of
// their own; those must be there.
DeepseekConfig ReadExperts(ConfigReader& config, std::optional<int64_t> defaults) {
  DeepseekConfig found;
  ExpertShape& experts = found.experts;
  experts.num_experts = config.Int32("n_routed_experts", 1, kMaxExperts);
  experts.top_k = config.Int32("num_experts_per_tok", 1, experts.num_experts);
  experts.hidden = config.Int("moe_intermediate_size", 1, kMaxHidden);
  experts.renormalize = config.Bool("norm_topk_prob", false) && experts.top_k > 1;
  experts.renormalize_epsilon = 1e-20f;
  const int64_t shared = config.Int("n_shared_experts", 0, kMaxExperts, defaults);
  if (shared * experts.hidden > kMaxHidden)
    config.Invalid("n_shared_experts", "makes the shared FFN too wide");
  found.shared_hidden = shared * experts.hidden;
  found.first_sparse_layer = config.Int32("first_k_dense_replace", 0, kMaxLayers, defaults);
  found.sparse_step = config.Int32("moe_layer_freq", 1, kMaxLayers, 1);
  return found;
}

void ExpectScore(ConfigReader& config, const char* score) {
  if (config.String("scoring_func", score) != score) {
    config.Unimplemented("scoring_func", std::string("a score other than ") + score);
  }
}

DeepseekConfig ReadFirst(ConfigReader& config) {
  if (!config.Has("n_routed_experts")) return {};
  ExpectScore(config, "softmax");
  return ReadExperts(config, 0);
}

void ReadGroups(ConfigReader& config, RouterSpec& router) {
  router.num_groups = config.Int32("n_group", 1, kMaxExperts);
  router.top_groups = config.Int32("topk_group", 1, kMaxExperts);
}

// norm_topk_prob and routed_scaling_factor exclude each other (modeling_deepseek.py of the V2
// files).
DeepseekConfig ReadSecond(ConfigReader& config) {
  DeepseekConfig found = ReadExperts(config, std::nullopt);
  ExpectScore(config, "softmax");
  const double scale = config.Number("routed_scaling_factor", 1e-6, 1e6);
  if (!found.experts.renormalize) found.router.scale = static_cast<float>(scale);
  const size_t method = config.Choice("topk_method", {"greedy", "group_limited_greedy"}, 0);
  if (method == 1) ReadGroups(config, found.router);
  return found;
}

// "noaux_tc": a bias that only chooses; a group counts by its two best experts.
DeepseekConfig ReadThird(ConfigReader& config) {
  DeepseekConfig found = ReadExperts(config, std::nullopt);
  ExpectScore(config, "sigmoid");
  if (!config.Has("norm_topk_prob")) config.Invalid("norm_topk_prob", "is missing");
  if (config.String("topk_method", "noaux_tc") != "noaux_tc")
    config.Unimplemented("topk_method", "a method other than noaux_tc");
  found.router.score = ScoreFunction::kSigmoid;
  found.router.scale = static_cast<float>(config.Number("routed_scaling_factor", 1e-6, 1e6));
  found.router.group_score = GroupScore::kTopTwoSum;
  ReadGroups(config, found.router);
  found.has_selection_bias = true;
  return found;
}

BlockSpec Ffn(const DecoderShape& shape,
              const DeepseekConfig& config,
              const WeightStore& weights,
              int32_t layer) {
  const std::string module = LayerName(layer) + ".mlp";
  if (!config.IsSparse(layer)) return GatedFfn(shape, module, shape.hidden);
  MoeFfnSpec ffn = GatedExperts(shape, config.experts, weights, module);
  ffn.router.score = config.router.score;
  ffn.router.scale = config.router.scale;
  ffn.router.num_groups = config.router.num_groups;
  ffn.router.top_groups = config.router.top_groups;
  ffn.router.group_score = config.router.group_score;
  if (config.has_selection_bias)
    ffn.router.selection_bias = module + ".gate.e_score_correction_bias";
  if (config.shared_hidden > 0)
    ffn.shared = GatedFfn(shape, module + ".shared_experts", config.shared_hidden);
  return ffn;
}

LatentAttentionSpec ReadLatentAttention(ConfigReader& config, const DecoderShape& shape) {
  LatentAttentionSpec attention;
  attention.num_heads = config.Int32("num_attention_heads", 1, kMaxHeads);
  attention.nope_dim = config.Int32("qk_nope_head_dim", 1, kMaxDim);
  attention.rope_dim = config.Int32("qk_rope_head_dim", 2, kMaxDim);
  attention.value_dim = config.Int32("v_head_dim", 1, kMaxDim);
  attention.latent_dim = config.Int32("kv_lora_rank", 1, kMaxDim);
  const RopeConfig rope = ReadRopeConfig(config, attention.rope_dim, shape.max_positions);
  attention.rope = rope.rope;
  attention.rope.style =
      config.Bool("rope_interleave", true) ? RopeStyle::kInterleaved : RopeStyle::kHalf;
  const double width = attention.nope_dim + attention.rope_dim;
  attention.scale = static_cast<float>(rope.logit_gain / std::sqrt(width));
  if (config.Has("quantization_config"))
    config.Unimplemented("quantization_config", "a quantized file");
  return attention;
}

// `sizes` with the tensors of one layer. The norms of the latents have an epsilon of their own
// (their class default; rms_norm_eps is not passed to them).
LatentAttentionSpec LatentAttention(const DecoderShape& shape,
                                    const LatentAttentionSpec& sizes,
                                    int64_t q_rank,
                                    int32_t layer) {
  const auto norm = [](const std::string& module) {
    return NormSpec{.kind = NormKind::kRms, .epsilon = 1e-6f, .weight = module + ".weight"};
  };
  const std::string module = LayerName(layer) + ".self_attn.";
  const int64_t heads = sizes.num_heads;
  const int64_t q_width = heads * (int64_t{sizes.nope_dim} + sizes.rope_dim);
  LatentAttentionSpec attention = sizes;
  attention.q = Linear(shape.dim, q_width, module + "q_proj", false);
  if (q_rank > 0) {
    attention.q_down = Linear(shape.dim, q_rank, module + "q_a_proj", shape.attention_bias);
    attention.q_norm = norm(module + "q_a_layernorm");
    attention.q = Linear(q_rank, q_width, module + "q_b_proj", false);
  }
  attention.kv_down = Linear(shape.dim, int64_t{sizes.latent_dim} + sizes.rope_dim,
                             module + "kv_a_proj_with_mqa", shape.attention_bias);
  attention.kv_norm = norm(module + "kv_a_layernorm");
  attention.kv_up = Linear(sizes.latent_dim, heads * (int64_t{sizes.nope_dim} + sizes.value_dim),
                           module + "kv_b_proj", false);
  attention.o = Linear(heads * sizes.value_dim, shape.dim, module + "o_proj", shape.attention_bias);
  return attention;
}

absl::StatusOr<ModelSpec> MapLatent(const nlohmann::json& json,
                                    const WeightStore& weights,
                                    bool third) {
  ConfigReader reader(json);
  const DecoderShape shape = ReadDecoderSizes(reader, third ? "deepseek_v3" : "deepseek_v2");
  const LatentAttentionSpec sizes = ReadLatentAttention(reader, shape);
  const int64_t q_rank = reader.Has("q_lora_rank") ? reader.Int("q_lora_rank", 1, kMaxDim) : 0;
  const DeepseekConfig config = third ? ReadThird(reader) : ReadSecond(reader);
  RETURN_IF_ERROR(reader.status());
  std::vector<LayerSpec> layers;
  for (int32_t i = 0; i < shape.num_layers; ++i) {
    LayerSpec layer = PreNormLayer(shape, i, {}, Ffn(shape, config, weights, i));
    layer.sublayers[0].block = LatentAttention(shape, sizes, q_rank, i);
    layers.push_back(std::move(layer));
  }
  return LlamaModel(reader, weights, shape, std::move(layers));
}

}  // namespace

absl::StatusOr<ModelSpec> MapDeepseek(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader reader(json);
  const DecoderShape shape = ReadDecoderShape(reader, "deepseek");
  const DeepseekConfig config = ReadFirst(reader);
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

absl::StatusOr<ModelSpec> MapDeepseekV2(const nlohmann::json& config, const WeightStore& weights) {
  return MapLatent(config, weights, false);
}

absl::StatusOr<ModelSpec> MapDeepseekV3(const nlohmann::json& config, const WeightStore& weights) {
  return MapLatent(config, weights, true);
}

}  // namespace sluice
