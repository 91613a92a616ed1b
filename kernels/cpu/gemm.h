// The GEMM families of the CPU backend. A family computes tiles of up to `max_rows` rows by one
// block of 64 outputs; each output element is one accumulator over ascending k, so its bits do not
// depend on the rows beside it. One family serves every row count. Plain structs only: included by
// files with ISA flags.
#pragma once

#include <cstdint>

namespace sluice::kernels::cpu {

// The largest tile of any family.
constexpr int kMaxTileRows = 32;

// How a family wants the rows of its left operand.
enum class GemmInputType : uint8_t {
  kF32,         // as they are
  kBf16,        // rounded to bf16, padded with zeros to 64
  kRounded,     // f32 values rounded to bf16, padded with zeros to 64
  kInt8,        // rounded to int8 with a scale of the row, padded to 64
  kInt8Offset,  // the same plus 128, as bytes without sign
};

// Bytes of one element.
constexpr int64_t InputBytes(GemmInputType input) {
  switch (input) {
    case GemmInputType::kF32:
    case GemmInputType::kRounded:
      return 4;
    case GemmInputType::kBf16:
      return 2;
    case GemmInputType::kInt8:
    case GemmInputType::kInt8Offset:
      break;
  }
  return 1;
}

struct GemmTile {
  const void* a = nullptr;  // [rows, a_stride], see GemmInputType
  int64_t a_stride = 0;     // elements
  const void* b = nullptr;  // one packed block of 64 outputs
  int64_t k = 0;            // f32: inputs; others: inputs, padded to a multiple of 64
  int32_t rows = 0;         // 1..max_rows of the family
  float* c = nullptr;       // out: [rows, 64], 64-byte aligned
  // int8, int4: c = (f32(exact sum) * a_scale) * b_scale, the same bits from every family.
  const float* a_scale = nullptr;  // [rows]
  const float* b_scale = nullptr;  // [64]
  const int32_t* b_sum = nullptr;  // [64] 128 times the sum of the weights of an output
  // Hints that change no bits, for families that prefetch. How far ahead of its use a weight is
  // asked for, in whole steps of the kernel; 0: never.
  int64_t prefetch_bytes = 0;
  // The block that this thread reads after `b`, whose start is asked for at the end of `b`. Null:
  // what lies behind `b`.
  const void* next = nullptr;
};

using GemmTileFunction = void (*)(const GemmTile& tile);

struct GemmFamily {
  const char* name = "";
  GemmInputType input = GemmInputType::kF32;
  int32_t max_rows = 0;
  GemmTileFunction tile = nullptr;
  // Called by each thread before its first and after its last tile of a phase; may be null.
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
  bool prefetches = true;  // takes the hints of a GemmTile
};

extern const GemmFamily kGemmF32Scalar;
extern const GemmFamily kGemmBf16Scalar;
extern const GemmFamily kGemmF32Avx2;
extern const GemmFamily kGemmBf16Avx2;
extern const GemmFamily kGemmF32Avx512;
extern const GemmFamily kGemmBf16Avx512;        // bf16 widened to f32, FMA
extern const GemmFamily kGemmBf16Avx512Native;  // VDPBF16PS
extern const GemmFamily kGemmBf16Amx;
extern const GemmFamily kGemmInt8Scalar;
extern const GemmFamily kGemmInt8Avx2;
extern const GemmFamily kGemmInt8Avx512;      // s16 products, as AVX2
extern const GemmFamily kGemmInt8Avx512Vnni;  // VPDPBUSD
extern const GemmFamily kGemmInt8Amx;
// Of few rows: with more it is faster to make the weights int8 first, which changes no bits.
extern const GemmFamily kGemmInt4Avx512Vnni;
extern const GemmFamily kGemmInt8TileEmulation;
extern const GemmFamily kGemmBf16TileEmulation;  // the AMX loop on emulated tiles, for tests

}  // namespace sluice::kernels::cpu
