// GPT-2: learned positions, LayerNorm, fused c_attn, weights stored [in, out] (Conv1D), tied head.
// Source: huggingface/transformers models/gpt2/modeling_gpt2.py.
#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct Gpt2Config {
  int32_t vocab_size, num_layers, num_heads, max_positions;
  int64_t dim, hidden;
  Activation activation;
  float norm_epsilon;
  std::string prefix;  // "transformer." in files saved with their head
};

Gpt2Config ReadConfig(ConfigReader& config, const WeightStore& weights) {
  Gpt2Config found{};
  found.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  found.num_layers = config.Int32("n_layer", 1, kMaxLayers);
  found.num_heads = config.Int32("n_head", 1, kMaxHeads);
  found.dim = config.Int("n_embd", 1, kMaxDim);
  found.max_positions = config.Int32("n_positions", 1, kMaxPositions, 1'024);
  found.hidden = config.Int("n_inner", 1, kMaxHidden, 4 * found.dim);
  found.activation = ReadActivation(config, "activation_function", "gelu_new");
  found.norm_epsilon = static_cast<float>(config.Number("layer_norm_epsilon", 0.0, 1.0, 1e-5));
  found.prefix = weights.Contains("transformer.wte.weight") ? "transformer." : "";
  if (found.dim % found.num_heads != 0) config.Invalid("n_head", "must divide n_embd");
  if (!config.Bool("scale_attn_weights", true)) {
    config.Unimplemented("scale_attn_weights", "attention without its scale");
  }
  if (config.Bool("scale_attn_by_inverse_layer_idx", false)) {
    config.Unimplemented("scale_attn_by_inverse_layer_idx", "a scale by layer");
  }
  return found;
}

ProjectionSpec Conv1D(int64_t in, int64_t out, const std::string& module, int64_t row_begin = 0) {
  ProjectionSpec projection = Linear(in, out, module, true);
  projection.transposed = true;
  projection.row_begin = row_begin;
  return projection;
}

LayerSpec MakeLayer(const Gpt2Config& config, int32_t index) {
  const std::string name = absl::StrCat(config.prefix, "h.", index);
  AttentionSpec attention;
  attention.num_heads = config.num_heads;
  attention.num_kv_heads = config.num_heads;
  attention.head_dim = static_cast<int32_t>(config.dim / config.num_heads);
  attention.q = Conv1D(config.dim, config.dim, name + ".attn.c_attn", 0);
  attention.k = Conv1D(config.dim, config.dim, name + ".attn.c_attn", config.dim);
  attention.v = Conv1D(config.dim, config.dim, name + ".attn.c_attn", 2 * config.dim);
  attention.o = Conv1D(config.dim, config.dim, name + ".attn.c_proj");
  DenseFfnSpec ffn;
  ffn.hidden = config.hidden;
  ffn.gated = false;
  ffn.activation = config.activation;
  ffn.up = Conv1D(config.dim, config.hidden, name + ".mlp.c_fc");
  ffn.down = Conv1D(config.hidden, config.dim, name + ".mlp.c_proj");
  LayerSpec layer;
  layer.sublayers.resize(2);
  layer.sublayers[0].input_norm = LayerNorm(config.norm_epsilon, name + ".ln_1");
  layer.sublayers[0].block = std::move(attention);
  layer.sublayers[1].input_norm = LayerNorm(config.norm_epsilon, name + ".ln_2");
  layer.sublayers[1].block = std::move(ffn);
  return layer;
}

}  // namespace

absl::StatusOr<ModelSpec> MapGpt2(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader reader(json);
  const Gpt2Config config = ReadConfig(reader, weights);
  ModelSpec spec;
  spec.family = "gpt2";
  spec.max_positions = config.max_positions;
  spec.eos_token_ids = ReadEosTokenIds(reader, config.vocab_size);
  const bool tied = reader.Bool("tie_word_embeddings", true);
  if (!tied) spec.head.weight = "lm_head.weight";
  RETURN_IF_ERROR(reader.status());
  StackSpec stack;
  stack.embedding.vocab_size = config.vocab_size;
  stack.embedding.dim = config.dim;
  stack.embedding.weight = config.prefix + "wte.weight";
  stack.embedding.position_weight = config.prefix + "wpe.weight";
  stack.final_norm = LayerNorm(config.norm_epsilon, config.prefix + "ln_f");
  stack.groups.resize(1);
  stack.groups[0].name = "layers";
  for (int32_t i = 0; i < config.num_layers; ++i)
    stack.groups[0].layers.push_back(MakeLayer(config, i));
  spec.stacks.push_back(std::move(stack));
  return spec;
}

}  // namespace sluice
