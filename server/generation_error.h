// What the end of a generation means to its client: the one rule of both front ends.
#pragma once

#include "absl/status/status.h"
#include "engine/request.h"

namespace sluice::server {

// OK while the choice goes on and when it ended well; else its own error, or for a cancellation
// that its client did not ask for Unavailable `shutting_down` (when draining) or
// `request_cancelled`.
absl::Status GenerationError(const TokenEvent& event, bool draining);

}  // namespace sluice::server
