// Turns the engine's snapshot and the servers' counters into Prometheus text. Reads only; computes
// no statistics of its own. At most `max_series` series, whatever clients send and however large
// the model is.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_client.h"
#include "engine/metrics.h"
#include "server/metrics/request_counters.h"

namespace sluice::server {

enum class ExpertSeries : uint8_t { kAuto, kFull, kOff };

struct MetricsOptions {
  bool vllm_names = false;
  ExpertSeries expert_series = ExpertSeries::kAuto;
  size_t max_series = 2000;  // --expert-metrics=full lifts it for sluice_expert_tokens_total alone
  size_t max_auto_expert_series = 1024;
  std::string version = "0.1.0";
};

class MetricsExporter {
 public:
  // `counters` outlives the exporter. `log_lines_dropped` may be empty.
  MetricsExporter(MetricsOptions options,
                  const RequestCounters& counters,
                  std::function<uint64_t()> log_lines_dropped = {});

  // Once the model is loaded. `kernels`: (op, kernel) pairs for build_info. The engine outlives the
  // exporter.
  void SetEngine(const EngineClient* engine,
                 const std::vector<std::pair<std::string, std::string>>& kernels);

  // Body of /metrics, text format 0.0.4. Any thread; works without an engine.
  std::string Render() const;

 private:
  const MetricsOptions options_;
  const RequestCounters& counters_;
  const std::function<uint64_t()> log_lines_dropped_;
  std::string kernels_;  // written before engine_ is published
  std::atomic<const EngineClient*> engine_{nullptr};
};

// The content type of Render's text.
inline constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace sluice::server
