// What GET /v1/routing shows: per-layer routing over windows of at least 1,000 rows. A layer's
// numbers change only when that many rows have passed since they were last shown, so that two looks
// around one request do not reveal what it did. I/O thread only.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/metrics.h"
#include "nlohmann/json.hpp"

namespace sluice::server {

inline constexpr uint64_t kMinWindowRows = 1000;

class RoutingView {
 public:
  // Takes the layers whose window is full into what is shown, and returns all that is shown.
  nlohmann::json Update(const MetricsSnapshot& snapshot);

 private:
  struct DepthWindow {
    uint64_t executed = 0, skipped = 0;  // cumulative, when last shown
    std::optional<double> capacity;      // trained; null where it is not known
    uint64_t window_executed = 0, window_skipped = 0;
  };
  struct ExpertWindow {
    std::string layer, kind;
    std::vector<uint64_t> tokens;  // cumulative, when last shown
    std::vector<uint64_t> window_tokens;
  };

  void UpdateDepth(const DepthLayerMetrics& layer);
  void UpdateExperts(const ExpertLayerMetrics& layer);

  std::map<std::string, DepthWindow> depth_;
  std::map<std::string, ExpertWindow> experts_;  // by layer and kind
};

}  // namespace sluice::server
