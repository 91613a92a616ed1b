// BERT-shaped encoders with sparse attention: BigBird (huggingface/transformers
// models/big_bird/modeling_big_bird.py, in eval mode) and ETC's pattern with its global tokens at
// the front of the one sequence (google-research/etcmodel, models.md 6.1). Post-norm layers.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/families.h"
#include "engine/model/sparse_limits.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

struct EncoderConfig {
  int32_t vocab_size, num_layers, num_heads, max_positions, num_token_types;
  int64_t dim, hidden;
  Activation activation;
  float norm_epsilon;
  bool qkv_bias, rescale;
  Pooling pooling;
  std::string prefix;  // "bert." in files saved with a head
  std::optional<SparsePatternSpec> sparse;
};

EncoderConfig ReadEncoder(ConfigReader& config, const WeightStore& weights) {
  EncoderConfig found{};
  found.vocab_size = config.Int32("vocab_size", 1, kMaxVocab);
  found.dim = config.Int("hidden_size", 1, kMaxDim);
  found.num_layers = config.Int32("num_hidden_layers", 1, kMaxLayers);
  found.num_heads = config.Int32("num_attention_heads", 1, kMaxHeads);
  found.hidden = config.Int("intermediate_size", 1, kMaxHidden);
  found.max_positions = config.Int32("max_position_embeddings", 1, kMaxPositions, 4'096);
  found.num_token_types = config.Int32("type_vocab_size", 1, kMaxVocab, 2);
  found.activation = ReadActivation(config, "hidden_act", "gelu_new");
  found.norm_epsilon = static_cast<float>(config.Number("layer_norm_eps", 0.0, 1.0, 1e-12));
  found.qkv_bias = config.Bool("use_bias", true);
  found.rescale = config.Bool("rescale_embeddings", false);
  found.pooling =
      config.Choice("pooling", {"mean", "cls"}, 0) == 0 ? Pooling::kMean : Pooling::kFirst;
  found.prefix = weights.Contains("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  if (found.dim % found.num_heads != 0)
    config.Invalid("num_attention_heads", "must divide hidden_size");
  for (const char* key : {"is_decoder", "add_cross_attention"}) {
    if (config.Bool(key, false)) config.Unimplemented(key, "BigBird as a decoder");
  }
  if (config.Has("position_embedding_type") &&
      config.String("position_embedding_type") != "absolute")
    config.Unimplemented("position_embedding_type", "anything but absolute");
  return found;
}

LayerSpec MakeLayer(const EncoderConfig& config, int32_t index) {
  const std::string name = absl::StrCat(config.prefix, "encoder.layer.", index);
  const int64_t dim = config.dim;
  AttentionSpec attention;
  attention.num_heads = attention.num_kv_heads = config.num_heads;
  attention.head_dim = static_cast<int32_t>(dim / config.num_heads);
  attention.q = Linear(dim, dim, name + ".attention.self.query", config.qkv_bias);
  attention.k = Linear(dim, dim, name + ".attention.self.key", config.qkv_bias);
  attention.v = Linear(dim, dim, name + ".attention.self.value", config.qkv_bias);
  attention.o = Linear(dim, dim, name + ".attention.output.dense", true);
  attention.mask = MaskKind::kFull;
  attention.sparse = config.sparse;
  DenseFfnSpec ffn;
  ffn.hidden = config.hidden;
  ffn.gated = false;
  ffn.activation = config.activation;
  ffn.up = Linear(dim, config.hidden, name + ".intermediate.dense", true);
  ffn.down = Linear(config.hidden, dim, name + ".output.dense", true);
  LayerSpec layer;
  layer.sublayers.resize(2);
  layer.sublayers[0].block = std::move(attention);
  layer.sublayers[0].residual_norm =
      LayerNorm(config.norm_epsilon, name + ".attention.output.LayerNorm");
  layer.sublayers[1].block = std::move(ffn);
  layer.sublayers[1].residual_norm = LayerNorm(config.norm_epsilon, name + ".output.LayerNorm");
  return layer;
}

ModelSpec EncoderModel(const EncoderConfig& config, const char* family) {
  ModelSpec spec;
  spec.family = family;
  spec.max_positions = config.max_positions;
  spec.head.pooling = config.pooling;
  StackSpec stack;
  stack.role = StackRole::kEncoder;
  const std::string embeddings = config.prefix + "embeddings.";
  stack.embedding.vocab_size = config.vocab_size;
  stack.embedding.dim = config.dim;
  stack.embedding.weight = embeddings + "word_embeddings.weight";
  stack.embedding.position_weight = embeddings + "position_embeddings.weight";
  stack.embedding.token_type_weight = embeddings + "token_type_embeddings.weight";
  stack.embedding.num_token_types = config.num_token_types;
  if (config.rescale) stack.embedding.scale = std::sqrt(static_cast<float>(config.dim));
  stack.embedding.norm = LayerNorm(config.norm_epsilon, embeddings + "LayerNorm");
  stack.groups.resize(1);
  stack.groups[0].name = "layers";
  for (int32_t i = 0; i < config.num_layers; ++i)
    stack.groups[0].layers.push_back(MakeLayer(config, i));
  spec.stacks.push_back(std::move(stack));
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> MapBigBird(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader reader(json);
  EncoderConfig config = ReadEncoder(reader, weights);
  const bool full = reader.Choice("attention_type", {"block_sparse", "original_full"}, 0) == 1;
  const int32_t block = reader.Int32("block_size", 1, kMaxPositions, 64);
  const int32_t random = reader.Int32("num_random_blocks", 0, kMaxRandomBlocks, 3);
  RETURN_IF_ERROR(reader.status());
  if (!full) {
    // In eval mode the published code names block 0 for every random one, and counts it again; a
    // short sequence (BigBirdModel.forward, max_tokens_to_attend) is not sparse.
    const int64_t up_to = std::min<int64_t>((5 + 2 * int64_t{random}) * block, kMaxPositions);
    config.sparse = SparsePatternSpec{.block = block,
                                      .first_blocks = 1,
                                      .last_blocks = 1,
                                      .behind = 1,
                                      .ahead = 1,
                                      .global_queries = true,
                                      .first_repeats = random,
                                      .full_up_to = static_cast<int32_t>(up_to)};
  }
  return EncoderModel(config, "big_bird");
}

absl::StatusOr<ModelSpec> MapEtc(const nlohmann::json& json, const WeightStore& weights) {
  ConfigReader reader(json);
  EncoderConfig config = ReadEncoder(reader, weights);
  const int32_t global = reader.Int32("global_tokens", 0, kMaxPositions);
  const int32_t radius = reader.Int32("local_radius", 0, kMaxPositions);
  for (const char* key : {"share_kv_projections", "share_qkv_projections"}) {
    if (!reader.Bool(key, true))
      reader.Unimplemented(key, "projections of their own for global tokens");
  }
  if (reader.Int("relative_vocab_size", 0, kMaxPositions, 0) > 0)
    reader.Unimplemented("relative_vocab_size", "relative position labels");
  RETURN_IF_ERROR(reader.status());
  config.sparse = SparsePatternSpec{
      .first_blocks = global, .behind = radius, .ahead = radius, .global_queries = true};
  return EncoderModel(config, "etc");
}

}  // namespace sluice
