// The Mixture-of-Depths fixtures of ../shared/goldens in the form that the server reads.
#pragma once

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tests/golden/golden_files.h"

namespace sluice {

// The config.json of a fixture of family "mod": its sizes under our names, and the switches that
// its format stands for (models.md 1.3). Unimplemented for a format that is not known.
absl::StatusOr<nlohmann::json> ServedModConfig(const nlohmann::json& golden);

void RenameMod(const nlohmann::json& golden, ExpectedTensors& expected);

}  // namespace sluice
