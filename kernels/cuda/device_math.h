// Scalar formulae and warp reductions of the device code. Compiled without contraction: an fma is
// where fmaf stands, so that every kernel rounds alike.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/op_kinds.h"

namespace sluice::kernels::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// The tree is the same in every lane, and so is the result: each step adds a pair in either order.
__device__ inline float WarpSum(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  return value;
}
__device__ inline float WarpMax(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, mask));
  return value;
}

__device__ inline float Infinity() { return __uint_as_float(0x7F800000u); }
__device__ inline float QuietNan() { return __uint_as_float(0x7FC00000u); }
__device__ inline bool IsNan(float x) { return (__float_as_uint(x) & 0x7FFFFFFFu) > 0x7F800000u; }
__device__ inline bool IsFinite(float x) {
  return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u;
}

// As ToBF16 of kernels/dtype.h.
__device__ inline uint32_t Bf16Bits(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
}
__device__ inline float Bf16Value(uint32_t bits) { return __uint_as_float(bits << 16); }

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float Activated(Activation activation, float x) {
  switch (activation) {
    case Activation::kNone:
    case Activation::kClampedSwiglu:  // needs its other half
      return x;
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kRelu:
      return x > 0.0f ? x : 0.0f;
    case Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678118654752440f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x)));
    case Activation::kTanh:
      return tanhf(x);
  }
  return x;
}

__device__ inline float ClampedSwiglu(const SwigluClamp& clamp, float gate, float up) {
  const float g = gate > clamp.limit ? clamp.limit : gate;
  const float u = up > clamp.limit ? clamp.limit : (up < -clamp.limit ? -clamp.limit : up);
  return g * Sigmoid(clamp.alpha * g) * (u + 1.0f);
}

// As ScaleForInt8 and ToInt8 of kernels/int8.h, to the bit.
struct Int8Rounding {
  float inverse;
  float scale;
};
__device__ inline Int8Rounding RoundingFor(float largest) {
  if (!IsFinite(largest)) return {0.0f, QuietNan()};
  if (largest < 0x1p-100f) return {0.0f, 0.0f};
  return {127.0f / largest, largest / 127.0f};
}
__device__ inline int32_t RoundedToInt8(float value, const Int8Rounding& rounding) {
  if (rounding.inverse == 0.0f) return 0;
  const float shifted = value * rounding.inverse + 0x1.8p23f;
  return static_cast<int32_t>(shifted - 0x1.8p23f);
}

}  // namespace sluice::kernels::cuda
