// The metadata of a GGUF file as a config.json.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/gguf_model.h"
#include "engine/status_macros.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr std::array<GgufFamily, 9> kFamilies = {{
    {.architecture = "llama", .model_type = "llama", .interleaved_rope = true},
    {.architecture = "llama",
     .model_type = "mixtral",
     .interleaved_rope = true,
     .renormalizes_experts = true,
     .expert_hidden = "intermediate_size"},
    {.architecture = "qwen2", .model_type = "qwen2"},
    {.architecture = "qwen3", .model_type = "qwen3"},
    {.architecture = "qwen2moe",
     .model_type = "qwen2_moe",
     .shares_hidden = true,
     .expert_hidden = "moe_intermediate_size"},
    {.architecture = "qwen3moe",
     .model_type = "qwen3_moe",
     .renormalizes_experts = true,
     .shares_hidden = true,
     .expert_hidden = "moe_intermediate_size"},
    {.architecture = "olmoe", .model_type = "olmoe", .expert_hidden = "intermediate_size"},
    {.architecture = "olmo2", .model_type = "olmo2"},
    {.architecture = "granite", .model_type = "granite", .interleaved_rope = true},
}};

// The architecture's own keys, each read once; what is left over is refused.
class KeyReader {
 public:
  KeyReader(const GgufMetadata& metadata, const std::string& architecture)
      : metadata_(metadata), prefix_(absl::StrCat(architecture, ".")) {}

  bool Has(const char* key) const { return metadata_.Has(prefix_ + key); }
  absl::StatusOr<int64_t> Int(const char* key,
                              int64_t lo,
                              int64_t hi,
                              std::optional<int64_t> fallback = std::nullopt) {
    return metadata_.Int(Known(key), lo, hi, fallback);
  }
  // Or a list that says the same of every layer.
  absl::StatusOr<int64_t> LayersInt(const char* key,
                                    int64_t lo,
                                    int64_t hi,
                                    int64_t layers,
                                    std::optional<int64_t> fallback = std::nullopt) {
    if (!metadata_.IsArray(prefix_ + key)) return Int(key, lo, hi, fallback);
    ASSIGN_OR_RETURN(const std::vector<int64_t> values, metadata_.Ints(Known(key), layers));
    const bool equal =
        std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
    if (equal && static_cast<int64_t>(values.size()) == layers && values[0] >= lo &&
        values[0] <= hi)
      return values[0];
    return absl::UnimplementedError(absl::StrCat(QuotedTensorName(prefix_ + key),
                                                 " must be one integer between ", lo, " and ", hi,
                                                 ", or the same ", layers, " times"));
  }
  absl::StatusOr<double> Number(const char* key, std::optional<double> fallback = std::nullopt) {
    return metadata_.Number(Known(key), fallback);
  }
  absl::StatusOr<bool> Bool(const char* key, bool fallback) {
    return metadata_.Bool(Known(key), fallback);
  }
  absl::StatusOr<std::string> String(const char* key, const char* fallback) {
    return metadata_.String(Known(key), fallback);
  }

  absl::Status RefuseOthers() const {
    for (const std::string& key : metadata_.Keys()) {
      if (!absl::StartsWith(key, prefix_) || known_.contains(key)) continue;
      return absl::UnimplementedError(absl::StrCat(
          QuotedTensorName(key), " is not known here and may change what the model computes"));
    }
    return absl::OkStatus();
  }

  std::string Known(const char* key) { return *known_.insert(prefix_ + key).first; }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
  std::set<std::string> known_;
};

bool HasTensor(const GgufContents& contents, const std::string& name) {
  return std::any_of(contents.tensors.begin(), contents.tensors.end(),
                     [&](const GgufTensor& tensor) { return tensor.name == name; });
}

absl::StatusOr<int64_t> VocabularySize(const GgufContents& contents) {
  for (const GgufTensor& tensor : contents.tensors) {
    if (tensor.name != "token_embd.weight") continue;
    if (tensor.shape.size() == 2) return tensor.shape[0];
    return absl::InvalidArgumentError("tensor 'token_embd.weight' must be a matrix");
  }
  return absl::NotFoundError("tensor 'token_embd.weight' is missing");
}

absl::Status ReadSizes(KeyReader& keys, json& config) {
  ASSIGN_OR_RETURN(const int64_t dim, keys.Int("embedding_length", 1, kMaxDim));
  ASSIGN_OR_RETURN(const int64_t layers, keys.Int("block_count", 1, kMaxLayers));
  ASSIGN_OR_RETURN(const int64_t heads,
                   keys.LayersInt("attention.head_count", 1, kMaxHeads, layers));
  ASSIGN_OR_RETURN(const int64_t kv_heads,
                   keys.LayersInt("attention.head_count_kv", 1, kMaxHeads, layers, heads));
  ASSIGN_OR_RETURN(const int64_t head_dim,
                   keys.Int("attention.key_length", 1, kMaxDim, dim / heads));
  ASSIGN_OR_RETURN(const int64_t value_dim,
                   keys.Int("attention.value_length", 1, kMaxDim, head_dim));
  ASSIGN_OR_RETURN(const int64_t rotary, keys.Int("rope.dimension_count", 1, kMaxDim, head_dim));
  if (value_dim != head_dim || rotary != head_dim) {
    return absl::UnimplementedError(
        "attention.value_length and rope.dimension_count must equal attention.key_length");
  }
  ASSIGN_OR_RETURN(const int64_t context, keys.Int("context_length", 1, kMaxPositions));
  ASSIGN_OR_RETURN(const double epsilon, keys.Number("attention.layer_norm_rms_epsilon"));
  ASSIGN_OR_RETURN(const double theta, keys.Number("rope.freq_base", 10000.0));
  config.update({{"hidden_size", dim},
                 {"num_hidden_layers", layers},
                 {"num_attention_heads", heads},
                 {"num_key_value_heads", kv_heads},
                 {"head_dim", head_dim},
                 {"max_position_embeddings", context},
                 {"rms_norm_eps", epsilon},
                 {"rope_theta", theta}});
  return absl::OkStatus();
}

// llama.cpp (src/llama-context.cpp) multiplies the amplitude that follows from the factor by
// attn_factor, where a config.json has the product. It reads yarn_attn_factor and then overwrites
// it.
absl::Status ReadYarn(KeyReader& keys, double factor, double attention_factor, json& scaling) {
  ASSIGN_OR_RETURN(scaling["beta_fast"], keys.Number("rope.scaling.yarn_beta_fast", 32.0));
  ASSIGN_OR_RETURN(scaling["beta_slow"], keys.Number("rope.scaling.yarn_beta_slow", 1.0));
  for (const char* key : {"rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"}) {
    ASSIGN_OR_RETURN(const double value, keys.Number(key, 1.0));
    if (value != 1.0) {
      return absl::UnimplementedError(absl::StrCat("'", key, "' other than 1 is not supported"));
    }
  }
  if (attention_factor == 1.0) return absl::OkStatus();
  scaling["attention_factor"] =
      attention_factor * (factor > 1.0 ? 0.1 * std::log(factor) + 1.0 : 1.0);
  return absl::OkStatus();
}

// {arch}.rope.scaling.*; the factors of Llama 3 are a tensor (gguf_model.cc).
absl::Status ReadRopeScaling(KeyReader& keys, json& config) {
  ASSIGN_OR_RETURN(const std::string type, keys.String("rope.scaling.type", "none"));
  ASSIGN_OR_RETURN(const double factor, keys.Number("rope.scaling.factor", 1.0));
  ASSIGN_OR_RETURN(const double attention_factor, keys.Number("rope.scaling.attn_factor", 1.0));
  ASSIGN_OR_RETURN(const int64_t original,
                   keys.Int("rope.scaling.original_context_length", 0, kMaxPositions, 0));
  ASSIGN_OR_RETURN(const bool finetuned, keys.Bool("rope.scaling.finetuned", true));
  // Elsewhere it says only how the model came to be.
  if (!finetuned && config["model_type"] == "granite") {
    return absl::UnimplementedError(
        "'granite.rope.scaling.finetuned' false (no rotary positions) is not supported");
  }
  if (type != "none" && type != "linear" && type != "yarn") {
    return absl::UnimplementedError(
        absl::StrCat("'rope.scaling.type' ", QuotedTensorName(type), " is not supported"));
  }
  if (type != "yarn" && attention_factor != 1.0) {
    return absl::UnimplementedError("'rope.scaling.attn_factor' is supported with yarn only");
  }
  if (type == "none" || (type == "linear" && factor == 1.0)) return absl::OkStatus();
  json scaling = {{"rope_type", type}, {"factor", factor}};
  if (type == "yarn") RETURN_IF_ERROR(ReadYarn(keys, factor, attention_factor, scaling));
  if (type == "yarn" && original > 0) scaling["original_max_position_embeddings"] = original;
  config["rope_scaling"] = std::move(scaling);
  return absl::OkStatus();
}

absl::Status ReadFfn(KeyReader& keys, const GgufFamily& family, json& config) {
  const bool sparse = family.expert_hidden != nullptr;
  const auto layers = config["num_hidden_layers"].get<int64_t>();
  ASSIGN_OR_RETURN(const int64_t hidden,
                   keys.LayersInt("feed_forward_length", 0, kMaxHidden, layers, 0));
  if (hidden > 0 || !sparse) config["intermediate_size"] = hidden;
  if (!sparse) {
    ASSIGN_OR_RETURN(const int64_t experts, keys.Int("expert_count", 0, kMaxExperts, 0));
    ASSIGN_OR_RETURN(const int64_t used, keys.Int("expert_used_count", 0, kMaxExperts, 0));
    if (experts == 0 && used == 0) return absl::OkStatus();
    return absl::UnimplementedError("this architecture is not supported with experts");
  }
  ASSIGN_OR_RETURN(const int64_t experts, keys.Int("expert_count", 1, kMaxExperts));
  ASSIGN_OR_RETURN(const int64_t used, keys.Int("expert_used_count", 1, kMaxExperts));
  // Old files have only the width of all the experts of a row (llama.cpp src/models/qwen2moe.cpp).
  const int64_t inferred = family.shares_hidden ? hidden / used : hidden;
  ASSIGN_OR_RETURN(const int64_t expert_hidden,
                   keys.Int("expert_feed_forward_length", 1, kMaxHidden,
                            inferred > 0 ? std::optional<int64_t>(inferred) : std::nullopt));
  config[family.expert_hidden] = expert_hidden;
  config["num_experts"] = experts;
  config["num_local_experts"] = experts;
  config["num_experts_per_tok"] = used;
  config["norm_topk_prob"] = family.renormalizes_experts;
  if (!config.contains("intermediate_size")) config["intermediate_size"] = expert_hidden;
  const char* const shared = "expert_shared_feed_forward_length";
  if (!keys.Has(shared) && config["model_type"] != "qwen2_moe") return absl::OkStatus();
  ASSIGN_OR_RETURN(
      config["shared_expert_intermediate_size"],
      keys.Int(shared, 1, kMaxHidden, hidden > 0 ? std::optional<int64_t>(hidden) : std::nullopt));
  return absl::OkStatus();
}

absl::Status ReadGraniteMultipliers(KeyReader& keys, json& config) {
  ASSIGN_OR_RETURN(config["embedding_multiplier"], keys.Number("embedding_scale", 1.0));
  ASSIGN_OR_RETURN(
      config["attention_multiplier"],
      keys.Number("attention.scale", 1.0 / std::sqrt(config["head_dim"].get<double>())));
  ASSIGN_OR_RETURN(config["residual_multiplier"], keys.Number("residual_scale", 1.0));
  ASSIGN_OR_RETURN(config["logits_scaling"], keys.Number("logit_scale"));
  return absl::OkStatus();
}

// A file of one part whose values stand as ggml stores them.
absl::Status CheckWhole(const GgufMetadata& metadata, KeyReader& keys) {
  ASSIGN_OR_RETURN(const int64_t parts, metadata.Int("split.count", 0, 65'535, 0));
  if (parts > 1) {
    return absl::UnimplementedError(absl::StrCat(
        "'split.count' is ", parts, ": join the parts first: llama-gguf-split --merge FIRST OUT"));
  }
  keys.Known("tensor_data_layout");  // a remark of old converters
  keys.Known("vocab_size");          // the embedding says it
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufFamily> FindGgufFamily(const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const std::string architecture, metadata.String("general.architecture"));
  ASSIGN_OR_RETURN(const int64_t experts,
                   metadata.Int(architecture + ".expert_count", 0, kMaxExperts, 0));
  std::string known;
  const GgufFamily* dense = nullptr;
  for (const GgufFamily& family : kFamilies) {
    if (family.architecture == architecture) {
      if ((family.expert_hidden != nullptr) == (experts > 0)) return family;
      dense = &family;
    }
    if (!absl::StrContains(known, family.architecture)) {
      absl::StrAppend(&known, known.empty() ? "" : ", ", family.architecture);
    }
  }
  if (dense != nullptr) return *dense;  // the reading of its keys says what is wrong
  return absl::UnimplementedError(absl::StrCat("'general.architecture' ",
                                               QuotedTensorName(architecture),
                                               " is not supported; supported are ", known));
}

absl::StatusOr<json> GgufConfig(const GgufContents& contents, const GgufFamily& family) {
  KeyReader keys(contents.metadata, family.architecture);
  RETURN_IF_ERROR(CheckWhole(contents.metadata, keys));
  json config = {{"model_type", family.model_type}, {"hidden_act", "silu"}};
  RETURN_IF_ERROR(ReadSizes(keys, config));
  RETURN_IF_ERROR(ReadRopeScaling(keys, config));
  RETURN_IF_ERROR(ReadFfn(keys, family, config));
  if (config["model_type"] == "granite") RETURN_IF_ERROR(ReadGraniteMultipliers(keys, config));
  RETURN_IF_ERROR(keys.RefuseOthers());
  ASSIGN_OR_RETURN(config["vocab_size"], VocabularySize(contents));
  config["tie_word_embeddings"] = !HasTensor(contents, "output.weight");
  ASSIGN_OR_RETURN(config["eos_token_id"],
                   GgufEndTokens(contents.metadata, config["vocab_size"].get<int64_t>()));
  return config;
}

}  // namespace sluice
