// int4 weights, two-level: 4-bit values with an integer scale per group of 32 inputs and one f32
// scale per output ("progressive group quantization", QServe, Lin et al. 2024, sec. 4.1; there
// unsigned with zero points, here symmetric).
//
//   w[n][k] ~ scale[n] * g[n][k / 32] * q[n][k],  q in [-8, 7], g in [-15, 15]
//
// g * q is an int8, so the product is that of kernels/int8.h with g * q as the weights: the same
// inputs, the same exact int32 sum with the same bound, the same two products in f32. Every
// implementation gives the same bits, whether it makes the int8 first or sums q by group and then
// multiplies by g. A scale has a sign so that the value of the largest magnitude can be -8 steps.
#pragma once

#include <cstdint>
#include <span>

namespace sluice::kernels {

constexpr int64_t kInt4Group = 32;
constexpr int32_t kInt4LargestScale = 15;

// Rounds one output's weights and returns its scale. With u = row * (120 / max|row|) a group takes
// that g with the smallest sum of (u - g q)^2, q = u * (1 / g) rounded to nearest even and held in
// [-8, 7], of the eight that are next to max|u| / 8 in size. Rows below kInt8Smallest are zero, of
// scale 0; with a NaN or an infinity they are zero, of scale NaN.
//   q:      [row.size()]
//   groups: [row.size() / 32, rounded up]
float RoundToInt4(std::span<const float> row, int8_t* q, int8_t* groups);

}  // namespace sluice::kernels
