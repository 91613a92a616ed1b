#include "tests/golden/served_mod.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

using nlohmann::json;

// Ours <- theirs.
constexpr std::pair<const char*, const char*> kSizes[] = {
    {"vocab_size", "vocab"},
    {"hidden_size", "d_model"},
    {"num_hidden_layers", "n_layers"},
    {"num_attention_heads", "n_heads"},
};

absl::Status CopySize(const json& golden, const char* theirs, const char* ours, json& config) {
  ASSIGN_OR_RETURN(const int64_t value, ReadInt(golden, theirs, 1, 1 << 20));
  config[ours] = value;
  return absl::OkStatus();
}

// The dense Llama block that two of the formats share.
absl::Status CopyLlamaBlock(const json& golden, json& config) {
  RETURN_IF_ERROR(CopySize(golden, "n_kv_heads", "num_key_value_heads", config));
  RETURN_IF_ERROR(CopySize(golden, "ffn_hidden", "intermediate_size", config));
  ASSIGN_OR_RETURN(config["rope_theta"], ReadNumber(golden, "rope_theta", 1.0, 1e9));
  config["rms_norm_eps"] = 1e-5;
  config["hidden_act"] = "silu";
  config["tie_word_embeddings"] = false;
  return absl::OkStatus();
}

// The values of the fixture's own "mod" object are prose that begins with the rule's name.
absl::StatusOr<json> SramshettyRules(const json& golden, const json& prose) {
  ASSIGN_OR_RETURN(const std::string decide, ReadString(prose, "decide"));
  ASSIGN_OR_RETURN(const std::string position, ReadString(prose, "pos"));
  ASSIGN_OR_RETURN(const std::string kv, ReadString(prose, "kv"));
  ASSIGN_OR_RETURN(const int64_t capacity, ReadInt(golden, "capacity", 1, 1 << 20));
  json rules = {{"gate_fn", "sigmoid"},
                {"combine", "ffn_gated_double"},
                {"pos", position},
                {"capacity_tokens", capacity}};
  for (const char* rule : {"router_threshold", "predictor_threshold"}) {
    if (absl::StartsWith(decide, rule)) rules["decide"] = rule;
  }
  if (absl::StartsWith(decide, "router_topk")) rules["prefill_decide"] = "router_topk";
  if (absl::StrContains(decide, "token 0 always")) rules["force_first"] = true;
  if (absl::StrContains(kv, "ZERO rows")) rules["kv"] = "zero_rows";
  return rules;
}

// While generating, every token is its own top-k of one: always taken.
absl::StatusOr<json> AstramindRules(const json& golden) {
  ASSIGN_OR_RETURN(const double capacity, ReadNumber(golden, "capacity", 0.0, 1.0));
  return json{
      {"gate_fn", "identity"}, {"combine", "only_block"},         {"decide", "router_threshold"},
      {"threshold", 0.0},      {"prefill_decide", "router_topk"}, {"capacity", capacity},
      {"strict", true}};
}

// Of one token alone the share is 0: while generating, every routed block is skipped.
absl::StatusOr<json> KyegomezRules(const json& golden) {
  ASSIGN_OR_RETURN(const double capacity, ReadNumber(golden, "capacity_factor", 0.0, 1.0));
  return json{{"gate_fn", "softmax_over_selected"},
              {"combine", "plus_block"},
              {"decide", "router_threshold"},
              {"threshold", 1.0},
              {"prefill_decide", "router_topk"},
              {"capacity", capacity},
              {"min_tokens", 0}};
}

}  // namespace

absl::StatusOr<json> ServedModConfig(const json& golden) {
  ASSIGN_OR_RETURN(const std::string format, ReadString(golden, "format"));
  const json* prose = FindMember(golden, "mod");
  if (prose == nullptr || !prose->is_object() || FindMember(*prose, "layers") == nullptr)
    return absl::InvalidArgumentError("'mod.layers' is missing");
  json config = {{"model_type", "mod"}};
  for (const auto& [ours, theirs] : kSizes) {
    RETURN_IF_ERROR(CopySize(golden, theirs, ours, config));
  }
  if (format == "sramshetty") {
    RETURN_IF_ERROR(CopyLlamaBlock(golden, config));
    RETURN_IF_ERROR(CopySize(golden, "max_seq_len", "max_position_embeddings", config));
    ASSIGN_OR_RETURN(config["mod"], SramshettyRules(golden, *prose));
  } else if (format == "astramind") {
    RETURN_IF_ERROR(CopyLlamaBlock(golden, config));
    config["max_position_embeddings"] = 64;
    ASSIGN_OR_RETURN(config["mod"], AstramindRules(golden));
  } else if (format == "kyegomez") {
    RETURN_IF_ERROR(CopySize(golden, "d_ff", "intermediate_size", config));
    RETURN_IF_ERROR(CopySize(golden, "max_positions", "max_position_embeddings", config));
    config["hidden_act"] = "relu";
    config["layer_norm_eps"] = 1e-5;
    ASSIGN_OR_RETURN(config["mod"], KyegomezRules(golden));
  } else {
    return absl::UnimplementedError("no served form of this 'format'");
  }
  config["mod"]["layers"] = *FindMember(*prose, "layers");
  return config;
}

// What each code base multiplies with: sramshetty the sigmoid of every row's score, astramind the
// score itself, kyegomez the softmax over the rows it took.
void RenameMod(const json& golden, ExpectedTensors& expected) {
  const std::string format = ReadString(golden, "format", "").value_or("");
  const int64_t layers = ReadInt(golden, "n_layers", 0, 4'096, 0).value_or(0);
  for (const std::string prefix : {"", "short.", "single."}) {
    for (int64_t i = 0; i < layers; ++i) {
      const std::string route = absl::StrCat(prefix, "route.", i, ".");
      const std::string score = absl::StrCat("score.", i);
      if (format == "kyegomez") {
        RenameTensor(route + "logit", prefix + score, expected);
        RenameTensor(route + "gate", absl::StrCat(prefix, "gate.", i), expected);
      } else {
        const char* squashed = format == "sramshetty" ? "sigmoid " : "";
        RenameTensor(route + "gate", prefix + squashed + score, expected);
        RenameTensor(route + "aux_sigmoid", absl::StrCat(prefix, "sigmoid predicted.", i),
                     expected);
      }
    }
  }
}

}  // namespace sluice
