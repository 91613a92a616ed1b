// Sums over a ModelSpec that `sluice inspect` prints: layers, routers, experts, parameters, what
// skipping is worth, KV bytes per token. Computed from the specification alone: no weights are
// loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/model_spec.h"
#include "nlohmann/json.hpp"

namespace sluice::server {

struct SpecSummary {
  std::string family;
  int64_t layers = 0;              // of weights
  int64_t layer_instances = 0;     // times repeats
  int64_t routed_instances = 0;    // that rows can skip
  int64_t loops = 0;               // layer groups that repeat
  std::vector<double> capacities;  // trained share of each routed instance; 1 where it is unknown
  int64_t moe_instances = 0;
  int64_t experts_per_layer = 0;  // most of any layer
  int64_t experts_per_token = 0;
  int64_t vocab_size = 0, dim = 0, max_positions = 0;
  int64_t parameters_total = 0;
  double parameters_active = 0.0;  // an average token's: capacity and chosen experts
  // Share of routed layer executions that rows are expected to skip: 1 - mean capacity; 0 without
  // routers.
  double expected_skip_ratio = 0.0;
  int64_t kv_bytes_per_token_bf16 = 0;     // when no row skips
  double expected_kv_bytes_per_token = 0;  // at the trained capacity
};

SpecSummary SummarizeSpec(const ModelSpec& spec);

nlohmann::json ToJson(const SpecSummary& summary);

}  // namespace sluice::server
