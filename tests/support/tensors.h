// Comparison of tensors with a stated tolerance, as a gtest assertion. Not for reading files
// (golden_files.h).
#pragma once

#include "gtest/gtest.h"
#include "tests/support/tolerance.h"

namespace sluice {

// Success when every |actual - expected| <= absolute + relative * max|expected|; else names the
// worst place.
inline ::testing::AssertionResult AllNear(std::span<const float> actual,
                                          std::span<const float> expected,
                                          const Tolerance& tolerance) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure()
           << actual.size() << " values, expected " << expected.size();
  }
  const float allowed = Allowed(expected, tolerance);
  const WorstError worst = FindWorst(actual, expected);
  if (worst.error <= allowed) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "at " << worst.index << ": " << actual[worst.index] << ", expected "
         << expected[worst.index] << " (error " << worst.error << ", allowed " << allowed << ")";
}

}  // namespace sluice
