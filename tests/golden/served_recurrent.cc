#include "tests/golden/served_recurrent.h"

#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "tests/golden/golden_compare.h"

namespace sluice {
namespace {

using nlohmann::json;

// Ours <- theirs.
using Keys = std::vector<std::pair<const char*, const char*>>;

absl::Status CopyKeys(const json& golden, const Keys& keys, json& config) {
  for (const auto& [ours, theirs] : keys) {
    const json* value = FindMember(golden, theirs);
    if (value == nullptr)
      return absl::InvalidArgumentError(absl::StrCat("'", theirs, "' is missing"));
    config[ours] = *value;
  }
  return absl::OkStatus();
}

int32_t Size(const json& golden, const char* key) {
  return static_cast<int32_t>(ReadInt(golden, key, 0, 4'096, 0).value_or(0));
}

}  // namespace

absl::StatusOr<json> ServedHuginnConfig(const json& golden) {
  json config = {{"model_type", "huginn_raven"}};
  RETURN_IF_ERROR(CopyKeys(golden,
                           {{"vocab_size", "vocab"},
                            {"n_embd", "d_model"},
                            {"n_heads", "n_heads"},
                            {"intermediate_size", "d_ff"},
                            {"n_layers_in_prelude", "prelude_layers"},
                            {"n_layers_in_recurrent_block", "core_layers"},
                            {"n_layers_in_coda", "coda_layers"},
                            {"block_size", "block_size"},
                            {"rope_base", "rope_base"},
                            {"mean_recurrence", "num_steps"},
                            {"tie_embeddings", "tied_head"}},
                           config));
  json init;
  RETURN_IF_ERROR(CopyKeys(golden, {{"embed_scale", "embed_scale"}}, init));
  config["init_values"] = std::move(init);
  return config;
}

void RenameHuginn(const json& golden, ExpectedTensors& expected) {
  const int32_t prelude = Size(golden, "prelude_layers");
  const int32_t core = Size(golden, "core_layers");
  const int32_t steps = Size(golden, "num_steps");
  for (int32_t i = 0; i < prelude; ++i)
    RenameTensor(absl::StrCat("prelude.", i), absl::StrCat("hidden.", i), expected);
  for (int32_t r = 0; r < steps; ++r) {
    RenameTensor(absl::StrCat("latent.", r), absl::StrCat("hidden.", prelude + core * (r + 1) - 1),
                 expected);
  }
  for (int32_t i = 0; i < Size(golden, "coda_layers"); ++i) {
    RenameTensor(absl::StrCat("coda.", i), absl::StrCat("hidden.", prelude + core * steps + i),
                 expected);
  }
}

absl::StatusOr<json> ServedRecursionsConfig(const json& golden) {
  json config = {{"model_type", "mor"}, {"rms_norm_eps", 1e-5}};
  RETURN_IF_ERROR(CopyKeys(golden,
                           {{"vocab_size", "vocab"},
                            {"hidden_size", "d_model"},
                            {"num_attention_heads", "n_heads"},
                            {"num_key_value_heads", "n_kv_heads"},
                            {"intermediate_size", "d_ff"},
                            {"num_hidden_layers", "n_layers"},
                            {"rope_theta", "rope_theta"},
                            {"tie_word_embeddings", "tied_head"}},
                           config));
  json rules;
  RETURN_IF_ERROR(CopyKeys(golden,
                           {{"type", "mor_type"},
                            {"num_recursion", "num_recursion"},
                            {"router_type", "router_type"},
                            {"router_func", "router_func"},
                            {"alpha", "alpha"},
                            {"temp", "temp"}},
                           rules));
  if (rules["type"] == "expert") {
    RETURN_IF_ERROR(CopyKeys(golden, {{"capacity", "capacity"}}, rules));
    rules["prefill_decide"] = "router_topk";  // what the published code does
  }
  config["mor"] = std::move(rules);
  return config;
}

// Of recursion r, which is layer r + 1: what its router gave the rows that were there.
void RenameCandidates(const std::string& prefix, int32_t r, ExpectedTensors& expected) {
  const std::string route = absl::StrCat(prefix, "route.", r, ".");
  const std::string score = absl::StrCat("score.", r + 1);
  RenameTensor(route + "gate", absl::StrCat(prefix, "gate.", r + 1), expected);
  RenameTensor(route + "candidate_logit", prefix + score, expected);
  const std::string candidates = route + "candidate_mask";
  if (expected.count(candidates) == 0) return;
  expected[prefix + kRowsOf + score] = expected[candidates];
  // In front of the first recursion nobody has been left out.
  if (r > 0) expected[absl::StrCat(prefix, "candidates.", r + 1)] = expected[candidates];
  expected.erase(candidates);
}

void RenameRecursions(const json& golden, ExpectedTensors& expected) {
  const int32_t repeats = Size(golden, "num_recursion");
  const int32_t depth = Size(golden, "base_depth");
  for (const std::string prefix : {"", "short."}) {
    const auto depths = expected.find(prefix + "route.depth");
    if (depths == expected.end()) {  // expert choice: the first layer is not routed
      for (int32_t r = repeats - 1; r >= 0; --r) {
        RenameTensor(absl::StrCat(prefix, "route.", r, ".mask"),
                     absl::StrCat(prefix, "mask.", r + 1), expected);
        RenameCandidates(prefix, r, expected);
      }
      continue;
    }
    for (int32_t instance = 0; instance < repeats * depth; ++instance) {
      ExpectedTensor& mask = expected[absl::StrCat(prefix, "mask.", 1 + instance)];
      mask.shape = depths->second.shape;
      for (const int32_t d : depths->second.integers)
        mask.integers.push_back(d >= instance / depth ? 1 : 0);
    }
    expected.erase(depths);
    // hidden.1 is the stage behind its merge.
    RenameTensor(prefix + "hidden.1", absl::StrCat(prefix, "group.", repeats * depth), expected);
    RenameTensor(prefix + "hidden.2", absl::StrCat(prefix, "hidden.", 1 + repeats * depth),
                 expected);
  }
}

absl::StatusOr<json> ServedSparseUniversalConfig(const json& golden) {
  json config = {{"model_type", "sut"}};
  RETURN_IF_ERROR(CopyKeys(golden,
                           {{"hidden_size", "d_model"},
                            {"num_hidden_layers", "n_steps"},
                            {"head_dim", "d_head"},
                            {"attention_expert_size", "att_expert_dim"},
                            {"num_attention_experts", "att_n_experts"},
                            {"num_attention_experts_per_tok", "att_k"},
                            {"num_experts", "ff_n_experts"},
                            {"num_experts_per_tok", "ff_k"},
                            {"moe_intermediate_size", "ff_expert_size"},
                            {"max_relative_positions", "max_relative_positions"},
                            {"pre_norm", "preln"},
                            {"halting_threshold", "halt_threshold"},
                            {"layer_norm_eps", "ln_eps"}},
                           config));
  ASSIGN_OR_RETURN(const std::string format, ReadString(golden, "format"));
  if (format != "sut-original") {
    RETURN_IF_ERROR(CopyKeys(golden,
                             {{"vocab_size", "vocab"},
                              {"norm_input", "norm_input"},
                              {"embedding_scale", "embedding_scale"}},
                             config));
    return config;
  }
  // The layer alone: OriginalLayerWeights.
  ASSIGN_OR_RETURN(const int64_t batch, ReadInt(golden, "batch", 1, 64));
  ASSIGN_OR_RETURN(const int64_t length, ReadInt(golden, "T", 1, 4'096));
  config["vocab_size"] = batch * length;
  config["norm_input"] = false;
  config["embedding_scale"] = 1.0;
  config["scale_query_only"] = true;
  return config;
}

void RenameSparseUniversal(const json& golden, ExpectedTensors& expected) {
  for (int32_t i = 0; i < Size(golden, "n_steps"); ++i) {
    RenameTensor(absl::StrCat("S.", i), absl::StrCat("hidden.", i), expected);
    RenameTensor(absl::StrCat("route.", i, ".att.idx"), absl::StrCat("route.", i, ".att_q.idx"),
                 expected);
    const auto goes_on = expected.find(absl::StrCat("halt.", i, ".continue"));
    if (goes_on == expected.end()) continue;
    ExpectedTensor& mask = expected[absl::StrCat("mask.", i)];
    mask.shape = goes_on->second.shape;
    for (const float chance : goes_on->second.floats)
      mask.integers.push_back(chance > 0.0f ? 1 : 0);
    expected.erase(goes_on);
    // Rows that had stopped keep what they had, and the reference says nothing of it.
    const auto of_running = [&](const std::string& from, const std::string& to, int32_t step) {
      RenameTensor(from, to, expected);
      expected[kRowsOf + to] = expected[absl::StrCat("mask.", step)];
    };
    of_running(absl::StrCat("h.", i), absl::StrCat("output.", i), i);
    of_running(absl::StrCat("route.", i, ".att.gate"), absl::StrCat("route.", i, ".att_q.gate"), i);
    const std::string ffn = absl::StrCat("route.", i, ".ffn.gate");
    of_running(ffn, ffn, i);
    if (i > 0) of_running(absl::StrCat("halt.", i, ".p_stop"), absl::StrCat("p_stop.", i), i - 1);
  }
  const auto x = expected.find("x");
  if (x == expected.end()) return;
  // The layer alone: its rows are tokens, its state the end of it.
  const std::vector<int64_t> shape = x->second.shape;
  ExpectedTensor& ids = expected["input_ids"];
  ids.shape = {shape[0], shape[1]};
  ids.integers.resize(static_cast<size_t>(shape[0] * shape[1]));
  std::iota(ids.integers.begin(), ids.integers.end(), 0);
  // Its head is the rows themselves.
  const ExpectedTensor& last = expected[absl::StrCat("hidden.", Size(golden, "n_steps") - 1)];
  ExpectedTensor& logits = expected["logits"];
  const int64_t rows = shape[0] * shape[1];
  logits.shape = {shape[0], shape[1], rows};
  for (int64_t i = 0; i < rows * rows; ++i) {
    const auto state = last.floats.begin() + i / rows * shape[2];
    logits.floats.push_back(static_cast<float>(std::inner_product(
        state, state + shape[2], x->second.floats.begin() + i % rows * shape[2], 0.0)));
  }
  RenameTensor("x", "hidden.embed", expected);
}

ExpectedTensors OriginalLayerWeights(const ExpectedTensors& layer, const ExpectedTensor& x) {
  ExpectedTensors weights;
  for (const auto& [name, tensor] : layer) weights["unique_layers.0." + name] = tensor;
  const int64_t rows = x.shape[0] * x.shape[1];
  weights["embedding.weight"] = {.shape = {rows, x.shape[2]}, .floats = x.floats};
  weights["output.weight"] = weights["embedding.weight"];
  weights["output.bias"] = {.shape = {rows},
                            .floats = std::vector<float>(static_cast<size_t>(rows), 0.0f)};
  return weights;
}

}  // namespace sluice
