// The blocks in which ggml stores weights: a few numbers that share their scales. What a block
// means is the reference decoder of ggml-org/ggml src/ggml-quants.c (dequantize_row_*) and
// ggml-common.h (the structs); results are the same to the bit. Decoding only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/dtype.h"

namespace sluice {

struct GgmlBlockType {
  uint32_t id = 0;  // enum ggml_type
  std::string_view name;
  int64_t elements = 1;
  int64_t bytes = 0;
  // What the values are handed on as: their own type where it is one of ours, else f32.
  kernels::DType dtype = kernels::DType::kF32;
  // `count` blocks to count * elements floats, which lie apart; null for plain numbers.
  void (*decode)(const std::byte* blocks, int64_t count, float* out) = nullptr;
};

// Null when the type is not supported.
const GgmlBlockType* FindGgmlBlockType(uint32_t id);
// "F32, F16, ..." for messages.
std::string SupportedGgmlTypes();

}  // namespace sluice
