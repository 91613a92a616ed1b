// int8 products: weights with one scale per output, inputs with one scale per row (LLM.int8(),
// Dettmers et al. 2022, sec. 2.1, "vector-wise quantization", without the outliers' part).
//
//   scale(v) = max|v| / 127          of a weight's row, of an input row
//   q(v)     = round to nearest even of v * (127 / max|v|), in [-127, 127]
//   y[n]     = (f32(sum over k of q(x)[k] q(w[n])[k]) * scale(x)) * scale(w[n])
//
// The sum is exact in int32, the rest is one conversion and two products in f32, so every
// implementation gives the same bits: the scalar one, AVX2, VNNI, AMX and the reference.
// Rows whose largest value is below kInt8Smallest are zero. A row that holds a NaN or an infinity
// has the scale NaN, and so are all outputs that it reaches.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace sluice::kernels {

// The most inputs of a product: (255 * 127) * 65536 < 2^31, where 255 is 127 + 128
// (packed_matrix.h, sums).
constexpr int64_t kMaxInt8Depth = 65536;

// Width of an int8 expert's slice (PackedExperts).
constexpr int64_t kInt8SliceHidden = 256;

// Below it 127 / max|v| could be infinite.
constexpr float kInt8Smallest = 0x1p-100f;

struct Int8Scale {
  float inverse = 0.0f;  // q = round(v * inverse)
  float scale = 0.0f;    // v ~ q * scale
};

// `largest` is the largest |v| of the row, or anything not finite if one value is not.
inline Int8Scale ScaleForInt8(float largest) {
  if (!std::isfinite(largest)) return {0.0f, std::numeric_limits<float>::quiet_NaN()};
  if (largest < kInt8Smallest) return {};
  return {127.0f / largest, largest / 127.0f};
}

// Larger of two absolute values, where anything not finite stays.
inline float LargerMagnitude(float largest, float value) {
  const auto a = std::bit_cast<uint32_t>(largest);
  const auto b = std::bit_cast<uint32_t>(value) & 0x7FFFFFFFu;
  return std::bit_cast<float>(std::max(a, b));
}

inline int8_t ToInt8(float value, const Int8Scale& scale) {
  if (scale.inverse == 0.0f) return 0;
  // Adding and taking away 1.5 * 2^23 rounds |x| < 2^22 to the nearest even integer, as nearbyint
  // does, which is a call on machines without SSE4.1.
  constexpr float kToInteger = 0x1.8p23f;
  return static_cast<int8_t>(value * scale.inverse + kToInteger - kToInteger);
}

inline float Int8Product(int32_t sum, float input_scale, float weight_scale) {
  return static_cast<float>(sum) * input_scale * weight_scale;
}

}  // namespace sluice::kernels
