// Sparse Universal Transformer with halting (Tan et al. 2023, arXiv 2310.07096; models.md 4.2): one
// layer of Mixture-of-Attention and mixture-of-experts, repeated until each token's gate stops it.
// The causal language model of RobertCsordas/moeut_training_code, layers/transformer/sut; its
// tensor names. Config keys in README.md.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

constexpr char kLayer[] = "unique_layers.0.mod";

struct SutConfig {
  int32_t vocab_size, num_steps, num_heads, head_dim, max_distance, max_positions;
  int32_t num_attention_experts, attention_top_k, num_experts, top_k;
  int64_t dim, width, expert_size;
  float norm_epsilon, embedding_scale, threshold;
  bool pre_norm, norm_input, scales_query_only;
};

SutConfig ReadConfig(ConfigReader& config) {
  SutConfig found{};
  found.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  found.dim = config.Int("hidden_size", 1, kMaxDim);
  found.num_steps = config.Int32("num_hidden_layers", 1, kMaxLayers);
  found.head_dim = config.Int32("head_dim", 1, kMaxDim);
  found.width = config.Int("attention_expert_size", 1, kMaxHidden);
  if (found.width % found.head_dim != 0 || found.width / found.head_dim > kMaxHeads)
    config.Invalid("head_dim", "must divide attention_expert_size into at most 4096 heads");
  found.num_heads = static_cast<int32_t>(found.width / found.head_dim);
  found.num_attention_experts = config.Int32("num_attention_experts", 1, kMaxExperts);
  found.attention_top_k =
      config.Int32("num_attention_experts_per_tok", 1, found.num_attention_experts);
  found.num_experts = config.Int32("num_experts", 1, kMaxExperts);
  found.top_k = config.Int32("num_experts_per_tok", 1, found.num_experts);
  found.expert_size = config.Int("moe_intermediate_size", 1, kMaxHidden);
  found.max_distance = config.Int32("max_relative_positions", 1, kMaxDim, 64);
  found.pre_norm = config.Bool("pre_norm", false);
  found.norm_input = config.Bool("norm_input", !found.pre_norm);
  const double scale = found.pre_norm ? 1.0 : std::sqrt(static_cast<double>(found.dim));
  found.embedding_scale = static_cast<float>(config.Number("embedding_scale", -1e6, 1e6, scale));
  found.threshold = static_cast<float>(config.Number("halting_threshold", 0.0, 1.0, 0.999));
  found.scales_query_only = config.Bool("scale_query_only", false);
  found.norm_epsilon = static_cast<float>(config.Number("layer_norm_eps", 0.0, 1.0, 1e-5));
  found.max_positions = config.Int32("max_position_embeddings", 1, kMaxPositions, 1'024);
  if (config.Choice("halting", {"stick_breaking", "act", "none"}, 0) != 0)
    config.Unimplemented("halting", "halting other than stick_breaking");
  if (ReadActivation(config, "hidden_act", "relu") != Activation::kRelu)
    config.Unimplemented("hidden_act", "an activation other than relu");
  return found;
}

// softmax, top-k, divided by (sum + 1e-6), behind W2 tanh(W1 x + b1).
RouterSpec Router(const SutConfig& config,
                  const std::string& module,
                  int32_t num_experts,
                  int32_t top_k) {
  return {.score = ScoreFunction::kSoftmax,
          .num_experts = num_experts,
          .top_k = top_k,
          .renormalize = true,
          .renormalize_epsilon = 1e-6f,
          .weight = module + ".w_gate.3.weight",
          .hidden = config.dim,
          .hidden_weight = module + ".w_gate.0.weight",
          .hidden_bias = module + ".w_gate.0.bias"};
}

AttentionSpec Attention(const SutConfig& config) {
  const std::string name = absl::StrCat(kLayer, ".self_attn");
  AttentionSpec attention;
  attention.num_heads = attention.num_kv_heads = config.num_heads;
  attention.head_dim = config.head_dim;
  attention.q = {.in = config.dim, .out = config.width, .weight = name + ".q_proj.experts.w"};
  attention.q.transposed = true;
  attention.q.experts =
      Router(config, name + ".q_proj", config.num_attention_experts, config.attention_top_k);
  attention.k = Linear(config.dim, config.width, name + ".k_proj", false);
  attention.v = Linear(config.dim, config.width, name + ".v_proj", false);
  attention.o = {
      .in = config.width, .out = config.dim, .weight = name + ".q_proj.output_experts.w"};
  attention.o.transposed = true;
  attention.kv_source = KvSource::kSecondStream;
  // The training code scales q and k by head_dim^-1/4 each, shawntan/SUT q alone by head_dim^-1/2;
  // relative logits see the scaled q.
  const double power = config.scales_query_only ? -0.5 : -0.25;
  attention.relative = RelativePositionSpec{
      .weight = name + ".rel_pos_emb",
      .max_distance = config.max_distance,
      .scale = static_cast<float>(std::pow(static_cast<double>(config.head_dim), power))};
  return attention;
}

MoeFfnSpec Ffn(const SutConfig& config) {
  const std::string name = absl::StrCat(kLayer, ".moe");
  MoeFfnSpec ffn;
  ffn.router = Router(config, name, config.num_experts, config.top_k);
  ffn.hidden = config.expert_size;
  ffn.gated = false;
  ffn.activation = Activation::kRelu;
  ffn.experts.up = name + ".experts.w";
  ffn.experts.down = name + ".output_experts.w";
  ffn.experts.up_bias = name + ".experts.b";
  ffn.experts.down_bias = name + ".output_experts.b";
  ffn.experts.transposed = true;
  return ffn;
}

LayerGroupSpec MakeGroup(const SutConfig& config) {
  LayerGroupSpec group;
  group.name = "steps";
  group.repeat.times = config.num_steps;
  group.repeat.halting = HaltingKind::kStickBreaking;
  HaltingGateSpec gate;
  gate.hidden = Linear(config.dim, config.dim, "unique_layers.0._gate.0", true);
  gate.out = Linear(config.dim, 2, "unique_layers.0._gate.3", false);
  gate.threshold = config.threshold;
  group.repeat.gate = gate;
  LayerSpec& layer = group.layers.emplace_back();
  layer.sublayers.resize(2);
  const NormSpec norms[] = {
      LayerNorm(config.norm_epsilon, absl::StrCat(kLayer, ".self_attn_layer_norm")),
      LayerNorm(config.norm_epsilon, absl::StrCat(kLayer, ".final_layer_norm"))};
  for (size_t i = 0; i < 2; ++i) {
    SublayerSpec& sublayer = layer.sublayers[i];
    (config.pre_norm ? sublayer.input_norm : sublayer.residual_norm) = norms[i];
  }
  layer.sublayers[0].block = Attention(config);
  layer.sublayers[1].block = Ffn(config);
  return group;
}

}  // namespace

absl::StatusOr<ModelSpec> MapSparseUniversal(const nlohmann::json& json,
                                             const WeightStore& /*weights*/) {
  ConfigReader reader(json);
  const SutConfig config = ReadConfig(reader);
  ModelSpec spec;
  spec.family = "sut";
  spec.max_positions = config.max_positions;
  spec.eos_token_ids = ReadEosTokenIds(reader, config.vocab_size);
  RETURN_IF_ERROR(reader.status());
  spec.head.weight = "output.weight";
  spec.head.bias = "output.bias";
  StackSpec stack;
  stack.embedding.vocab_size = config.vocab_size;
  stack.embedding.dim = config.dim;
  stack.embedding.weight = "embedding.weight";
  stack.embedding.scale = config.embedding_scale;
  if (config.norm_input)
    stack.embedding.norm = NormSpec{.kind = NormKind::kLayer, .epsilon = config.norm_epsilon};
  stack.groups.push_back(MakeGroup(config));
  if (config.pre_norm) stack.final_norm = LayerNorm(config.norm_epsilon, "out_norm");
  spec.stacks.push_back(std::move(stack));
  return spec;
}

}  // namespace sluice
