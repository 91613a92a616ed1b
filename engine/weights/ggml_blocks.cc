#include "engine/weights/ggml_blocks.h"

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

using kernels::DType;

constexpr int64_t kSmallBlock = 32;
constexpr int64_t kSuperBlock = 256;

float Half(const std::byte* at) {
  uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof(bits));
  return kernels::HalfToFloat(bits);
}

int Byte(const std::byte* at, int64_t i) { return std::to_integer<int>(at[i]); }
int Low(int byte) { return byte & 15; }
int High(int byte) { return byte >> 4; }

// f16 d, 32 x int8.
void DecodeQ8_0(const std::byte* block, float* out) {
  const float d = Half(block);
  for (int64_t i = 0; i < kSmallBlock; ++i) {
    out[i] = d * static_cast<float>(static_cast<int8_t>(Byte(block + 2, i)));
  }
}

// f16 d, 16 bytes: the low halves are numbers 0..15, the high ones 16..31.
void DecodeQ4_0(const std::byte* block, float* out) {
  const float d = Half(block);
  for (int64_t i = 0; i < kSmallBlock / 2; ++i) {
    const int pair = Byte(block + 2, i);
    out[i] = static_cast<float>(Low(pair) - 8) * d;
    out[i + 16] = static_cast<float>(High(pair) - 8) * d;
  }
}

// f16 d, f16 minimum, 16 bytes.
void DecodeQ4_1(const std::byte* block, float* out) {
  const float d = Half(block);
  const float minimum = Half(block + 2);
  for (int64_t i = 0; i < kSmallBlock / 2; ++i) {
    const int pair = Byte(block + 4, i);
    out[i] = static_cast<float>(Low(pair)) * d + minimum;
    out[i + 16] = static_cast<float>(High(pair)) * d + minimum;
  }
}

// The fifth bit of number i of 32.
int FifthBit(const std::byte* bits, int64_t i) { return (Byte(bits, i / 8) >> (i % 8) & 1) << 4; }

// f16 d, 4 bytes of fifth bits, 16 bytes.
void DecodeQ5_0(const std::byte* block, float* out) {
  const float d = Half(block);
  for (int64_t i = 0; i < kSmallBlock / 2; ++i) {
    const int pair = Byte(block + 6, i);
    out[i] = static_cast<float>((Low(pair) | FifthBit(block + 2, i)) - 16) * d;
    out[i + 16] = static_cast<float>((High(pair) | FifthBit(block + 2, i + 16)) - 16) * d;
  }
}

// f16 d, f16 minimum, 4 bytes of fifth bits, 16 bytes.
void DecodeQ5_1(const std::byte* block, float* out) {
  const float d = Half(block);
  const float minimum = Half(block + 2);
  for (int64_t i = 0; i < kSmallBlock / 2; ++i) {
    const int pair = Byte(block + 8, i);
    out[i] = static_cast<float>(Low(pair) | FifthBit(block + 4, i)) * d + minimum;
    out[i + 16] = static_cast<float>(High(pair) | FifthBit(block + 4, i + 16)) * d + minimum;
  }
}

// Eight pairs of six-bit numbers in 12 bytes: the scale and the minimum of each run of 32.
struct ScaleAndMinimum {
  int scale = 0;
  int minimum = 0;
};
ScaleAndMinimum SixBits(const std::byte* packed, int64_t run) {
  if (run < 4) return {Byte(packed, run) & 63, Byte(packed, run + 4) & 63};
  return {Low(Byte(packed, run + 4)) | Byte(packed, run - 4) >> 6 << 4,
          High(Byte(packed, run + 4)) | Byte(packed, run) >> 6 << 4};
}

// f16 d, f16 dmin, 12 bytes of scales, then (Q5_K) 32 bytes of fifth bits, then 128 bytes of
// halves: each 32 bytes are two runs of 32 numbers. A number is d scale q - dmin minimum.
void DecodeFourOrFive(const std::byte* block, const std::byte* fifth, float* out) {
  const float d = Half(block);
  const float d_minimum = Half(block + 2);
  const std::byte* halves = block + 16 + (fifth == nullptr ? 0 : 32);
  for (int64_t run = 0; run < 8; ++run) {
    const ScaleAndMinimum both = SixBits(block + 4, run);
    const float scale = d * static_cast<float>(both.scale);
    const float minimum = d_minimum * static_cast<float>(both.minimum);
    for (int64_t i = 0; i < 32; ++i) {
      const int pair = Byte(halves, run / 2 * 32 + i);
      int q = run % 2 == 0 ? Low(pair) : High(pair);
      if (fifth != nullptr) q += (Byte(fifth, i) >> run & 1) << 4;
      out[run * 32 + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}
void DecodeQ4_K(const std::byte* block, float* out) { DecodeFourOrFive(block, nullptr, out); }
void DecodeQ5_K(const std::byte* block, float* out) { DecodeFourOrFive(block, block + 16, out); }

// 128 bytes of low halves, 64 bytes of two high bits each, 16 x int8 scales (one for 16 numbers),
// f16 d. Each half of the block (128 numbers) is four runs of 32.
void DecodeQ6_K(const std::byte* block, float* out) {
  const float d = Half(block + 208);
  for (int64_t n = 0; n < kSuperBlock; ++n) {
    const int64_t half = n / 128;
    const int64_t run = n % 128 / 32;
    const int64_t i = n % 32;
    const int pair = Byte(block, half * 64 + run % 2 * 32 + i);
    const int low = run < 2 ? Low(pair) : High(pair);
    const int high = Byte(block + 128, half * 32 + i) >> (2 * run) & 3;
    const auto scale = static_cast<int8_t>(Byte(block + 192, n / 16));
    out[n] = d * static_cast<float>(scale) * static_cast<float>((low | high << 4) - 32);
  }
}

template <auto decode_block, int64_t elements, int64_t bytes>
void DecodeBlocks(const std::byte* blocks, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) decode_block(blocks + i * bytes, out + i * elements);
}

template <auto decode_block, int64_t elements, int64_t bytes>
constexpr GgmlBlockType Blocks(uint32_t id, std::string_view name) {
  return {id, name, elements, bytes, DType::kF32, DecodeBlocks<decode_block, elements, bytes>};
}

constexpr std::array<GgmlBlockType, 11> kTypes = {{
    {0, "F32", 1, 4, DType::kF32, nullptr},
    {1, "F16", 1, 2, DType::kF16, nullptr},
    {30, "BF16", 1, 2, DType::kBF16, nullptr},
    Blocks<DecodeQ8_0, kSmallBlock, 34>(8, "Q8_0"),
    Blocks<DecodeQ4_0, kSmallBlock, 18>(2, "Q4_0"),
    Blocks<DecodeQ4_1, kSmallBlock, 20>(3, "Q4_1"),
    Blocks<DecodeQ5_0, kSmallBlock, 22>(6, "Q5_0"),
    Blocks<DecodeQ5_1, kSmallBlock, 24>(7, "Q5_1"),
    Blocks<DecodeQ4_K, kSuperBlock, 144>(12, "Q4_K"),
    Blocks<DecodeQ5_K, kSuperBlock, 176>(13, "Q5_K"),
    Blocks<DecodeQ6_K, kSuperBlock, 210>(14, "Q6_K"),
}};

}  // namespace

const GgmlBlockType* FindGgmlBlockType(uint32_t id) {
  for (const GgmlBlockType& type : kTypes) {
    if (type.id == id) return &type;
  }
  return nullptr;
}

std::string SupportedGgmlTypes() {
  std::string names;
  for (const GgmlBlockType& type : kTypes) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(type.name));
  }
  return names;
}

}  // namespace sluice
