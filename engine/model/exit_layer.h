// Where a network may be cut for self-speculation (Batch::early_exit).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/model/model_spec.h"

namespace sluice {

// InvalidArgument when the model has no layer behind the first `exit_layer`; Unimplemented when its
// rows carry more from layer to layer than their state.
absl::Status CheckExitLayer(const ModelSpec& spec, int32_t exit_layer);

}  // namespace sluice
