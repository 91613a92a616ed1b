// The difference of two metrics snapshots as a RoutingWindow: what WatchRouting publishes. Knows
// protobuf but not gRPC. Windows below a number of rows are held back, because small ones could
// reveal text.
#pragma once

#include <cstdint>

#include "engine/metrics.h"
#include "sluice/v1/generation.pb.h"

namespace sluice::server {

// Rows that went through the routed part of the model between the snapshots: the least over all
// layers that moved, so that no published layer holds fewer.
int64_t WindowRows(const MetricsSnapshot& before, const MetricsSnapshot& after);

v1::RoutingWindow MakeRoutingWindow(const MetricsSnapshot& before, const MetricsSnapshot& after);

}  // namespace sluice::server
