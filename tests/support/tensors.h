// Test weights: an in-memory WeightStore, seeded values, and comparison with a stated tolerance.
// Not for reading files (golden_files.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "gtest/gtest.h"

namespace sluice {

struct Tolerance {
  float absolute = 0.0f;
  float relative = 0.0f;  // of the largest expected value
};

// Success when every |actual - expected| <= absolute + relative * max|expected|; else names the
// worst place.
inline ::testing::AssertionResult AllNear(std::span<const float> actual,
                                          std::span<const float> expected,
                                          const Tolerance& tolerance) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure()
           << actual.size() << " values, expected " << expected.size();
  }
  float largest = 0.0f;
  for (const float value : expected) largest = std::max(largest, std::fabs(value));
  const float allowed = tolerance.absolute + tolerance.relative * largest;
  size_t worst = 0;
  float worst_error = 0.0f;
  for (size_t i = 0; i < expected.size(); ++i) {
    const float error = std::fabs(actual[i] - expected[i]);
    if (!(error <= worst_error)) {  // also true for NaN
      worst = i;
      worst_error = std::isnan(error) ? INFINITY : error;
    }
  }
  if (worst_error <= allowed) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "at " << worst << ": " << actual[worst] << ", expected " << expected[worst]
         << " (error " << worst_error << ", allowed " << allowed << ")";
}

}  // namespace sluice
