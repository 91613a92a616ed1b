#include <cstdio>
#include <string>

#include "kernels/machine_limits.h"
#include "nlohmann/json.hpp"
#include "server/commands/commands.h"

namespace sluice::server {
namespace {

using kernels::MachineLimits;

nlohmann::json ToJson(const MachineLimits& limits) {
  nlohmann::json json = {{"threads", limits.threads},
                         {"l2_bytes", limits.l2_bytes},
                         {"l3_bytes", limits.l3_bytes},
                         {"memory_bytes_per_second", limits.memory_bytes_per_second()},
                         {"handover_seconds", limits.handover_seconds},
                         {"reads", nlohmann::json::array()},
                         {"peaks", nlohmann::json::array()}};
  for (const kernels::ReadRate& read : limits.reads) {
    json["reads"].push_back({{"bytes", read.bytes},
                             {"threads", read.threads},
                             {"bytes_per_second", read.bytes_per_second}});
  }
  for (const kernels::PeakRate& peak : limits.peaks) {
    nlohmann::json row = {{"unit", peak.unit}, {"threads", peak.threads}};
    row["operations_per_second"] = nullptr;  // not on this processor
    if (peak.operations_per_second > 0.0) row["operations_per_second"] = peak.operations_per_second;
    json["peaks"].push_back(row);
  }
  if (limits.device.empty()) return json;
  json["device"] = limits.device;
  json["copy_bytes_per_second"] = limits.copy_bytes_per_second;
  json["launch_seconds"] = limits.launch_seconds;
  return json;
}

std::string Size(int64_t bytes) {
  char text[32];
  if (bytes >= int64_t{10} << 20) {
    std::snprintf(text, sizeof(text), "%.0f MiB", static_cast<double>(bytes) / (1 << 20));
  } else {
    std::snprintf(text, sizeof(text), "%.0f KiB", static_cast<double>(bytes) / (1 << 10));
  }
  return text;
}

void PrintRates(const MachineLimits& limits) {
  std::printf("  %-12s %8s %10s\n", "buffer", "threads", "GB/s");
  for (const kernels::ReadRate& read : limits.reads) {
    std::printf("  %-12s %8d %10.1f\n", Size(read.bytes).c_str(), read.threads,
                read.bytes_per_second / 1e9);
  }
  std::printf("\narithmetic on registers only (best of 5)\n");
  std::printf("  %-36s %8s %10s\n", "unit", "threads", "GFLOP/s");
  for (const kernels::PeakRate& peak : limits.peaks) {
    if (peak.operations_per_second > 0.0) {
      std::printf("  %-36s %8d %10.0f\n", peak.unit.c_str(), peak.threads,
                  peak.operations_per_second / 1e9);
    } else {
      std::printf("  %-36s %8d not on this CPU\n", peak.unit.c_str(), peak.threads);
    }
  }
}

void PrintProcessors(const MachineLimits& limits) {
  std::printf("%d threads; caches as the system reports them: L2 %s per core, L3 %s\n",
              limits.threads, Size(limits.l2_bytes).c_str(), Size(limits.l3_bytes).c_str());
  std::printf("\nreading (sum of the buffer, each thread its part, again and again; best of 5)\n");
  PrintRates(limits);
  std::printf("\npool hand-over (an empty job for all threads, median): %.2f us\n",
              limits.handover_seconds * 1e6);
}

// `threads` is the one that launches.
void PrintGpu(const MachineLimits& limits) {
  std::printf("%s; L2 %s\n", limits.device.c_str(), Size(limits.l2_bytes).c_str());
  std::printf("\nreading (the buffer, by all multiprocessors, again and again; best of 5)\n");
  PrintRates(limits);
  std::printf("\ncopying inside the device's memory, bytes read and bytes written: %.1f GB/s\n",
              limits.copy_bytes_per_second / 1e9);
  std::printf(
      "launch of an empty kernel: %.2f us in a row, %.2f us when it is waited for (median)\n",
      limits.launch_seconds * 1e6, limits.handover_seconds * 1e6);
}

}  // namespace

int RunBenchMachine(const ServerConfig& config) {
  const absl::StatusOr<MachineLimits> limits =
      kernels::MeasureMachine({.device = config.engine.device, .threads = config.engine.threads});
  if (!limits.ok()) {
    std::fprintf(stderr, "sluice bench machine: %s\n",
                 std::string(limits.status().message()).c_str());
    return limits.status().code() == absl::StatusCode::kFailedPrecondition ? kExitUsage
                                                                           : kExitInternal;
  }
  if (config.print_json) {
    std::printf("%s\n", ToJson(*limits).dump(2).c_str());
  } else if (limits->device.empty()) {
    PrintProcessors(*limits);
  } else {
    PrintGpu(*limits);
  }
  return kExitOk;
}

}  // namespace sluice::server
