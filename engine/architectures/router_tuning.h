// Router-Tuning (He et al. 2024, arXiv 2410.13184): a base model whose layers got depth routers.
// Its checkpoints are the base's, with `is_mod` in the config.json (keys in README.md).
#pragma once

#include "absl/status/status.h"
#include "engine/model/model_spec.h"
#include "nlohmann/json.hpp"

namespace sluice {

// Routes the layers that `is_mod` names, if it is there. InvalidArgument or Unimplemented naming
// the key.
absl::Status AddRouterTuning(const nlohmann::json& config, ModelSpec& spec);

}  // namespace sluice
