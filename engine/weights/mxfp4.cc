#include "engine/weights/mxfp4.h"

#include <cmath>
#include <limits>

#include "kernels/check.h"

namespace sluice {
namespace {

// E2M1, sign in the highest bit.
constexpr float kValues[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                               -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
// E8M0: 2^(stored - 127); all ones is NaN.
constexpr int kScaleBias = 127;
constexpr int kScaleNan = 255;

}  // namespace

void DecodeMxfp4(std::span<const std::byte> blocks,
                 std::span<const std::byte> scales,
                 std::span<float> out) {
  SLUICE_CHECK(blocks.size() == scales.size() * kMxfp4BlockBytes) << blocks.size();
  SLUICE_CHECK(out.size() == scales.size() * kMxfp4BlockElements) << out.size();
  float* next = out.data();
  for (size_t block = 0; block < scales.size(); ++block) {
    const int stored = std::to_integer<int>(scales[block]);
    const float scale = stored == kScaleNan ? std::numeric_limits<float>::quiet_NaN()
                                            : std::ldexp(1.0f, stored - kScaleBias);
    for (const std::byte pair : blocks.subspan(block * kMxfp4BlockBytes, kMxfp4BlockBytes)) {
      *next++ = kValues[std::to_integer<size_t>(pair & std::byte{0x0F})] * scale;
      *next++ = kValues[std::to_integer<size_t>(pair >> 4)] * scale;
    }
  }
}

}  // namespace sluice
