// Does a weight file fit a spec? Every tensor that the spec names must be there with the size the
// spec gives, before anything is allocated for it. Reads no values.
#pragma once

#include "absl/status/status.h"
#include "engine/model/model_spec.h"
#include "engine/weights/weight_store.h"

namespace sluice {

// `spec` has passed ValidateSpec. NotFound for a missing tensor, InvalidArgument for a wrong shape
// or type; both name the tensor.
absl::Status CheckWeights(const ModelSpec& spec, const WeightStore& weights);

}  // namespace sluice
