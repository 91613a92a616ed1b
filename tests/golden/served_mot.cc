#include "tests/golden/served_mot.h"

#include <string>
#include <utility>

#include "engine/json_reader.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using nlohmann::json;

// Ours <- theirs.
constexpr std::pair<const char*, const char*> kSizes[] = {
    {"vocab_size", "vocab"},          {"n_embd", "d_model"},
    {"n_layer", "n_layers"},          {"n_head", "n_heads"},
    {"n_positions", "max_positions"}, {"n_inner", "d_ff"},
    {"n_expert", "n_experts"},        {"group_size", "group_size"},
};

}  // namespace

absl::StatusOr<json> ServedMotConfig(const json& golden) {
  ASSIGN_OR_RETURN(const std::string kind, ReadString(golden, "kind"));
  if (kind != "decoder") return absl::UnimplementedError("no served form of this 'kind'");
  json config = {{"model_type", "mot"}, {"tie_word_embeddings", false}};
  for (const auto& [ours, theirs] : kSizes) {
    ASSIGN_OR_RETURN(const int64_t value, ReadInt(golden, theirs, 1, 1 << 20));
    config[ours] = value;
  }
  ASSIGN_OR_RETURN(config["temperature"], ReadNumber(golden, "temperature", 1e-3, 1e3));
  ASSIGN_OR_RETURN(config["activation_function"], ReadString(golden, "activation"));
  const json* emit = FindMember(golden, "emit_softmax_over_experts");
  if (emit != nullptr) config["emit_softmax_over_experts"] = *emit;
  return config;
}

}  // namespace sluice
