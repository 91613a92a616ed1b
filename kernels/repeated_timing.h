// How long a short piece of work takes, from timings long enough for the clock. For measurements of
// the machine.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "absl/functional/function_ref.h"

namespace sluice::kernels {

inline double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Seconds of one call of `body(repeats)` per repeat, the best of some timings: others are
// disturbed. 0 as soon as `body` returns false.
inline double BestSeconds(absl::FunctionRef<bool(int64_t)> body) {
  constexpr double kMinimumSeconds = 0.05;  // of one timing
  constexpr int kTimings = 5;
  int64_t repeats = 1;
  double best = 1e30;
  for (int timing = 0; timing < kTimings;) {
    const auto begin = std::chrono::steady_clock::now();
    if (!body(repeats)) return 0.0;
    const double seconds = SecondsSince(begin);
    if (seconds < kMinimumSeconds) {
      repeats *= seconds < kMinimumSeconds / 8 ? 8 : 2;
      continue;
    }
    best = std::min(best, seconds / static_cast<double>(repeats));
    ++timing;
  }
  return best;
}

}  // namespace sluice::kernels
