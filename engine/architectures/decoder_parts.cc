#include "engine/architectures/decoder_parts.h"

#include <array>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/architectures/rope_parts.h"
#include "engine/architectures/sparse_parts.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using nlohmann::json;

void ReadHeads(ConfigReader& config, DecoderShape& shape) {
  shape.num_heads = config.Int32("num_attention_heads", 1, kMaxHeads);
  shape.num_kv_heads = config.Int32("num_key_value_heads", 1, shape.num_heads, shape.num_heads);
  if (shape.num_heads % shape.num_kv_heads != 0) {
    config.Invalid("num_key_value_heads", "must divide num_attention_heads");
  }
  if (!config.Has("head_dim") && shape.dim % shape.num_heads != 0) {
    config.Invalid("num_attention_heads", "must divide hidden_size when head_dim is absent");
  }
  shape.head_dim = config.Int32("head_dim", 1, kMaxDim, shape.dim / shape.num_heads);
}

// Newer files list the kind of each layer; older ones follow a rule of their family.
void ReadWindows(ConfigReader& config, DecoderShape& shape) {
  shape.windows.assign(static_cast<size_t>(shape.num_layers), 0);
  const bool qwen = shape.family.rfind("qwen", 0) == 0 || shape.family == "ouro";
  const bool uses_window = config.Has("sliding_window") && config.Bool("use_sliding_window", !qwen);
  const json* types = config.Member("layer_types");
  if (types != nullptr) {
    if (!types->is_array() || types->size() != shape.windows.size()) {
      return config.Invalid("layer_types", "must be a list with one entry per layer");
    }
    for (size_t i = 0; i < shape.windows.size(); ++i) {
      const auto* type = (*types)[i].get_ptr<const json::string_t*>();
      if (type == nullptr || (*type != "full_attention" && *type != "sliding_attention")) {
        return config.Unimplemented("layer_types",
                                    "a layer other than full_attention and sliding_attention");
      }
      if (*type == "sliding_attention")
        shape.windows[i] = config.Int32("sliding_window", 1, kMaxPositions);
    }
    return;
  }
  // Llama's and OLMoE's loaders ignore the key.
  if (!uses_window || shape.family == "llama" || shape.family == "olmoe") return;
  if (shape.family == "qwen2_moe") {
    return config.Unimplemented("use_sliding_window", "a window without 'layer_types'");
  }
  const int32_t window = config.Int32("sliding_window", 1, kMaxPositions);
  const bool by_layer =
      shape.family == "qwen2" || shape.family == "qwen3" || shape.family == "ouro";
  const int32_t first = by_layer ? config.Int32("max_window_layers", 0, kMaxLayers, 28) : 0;
  for (int32_t i = first; i < shape.num_layers; ++i) shape.windows[static_cast<size_t>(i)] = window;
}

}  // namespace

Activation ReadActivation(ConfigReader& config, const char* key, const char* fallback) {
  const std::string name = config.String(key, fallback);
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "relu") return Activation::kRelu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast")
    return Activation::kGeluTanh;
  config.Invalid(key, "must be silu, relu, gelu, gelu_new or gelu_pytorch_tanh");
  return Activation::kSilu;
}

DecoderShape ReadDecoderSizes(ConfigReader& config, const std::string& family) {
  DecoderShape shape;
  shape.family = family;
  shape.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  shape.dim = config.Int("hidden_size", 1, kMaxDim);
  shape.hidden = config.Int("intermediate_size", 1, kMaxHidden);
  shape.num_layers = config.Int32("num_hidden_layers", 1, kMaxLayers);
  shape.activation = ReadActivation(config, "hidden_act", "silu");
  shape.norm_epsilon = static_cast<float>(config.Number("rms_norm_eps", 0.0, 1.0, 1e-6));
  shape.max_positions = config.Int32("max_position_embeddings", 1, kMaxPositions, 2'048);
  shape.attention_bias = config.Bool("attention_bias", false);
  shape.mlp_bias = config.Bool("mlp_bias", false);
  return shape;
}

DecoderShape ReadDecoderShape(ConfigReader& config, const std::string& family) {
  DecoderShape shape = ReadDecoderSizes(config, family);
  ReadHeads(config, shape);
  shape.rope = ReadRopeConfig(config, shape.head_dim, shape.max_positions).rope;
  ReadWindows(config, shape);
  // Ours: published loaders know no such key.
  if (family == "mod" || family == "sparse_attention")
    shape.sparse = ReadSparseAttention(config, shape.num_layers);
  return shape;
}

NormSpec RmsNorm(const DecoderShape& shape, const std::string& module) {
  return {.kind = NormKind::kRms, .epsilon = shape.norm_epsilon, .weight = module + ".weight"};
}

NormSpec LayerNorm(float epsilon, const std::string& module) {
  return {.kind = NormKind::kLayer,
          .epsilon = epsilon,
          .weight = module + ".weight",
          .bias = module + ".bias"};
}

ProjectionSpec Linear(int64_t in, int64_t out, const std::string& module, bool bias) {
  return {.in = in, .out = out, .weight = module + ".weight", .bias = bias ? module + ".bias" : ""};
}

AttentionSpec LlamaAttention(const DecoderShape& shape,
                             const std::string& module,
                             int32_t layer,
                             bool qkv_bias,
                             bool o_bias) {
  const int64_t q_width = int64_t{shape.num_heads} * shape.head_dim;
  const int64_t kv_width = int64_t{shape.num_kv_heads} * shape.head_dim;
  AttentionSpec attention;
  attention.num_heads = shape.num_heads;
  attention.num_kv_heads = shape.num_kv_heads;
  attention.head_dim = shape.head_dim;
  attention.q = Linear(shape.dim, q_width, module + ".q_proj", qkv_bias);
  attention.k = Linear(shape.dim, kv_width, module + ".k_proj", qkv_bias);
  attention.v = Linear(shape.dim, kv_width, module + ".v_proj", qkv_bias);
  attention.o = Linear(q_width, shape.dim, module + ".o_proj", o_bias);
  attention.rope = shape.rope;
  attention.window = shape.windows[static_cast<size_t>(layer)];
  if (!shape.sparse.empty()) attention.sparse = shape.sparse[static_cast<size_t>(layer)];
  return attention;
}

DenseFfnSpec GatedFfn(const DecoderShape& shape, const std::string& module, int64_t hidden) {
  DenseFfnSpec ffn;
  ffn.hidden = hidden;
  ffn.gated = true;
  ffn.activation = shape.activation;
  ffn.gate = Linear(shape.dim, hidden, module + ".gate_proj", shape.mlp_bias);
  ffn.up = Linear(shape.dim, hidden, module + ".up_proj", shape.mlp_bias);
  ffn.down = Linear(hidden, shape.dim, module + ".down_proj", shape.mlp_bias);
  return ffn;
}

std::string LayerName(int32_t layer) { return absl::StrCat("model.layers.", layer); }

LayerSpec PreNormLayer(const DecoderShape& shape,
                       int32_t layer,
                       AttentionSpec attention,
                       BlockSpec ffn) {
  const std::string name = LayerName(layer);
  LayerSpec spec;
  spec.sublayers.resize(2);
  spec.sublayers[0].input_norm = RmsNorm(shape, name + ".input_layernorm");
  spec.sublayers[0].block = std::move(attention);
  spec.sublayers[1].input_norm = RmsNorm(shape, name + ".post_attention_layernorm");
  spec.sublayers[1].block = std::move(ffn);
  return spec;
}

std::vector<int32_t> ReadEosTokenIds(ConfigReader& config, int32_t vocab_size) {
  constexpr size_t kMostIds = 64;
  std::vector<int32_t> ids;
  for (const int64_t id : config.Ints("eos_token_id", 0, vocab_size - 1, kMostIds)) {
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::StatusOr<ModelSpec> LlamaModel(ConfigReader& config,
                                     const WeightStore& weights,
                                     const DecoderShape& shape,
                                     std::vector<LayerSpec> layers) {
  const bool has_head = weights.Contains("lm_head.weight");
  const bool tied = config.Bool("tie_word_embeddings", !has_head);
  ModelSpec spec;
  spec.family = shape.family;
  spec.max_positions = shape.max_positions;
  spec.eos_token_ids = ReadEosTokenIds(config, shape.vocab_size);
  if (!tied) spec.head.weight = "lm_head.weight";
  StackSpec stack;
  stack.embedding.vocab_size = shape.vocab_size;
  stack.embedding.dim = shape.dim;
  stack.embedding.weight = "model.embed_tokens.weight";
  stack.final_norm = RmsNorm(shape, "model.norm");
  stack.groups.resize(1);
  stack.groups[0].name = "layers";
  stack.groups[0].layers = std::move(layers);
  spec.stacks.push_back(std::move(stack));
  RETURN_IF_ERROR(config.status());
  return spec;
}

}  // namespace sluice
