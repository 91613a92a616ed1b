// What the operator sees while the server starts: labelled lines, loading progress, `ready in N s`.
// On a text log it is plain text on standard error, on a JSON log one line per fact. Not for events
// while serving.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/clock.h"
#include "engine/engine_thread.h"
#include "engine/log.h"

namespace sluice::server {

class StartupReport {
 public:
  // `clock` outlives the report.
  StartupReport(LogFormat format, bool is_terminal, const Clock& clock);

  void Line(std::string_view label, const std::string& text) const;
  // Spec line, kernels with reasons, threads, memory plan.
  void Engine(const EngineReport& report) const;
  // A bar on a terminal, else one line per 10 %. Called by the loading thread only.
  void Progress(int64_t done_bytes, int64_t total_bytes);
  void Ready() const;

 private:
  const LogFormat format_;
  const bool is_terminal_;
  const Clock& clock_;
  const absl::Duration started_at_;
  int shown_percent_ = -1;
};

// "1.5 GiB", "300 B".
std::string HumanBytes(int64_t bytes);

}  // namespace sluice::server
