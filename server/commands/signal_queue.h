// Signals as a queue that one thread waits on: no work happens in a signal handler. Block before
// any other thread exists, so that all of them inherit the mask.
#pragma once

#include <optional>

#include "absl/time/time.h"

namespace sluice::server {

// SIGTERM, SIGINT and SIGHUP wait until NextSignal asks; SIGPIPE is ignored.
void BlockSignals();

// The next signal's number, or nothing after `timeout`.
std::optional<int> NextSignal(absl::Duration timeout);

}  // namespace sluice::server
