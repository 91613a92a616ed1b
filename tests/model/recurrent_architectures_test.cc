// Hostile config.json of the families whose rows repeat a group: every refusal is one line that
// names the key.
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "engine/architectures/architectures.h"
#include "engine/model/model_spec.h"
#include "gmock/gmock.h"
#include "tests/model/spec_stores.h"

namespace sluice::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

json HuginnConfig() {
  return {{"model_type", "huginn_raven"},
          {"vocab_size", 30},
          {"padding_multiple", 16},
          {"n_embd", 24},
          {"n_heads", 3},
          {"intermediate_size", 20},
          {"n_layers_in_prelude", 1},
          {"n_layers_in_recurrent_block", 2},
          {"n_layers_in_coda", 1},
          {"mean_recurrence", 3},
          {"block_size", 64},
          {"rope_base", 50000},
          {"norm_eps", 1e-6},
          {"qk_bias", true},
          {"tie_embeddings", true},
          {"init_values", {{"embed_scale", 4.5}, {"std", 0.1}}},
          {"state_init", "like-init"},
          {"injection_type", "linear"},
          {"eos_token_id", 0}};
}

ShapeStore HuginnWeights() {
  ShapeStore store;
  store.Add("transformer.wte.weight", {32, 24});
  store.Add("transformer.adapter.weight", {24, 48});
  store.Add("transformer.ln_f.weight", {24});
  for (const char* block : {"prelude.0", "core_block.0", "core_block.1", "coda.0"}) {
    const std::string name = absl::StrCat("transformer.", block);
    for (int i = 1; i <= 4; ++i) store.Add(absl::StrCat(name, ".norm_", i, ".weight"), {24});
    store.Add(name + ".attn.Wqkv.weight", {72, 24});
    store.Add(name + ".attn.qk_bias", {2, 1, 3, 8});
    store.Add(name + ".attn.proj.weight", {24, 24});
    store.Add(name + ".mlp.fc.weight", {40, 24});
    store.Add(name + ".mlp.proj.weight", {24, 20});
  }
  return store;
}

json RecursionsConfig() {
  return {{"model_type", "mor"},
          {"vocab_size", 32},
          {"hidden_size", 24},
          {"num_attention_heads", 3},
          {"intermediate_size", 20},
          {"num_hidden_layers", 6},
          {"tie_word_embeddings", true},
          {"mor",
           {{"type", "token"},
            {"num_recursion", 2},
            {"sharing", "middle_cycle"},
            {"router_type", "linear"},
            {"router_func", "softmax"},
            {"alpha", 1.0},
            {"temp", 1.0},
            {"kv_sharing", false},
            {"balancing", "loss"}}}};
}

ShapeStore LlamaLayers(const std::vector<std::string>& layers) {
  ShapeStore store;
  store.Add("model.embed_tokens.weight", {32, 24});
  store.Add("model.norm.weight", {24});
  for (const std::string& layer : layers) {
    const std::string name = absl::StrCat("model.layers.", layer);
    store.Add(name + ".input_layernorm.weight", {24});
    store.Add(name + ".post_attention_layernorm.weight", {24});
    for (const char* part : {"q", "k", "v", "o"})
      store.Add(absl::StrCat(name, ".self_attn.", part, "_proj.weight"), {24, 24});
    store.Add(name + ".mlp.gate_proj.weight", {20, 24});
    store.Add(name + ".mlp.up_proj.weight", {20, 24});
    store.Add(name + ".mlp.down_proj.weight", {24, 20});
  }
  return store;
}

ShapeStore RecursionsWeights() {
  ShapeStore store = LlamaLayers({"0", "1.block_list.0.0", "1.block_list.0.1", "2"});
  store.Add("model.layers.1.mor_router.router.weight", {2, 24});
  return store;
}

json ExpertChoiceConfig() {
  json config = RecursionsConfig();
  config["mor"] = {{"type", "expert"}, {"num_recursion", 2},     {"router_func", "sigmoid"},
                   {"alpha", 0.1},     {"capacity", {1.0, 0.5}}, {"prefill_decide", "router_topk"}};
  return config;
}

ShapeStore ExpertChoiceWeights() {
  ShapeStore store = LlamaLayers({"0", "1.block.0", "1.block.1", "2.block.0", "2.block.1", "3"});
  for (const char* layer : {"1", "2"})
    store.Add(absl::StrCat("model.layers.", layer, ".mor_router.router.weight"), {1, 24});
  return store;
}

json SparseUniversalConfig() {
  return {{"model_type", "sut"},
          {"vocab_size", 32},
          {"hidden_size", 24},
          {"num_hidden_layers", 4},
          {"head_dim", 8},
          {"attention_expert_size", 16},
          {"num_attention_experts", 3},
          {"num_attention_experts_per_tok", 2},
          {"num_experts", 5},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 20},
          {"max_relative_positions", 6},
          {"pre_norm", false},
          {"norm_input", true},
          {"halting", "stick_breaking"},
          {"halting_threshold", 0.999},
          {"hidden_act", "relu"},
          {"scale_query_only", false}};
}

ShapeStore SparseUniversalWeights() {
  ShapeStore store;
  store.Add("embedding.weight", {32, 24});
  store.Add("output.weight", {32, 24});
  store.Add("output.bias", {32});
  const std::string layer = "unique_layers.0.";
  store.Add(layer + "_gate.0.weight", {24, 24});
  store.Add(layer + "_gate.0.bias", {24});
  store.Add(layer + "_gate.3.weight", {2, 24});
  for (const char* norm : {"mod.final_layer_norm", "mod.self_attn_layer_norm"}) {
    store.Add(absl::StrCat(layer, norm, ".weight"), {24});
    store.Add(absl::StrCat(layer, norm, ".bias"), {24});
  }
  const std::string attention = layer + "mod.self_attn.";
  store.Add(attention + "k_proj.weight", {16, 24});
  store.Add(attention + "v_proj.weight", {16, 24});
  store.Add(attention + "q_proj.experts.w", {3, 24, 16});
  store.Add(attention + "q_proj.output_experts.w", {3, 16, 24});
  store.Add(attention + "q_proj.w_gate.0.weight", {24, 24});
  store.Add(attention + "q_proj.w_gate.0.bias", {24});
  store.Add(attention + "q_proj.w_gate.3.weight", {3, 24});
  store.Add(attention + "rel_pos_emb", {2, 8, 13});
  const std::string ffn = layer + "mod.moe.";
  store.Add(ffn + "experts.w", {5, 24, 20});
  store.Add(ffn + "experts.b", {5, 20});
  store.Add(ffn + "output_experts.w", {5, 20, 24});
  store.Add(ffn + "output_experts.b", {5, 24});
  store.Add(ffn + "w_gate.0.weight", {24, 24});
  store.Add(ffn + "w_gate.0.bias", {24});
  store.Add(ffn + "w_gate.3.weight", {5, 24});
  return store;
}

struct Family {
  const char* name;
  json config;
  ShapeStore weights;
};

const std::vector<Family>& Families() {
  static const std::vector<Family> families = {
      {"huginn", HuginnConfig(), HuginnWeights()},
      {"mor", RecursionsConfig(), RecursionsWeights()},
      {"mor-expert", ExpertChoiceConfig(), ExpertChoiceWeights()},
      {"sut", SparseUniversalConfig(), SparseUniversalWeights()},
  };
  return families;
}

const Family& FamilyOf(const std::string& name) {
  for (const Family& family : Families()) {
    if (name == family.name) return family;
  }
  std::abort();
}

TEST(RecurrentArchitectures, GoodConfigsLoad) {
  for (const Family& family : Families()) {
    const auto spec = SpecFromConfig(family.config, family.weights);
    EXPECT_TRUE(spec.ok()) << family.name << ": " << spec.status();
  }
}

TEST(RecurrentArchitectures, HuginnRepeatsItsCoreAsConfigured) {
  const Family& family = FamilyOf("huginn");
  json config = family.config;
  EXPECT_EQ(SpecFromConfig(config, family.weights)->stacks[0].groups[1].repeat.times, 3);
  config["num_steps"] = 7;
  EXPECT_EQ(SpecFromConfig(config, family.weights)->stacks[0].groups[1].repeat.times, 7);
}

struct BadConfig {
  const char* family;
  const char* pointer;
  json value;  // discarded: remove the key
  const char* message;
};

void PrintTo(const BadConfig& bad, std::ostream* out) {
  *out << bad.family << " " << bad.pointer << " = "
       << (bad.value.is_discarded() ? "removed" : bad.value.dump());
}

const json kRemoved(json::value_t::discarded);

const BadConfig kBadConfigs[] = {
    {"huginn", "/vocab_size", 0, "'vocab_size'"},
    {"huginn", "/vocab_size", 33, "wte.weight' has shape [32, 24], expected [48, 24]"},
    {"huginn", "/padded_vocab_size", 29, "'padded_vocab_size'"},
    {"huginn", "/padding_multiple", 0, "'padding_multiple'"},
    {"huginn", "/n_embd", -24, "'n_embd'"},
    {"huginn", "/n_embd", 25, "'n_heads' must divide n_embd"},
    {"huginn", "/n_heads", 0, "'n_heads'"},
    {"huginn", "/n_heads", 8, "'n_heads' must divide n_embd"},
    {"huginn", "/num_key_value_heads", 2, "'num_key_value_heads' must divide"},
    {"huginn", "/num_key_value_heads", 1, "'qk_bias'"},
    {"huginn", "/intermediate_size", 21, "mlp.fc.weight' has shape [40, 24], expected [42, 24]"},
    {"huginn", "/n_layers_in_prelude", 0, "'n_layers_in_prelude'"},
    {"huginn", "/n_layers_in_recurrent_block", 3, "tensor 'transformer.core_block.2."},
    {"huginn", "/n_layers_in_coda", "1", "'n_layers_in_coda' must be an integer"},
    {"huginn", "/mean_recurrence", kRemoved, "'mean_recurrence' is missing"},
    {"huginn", "/mean_recurrence", 0, "'mean_recurrence'"},
    {"huginn", "/mean_recurrence", 4'096, "number of layers executed"},
    {"huginn", "/num_steps", -1, "'num_steps'"},
    {"huginn", "/num_steps", 2.5, "'num_steps' must be an integer"},
    {"huginn", "/block_size", 0, "'block_size'"},
    {"huginn", "/rope_base", 0, "'rope_base'"},
    {"huginn", "/rope_scaling", json{{"factor", 2}}, "'rope_scaling'"},
    {"huginn", "/norm_eps", -1, "'norm_eps'"},
    {"huginn", "/bias", true, "tensor 'transformer.adapter.bias'"},
    {"huginn", "/tie_embeddings", false, "tensor 'lm_head.weight'"},
    {"huginn", "/tie_embeddings", 1, "'tie_embeddings' must be true or false"},
    {"huginn", "/init_values", kRemoved, "'init_values' must be an object"},
    {"huginn", "/init_values/embed_scale", kRemoved, "'init_values.embed_scale' is missing"},
    {"huginn", "/init_values/embed_scale", 1e9, "'init_values.embed_scale'"},
    {"huginn", "/state_init", "normal", "'state_init'"},
    {"huginn", "/injection_type", "add", "'injection_type'"},
    {"huginn", "/block_class_name", "TransformerPreNormBlock", "'block_class_name'"},
    {"huginn", "/norm_class_name", "LayerNorm", "'norm_class_name'"},
    {"huginn", "/mlp_class_name", "BaseMLP", "'mlp_class_name'"},
    {"huginn", "/nonlin_name", "ReLU2", "'nonlin_name'"},
    {"huginn", "/eos_token_id", 32, "'eos_token_id'"},
    {"mor", "/mor", kRemoved, "'mor' must be an object"},
    {"mor", "/mor", 3, "'mor' must be an object"},
    {"mor", "/mor/type", kRemoved, "'mor.type' is missing"},
    {"mor", "/mor/type", "both", "'mor.type' must be one of token, expert"},
    {"mor", "/mor/type", "expert", "'mor.router_func' must be one of sigmoid, identity"},
    {"mor-expert", "/mor/type", "token", "router.weight' has shape [1, 24], expected [2, 24]"},
    {"mor-expert", "/mor/alpha", 1e9, "'mor.alpha'"},
    {"mor-expert", "/mor/router_func", "tanh", "'mor.router_func'"},
    {"mor-expert", "/mor/prefill_decide", "coin", "'mor.prefill_decide' must be one of"},
    {"mor-expert", "/mor/capacity", 1.0, "'mor.capacity' must be a list"},
    {"mor-expert", "/mor/capacity", json::array({1.0}), "'mor.capacity' must be a list"},
    {"mor-expert", "/mor/capacity/1", 0.0, "'mor.capacity' must hold"},
    {"mor-expert", "/mor/capacity/0", "all", "'mor.capacity' must hold"},
    {"mor-expert", "/mor/num_recursion", 4, "'mor.capacity' must be a list"},
    {"mor", "/mor/sharing", "cycle", "'mor.sharing'"},
    {"mor", "/mor/router_type", "mlp", "'mor.router_type'"},
    {"mor", "/mor/router_func", "tanh", "'mor.router_func' must be one of softmax, sigmoid"},
    {"mor", "/mor/kv_sharing", true, "'mor.kv_sharing'"},
    {"mor", "/mor/temp", 2, "'mor.temp'"},
    {"mor", "/mor/alpha", "1", "'mor.alpha'"},
    {"mor", "/mor/num_recursion", 0, "'mor.num_recursion'"},
    {"mor", "/mor/num_recursion", 3, "'mor.num_recursion' must divide"},
    {"mor", "/mor/num_recursion", 4, "mor_router.router.weight' has shape [2, 24]"},
    {"mor", "/mor/balancing", "loss_free", "tensor 'model.layers.1.mor_router.router_bias'"},
    {"mor", "/mor/balancing", "luck", "'mor.balancing'"},
    {"mor", "/num_hidden_layers", 2, "'mor.num_recursion' must divide"},
    {"sut", "/vocab_size", -1, "'vocab_size'"},
    {"sut", "/hidden_size", 65'537, "'hidden_size'"},
    {"sut", "/num_hidden_layers", 0, "'num_hidden_layers'"},
    {"sut", "/num_hidden_layers", 4'097, "'num_hidden_layers'"},
    {"sut", "/head_dim", 5, "'head_dim' must divide"},
    {"sut", "/head_dim", 0, "'head_dim'"},
    {"sut", "/attention_expert_size", kRemoved, "'attention_expert_size' is missing"},
    {"sut", "/attention_expert_size", 32, "tensor 'unique_layers.0.mod.self_attn."},
    {"sut", "/num_attention_experts", 4, "q_proj.w_gate.3.weight' has shape [3, 24]"},
    {"sut", "/num_attention_experts_per_tok", 4, "'num_attention_experts_per_tok'"},
    {"sut", "/num_experts", 6, "moe.w_gate.3.weight' has shape [5, 24], expected [6, 24]"},
    {"sut", "/num_experts_per_tok", 0, "'num_experts_per_tok'"},
    {"sut", "/moe_intermediate_size", 21, "experts.w' has shape [5, 24, 20]"},
    {"sut", "/max_relative_positions", 7, "rel_pos_emb' has shape [2, 8, 13], expected [2, 8, 15]"},
    {"sut", "/max_relative_positions", 0, "'max_relative_positions'"},
    {"sut", "/pre_norm", "no", "'pre_norm' must be true or false"},
    {"sut", "/pre_norm", true, "tensor 'out_norm.weight'"},
    {"sut", "/halting", "act", "'halting'"},
    {"sut", "/halting", "never", "'halting' must be one of"},
    {"sut", "/halting_threshold", 1.5, "'halting_threshold'"},
    {"sut", "/hidden_act", "gelu", "'hidden_act'"},
    {"sut", "/embedding_scale", "x", "'embedding_scale'"},
    {"sut", "/layer_norm_eps", -1, "'layer_norm_eps'"},
};

class BadRecurrentConfigTest : public ::testing::TestWithParam<BadConfig> {};

TEST_P(BadRecurrentConfigTest, GivesOneLineNamingTheKey) {
  const BadConfig& bad = GetParam();
  const Family& family = FamilyOf(bad.family);
  json config = family.config;
  const json::json_pointer pointer(bad.pointer);
  if (bad.value.is_discarded()) {
    config[pointer.parent_pointer()].erase(pointer.back());
  } else {
    config[pointer] = bad.value;
  }
  const auto spec = SpecFromConfig(config, family.weights);
  ASSERT_FALSE(spec.ok());
  const std::string message(spec.status().message());
  EXPECT_THAT(message, HasSubstr(bad.message));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
}

INSTANTIATE_TEST_SUITE_P(HandMade, BadRecurrentConfigTest, ::testing::ValuesIn(kBadConfigs));

// Any value in any place: an error or a valid spec, never a crash.
TEST(RecurrentArchitectures, NoValueInAnyPlaceCrashes) {
  const json values[] = {-1,   0,       1,    2,   int64_t{1} << 31, ~uint64_t{0},  1e308,
                         -0.5, nullptr, true, "x", json::array(),    json::object()};
  for (const Family& family : Families()) {
    const json places = family.config.flatten();
    for (const auto& [pointer, ignored] : places.items()) {
      for (const json& value : values) {
        json config = family.config;
        config[json::json_pointer(pointer)] = value;
        const auto spec = SpecFromConfig(config, family.weights);
        if (!spec.ok()) continue;
        EXPECT_TRUE(ValidateSpec(*spec).ok()) << family.name << pointer << "=" << value;
      }
    }
  }
}

TEST(RecurrentArchitectures, EveryTensorThatIsMissingIsNamed) {
  for (const Family& family : Families()) {
    for (const std::string& name : family.weights.Unused()) {
      const BentStore missing(family.weights, name, std::nullopt);
      const auto spec = SpecFromConfig(family.config, missing);
      ASSERT_FALSE(spec.ok()) << family.name << " without " << name;
      EXPECT_THAT(std::string(spec.status().message()), HasSubstr(name));
    }
  }
}

}  // namespace
}  // namespace sluice::testing
