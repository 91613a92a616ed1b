// Draws what merges softly: Mixture of Tokens in place of a dense feed-forward, MoV and MoLORA
// adapters on dense projections. For random_spec.
#pragma once

#include <cstdint>

#include "engine/model/model_spec.h"

namespace sluice::testing {

// Changes some layers of a valid spec; the result is valid.
void DrawSoftParts(uint32_t seed, ModelSpec& spec);

}  // namespace sluice::testing
