#include "engine/sampling/softmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

namespace sluice {
namespace {

constexpr size_t kBlock = 64;

// e^x for x <= 0, relative error below 2e-7, 0 below -87. Branch-free, so that compilers vectorize
// the loops; without fused multiply-add the vector form has the same bits as the scalar one. Range
// reduction and polynomial: Cephes expf (Moshier), x = n ln2 + r, |r| <= ln2 / 2.
inline float ExpOfNegative(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  const float clamped = x > -88.0f ? x : -88.0f;
  const float n = (clamped * kLog2E + kRound) - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const float scale = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return p * scale;
}

}  // namespace

bool AllFinite(std::span<const float> logits) {
  int32_t bad = 0;
  for (const float logit : logits) bad |= logit <= std::numeric_limits<float>::max() ? 0 : 1;
  return bad == 0;
}

int32_t ArgMax(std::span<const float> logits) {
  std::array<float, 8> lanes{};
  lanes.fill(-std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + lanes.size() <= logits.size(); i += lanes.size()) {
    for (size_t j = 0; j < lanes.size(); ++j) {
      lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
    }
  }
  for (; i < logits.size(); ++i) lanes[0] = std::max(lanes[0], logits[i]);
  const float best = *std::max_element(lanes.begin(), lanes.end());
  if (best == -std::numeric_limits<float>::infinity()) return -1;
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), best) - logits.begin());
}

double SumExp(std::span<const float> logits, float max, float inverse_temperature) {
  double sum = 0.0;
  std::array<float, kBlock> terms;
  for (size_t first = 0; first < logits.size(); first += kBlock) {
    const size_t count = std::min(kBlock, logits.size() - first);
    for (size_t j = 0; j < count; ++j) {
      terms[j] = ExpOfNegative((logits[first + j] - max) * inverse_temperature);
    }
    for (size_t j = 0; j < count; ++j) sum += static_cast<double>(terms[j]);
  }
  return sum;
}

double ExpInPlace(std::span<float> logits, float max, float inverse_temperature) {
  for (float& logit : logits) logit = ExpOfNegative((logit - max) * inverse_temperature);
  double sum = 0.0;
  for (const float term : logits) sum += static_cast<double>(term);
  return sum;
}

}  // namespace sluice
