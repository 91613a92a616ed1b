// Fixtures of one layer alone: rows in, rows out, with no model around them. Tests only.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "tests/golden/golden_check.h"

namespace sluice {

// Whether the folder holds a layer instead of a model (`kind` of its config).
bool IsLayerFolder(const std::string& folder);

// Every case of a Mixture-of-Tokens layer: <case>.x [slots, T, dim] to <case>.y. Errors as
// CheckGolden.
absl::StatusOr<GoldenReport> CheckLayerGolden(const std::string& folder,
                                              const CheckOptions& options);

}  // namespace sluice
