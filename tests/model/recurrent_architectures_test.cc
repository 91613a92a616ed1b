// Hostile config.json of the families whose rows repeat a group: every refusal is one line that
// names the key.
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "engine/architectures/architectures.h"
#include "engine/model/model_spec.h"
#include "gmock/gmock.h"
#include "tests/model/recurrent_families.h"

namespace sluice::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

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
    {"huginn", "/exit_criterion", "entropy-diff", "'exit_criterion'"},
    {"huginn", "/exit_criterion", "kl", "'exit_criterion'"},
    {"huginn", "/exit_criterion", "luck", "'exit_criterion' must be one of"},
    {"huginn", "/exit_criterion", 1, "'exit_criterion' must be"},
    {"huginn", "/exit_threshold", -0.1, "'exit_threshold'"},
    {"huginn", "/exit_threshold", 1.5, "'exit_threshold'"},
    {"huginn", "/exit_threshold", "x", "'exit_threshold'"},
    {"huginn", "/halted_kv", "ring", "'halted_kv'"},
    {"huginn", "/halted_kv", "skip", "'halted_kv' must be one of"},
    {"ouro", "/total_ut_steps", 0, "'total_ut_steps'"},
    {"ouro", "/total_ut_steps", -4, "'total_ut_steps'"},
    {"ouro", "/total_ut_steps", 4'096, "number of layers executed"},
    {"ouro", "/total_ut_steps", 1e9, "'total_ut_steps'"},
    {"ouro", "/total_ut_steps", "4", "'total_ut_steps' must be an integer"},
    {"ouro", "/early_exit_threshold", 1.01, "'early_exit_threshold'"},
    {"ouro", "/early_exit_threshold", -1, "'early_exit_threshold'"},
    {"ouro", "/early_exit_threshold", "high", "'early_exit_threshold'"},
    {"ouro", "/early_exit_step", 2, "'early_exit_step'"},
    {"ouro", "/use_weighted_exit", true, "'use_weighted_exit'"},
    {"ouro", "/use_weighted_exit", 1, "'use_weighted_exit' must be true or false"},
    {"ouro", "/attention_bias", true, "'attention_bias'"},
    {"ouro", "/halted_kv", "ring", "'halted_kv'"},
    {"ouro", "/halted_kv", "all", "'halted_kv' must be one of"},
    {"ouro", "/layer_types", json::array({"full_attention"}), "'layer_types' must be a list"},
    {"ouro", "/sliding_window", 0, "'sliding_window'"},
    {"ouro", "/sliding_window", kRemoved, "'sliding_window' is missing"},
    {"ouro", "/num_hidden_layers", 3, "'layer_types' must be a list"},
    {"ouro", "/hidden_size", 25, "'num_attention_heads' must divide"},
    {"universal", "/vocab_size", 0, "'vocab_size'"},
    {"universal", "/hidden_size", 1, "'hidden_size'"},
    {"universal", "/hidden_size", 25, "'num_attention_heads' must divide"},
    {"universal", "/intermediate_size", 21, "up_proj.bias' has shape [20], expected [21]"},
    {"universal", "/num_inrecurrence_layers", 0, "'num_inrecurrence_layers'"},
    {"universal", "/num_inrecurrence_layers", 2, "tensor 'model.layers.1."},
    {"universal", "/act_max_steps", kRemoved, "'act_max_steps' is missing"},
    {"universal", "/act_max_steps", 0, "'act_max_steps'"},
    {"universal", "/act_max_steps", 4, "step_signal.weight' has shape [3, 24], expected [4, 24]"},
    {"universal", "/act_max_steps", 5'000, "'act_max_steps'"},
    {"universal", "/act_type", "global", "'act_type'"},
    {"universal", "/act_type", "random", "'act_type'"},
    {"universal", "/act_type", "mean", "'act_type' must be one of"},
    {"universal", "/act_epsilon", -0.1, "'act_epsilon'"},
    {"universal", "/act_epsilon", 2, "'act_epsilon'"},
    {"universal", "/step_signal", "cosine", "'step_signal' must be one of"},
    {"universal", "/position_signal", 1, "'position_signal' must be true or false"},
    {"universal", "/halted_kv", "ring", "'halted_kv'"},
    {"universal", "/halted_kv", 3, "'halted_kv' must be"},
    {"universal", "/hidden_act", "step", "'hidden_act'"},
    {"universal", "/recurrence_type", "lstm", "'recurrence_type'"},
    {"universal", "/add_or_concat_timing_signal", "concat", "'add_or_concat_timing_signal'"},
    {"universal", "/transformer_ffn_type", "sepconv", "'transformer_ffn_type'"},
    {"universal", "/add_sru", true, "'add_sru'"},
    {"universal", "/embedding_scale", 1e9, "'embedding_scale'"},
    {"universal", "/layer_norm_eps", -1, "'layer_norm_eps'"},
    {"universal", "/tie_word_embeddings", false, "tensor 'lm_head.weight'"},
    {"mor", "/mor", kRemoved, "'mor' must be an object"},
    {"mor", "/mor", 3, "'mor' must be an object"},
    {"mor", "/mor/type", kRemoved, "'mor.type' is missing"},
    {"mor", "/mor/type", "both", "'mor.type' must be one of token, expert"},
    {"mor", "/mor/type", "expert", "'mor.router_func' must be one of sigmoid, identity, tanh"},
    {"mor-expert", "/mor/type", "token", "router.weight' has shape [1, 24], expected [2, 24]"},
    {"mor-expert", "/mor/alpha", 1e9, "'mor.alpha'"},
    {"mor-expert", "/mor/router_func", "relu", "'mor.router_func'"},
    {"mor-expert", "/mor/kv_sharing", true, "'mor.kv_sharing'"},
    {"mor-expert", "/mor/router_type", "mlp", "tensor 'model.layers.1.mor_router.router.0.weight'"},
    {"mor-expert", "/mor/prefill_decide", "coin", "'mor.prefill_decide' must be one of"},
    {"mor-expert", "/mor/capacity", 1.0, "'mor.capacity' must be a list"},
    {"mor-expert", "/mor/capacity", json::array({1.0}), "'mor.capacity' must be a list"},
    {"mor-expert", "/mor/capacity/1", 0.0, "'mor.capacity' must hold"},
    {"mor-expert", "/mor/capacity/0", "all", "'mor.capacity' must hold"},
    {"mor-expert", "/mor/num_recursion", 4, "'mor.capacity' must be a list"},
    {"mor", "/mor/sharing", "cycle", "'mor.sharing'"},
    {"mor", "/mor/router_type", "mlp", "tensor 'model.layers.1.mor_router.router.0.weight'"},
    {"mor", "/mor/router_type", "wide_mlp", "'mor.router_type'"},
    {"mor", "/mor/router_type", "deep", "'mor.router_type' must be one of"},
    {"mor", "/mor/router_func", "tanh", "'mor.router_func' must be one of softmax, sigmoid"},
    {"mor", "/mor/kv_sharing", "yes", "'mor.kv_sharing' must be true or false"},
    {"mor", "/mor/update_cache", true, "'mor.update_cache'"},
    {"mor", "/mor/gating", "unweighted", "'mor.gating'"},
    {"mor", "/mor/temp", 0, "'mor.temp'"},
    {"mor", "/mor/temp", -2, "'mor.temp'"},
    {"mor", "/mor/temp", "hot", "'mor.temp' must be a number"},
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
