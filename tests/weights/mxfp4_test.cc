// Decoding of mxfp4 by hand: every value, both halves of a byte, scales at their ends.
#include "engine/weights/mxfp4.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace sluice {
namespace {

std::vector<float> Decode(const std::vector<uint8_t>& blocks, const std::vector<uint8_t>& scales) {
  std::vector<float> out(scales.size() * kMxfp4BlockElements);
  DecodeMxfp4(std::as_bytes(std::span(blocks)), std::as_bytes(std::span(scales)), out);
  return out;
}

TEST(Mxfp4, EveryValueLowHalfFirst) {
  std::vector<uint8_t> blocks(16);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<uint8_t>(i << 4 | (15 - i));
  const std::vector<float> out = Decode(blocks, {128});
  const float positive[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  for (size_t i = 0; i < 16; ++i) {
    const auto value = [&](size_t code) { return (code < 8 ? 2.0f : -2.0f) * positive[code % 8]; };
    EXPECT_EQ(out[2 * i], value(15 - i)) << i;
    EXPECT_EQ(out[2 * i + 1], value(i)) << i;
  }
}

TEST(Mxfp4, EveryBlockHasItsScale) {
  const std::vector<float> out = Decode(std::vector<uint8_t>(64, 0x22), {127, 120, 0, 255});
  EXPECT_EQ(out[31], 1.0f);
  EXPECT_EQ(out[32], std::ldexp(1.0f, -7));
  EXPECT_EQ(out[64], std::ldexp(1.0f, -127));
  EXPECT_TRUE(std::isnan(out[96]));
}

TEST(Mxfp4, NothingGivesNothing) { EXPECT_TRUE(Decode({}, {}).empty()); }

}  // namespace
}  // namespace sluice
