// A request's `routing` object against the model: what can be honoured becomes a RowRouting, the
// rest is refused with the reason.
#pragma once

#include "absl/status/statusor.h"
#include "engine/blocks/forward_context.h"
#include "engine/engine_client.h"
#include "engine/request.h"

namespace sluice {

// InvalidArgument with code `unsupported_parameter` or a range code, naming the field.
absl::StatusOr<RowRouting> ResolveRouting(const RoutingParams& params, const ModelCard& model);

// True when the whole prompt must run in one step (top-k over it, its mean, experts with a
// capacity, an encoder).
bool NeedsWholePrompt(const RoutingParams& params, const ModelCard& model);

}  // namespace sluice
