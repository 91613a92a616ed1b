// The mxfp4 number format (OCP Microscaling Formats 1.0): blocks of 32 four-bit numbers with one
// power of two each. Not for packing: what is decoded here is packed like any f32 weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice {

inline constexpr int64_t kMxfp4BlockElements = 32;
inline constexpr int64_t kMxfp4BlockBytes = 16;

// `blocks` has 16 bytes for each byte of `scales`, `out` 32 elements. Element 2 i of a block is the
// low half of its byte i, element 2 i + 1 the high half.
void DecodeMxfp4(std::span<const std::byte> blocks,
                 std::span<const std::byte> scales,
                 std::span<float> out);

}  // namespace sluice
