// Wrong values of RoPE scaling and of the families Granite, gpt-oss, DeepSeek-V2 and V3.
#pragma once

#include "tests/model/bad_config.h"

namespace sluice::testing {

inline const BadConfig kBadTransformersConfigs[] = {
    {"llama", "/rope_parameters/rope_type", "dynamic",
     "'rope_parameters.rope_type': dynamic is not implemented"},
    {"llama", "/rope_parameters/rope_type", "longrope", "longrope is not implemented"},
    {"llama", "/rope_parameters/rope_type", "cubic",
     "must be one of default, linear, llama3, yarn"},
    {"llama", "/rope_parameters/mrope_section", json::array({1, 1}),
     "'rope_parameters.mrope_section': this key is not implemented"},
    {"llama", "/rope_parameters/partial_rotary_factor", 0.1, "'head_dim'"},
    {"llama-llama3", "/rope_parameters/factor", kRemoved, "'rope_parameters.factor' is missing"},
    {"llama-llama3", "/rope_parameters/factor", 0, "'rope_parameters.factor'"},
    {"llama-llama3", "/rope_parameters/factor", 1e9, "'rope_parameters.factor'"},
    {"llama-llama3", "/rope_parameters/factor", "8", "'rope_parameters.factor'"},
    {"llama-llama3", "/rope_parameters/low_freq_factor", -1, "'rope_parameters.low_freq_factor'"},
    {"llama-llama3", "/rope_parameters/high_freq_factor", 1.0,
     "'rope_parameters.high_freq_factor'"},
    {"llama-llama3", "/rope_parameters/original_max_position_embeddings", kRemoved,
     "'rope_parameters.original_max_position_embeddings' is missing"},
    {"llama-llama3", "/rope_parameters/original_max_position_embeddings", 1 << 25,
     "'rope_parameters.original_max_position_embeddings'"},
    {"qwen3-yarn", "/rope_parameters/factor", -4, "'rope_parameters.factor'"},
    {"qwen3-yarn", "/rope_parameters/factor", nullptr, ""},
    {"qwen3-yarn", "/rope_parameters/beta_fast", 0.5, "'rope_parameters.beta_fast'"},
    {"qwen3-yarn", "/rope_parameters/beta_slow", 0, "'rope_parameters.beta_slow'"},
    {"qwen3-yarn", "/rope_parameters/truncate", 1, "'rope_parameters.truncate'"},
    {"qwen3-yarn", "/rope_parameters/mscale", -1, "'rope_parameters.mscale'"},
    {"qwen3-yarn", "/rope_parameters/attention_factor", 0, "'rope_parameters.attention_factor'"},
    {"qwen3-yarn", "/rope_parameters/rope_theta", 1,
     "'rope_parameters.rope_theta' must be above 1"},
    {"granite", "/embedding_multiplier", kRemoved, "'embedding_multiplier' is missing"},
    {"granite", "/attention_multiplier", 0, "'attention_multiplier'"},
    {"granite", "/residual_multiplier", "1", "'residual_multiplier'"},
    {"granite", "/logits_scaling", 0, "'logits_scaling'"},
    {"granite", "/logits_scaling", -8, "'logits_scaling'"},
    {"granite", "/position_embedding_type", "nope", "'position_embedding_type'"},
    {"granitemoe", "/num_experts_per_tok", 6, "'num_experts_per_tok'"},
    {"granitemoe", "/intermediate_size", 16, "input_linear.weight' has shape"},
};

}  // namespace sluice::testing
