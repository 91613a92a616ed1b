// The AMX GEMM tile, templated over the tile registers: real ones in gemm_amx.cc, emulated ones in
// gemm_tile_emulation.cc, so that the loop itself is tested on every machine. K ascends in steps of
// 64 bytes (32 bf16, 64 int8), one accumulator per element. bf16 and int8 differ only in the
// product of two tiles and in what becomes of the sums: the packed blocks have the same shape in
// bytes. No inline functions of other headers (see simd.h).
#pragma once

#include <cstdint>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {
namespace {

constexpr int kAmxRows = 16;           // rows of one tile
constexpr int64_t kAmxStep = 64;       // bytes of k per step
constexpr int64_t kAmxRowBytes = 256;  // one row of a packed block, 64 columns of 4 bytes; or of c
constexpr int64_t kAmxColumnBytes = 64;               // 16 columns of 4 bytes
constexpr int64_t kAmxStepBytes = 16 * kAmxRowBytes;  // a packed block's share of a step

// Rows of the eight tile registers for one call.
struct TileShape {
  uint8_t rows[8];
};

// Up to 16 rows: accumulators 0-3 (16 columns each), a in 4, weights in 5, 6 and 7.
template <typename Tiles>
void RunNarrow(Tiles& tiles, const GemmTile& tile) {
  const auto rows = static_cast<uint8_t>(tile.rows);
  tiles.Configure({{rows, rows, rows, rows, rows, 16, 16, 16}});
  const auto* a = static_cast<const char*>(tile.a);
  const auto* b = static_cast<const char*>(tile.b);
  const int64_t a_stride = tile.a_stride * Tiles::kElementBytes;
  tiles.template Zero<0>();
  tiles.template Zero<1>();
  tiles.template Zero<2>();
  tiles.template Zero<3>();
  for (int64_t k = 0; k < tile.k * Tiles::kElementBytes; k += kAmxStep) {
    tiles.template Load<4>(a + k, a_stride);
    tiles.template Load<5>(b, kAmxRowBytes);
    tiles.template Load<6>(b + kAmxColumnBytes, kAmxRowBytes);
    tiles.template Load<7>(b + 2 * kAmxColumnBytes, kAmxRowBytes);
    tiles.template Dot<0, 4, 5>();
    tiles.template Load<5>(b + 3 * kAmxColumnBytes, kAmxRowBytes);
    tiles.template Dot<1, 4, 6>();
    tiles.template Dot<2, 4, 7>();
    tiles.template Dot<3, 4, 5>();
    b += kAmxStepBytes;
  }
  tiles.template Store<0>(tile.c, kAmxRowBytes);
  tiles.template Store<1>(tile.c + 16, kAmxRowBytes);
  tiles.template Store<2>(tile.c + 32, kAmxRowBytes);
  tiles.template Store<3>(tile.c + 48, kAmxRowBytes);
}

// 17 to 32 rows, two halves of 32 columns: accumulators 0-3 (2 x 2), a in 4 and 5, weights in 6
// and 7.
template <typename Tiles>
void RunWide(Tiles& tiles, const GemmTile& tile) {
  const auto rest = static_cast<uint8_t>(tile.rows - kAmxRows);
  tiles.Configure({{16, 16, rest, rest, 16, rest, 16, 16}});
  const int64_t a_stride = tile.a_stride * Tiles::kElementBytes;
  const auto* upper = static_cast<const char*>(tile.a);
  const char* lower = upper + kAmxRows * a_stride;
  for (int64_t half = 0; half < 2; ++half) {
    const auto* b = static_cast<const char*>(tile.b) + half * 2 * kAmxColumnBytes;
    tiles.template Zero<0>();
    tiles.template Zero<1>();
    tiles.template Zero<2>();
    tiles.template Zero<3>();
    for (int64_t k = 0; k < tile.k * Tiles::kElementBytes; k += kAmxStep) {
      tiles.template Load<6>(b, kAmxRowBytes);
      tiles.template Load<7>(b + kAmxColumnBytes, kAmxRowBytes);
      tiles.template Load<4>(upper + k, a_stride);
      tiles.template Load<5>(lower + k, a_stride);
      tiles.template Dot<0, 4, 6>();
      tiles.template Dot<1, 4, 7>();
      tiles.template Dot<2, 5, 6>();
      tiles.template Dot<3, 5, 7>();
      b += kAmxStepBytes;
    }
    float* c = tile.c + half * 32;
    tiles.template Store<0>(c, kAmxRowBytes);
    tiles.template Store<1>(c + 16, kAmxRowBytes);
    tiles.template Store<2>(c + kAmxRows * kBlockColumns, kAmxRowBytes);
    tiles.template Store<3>(c + kAmxRows * kBlockColumns + 16, kAmxRowBytes);
  }
}

// The int32 sums in c become f32, see GemmTile.
inline void FinishInt8(const GemmTile& tile) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    for (int64_t column = 0; column < kBlockColumns; ++column) {
      float* c = tile.c + row * kBlockColumns + column;
      int32_t sum = 0;
      __builtin_memcpy(&sum, c, sizeof(sum));
      *c = static_cast<float>(sum) * tile.a_scale[row] * tile.b_scale[column];
    }
  }
}

template <typename Tiles>
void RunAmxTile(const GemmTile& tile) {
  Tiles tiles;
  if (tile.rows <= kAmxRows) {
    RunNarrow(tiles, tile);
  } else {
    RunWide(tiles, tile);
  }
  if constexpr (Tiles::kElementBytes == 1) FinishInt8(tile);
}

}  // namespace
}  // namespace sluice::kernels::cpu
