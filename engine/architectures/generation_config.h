// generation_config.json, in which a checkpoint says how to generate from it: end tokens and
// sampling defaults. Every function takes a missing file for an empty one and names the file in
// messages. Keys that are not known are ignored, as in config.json.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/model_spec.h"
#include "engine/request.h"

namespace sluice {

// Adds the file's end tokens to those of config.json. InvalidArgument for ids that the model lacks.
absl::Status AddGenerationEos(const std::string& model_directory, ModelSpec& spec);

// InvalidArgument for a value of the wrong type or one that a request could not have.
absl::StatusOr<SamplingDefaults> ReadSamplingDefaults(const std::string& model_directory);

}  // namespace sluice
