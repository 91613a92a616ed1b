// Switch Transformer (Fedus et al. 2021), encoder-decoder of T5's shape: RMS norms, relative
// position buckets, unscaled attention, top-1 experts weighted with their probability. Source:
// huggingface/transformers models/switch_transformers/modeling_switch_transformers.py.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct SwitchConfig {
  int32_t vocab_size, encoder_layers, decoder_layers, num_heads, head_dim, num_experts;
  int32_t encoder_step, decoder_step, num_buckets, max_distance, max_positions;
  int64_t dim, hidden;
  Activation activation;
  float norm_epsilon;
  bool router_bias;
};

// Every how many layers one is sparse; the published configuration derives it from their number.
int32_t ReadStep(ConfigReader& config, const std::string& stack, int32_t layers) {
  const std::string count_key = "num_sparse_" + stack + "_layers";
  const std::string step_key = stack + "_sparse_step";
  const int32_t count = config.Int32(count_key.c_str(), 0, layers, std::min(3, layers));
  return config.Int32(step_key.c_str(), 0, kMaxLayers, count > 0 ? layers / count : layers);
}

SwitchConfig ReadSwitch(ConfigReader& config) {
  SwitchConfig found{};
  found.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  found.dim = config.Int("d_model", 1, kMaxDim);
  found.hidden = config.Int("d_ff", 1, kMaxHidden);
  found.head_dim = config.Int32("d_kv", 1, kMaxDim);
  found.num_heads = config.Int32("num_heads", 1, kMaxHeads);
  found.encoder_layers = config.Int32("num_layers", 1, kMaxLayers);
  found.decoder_layers = config.Int32("num_decoder_layers", 1, kMaxLayers, found.encoder_layers);
  found.encoder_step = ReadStep(config, "encoder", found.encoder_layers);
  found.decoder_step = ReadStep(config, "decoder", found.decoder_layers);
  found.num_experts = config.Int32("num_experts", 1, kMaxExperts, 8);
  found.num_buckets = config.Int32("relative_attention_num_buckets", 4, 4'096, 32);
  found.max_distance = config.Int32("relative_attention_max_distance", 1, 65'536, 128);
  found.max_positions = config.Int32("max_position_embeddings", 1, kMaxPositions,
                                     config.Int("n_positions", 1, kMaxPositions, 512));
  found.activation = ReadActivation(config, "dense_act_fn", "relu");
  found.norm_epsilon = static_cast<float>(config.Number("layer_norm_epsilon", 0.0, 1.0, 1e-6));
  found.router_bias = config.Bool("router_bias", false);
  if (config.Has("router_dtype") && config.String("router_dtype") != "float32")
    config.Unimplemented("router_dtype", "a router in another type than float32");
  return found;
}

NormSpec Norm(const SwitchConfig& config, const std::string& module) {
  return {.epsilon = config.norm_epsilon, .weight = module + ".weight"};
}

AttentionSpec MakeAttention(const SwitchConfig& config, const std::string& module) {
  const int64_t width = int64_t{config.num_heads} * config.head_dim;
  AttentionSpec attention;
  attention.num_heads = attention.num_kv_heads = config.num_heads;
  attention.head_dim = config.head_dim;
  attention.q = Linear(config.dim, width, module + ".q", false);
  attention.k = Linear(config.dim, width, module + ".k", false);
  attention.v = Linear(config.dim, width, module + ".v", false);
  attention.o = Linear(width, config.dim, module + ".o", false);
  attention.scale = 1.0f;
  return attention;
}

BlockSpec MakeFfn(const SwitchConfig& config, const std::string& module, bool sparse) {
  if (!sparse) {
    DenseFfnSpec ffn;
    ffn.hidden = config.hidden;
    ffn.gated = false;
    ffn.activation = config.activation;
    ffn.up = Linear(config.dim, config.hidden, module + ".wi", false);
    ffn.down = Linear(config.hidden, config.dim, module + ".wo", false);
    return ffn;
  }
  MoeFfnSpec moe;
  moe.router.score = ScoreFunction::kSoftmax;
  moe.router.num_experts = config.num_experts;
  moe.router.top_k = 1;
  moe.router.weight = module + ".router.classifier.weight";
  if (config.router_bias) moe.router.bias = module + ".router.classifier.bias";
  moe.hidden = config.hidden;
  moe.gated = false;
  moe.activation = config.activation;
  moe.experts = {.up = module + ".experts.expert_{e}.wi.weight",
                 .down = module + ".experts.expert_{e}.wo.weight"};
  return moe;
}

StackSpec MakeStack(const SwitchConfig& config, StackRole role) {
  const bool decoder = role == StackRole::kDecoder;
  const std::string name = decoder ? "decoder" : "encoder";
  const int32_t step = decoder ? config.decoder_step : config.encoder_step;
  StackSpec stack;
  stack.role = role;
  stack.embedding = {.vocab_size = config.vocab_size, .dim = config.dim, .weight = "shared.weight"};
  stack.final_norm = Norm(config, name + ".final_layer_norm");
  LayerGroupSpec group;
  group.name = name;
  for (int32_t i = 0; i < (decoder ? config.decoder_layers : config.encoder_layers); ++i) {
    const std::string layer_name = absl::StrCat(name, ".block.", i, ".layer.");
    LayerSpec layer;
    const auto add = [&](int32_t index, BlockSpec block) {
      layer.sublayers.push_back(
          {.input_norm = Norm(config, absl::StrCat(layer_name, index, ".layer_norm")),
           .block = std::move(block)});
    };
    AttentionSpec self = MakeAttention(config, layer_name + "0.SelfAttention");
    self.mask = decoder ? MaskKind::kCausal : MaskKind::kFull;
    self.position_bias =
        PositionBiasSpec{.weight = name +
                                   ".block.0.layer.0.SelfAttention.relative_attention_bias"
                                   ".weight",
                         .num_buckets = config.num_buckets,
                         .max_distance = config.max_distance};
    add(0, std::move(self));
    if (decoder) {
      AttentionSpec cross = MakeAttention(config, layer_name + "1.EncDecAttention");
      cross.kv_source = KvSource::kEncoder;
      add(1, std::move(cross));
    }
    const int32_t last = decoder ? 2 : 1;
    const bool sparse = step > 0 && (step == 1 || i % step == 1);
    add(last, MakeFfn(config, absl::StrCat(layer_name, last, ".mlp"), sparse));
    group.layers.push_back(std::move(layer));
  }
  stack.groups.push_back(std::move(group));
  return stack;
}

}  // namespace

absl::StatusOr<ModelSpec> MapSwitchTransformers(const nlohmann::json& json,
                                                const WeightStore& weights) {
  ConfigReader reader(json);
  const SwitchConfig config = ReadSwitch(reader);
  ModelSpec spec;
  spec.family = "switch_transformers";
  spec.max_positions = config.max_positions;
  spec.eos_token_ids = ReadEosTokenIds(reader, config.vocab_size);
  const int32_t start = reader.Int32("pad_token_id", 0, config.vocab_size - 1, 0);
  spec.decoder_start_token_id =
      reader.Int32("decoder_start_token_id", 0, config.vocab_size - 1, start);
  if (!reader.Bool("is_encoder_decoder", true))
    reader.Unimplemented("is_encoder_decoder", "one of the two stacks alone");
  if (reader.Bool("tie_word_embeddings", true)) {
    spec.head.logit_scale = 1.0f / std::sqrt(static_cast<float>(config.dim));
  } else {
    spec.head.weight = "lm_head.weight";
    // Tied, they are shared.weight; untied, transformers 5 reads them.
    if (weights.Contains("encoder.embed_tokens.weight"))
      reader.Unimplemented("tie_word_embeddings", "an embedding of its own for each stack");
  }
  RETURN_IF_ERROR(reader.status());
  spec.stacks = {MakeStack(config, StackRole::kEncoder), MakeStack(config, StackRole::kDecoder)};
  return spec;
}

}  // namespace sluice
