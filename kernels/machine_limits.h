// What this machine, or its GPU, can do at best, measured now: the denominators of every share that
// a report prints. Upper limits of what these loops reach, not data-sheet numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/packed_matrix.h"

namespace sluice::kernels {

// Memory summed by plain loads, each thread its own part of `bytes`.
struct ReadRate {
  int64_t bytes = 0;  // the whole buffer, all threads together
  int threads = 0;
  double bytes_per_second = 0.0;
};

// Multiply-adds on registers only, an addition and a multiplication counted as two operations.
struct PeakRate {
  std::string unit;  // "f32 FMA, avx512"
  int threads = 0;
  double operations_per_second = 0.0;  // 0: this processor does not have it
};

struct MachineLimits {
  std::string device;  // of a GPU what it is, and then 1 thread; empty: the processors
  int threads = 0;
  int64_t l2_bytes = 0, l3_bytes = 0;  // as the system reports them; 0: unknown
  std::vector<ReadRate> reads;         // ascending sizes, one thread and all
  std::vector<PeakRate> peaks;
  // An empty ParallelFor on waiting workers, or an empty kernel that is waited for; median.
  double handover_seconds = 0.0;
  // Of a GPU: a copy from its memory to its memory, bytes read and bytes written counted, and an
  // empty kernel of many in a row.
  double copy_bytes_per_second = 0.0;
  double launch_seconds = 0.0;

  // Of the largest buffer with all threads: reading from memory.
  double memory_bytes_per_second() const;
  // The best of the units whose name begins with `kind` ("f32", "bf16"), all threads; 0: none.
  double operations_per_second(const std::string& kind) const;
  // The best of the units that products of such weights can use; int4 becomes int8 on the way.
  double operations_per_second(WeightFormat weights) const;
};

struct MachineOptions {
  std::string device = "cpu";  // as DeviceSpec::device; "reference" is the processors too
  int threads = 0;             // 0: one per core
  // Only what a profile divides by: memory, and peaks of all threads.
  bool brief = false;
  int64_t largest_read_bytes = 0;  // 0: well beyond the last-level cache. For tests
};

// InvalidArgument for a bad number of threads, ResourceExhausted without memory for the buffer,
// FailedPrecondition and Unavailable for a GPU that is not there or fails.
absl::StatusOr<MachineLimits> MeasureMachine(const MachineOptions& options);

// What measures "cuda", set by a program that has it (backend_factory.h).
using CudaMeasurement = absl::StatusOr<MachineLimits> (*)(const MachineOptions& options);
void SetCudaMeasurement(CudaMeasurement measurement);

}  // namespace sluice::kernels
