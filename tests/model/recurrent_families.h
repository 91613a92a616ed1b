// Small good configs of the families whose rows repeat a group, with the shapes of their tensors.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/model/spec_stores.h"

namespace sluice::testing {

using nlohmann::json;

inline json HuginnConfig() {
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

inline ShapeStore HuginnWeights() {
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

inline json RecursionsConfig() {
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

inline ShapeStore LlamaLayers(const std::vector<std::string>& layers) {
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

inline ShapeStore RecursionsWeights() {
  ShapeStore store = LlamaLayers({"0", "1.block_list.0.0", "1.block_list.0.1", "2"});
  store.Add("model.layers.1.mor_router.router.weight", {2, 24});
  return store;
}

inline json ExpertChoiceConfig() {
  json config = RecursionsConfig();
  config["mor"] = {{"type", "expert"}, {"num_recursion", 2},     {"router_func", "sigmoid"},
                   {"alpha", 0.1},     {"capacity", {1.0, 0.5}}, {"prefill_decide", "router_topk"}};
  return config;
}

inline ShapeStore ExpertChoiceWeights() {
  ShapeStore store = LlamaLayers({"0", "1.block.0", "1.block.1", "2.block.0", "2.block.1", "3"});
  for (const char* layer : {"1", "2"})
    store.Add(absl::StrCat("model.layers.", layer, ".mor_router.router.weight"), {1, 24});
  return store;
}

inline json SparseUniversalConfig() {
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

inline ShapeStore SparseUniversalWeights() {
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

inline json OuroConfig() {
  return {{"model_type", "ouro"},
          {"vocab_size", 32},
          {"hidden_size", 24},
          {"num_attention_heads", 3},
          {"intermediate_size", 20},
          {"num_hidden_layers", 2},
          {"layer_types", {"sliding_attention", "full_attention"}},
          {"sliding_window", 8},
          {"tie_word_embeddings", true},
          {"total_ut_steps", 4},
          {"early_exit_threshold", 0.5},
          {"halted_kv", "latest"}};
}

inline ShapeStore OuroWeights() {
  ShapeStore store = LlamaLayers({"0", "1"});
  for (const char* layer : {"0", "1"}) {
    for (const char* norm : {"input_layernorm_2", "post_attention_layernorm_2"})
      store.Add(absl::StrCat("model.layers.", layer, ".", norm, ".weight"), {24});
  }
  store.Add("model.early_exit_gate.weight", {1, 24});
  store.Add("model.early_exit_gate.bias", {1});
  return store;
}

inline json UniversalConfig() {
  return {{"model_type", "universal_transformer"},
          {"vocab_size", 32},
          {"hidden_size", 24},
          {"num_attention_heads", 3},
          {"intermediate_size", 20},
          {"num_inrecurrence_layers", 1},
          {"act_max_steps", 3},
          {"act_type", "basic"},
          {"act_epsilon", 0.01},
          {"position_signal", true},
          {"step_signal", "learned"},
          {"halted_kv", "latest"}};
}

inline ShapeStore UniversalWeights() {
  ShapeStore store;
  store.Add("model.embed_tokens.weight", {32, 24});
  store.Add("model.step_signal.weight", {3, 24});
  store.Add("model.halting.weight", {1, 24});
  store.Add("model.halting.bias", {1});
  for (const char* part : {"q", "k", "v", "o"})
    store.Add(absl::StrCat("model.layers.0.self_attn.", part, "_proj.weight"), {24, 24});
  store.Add("model.layers.0.mlp.up_proj.weight", {20, 24});
  store.Add("model.layers.0.mlp.up_proj.bias", {20});
  store.Add("model.layers.0.mlp.down_proj.weight", {24, 20});
  store.Add("model.layers.0.mlp.down_proj.bias", {24});
  for (const char* norm :
       {"layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"}) {
    store.Add(absl::StrCat("model.", norm, ".weight"), {24});
    store.Add(absl::StrCat("model.", norm, ".bias"), {24});
  }
  return store;
}

struct Family {
  const char* name;
  json config;
  ShapeStore weights;
};

inline const std::vector<Family>& Families() {
  static const std::vector<Family> families = {
      {"huginn", HuginnConfig(), HuginnWeights()},
      {"mor", RecursionsConfig(), RecursionsWeights()},
      {"mor-expert", ExpertChoiceConfig(), ExpertChoiceWeights()},
      {"sut", SparseUniversalConfig(), SparseUniversalWeights()},
      {"ouro", OuroConfig(), OuroWeights()},
      {"universal", UniversalConfig(), UniversalWeights()},
  };
  return families;
}

}  // namespace sluice::testing
