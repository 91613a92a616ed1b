// Which parts of a repeated group may stand together: the rules of ValidateSpec for recurrence.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/model/model_spec.h"

namespace sluice {

// `path` names the group's repeat. InvalidArgument for parts that contradict each other,
// Unimplemented for what the loop does not run.
absl::Status CheckRepeatParts(const std::string& path, const LayerGroupSpec& group, int64_t dim);

}  // namespace sluice
