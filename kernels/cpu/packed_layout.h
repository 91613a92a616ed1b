// Where an element of a CPU-packed matrix lies: oneDNN's BA16a64b (f32), BA16a64b2a (bf16) and
// BA16a64b4a (int8), a = k, b = n. A block of 64 outputs is one run of k_padded * 64 elements with
// k ascending; bf16 stores two neighbouring k of one output side by side, int8 four. Header without
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

}  // namespace sluice::kernels::cpu
