// Foreign configs, good and hostile. A hostile one gives a single line that names the key and the
// file, no crash.
#include "engine/architectures/architectures.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/model/bad_attention_configs.h"
#include "tests/model/bad_expert_configs.h"
#include "tests/model/bad_router_tuning_configs.h"
#include "tests/model/bad_soft_configs.h"
#include "tests/model/bad_transformers_configs.h"
#include "tests/model/spec_stores.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string GoldenDirectory(const std::string& folder) {
  const char* source = std::getenv("SLUICE_SOURCE_DIR");
  return absl::StrCat(source == nullptr ? "." : source, "/tests/golden/", folder);
}

json ReadJson(const std::string& path) { return json::parse(std::ifstream(path)); }

json MoeutConfig() {
  return {{"model_type", "moeut"},
          {"vocab_size", 32},
          {"hidden_size", 24},
          {"num_hidden_layers", 4},
          {"group_size", 2},
          {"num_attention_heads", 2},
          {"head_dim", 10},
          {"num_experts", 5},
          {"moe_intermediate_size", 8},
          {"num_experts_per_tok", 2},
          {"num_attention_experts", 3},
          {"num_attention_experts_per_tok", 2},
          {"layer_order", "abab"},
          {"eos_token_id", 0}};
}

// The clean repository's names for the config above.
ShapeStore MoeutWeights() {
  ShapeStore store;
  store.Add("embedding.weight", {32, 24});
  store.Add("lm_head.weight", {32, 24});
  store.Add("lm_head.bias", {32});
  for (const char* norm : {"out_norm", "transformer.layers.0.ln1", "transformer.layers.0.ln2",
                           "transformer.layers.1.ln1", "transformer.layers.1.ln2"}) {
    store.Add(absl::StrCat(norm, ".weight"), {24});
    store.Add(absl::StrCat(norm, ".bias"), {24});
  }
  for (int layer = 0; layer < 2; ++layer) {
    const std::string name = absl::StrCat("transformer.layers.", layer);
    store.Add(name + ".attention.q.weight", {20, 24});
    store.Add(name + ".attention.k.weight", {20, 24});
    store.Add(name + ".attention.v", {6, 24, 10});
    store.Add(name + ".attention.o", {6, 10, 24});
    store.Add(name + ".attention.sel_v", {6, 24});
    store.Add(name + ".attention.sel_o", {6, 24});
    store.Add(name + ".ffn.keys", {5, 24, 8});
    store.Add(name + ".ffn.values", {5, 8, 24});
    store.Add(name + ".ffn.expert_sel", {5, 24});
  }
  return store;
}

class ArchitecturesTest : public DirectoryTest {
 protected:
  // LoadModelSpec on `config` with the weights of a golden folder ("moeut": the ones above).
  absl::StatusOr<ModelSpec> Load(const json& config, const WeightStore& weights) {
    Write("config.json", config.dump());
    return LoadModelSpec(directory(), weights);
  }
  static std::unique_ptr<WeightStore> WeightsOf(const std::string& folder) {
    if (folder == "moeut") return std::make_unique<ShapeStore>(MoeutWeights());
    auto store = WeightStore::Open(GoldenDirectory(folder));
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  static json ConfigOf(const std::string& folder) {
    return folder == "moeut" ? MoeutConfig() : ReadJson(GoldenDirectory(folder) + "/config.json");
  }
};

// Every model of tests/golden, and the one above.
std::vector<std::string> Folders() {
  std::vector<std::string> folders = {"moeut"};
  for (const auto& entry : std::filesystem::directory_iterator(GoldenDirectory(""))) {
    if (std::filesystem::exists(entry.path() / "model.safetensors"))
      folders.push_back(entry.path().filename());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

TEST_F(ArchitecturesTest, EveryGoldenConfigLoads) {
  for (const std::string& folder : Folders()) {
    const auto spec = Load(ConfigOf(folder), *WeightsOf(folder));
    EXPECT_TRUE(spec.ok()) << folder << ": " << spec.status();
  }
}

const BadConfig kBadConfigs[] = {
    {"llama", "/model_type", "mystery",
     "'model_type' 'mystery' is not supported; supported are deepseek, gpt2"},
    {"llama", "/model_type", kRemoved, "'model_type' is missing"},
    {"llama", "/model_type", 3, "'model_type' must be a string"},
    {"llama", "/hidden_size", -32, "'hidden_size'"},
    {"llama", "/hidden_size", 0, "'hidden_size'"},
    {"llama", "/hidden_size", 65'537, "'hidden_size'"},
    {"llama", "/hidden_size", 32.0, "'hidden_size' must be an integer"},
    {"llama", "/hidden_size", "32", "'hidden_size' must be an integer"},
    {"llama", "/hidden_size", true, "'hidden_size' must be an integer"},
    {"llama", "/hidden_size", kRemoved, "'hidden_size' is missing"},
    {"llama", "/hidden_size", uint64_t{1} << 63, "'hidden_size'"},
    {"llama", "/hidden_size", 64,
     "tensor 'model.embed_tokens.weight' has shape [64, 32], expected [64, 64]"},
    {"llama", "/num_hidden_layers", 0, "'num_hidden_layers'"},
    {"llama", "/num_hidden_layers", 4'097, "'num_hidden_layers'"},
    {"llama", "/num_hidden_layers", 4'096, "tensor 'model.layers.3."},
    {"llama", "/num_attention_heads", 3, "'num_key_value_heads' must divide"},
    {"llama", "/num_key_value_heads", 3, "'num_key_value_heads' must divide"},
    {"llama", "/num_key_value_heads", 5, "'num_key_value_heads'"},
    {"llama", "/head_dim", 7, "'head_dim'"},
    {"llama", "/head_dim", 0, "'head_dim'"},
    {"llama", "/intermediate_size", -1, "'intermediate_size'"},
    {"llama", "/vocab_size", 0, "'vocab_size'"},
    {"llama", "/vocab_size", (1 << 21) + 1, "'vocab_size'"},
    {"llama", "/vocab_size", 65, "tensor 'model.embed_tokens.weight'"},
    {"llama", "/hidden_act", "tanh", "'hidden_act'"},
    {"llama", "/rms_norm_eps", -1, "'rms_norm_eps'"},
    {"llama", "/rms_norm_eps", "1e-5", "'rms_norm_eps'"},
    {"llama", "/max_position_embeddings", 0, "'max_position_embeddings'"},
    {"llama", "/rope_parameters", 3, "'rope_parameters' must be an object"},
    {"llama", "/rope_parameters/rope_theta", 0, "'rope_parameters.rope_theta'"},
    {"llama", "/rope_parameters/rope_type", "yarn", "'rope_parameters.factor' is missing"},
    {"llama", "/rope_scaling", json{{"type", "linear"}}, "'rope_scaling.factor' is missing"},
    {"llama", "/rope_scaling", json{{"type", "linear"}, {"factor", 0}}, "'rope_scaling.factor'"},
    {"llama", "/attention_bias", 1, "'attention_bias' must be true or false"},
    {"llama", "/attention_bias", true, "tensor 'model.layers.0.self_attn.q_proj.bias'"},
    {"llama", "/tie_word_embeddings", "no", "'tie_word_embeddings'"},
    {"llama", "/eos_token_id", 64, "'eos_token_id'"},
    {"llama", "/eos_token_id", -1, "'eos_token_id'"},
    {"llama", "/eos_token_id", json::array({1, "x"}), "'eos_token_id'"},
    {"llama-tied-bias", "/tie_word_embeddings", false, "tensor 'lm_head.weight'"},
    {"mistral", "/sliding_window", 0, "'sliding_window'"},
    {"mistral", "/sliding_window", "7", "'sliding_window'"},
    {"mistral", "/layer_types", json::array({"full_attention"}), "'layer_types'"},
    {"mistral", "/layer_types",
     json::array({"full_attention", "linear_attention", "full_attention"}), "'layer_types'"},
    {"qwen3", "/head_dim", 16, "tensor 'model.layers.0.self_attn.q_proj.weight'"},
    {"gpt2", "/n_head", 3, "'n_head' must divide"},
    {"gpt2", "/n_embd", 0, "'n_embd'"},
    {"gpt2", "/n_inner", -1, "'n_inner'"},
    {"gpt2", "/n_positions", 65, "wpe.weight' has shape [64, 32], expected [65, 32]"},
    {"gpt2", "/scale_attn_by_inverse_layer_idx", true, "'scale_attn_by_inverse_layer_idx'"},
    {"mixtral", "/num_experts_per_tok", 6, "'num_experts_per_tok'"},
    {"mixtral", "/num_experts_per_tok", 0, "'num_experts_per_tok'"},
    {"mixtral", "/num_local_experts", 6, "gate.weight' has shape [5, 32], expected [6, 32]"},
    {"mixtral", "/num_local_experts", 1'000'000, "'num_local_experts'"},
    {"mixtral", "/intermediate_size", 24, "experts.0.w3.weight' has shape"},
    {"olmoe", "/clip_qkv", -1, "'clip_qkv'"},
    {"olmoe", "/num_experts", kRemoved, "'num_experts' is missing"},
    {"qwen2_moe", "/decoder_sparse_step", 0, "'decoder_sparse_step'"},
    {"qwen2_moe", "/mlp_only_layers", json::array({-1}), "'mlp_only_layers'"},
    {"qwen2_moe", "/shared_expert_intermediate_size", 0, "'shared_expert_intermediate_size'"},
    {"qwen3_moe", "/norm_topk_prob", "true", "'norm_topk_prob'"},
    {"deepseek", "/n_shared_experts", 4'097, "'n_shared_experts'"},
    {"deepseek", "/num_experts_per_tok", 5, "'num_experts_per_tok'"},
    {"deepseek", "/scoring_func", "sigmoid", "'scoring_func'"},
    {"deepseek", "/first_k_dense_replace", -1, "'first_k_dense_replace'"},
    {"mod-predictor", "/mod", kRemoved, "'mod' is missing"},
    {"mod-predictor", "/mod", 3, "'mod' must be an object"},
    {"mod-predictor", "/mod/layers", kRemoved, "'mod.layers' is missing"},
    {"mod-predictor", "/mod/layers", json::array({4}), "'mod.layers'"},
    {"mod-predictor", "/mod/layers", json::array({2, 0}), "'mod.layers' must be ascending"},
    {"mod-predictor", "/mod/layers", json::array({2, 2}), "'mod.layers' must be ascending"},
    {"mod-predictor", "/mod/layers", json::array({1}), "layers[1].depth.predictor"},
    {"mod-predictor", "/mod/gate_fn", "softmax_over_selected", "needs router_topk"},
    {"mod-predictor", "/mod/gate_fn", "cube",
     "'mod.gate_fn' must be one of identity, sigmoid, binary"},
    {"mod-predictor", "/mod/combine", "add", "'mod.combine' must be one of scaled_update"},
    {"mod-predictor", "/mod/colour", 1, "'mod' has the unknown key 'colour'"},
    {"mod-predictor", "/mod/target", "head", "'mod.target' must be one of block"},
    {"mod-predictor", "/mod/target", 1, "'mod.target'"},
    {"mod-attention-only", "/mod/combine", "ffn_gated_double",
     "'mod.combine' ffn_gated_double needs the target block"},
    {"mod-predictor", "/mod/decide", "coin", "'mod.decide'"},
    {"mod-predictor", "/mod/decide", "router_topk", "depth.decide"},
    {"mod-predictor", "/mod/threshold", 1.5, "'mod.threshold'"},
    {"mod-predictor", "/mod/threshold", nullptr, ""},
    {"mod-predictor", "/mod/capacity", -0.5, "'mod.capacity'"},
    {"mod-predictor", "/mod/capacity", 8, "'mod.capacity'"},
    {"mod-predictor", "/mod/capacity_tokens", 4, "'mod.capacity_tokens' and 'capacity'"},
    {"mod-gated-double", "/mod/capacity_tokens", 0, "'mod.capacity_tokens'"},
    {"mod-gated-double", "/mod/capacity_tokens", -3, "'mod.capacity_tokens'"},
    {"mod-gated-double", "/mod/capacity_tokens", 1e30, "'mod.capacity_tokens'"},
    {"mod-gated-double", "/mod/capacity_tokens", "8", "'mod.capacity_tokens'"},
    {"mod-predictor", "/mod/min_tokens", -1, "'mod.min_tokens'"},
    {"mod-predictor", "/mod/min_tokens", 1.5, "'mod.min_tokens'"},
    {"mod-predictor", "/mod/pos", "relative", "'mod.pos'"},
    {"mod-predictor", "/mod/kv", "all_tokens", ""},
    {"mod-compact", "/mod/kv", "all_tokens", "depth.kv"},
    {"mod-ffn-only", "/mod/kv", "all_tokens", "'mod.kv' says nothing"},
    {"mod-predictor", "/mod/kv", 2, "'mod.kv'"},
    {"mod-predictor", "/mod/force_first", 1, "'mod.force_first'"},
    {"mod-predictor", "/mod/strict", "yes", "'mod.strict'"},
    {"mod-zero-rows", "/mod/pos", "compact", "depth.kv"},
    {"mod-ffn-only", "/mod/pos", "compact", "'mod.pos' says nothing"},
    {"mod-ffn-only", "/mod/kv", "zero_rows", "'mod.kv' says nothing"},
    {"mod-topk-strict", "/mod/force_first", true, "depth.force_first"},
    {"mod-topk-softmax", "/mod/prefill_decide", kRemoved, "needs router_topk"},
    {"mod-predictor", "/mod/score_quantiles", json::array({json::array({0})}),
     "'mod.score_quantiles'"},
    {"mod-predictor", "/mod/score_quantiles", json::array({json::array({0}), json::array({0})}),
     "lists of 101"},
    {"mode-integrated", "/num_null_experts", -1, "'num_null_experts'"},
    {"mode-integrated", "/num_null_experts", 3,
     "mlp.gate.weight' has shape [6, 32], expected [7, 32]"},
    {"moeut", "/group_size", 3, "'group_size' must divide"},
    {"moeut", "/group_size", 5, "'group_size'"},
    {"moeut", "/rotary_dim", 5, "'rotary_dim' must be even"},
    {"moeut", "/rotary_dim", 12, "'rotary_dim'"},
    {"moeut", "/num_attention_experts", 0, "'num_attention_experts'"},
    {"moeut", "/num_attention_experts_per_tok", 4, "'num_attention_experts_per_tok'"},
    {"moeut", "/num_experts_per_tok", 6, "'num_experts_per_tok'"},
    {"moeut", "/layer_order", "baba", "'layer_order' must be one of abab, aabb"},
    {"moeut", "/head_dim", 1, "'head_dim'"},
    {"moeut", "/num_experts", 6, "ffn.expert_sel' has shape [5, 24], expected [6, 24]"},
};

class BadConfigTest : public ArchitecturesTest, public ::testing::WithParamInterface<BadConfig> {};

TEST_P(BadConfigTest, GivesOneLineNamingKeyAndFile) {
  const BadConfig& bad = GetParam();
  json config = ConfigOf(bad.folder);
  const json::json_pointer pointer(bad.pointer);
  if (bad.value.is_discarded()) {
    config[pointer.parent_pointer()].erase(pointer.back());
  } else {
    config[pointer] = bad.value;
  }
  const auto spec = Load(config, *WeightsOf(bad.folder));
  if (std::string(bad.message).empty()) {  // null means absent, as in the published loaders
    EXPECT_TRUE(spec.ok()) << spec.status();
    return;
  }
  ASSERT_FALSE(spec.ok());
  EXPECT_THAT(spec.status().code(),
              AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kUnimplemented,
                    absl::StatusCode::kNotFound));
  const std::string message(spec.status().message());
  EXPECT_THAT(message, HasSubstr(bad.message));
  EXPECT_THAT(message, HasSubstr(directory()));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
}

INSTANTIATE_TEST_SUITE_P(HandMade, BadConfigTest, ::testing::ValuesIn(kBadConfigs));
INSTANTIATE_TEST_SUITE_P(Soft, BadConfigTest, ::testing::ValuesIn(kBadSoftConfigs));
INSTANTIATE_TEST_SUITE_P(Attention, BadConfigTest, ::testing::ValuesIn(kBadAttentionConfigs));
INSTANTIATE_TEST_SUITE_P(Transformers, BadConfigTest, ::testing::ValuesIn(kBadTransformersConfigs));
INSTANTIATE_TEST_SUITE_P(Experts, BadConfigTest, ::testing::ValuesIn(kBadExpertConfigs));
INSTANTIATE_TEST_SUITE_P(RouterTuning, BadConfigTest, ::testing::ValuesIn(kBadRouterTuningConfigs));

TEST_F(ArchitecturesTest, BrokenConfigFilesAreRefused) {
  const auto weights = WeightsOf("llama");
  const auto message = [&] {
    return std::string(LoadModelSpec(directory(), *weights).status().message());
  };
  EXPECT_THAT(message(), HasSubstr("config.json: no such file"));
  for (const char* text :
       {"", "{", "[]", "3", "\"x\"", "{\"model_type\":\"llama\",\"model_type\":\"gpt2\"}",
        "{\"a\":NaN}", "{\"a\":1e400}", "\xFF"}) {
    Write("config.json", text);
    EXPECT_THAT(message(), HasSubstr("config.json: ")) << text;
  }
  Write("config.json", std::string(100'000, '['));
  EXPECT_THAT(message(), HasSubstr("nested too deeply"));
  Write("config.json", std::string(5 << 20, ' '));
  EXPECT_THAT(message(), HasSubstr("larger than the limit"));
}

TEST_F(ArchitecturesTest, GenerationConfigAddsEndOfSequenceIds) {
  const auto weights = WeightsOf("llama");
  Write("generation_config.json", R"({"eos_token_id":[2,7]})");
  EXPECT_EQ(Load(ConfigOf("llama"), *weights)->eos_token_ids, (std::vector<int32_t>{2, 7}));
  Write("generation_config.json", R"({"eos_token_id":[2,64]})");
  EXPECT_THAT(std::string(Load(ConfigOf("llama"), *weights).status().message()),
              HasSubstr("generation_config.json: 'eos_token_id'"));
}

// Any value in any place: an error or a valid spec, never a crash.
TEST_F(ArchitecturesTest, NoValueInAnyPlaceCrashes) {
  const json values[] = {-1,
                         0,
                         1,
                         2,
                         3,
                         int64_t{1} << 31,
                         int64_t{1} << 62,
                         ~uint64_t{0},
                         1e308,
                         -0.5,
                         "x",
                         nullptr,
                         true,
                         json::array(),
                         json::object(),
                         json::array({-1, "x", nullptr})};
  for (const std::string& folder : Folders()) {
    const auto weights = WeightsOf(folder);
    const json original = ConfigOf(folder);
    const json places = original.flatten();
    for (const auto& [pointer, ignored] : places.items()) {
      for (const json& value : values) {
        json config = original;
        config[json::json_pointer(pointer)] = value;
        const auto spec = SpecFromConfig(config, *weights);
        if (!spec.ok()) {
          EXPECT_FALSE(spec.status().message().empty());
          EXPECT_THAT(std::string(spec.status().message()), Not(HasSubstr("\n"))) << folder;
          continue;
        }
        EXPECT_TRUE(ValidateSpec(*spec).ok()) << folder << pointer << "=" << value;
      }
    }
  }
}

TEST_F(ArchitecturesTest, EveryTensorThatIsMissingOrBentIsNamed) {
  // Their absence has a meaning: no bias, one linear layer, a tied head, plain matrices.
  const std::vector<std::string> optional = {"mod_router.bias", "mod_predictor", "lm_head.weight",
                                             "sel_v", "router.bias"};
  for (const std::string& folder : Folders()) {
    const auto weights = WeightsOf(folder);
    json config = ConfigOf(folder);
    const std::vector<std::string> names = weights->Unused();
    for (const std::string& name : names) {
      const BentStore missing(*weights, name, std::nullopt);
      const auto without = SpecFromConfig(config, missing);
      const bool may_lack = std::any_of(optional.begin(), optional.end(), [&](const auto& part) {
        return name.find(part) != name.npos;
      });
      EXPECT_TRUE(may_lack || !without.ok()) << folder << " without " << name;

      TensorRange bent = *weights->Find(name);
      bent.shape[0] += 1;
      EXPECT_FALSE(SpecFromConfig(config, BentStore(*weights, name, bent)).ok())
          << folder << " with a longer " << name;
      bent = *weights->Find(name);
      bent.shape.push_back(1);
      EXPECT_FALSE(SpecFromConfig(config, BentStore(*weights, name, bent)).ok())
          << folder << " with a deeper " << name;
      bent = *weights->Find(name);
      bent.dtype = kernels::DType::kI32;
      EXPECT_FALSE(SpecFromConfig(config, BentStore(*weights, name, bent)).ok())
          << folder << " with integers in " << name;
    }
  }
}

}  // namespace
}  // namespace sluice::testing
