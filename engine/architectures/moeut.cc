// MoEUT (models.md section 3; Csordas et al. 2024, arXiv 2405.16039): G layers repeated n/G times,
// sigma-MoE FFN, SwitchHead attention with value and output experts, peri-layernorm. Both published
// tensor layouts; config keys in README.md.
#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct MoeutConfig {
  int32_t vocab_size, num_layers, group_size, num_heads, head_dim, max_positions;
  int32_t num_experts, top_k, num_attention_experts, attention_top_k;
  int64_t dim, expert_size;
  float norm_epsilon, embedding_scale;
  RopeSpec rope;
  bool alternate;  // layer order A B A B, not A A B B
};

// The names of one layer and of the model around it, models.md 3.4.
struct MoeutNames {
  std::string head;
  std::string attention_norm, ffn_norm;
  std::string q, k, v, o, select_v, select_o;
  std::string keys, values, select;
};

MoeutNames TrainingNames(int32_t layer) {
  const std::string name = absl::StrCat("unique_layers.", layer);
  const std::string projections = name + ".self_attn.projections.";
  const std::string selections = name + ".self_attn.selections.";
  return {.head = "output",
          .attention_norm = name + ".self_attn.norm",
          .ffn_norm = name + ".pkm.norm",
          .q = projections + "q",
          .k = projections + "k",
          .v = projections + "v",
          .o = projections + "o",
          .select_v = selections + "v",
          .select_o = selections + "o",
          .keys = name + ".pkm.keys",
          .values = name + ".pkm.values",
          .select = name + ".pkm.expert_sel"};
}

MoeutNames CleanNames(int32_t layer) {
  const std::string name = absl::StrCat("transformer.layers.", layer);
  const std::string attention = name + ".attention.";
  return {.head = "lm_head",
          .attention_norm = name + ".ln1",
          .ffn_norm = name + ".ln2",
          .q = attention + "q.weight",
          .k = attention + "k.weight",
          .v = attention + "v",
          .o = attention + "o",
          .select_v = attention + "sel_v",
          .select_o = attention + "sel_o",
          .keys = name + ".ffn.keys",
          .values = name + ".ffn.values",
          .select = name + ".ffn.expert_sel"};
}

MoeutNames NamesOf(const WeightStore& weights, int32_t layer) {
  const bool training = weights.Contains("unique_layers.0.pkm.keys");
  return training ? TrainingNames(layer) : CleanNames(layer);
}

MoeutConfig ReadConfig(ConfigReader& config) {
  MoeutConfig found{};
  found.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  found.dim = config.Int("hidden_size", 1, kMaxDim);
  found.num_layers = config.Int32("num_hidden_layers", 1, kMaxLayers);
  found.group_size = config.Int32("group_size", 1, found.num_layers);
  if (found.num_layers % found.group_size != 0)
    config.Invalid("group_size", "must divide num_hidden_layers");
  found.alternate = config.Choice("layer_order", {"abab", "aabb"}, 0) == 0;
  found.num_heads = config.Int32("num_attention_heads", 1, kMaxHeads);
  found.head_dim = config.Int32("head_dim", 2, kMaxDim);
  found.rope.style = RopeStyle::kHalf;
  found.rope.theta = config.Number("rope_theta", 1.0, 1e12, 10'000.0);
  // Half of the head, rounded down to even as the training code does.
  found.rope.rotary_dim = config.Int32("rotary_dim", 2, found.head_dim, found.head_dim / 2 / 2 * 2);
  if (found.rope.rotary_dim % 2 != 0) config.Invalid("rotary_dim", "must be even");
  found.num_experts = config.Int32("num_experts", 1, kMaxExperts);
  found.top_k = config.Int32("num_experts_per_tok", 1, found.num_experts);
  found.expert_size = config.Int("moe_intermediate_size", 1, kMaxHidden);
  found.num_attention_experts = config.Int32("num_attention_experts", 1, kMaxExperts);
  found.attention_top_k =
      config.Int32("num_attention_experts_per_tok", 1, found.num_attention_experts);
  found.norm_epsilon = static_cast<float>(config.Number("layer_norm_eps", 0.0, 1.0, 1e-5));
  found.embedding_scale = static_cast<float>(config.Number("embedding_scale", -1e6, 1e6, 1.0));
  found.max_positions = config.Int32("max_position_embeddings", 1, kMaxPositions, 1'024);
  return found;
}

// Scores are used as they are: no softmax, no renormalisation (models.md 3.2).
RouterSpec SigmoidRouter(int32_t num_experts, int32_t top_k, const std::string& weight) {
  return {.score = ScoreFunction::kSigmoid,
          .num_experts = num_experts,
          .top_k = top_k,
          .weight = weight};
}

AttentionSpec Attention(const MoeutConfig& config,
                        const MoeutNames& names,
                        const WeightStore& weights) {
  const int64_t width = int64_t{config.num_heads} * config.head_dim;
  AttentionSpec attention;
  attention.num_heads = config.num_heads;
  attention.num_kv_heads = config.num_heads;
  attention.head_dim = config.head_dim;
  attention.rope = config.rope;
  attention.value_from_residual = true;
  attention.q = {.in = config.dim, .out = width, .weight = names.q};
  attention.k = {.in = config.dim, .out = width, .weight = names.k};
  attention.v = {.in = config.dim, .out = width, .weight = names.v};
  attention.o = {.in = width, .out = config.dim, .weight = names.o};
  attention.o.experts =
      SigmoidRouter(config.num_attention_experts, config.attention_top_k, names.select_o);
  // With one expert the clean code has plain matrices and no value gate (models.md 3.3).
  const bool plain = config.num_attention_experts == 1 && !weights.Contains(names.select_v);
  if (plain) {
    attention.o.split_by_head = true;
    return attention;
  }
  attention.o.transposed = true;
  attention.v.transposed = true;
  attention.v.experts =
      SigmoidRouter(config.num_attention_experts, config.attention_top_k, names.select_v);
  return attention;
}

MoeFfnSpec Ffn(const MoeutConfig& config, const MoeutNames& names) {
  MoeFfnSpec ffn;
  ffn.router = SigmoidRouter(config.num_experts, config.top_k, names.select);
  ffn.hidden = config.expert_size;
  ffn.gated = false;
  ffn.activation = Activation::kRelu;
  ffn.experts.up = names.keys;
  ffn.experts.down = names.values;
  ffn.experts.transposed = true;
  ffn.input_from_residual = true;
  return ffn;
}

LayerSpec MakeLayer(const MoeutConfig& config, const WeightStore& weights, int32_t index) {
  const MoeutNames names = NamesOf(weights, index);
  LayerSpec layer;
  layer.sublayers.resize(2);
  layer.sublayers[0].input_norm = LayerNorm(config.norm_epsilon, names.attention_norm);
  layer.sublayers[0].block = Attention(config, names, weights);
  layer.sublayers[1].input_norm = LayerNorm(config.norm_epsilon, names.ffn_norm);
  layer.sublayers[1].block = Ffn(config, names);
  return layer;
}

std::vector<LayerGroupSpec> MakeGroups(const MoeutConfig& config, const WeightStore& weights) {
  const int32_t times = config.num_layers / config.group_size;
  std::vector<LayerGroupSpec> groups;
  for (int32_t i = 0; i < config.group_size; ++i) {
    if (groups.empty() || !config.alternate) {
      LayerGroupSpec& group = groups.emplace_back();
      group.name = absl::StrCat("group", groups.size() - 1);
      group.repeat.times = times;
    }
    groups.back().layers.push_back(MakeLayer(config, weights, i));
  }
  return groups;
}

}  // namespace

absl::StatusOr<ModelSpec> MapMoeut(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader reader(json);
  const MoeutConfig config = ReadConfig(reader);
  ModelSpec spec;
  spec.family = "moeut";
  spec.max_positions = config.max_positions;
  spec.eos_token_ids = ReadEosTokenIds(reader, config.vocab_size);
  RETURN_IF_ERROR(reader.status());
  const std::string head = NamesOf(weights, 0).head;
  spec.head.weight = head + ".weight";
  spec.head.bias = head + ".bias";
  StackSpec stack;
  stack.embedding.vocab_size = config.vocab_size;
  stack.embedding.dim = config.dim;
  stack.embedding.weight = "embedding.weight";
  stack.embedding.scale = config.embedding_scale;
  stack.final_norm = LayerNorm(config.norm_epsilon, "out_norm");
  stack.groups = MakeGroups(config, weights);
  spec.stacks.push_back(std::move(stack));
  return spec;
}

}  // namespace sluice
