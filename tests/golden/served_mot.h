// The served form of the Mixture-of-Tokens fixtures of ../shared/goldens. Tests only.
#pragma once

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sluice {

// The config that the server reads for a decoder. Unimplemented for a layer by itself
// (layer_check.h).
absl::StatusOr<nlohmann::json> ServedMotConfig(const nlohmann::json& golden);

}  // namespace sluice
