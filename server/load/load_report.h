// What a load showed: latencies, throughput, goodput, failures by kind, the generator's own cost.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "nlohmann/json.hpp"
#include "server/load/latency_summary.h"
#include "server/load/load_run.h"
#include "server/plot/latency_plot.h"

namespace sluice::server {

// A request is good when its first token came within `ttft_ms` and 99 % of its gaps lay within
// `itl_ms`.
struct LatencyObjective {
  double ttft_ms = 0.0;
  double itl_ms = 0.0;
};

struct LoadReport {
  int64_t sent = 0;
  int64_t answered = 0;
  int64_t failed = 0;         // neither answered nor interrupted
  int64_t short_answers = 0;  // ended before the tokens asked for
  std::array<int64_t, kNumRequestEnds> by_end{};
  std::array<std::string, kNumRequestEnds> first_message;
  double elapsed_seconds = 0.0;
  double prompt_tokens_per_request = 0.0;  // as the server counts; 0: it does not
  int64_t output_tokens = 0;               // of answered requests
  double tokens_per_chunk = 0.0;
  LatencySummary ttft_ms;       // from when the request was due
  LatencySummary itl_ms;        // between chunks
  LatencySummary per_token_ms;  // of a request: first to last token, per token
  LatencySummary end_to_end_ms;
  LatencySummary lateness_ms;  // of the generator
  int64_t good = 0;
  double generator_cpu_seconds = 0.0;
  int32_t most_in_flight = 0;
  bool interrupted = false;

  double PerSecond(int64_t count) const;
};

LoadReport MakeLoadReport(const LoadMeasurement& measurement,
                          const LoadPlan& plan,
                          const LatencyObjective& objective);

// Everything, with what was asked for.
nlohmann::json ToJson(const LoadReport& report,
                      const LoadPlan& plan,
                      const ServerTraits& traits,
                      const LatencyObjective& objective);
std::string ToText(const LoadReport& report,
                   const LoadPlan& plan,
                   const ServerTraits& traits,
                   const LatencyObjective& objective);
// `title` says whose they are.
LatencyPlot MakeLatencyPlot(const LoadReport& report,
                            const LoadPlan& plan,
                            const LatencyObjective& objective,
                            const std::string& title);

}  // namespace sluice::server
