// The parts that families with Llama's config keys and tensor names share: sizes, rotary positions,
// attention, gated FFN, the model around them. Values only; each family file says what differs.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/architectures/config_reader.h"
#include "engine/model/model_spec.h"
#include "engine/weights/weight_store.h"

namespace sluice {

// Ranges of everything that sizes something; ValidateSpec repeats them for specs from elsewhere.
inline constexpr int64_t kMaxDim = 65'536;
inline constexpr int64_t kMaxHidden = int64_t{1} << 20;
inline constexpr int32_t kMaxLayers = 4'096;
inline constexpr int32_t kMaxHeads = 4'096;
inline constexpr int32_t kMaxExperts = 4'096;
inline constexpr int32_t kMaxVocab = 1 << 21;
inline constexpr int32_t kMaxPositions = 1 << 24;

struct DecoderShape {
  std::string family;
  int32_t vocab_size = 0;
  int64_t dim = 0;
  int64_t hidden = 0;
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  Activation activation = Activation::kSilu;
  float norm_epsilon = 1e-6f;
  RopeSpec rope;
  std::vector<int32_t> windows;                          // per layer; 0: full attention
  std::vector<std::optional<SparsePatternSpec>> sparse;  // per layer
  int32_t max_positions = 0;
  bool attention_bias = false;
  bool mlp_bias = false;
};

// hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim,
// intermediate_size, hidden_act, rms_norm_eps, rope_*, sliding_window / layer_types, vocab_size,
// max_position_embeddings.
DecoderShape ReadDecoderShape(ConfigReader& config, const std::string& family);
// The same without heads, rotary positions and windows.
DecoderShape ReadDecoderSizes(ConfigReader& config, const std::string& family);

// Names as PyTorch modules give them.
Activation ReadActivation(ConfigReader& config, const char* key, const char* fallback);
NormSpec RmsNorm(const DecoderShape& shape, const std::string& module);
// With a weight and a bias.
NormSpec LayerNorm(float epsilon, const std::string& module);
ProjectionSpec Linear(int64_t in, int64_t out, const std::string& module, bool bias);

// q, k, v, o of `module` ("model.layers.0.self_attn") with biases as given.
AttentionSpec LlamaAttention(const DecoderShape& shape,
                             const std::string& module,
                             int32_t layer,
                             bool qkv_bias,
                             bool o_bias);
// gate_proj, up_proj, down_proj of `module`.
DenseFfnSpec GatedFfn(const DecoderShape& shape, const std::string& module, int64_t hidden);
// Attention and FFN, each behind its norm.
LayerSpec PreNormLayer(const DecoderShape& shape,
                       int32_t layer,
                       AttentionSpec attention,
                       BlockSpec ffn);

std::string LayerName(int32_t layer);  // "model.layers.3"

// Embedding, final norm, head (tied by tie_word_embeddings, or by a missing lm_head.weight when the
// config does not say) and end-of-sequence ids around `layers`. Fails with the status of `config`.
absl::StatusOr<ModelSpec> LlamaModel(ConfigReader& config,
                                     const WeightStore& weights,
                                     const DecoderShape& shape,
                                     std::vector<LayerSpec> layers);

std::vector<int32_t> ReadEosTokenIds(ConfigReader& config, int32_t vocab_size);

}  // namespace sluice
