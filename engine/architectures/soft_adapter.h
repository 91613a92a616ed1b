// Adapters of softly merged experts over any family's base: the object `soft_adapter` of a
// config.json (keys and tensor names in README.md).
#pragma once

#include "absl/status/status.h"
#include "engine/model/model_spec.h"
#include "engine/weights/weight_store.h"
#include "nlohmann/json.hpp"

namespace sluice {

// Adds what `soft_adapter` says, if it is there. InvalidArgument or Unimplemented naming the key.
absl::Status AddSoftAdapter(const nlohmann::json& config,
                            const WeightStore& weights,
                            ModelSpec& spec);

}  // namespace sluice
