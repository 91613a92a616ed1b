// The JSON form of ModelSpec, both ways: `sluice inspect --json`, tests and golden folders use it.
#pragma once

#include "absl/status/statusor.h"
#include "engine/model/model_spec.h"
#include "nlohmann/json.hpp"

namespace sluice {

nlohmann::json SpecToJson(const ModelSpec& spec);

// InvalidArgument naming the key. Unknown keys are refused. Does not call ValidateSpec.
absl::StatusOr<ModelSpec> SpecFromJson(const nlohmann::json& json);

}  // namespace sluice
