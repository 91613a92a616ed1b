// softmax of a short row in place: the merge weights of tokens or experts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace sluice {

inline void Softmax(float* row, int64_t size) {
  const float largest = *std::max_element(row, row + size);
  float sum = 0.0f;
  for (int64_t i = 0; i < size; ++i) sum += row[i] = std::exp(row[i] - largest);
  for (int64_t i = 0; i < size; ++i) row[i] /= sum;
}

}  // namespace sluice
