// Hostile configs of Router-Tuning: each bends one value of a golden folder's config.json.
#pragma once

#include "tests/model/bad_config.h"

namespace sluice::testing {

inline const BadConfig kBadRouterTuningConfigs[] = {
    {"router_tuning", "/is_mod", 3, "'is_mod' must be a list"},
    {"router_tuning", "/is_mod", true, "'is_mod' must be a list"},
    {"router_tuning", "/is_mod", json::array({true}), "'is_mod' must be a list"},
    {"router_tuning", "/is_mod", json::array(), "'is_mod' must be a list"},
    {"router_tuning", "/is_mod", json::array({0, 1, 1, 0}), "'is_mod' must be a list"},
    {"router_tuning", "/is_mod", json::array({"true", true, true, true}), "'is_mod' must be"},
    {"router_tuning", "/is_mod", json::array({true, true, true, true}),
     "tensor 'model.layers.0.router.weight'"},
    {"router_tuning", "/granularity", nullptr, ""},
    {"router_tuning", "/granularity", "Attn-Sequence", ""},  // as the published code reads it
    {"router_tuning", "/granularity", "head_token", "'granularity' must be one of attn_sequence"},
    {"router_tuning", "/granularity", 3, "'granularity'"},
    {"router_tuning", "/threshold", -0.1, "'threshold' must be a number between 0 and 1"},
    {"router_tuning", "/threshold", 1.5, "'threshold'"},
    {"router_tuning", "/threshold", "0.5", "'threshold'"},
    {"router_tuning", "/mod_capacity", nullptr, ""},
    {"router_tuning", "/mod_capacity", json::array({nullptr, 0.5, nullptr, nullptr}), ""},
    {"router_tuning", "/mod_capacity", 2, "'mod_capacity' must be a number between 0 and 1"},
    {"router_tuning", "/mod_capacity", "half", "'mod_capacity'"},
    {"router_tuning", "/mod_capacity", json::array({0.5}), "'mod_capacity' must be a number, or"},
    {"router_tuning", "/mod_capacity", json::array({0.5, 0.5, "x", 0.5}), "'mod_capacity'"},
    {"router_tuning", "/mod_capacity", json::array({0.5, 0.5, -1, 0.5}), "'mod_capacity'"},
    {"router_tuning", "/hidden_size", 64, "has shape"},
    {"llama", "/is_mod", json::array({false, false, true}),
     "tensor 'model.layers.2.router.weight'"},
    {"gpt2", "/is_mod", json::array({true, true}), "'is_mod': routing of layers"},
    {"olmo2", "/is_mod", json::array({true, true}), "'is_mod': routing of layers"},
    {"mixtral", "/is_mod", json::array({true, true}), "'is_mod': routing of layers"},
    {"switch_transformers", "/is_mod", json::array({true}), "'is_mod': routing of other than"},
    {"mod-threshold", "/is_mod", json::array({true, false, true, false}),
     "'is_mod': routing beside other depth-routed layers"},
    {"ouro", "/is_mod", json::array({true}), "'is_mod': routing of other than"},
};

}  // namespace sluice::testing
