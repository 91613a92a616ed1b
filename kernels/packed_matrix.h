// A weight in the one layout its backend likes. Made once by Backend::Pack*, immutable afterwards,
// only read by the backend that packed it. Not for activations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/dtype.h"
#include "kernels/int4.h"

namespace sluice::kernels {

// kInt8: weights and the inputs of a product are rounded to int8, see kernels/int8.h. kInt4:
// weights to 4 bits in groups (kernels/int4.h), inputs as for int8.
enum class WeightFormat : uint8_t { kF32, kBF16, kInt8, kInt4 };
inline constexpr size_t kNumWeightFormats = 4;

constexpr const char* Name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "f32";
    case WeightFormat::kBF16:
      return "bf16";
    case WeightFormat::kInt8:
      return "int8";
    case WeightFormat::kInt4:
      return "int4";
  }
  return "?";
}

// Whether products are sums of integers, with scales.
constexpr bool IsInteger(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}

// How far ahead of its use a weight may be asked for: whole cache lines.
inline constexpr int64_t kPrefetchUnit = 64;
inline constexpr int64_t kMaxPrefetchBytes = 64 << 10;
constexpr bool IsPrefetchDistance(int64_t bytes) {
  return bytes >= 0 && bytes <= kMaxPrefetchBytes && bytes % kPrefetchUnit == 0;
}

// Of `count` values; for int4 whole groups, with their scales.
constexpr int64_t ValueBytes(WeightFormat format, int64_t count) {
  if (format == WeightFormat::kInt4) return count / kInt4Group * (kInt4Group / 2 + 1);
  if (format == WeightFormat::kInt8) return count;
  return count * (format == WeightFormat::kF32 ? 4 : 2);
}

// y = x * W^T with W [n, k]: `k` inputs, `n` outputs. Both are padded to multiples of 64 in
// storage, the padding is zero. CPU layout: oneDNN's BA16a64b4a (int8), BA16a64b2a (bf16) or
// BA16a64b (f32), with a = k and b = n: blocks of 64 outputs; inside a block k ascends in groups of
// 16 (f32), 16x2 (bf16) or 16x4 (int8); every row of 64 outputs (x 2 neighbouring k for bf16, x 4
// for int8) is contiguous. int4: cpu/packed_layout.h.
struct PackedMatrix {
  WeightFormat format = WeightFormat::kF32;
  int64_t n = 0;
  int64_t k = 0;
  int64_t n_padded = 0;
  int64_t k_padded = 0;
  const void* data = nullptr;  // inside `storage`, or inside a PackedExperts
  Buffer storage;
  std::string label;  // for profiles: the names of its tensors without their place in the model

  int64_t value_bytes() const { return ValueBytes(format, n_padded * k_padded); }
  // int8 and int4 have a scale and a sum for every output, behind the values.
  int64_t bytes() const { return value_bytes() + (IsInteger(format) ? n_padded * 8 : 0); }
  // int8: [n_padded] the value of output n's weight q is q * scales()[n]. Here and below int4 is
  // the int8 that it stands for.
  float* scales() const { return static_cast<float*>(Behind(0)); }
  // int8: [n_padded] 128 times the sum of output n's weights q: what a product must give back when
  // its inputs are stored as q + 128, as VPDPBUSD wants them.
  int32_t* sums() const { return static_cast<int32_t*>(Behind(n_padded * 4)); }

 private:
  void* Behind(int64_t offset) const {
    return static_cast<char*>(const_cast<void*>(data)) + value_bytes() + offset;
  }
};

// All experts of one MoE FFN. Expert e is stored as consecutive slices of its hidden dimension,
// each slice [W1 | W3 | W2] with every part its own packed block, so that one task is one linear
// read. `slice_hidden` is a property of the model (chosen at load, never by the batch): it fixes
// the order of arithmetic: y = sum over slices, ascending, of act(x W1_s) * (x W3_s) W2_s.
// int8, int4: a slice is kInt8SliceHidden wide on every backend, because each slice is rounded by
// itself: the hidden values of a row with a scale per slice, W2 with a scale per (output, slice).
struct PackedExperts {
  struct Slice {
    PackedMatrix w1;  // [slice_hidden, dim]: gate (or the only up-projection when not gated)
    PackedMatrix w3;  // [slice_hidden, dim]: up; n == 0 when not gated
    PackedMatrix w2;  // [dim, slice_hidden]: down
  };
  WeightFormat format = WeightFormat::kF32;
  int32_t num_experts = 0;
  int32_t slices_per_expert = 0;
  int64_t dim = 0;
  int64_t hidden = 0;
  int64_t slice_hidden = 0;
  bool gated = true;
  std::vector<Slice> slices;  // [num_experts * slices_per_expert]
  Buffer storage;
  std::string label;  // as of a PackedMatrix

  const Slice& At(int32_t expert, int32_t slice) const {
    return slices[static_cast<size_t>(int64_t{expert} * slices_per_expert + slice)];
  }
  int64_t bytes_per_expert() const {
    return num_experts == 0 ? 0 : static_cast<int64_t>(storage.bytes()) / num_experts;
  }
};

}  // namespace sluice::kernels
