#include "kernels/int4.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/int8.h"

namespace sluice::kernels {
namespace {

constexpr float kLargest = 8.0f * kInt4LargestScale;

// One group in units of the row's scale, rounded with one scale of the group.
struct Rounded {
  float value[kInt4Group];
  float error = 0.0f;
};

// Loops over a whole group, so that the compiler makes vectors of them.
void RoundGroup(const float* u, float scale, Rounded& out) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float inverse = 1.0f / scale;
  float square[kInt4Group];
  for (int64_t i = 0; i < kInt4Group; ++i) {
    const float q = std::min(std::max((u[i] * inverse + kMagic) - kMagic, -8.0f), 7.0f);
    const float difference = u[i] - scale * q;
    out.value[i] = q;
    square[i] = difference * difference;
  }
  for (int64_t half = kInt4Group / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) square[i] += square[i + half];
  }
  out.error = square[0];
}

// Returns the group's scale.
int8_t BestGroup(const float* u, int64_t count, int8_t* q) {
  float largest = 0.0f;
  for (int64_t i = 0; i < kInt4Group; ++i) largest = std::max(largest, std::abs(u[i]));
  const auto wanted = static_cast<int32_t>(std::ceil(largest / 8.0f));
  Rounded best;
  Rounded next;
  best.error = std::numeric_limits<float>::infinity();
  int32_t scale = 0;
  for (int32_t size = wanted - 2; size <= wanted + 1; ++size) {
    if (size < 1 || size > kInt4LargestScale) continue;
    for (const int32_t candidate : {size, -size}) {
      RoundGroup(u, static_cast<float>(candidate), next);
      if (next.error >= best.error) continue;
      best = next;
      scale = candidate;
    }
  }
  for (int64_t i = 0; i < count; ++i) q[i] = static_cast<int8_t>(best.value[i]);
  return static_cast<int8_t>(scale);
}

}  // namespace

float RoundToInt4(std::span<const float> row, int8_t* q, int8_t* groups) {
  float largest = 0.0f;
  for (const float value : row) largest = LargerMagnitude(largest, value);
  const auto size = static_cast<int64_t>(row.size());
  const int64_t num_groups = (size + kInt4Group - 1) / kInt4Group;
  if (!std::isfinite(largest) || largest < kInt8Smallest) {
    std::fill_n(q, size, int8_t{0});
    std::fill_n(groups, num_groups, int8_t{0});
    return std::isfinite(largest) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = kLargest / largest;
  for (int64_t group = 0; group < num_groups; ++group) {
    const int64_t first = group * kInt4Group;
    const int64_t count = std::min(kInt4Group, size - first);
    float u[kInt4Group] = {};
    for (int64_t i = 0; i < count; ++i) u[i] = row[static_cast<size_t>(first + i)] * inverse;
    groups[group] = BestGroup(u, count, q + first);
  }
  return largest / kLargest;
}

}  // namespace sluice::kernels
