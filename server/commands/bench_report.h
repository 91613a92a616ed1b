// What `sluice bench` says of what it measured: the same medians as a table, as JSON and as a plot.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/machine_limits.h"
#include "nlohmann/json.hpp"
#include "server/commands/bench_run.h"
#include "server/plot/speed_plot.h"

namespace sluice::server {

// What is measured side by side in every round.
struct Contender {
  std::string label;
  BenchSubject* subject = nullptr;
  bool forced_dense = false;
  std::vector<BenchResult> rounds;
};

// What holds for all loads.
struct BenchSetting {
  kernels::MachineLimits limits;  // what shares are divided by
  int32_t rounds = 0;
  int64_t load_peak_resident_bytes = 0;  // before anything was measured
};

// What one load showed.
struct MeasuredLoad {
  BenchLoad load;
  std::vector<Contender> contenders;  // the first is compared with the others
};

// "2 threads; measured just now: memory 20.1 GB/s, ...; medians of 5 interleaved rounds", by the
// peak of the subject's weights.
std::string MachineLine(const BenchSetting& setting, const BenchSubject& subject);

// To standard output.
void PrintLoad(const MeasuredLoad& measured, const BenchSetting& setting);

// An object for each load and contender.
nlohmann::json ToJson(const std::vector<MeasuredLoad>& loads, const BenchSetting& setting);

// `loads`: at least one, all of the same contenders.
SpeedPlot MakeSpeedPlot(const std::vector<MeasuredLoad>& loads, const BenchSetting& setting);

}  // namespace sluice::server
