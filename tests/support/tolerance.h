// A stated tolerance and the error that is held against it. No gtest: the golden runner uses it
// too.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

namespace sluice {

struct Tolerance {
  float absolute = 0.0f;
  float relative = 0.0f;  // of the largest expected value
};

inline float Allowed(std::span<const float> expected, const Tolerance& tolerance) {
  float largest = 0.0f;
  for (const float value : expected) largest = std::max(largest, std::fabs(value));
  return tolerance.absolute + tolerance.relative * largest;
}

// The largest |actual - expected| and where it is; NaN counts as infinite. Equal sizes.
struct WorstError {
  size_t index = 0;
  float error = 0.0f;
};
inline WorstError FindWorst(std::span<const float> actual, std::span<const float> expected) {
  WorstError worst;
  for (size_t i = 0; i < expected.size(); ++i) {
    const float error = std::fabs(actual[i] - expected[i]);
    if (!(error <= worst.error)) worst = {i, std::isnan(error) ? INFINITY : error};
  }
  return worst;
}

}  // namespace sluice
