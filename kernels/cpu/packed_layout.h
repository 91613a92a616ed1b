// Where an element of a CPU-packed matrix lies: oneDNN's BA16a64b (f32), BA16a64b2a (bf16) and
// BA16a64b4a (int8), a = k, b = n. A block of 64 outputs is one run of k_padded * 64 elements with
// k ascending; bf16 stores two neighbouring k of one output side by side, int8 four. int4: a block
// is a run of groups of 32 k, each the 64 scales of the group and then the values, where a byte
// holds what stands in int8 at its place and, in the high half, four k further on. Header without
// inline functions of other headers, see simd.h.
#pragma once

#include <cstdint>

namespace sluice::kernels::cpu {

constexpr int64_t kBlockColumns = 64;

constexpr int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

constexpr int64_t PackedOffsetF32(int64_t n, int64_t k, int64_t k_padded) {
  return (n / kBlockColumns) * k_padded * kBlockColumns + k * kBlockColumns + n % kBlockColumns;
}

constexpr int64_t PackedOffsetBf16(int64_t n, int64_t k, int64_t k_padded) {
  return (n / kBlockColumns) * k_padded * kBlockColumns + (k / 2) * 2 * kBlockColumns +
         (n % kBlockColumns) * 2 + k % 2;
}

constexpr int64_t PackedOffsetInt8(int64_t n, int64_t k, int64_t k_padded) {
  return (n / kBlockColumns) * k_padded * kBlockColumns + (k / 4) * 4 * kBlockColumns +
         (n % kBlockColumns) * 4 + k % 4;
}

// kernels/int4.h
constexpr int64_t kInt4GroupDepth = 32;
constexpr int64_t kInt4GroupBytes = kBlockColumns * (1 + kInt4GroupDepth / 2);

// The scale of the group of k.
constexpr int64_t PackedOffsetInt4Scale(int64_t n, int64_t k, int64_t k_padded) {
  const int64_t group = (n / kBlockColumns) * (k_padded / kInt4GroupDepth) + k / kInt4GroupDepth;
  return group * kInt4GroupBytes + n % kBlockColumns;
}

constexpr int64_t PackedOffsetInt4(int64_t n, int64_t k, int64_t k_padded) {
  const int64_t group = PackedOffsetInt4Scale(n, k, k_padded) - n % kBlockColumns;
  return group + kBlockColumns + (k % kInt4GroupDepth / 8) * 4 * kBlockColumns +
         (n % kBlockColumns) * 4 + k % 4;
}

// Of the bits in that byte.
constexpr int PackedShiftInt4(int64_t k) { return static_cast<int>(k / 4 % 2 * 4); }

}  // namespace sluice::kernels::cpu
