// The AMX bf16 GEMM tile, templated over the tile registers: real ones in gemm_amx.cc, emulated
// ones in gemm_tile_emulation.cc, so that the loop itself is tested on every machine. K ascends in
// steps of 32, one accumulator per element. No inline functions of other headers (see simd.h).
#pragma once

#include <cstdint>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {
namespace {

constexpr int kAmxRows = 16;       // rows of one tile
constexpr int64_t kAmxDepth = 32;  // k per step
constexpr int64_t kAmxRowBytes =
    256;  // one row of a packed block: 64 columns of bf16 pairs, or of c
constexpr int64_t kAmxColumnElements = 32;  // 16 columns of bf16 pairs

// Rows of the eight tile registers for one call.
struct TileShape {
  uint8_t rows[8];
};

// Up to 16 rows: accumulators 0-3 (16 columns each), a in 4, weights in 5, 6 and 7.
template <typename Tiles>
void RunNarrow(Tiles& tiles, const GemmTile& tile) {
  const auto rows = static_cast<uint8_t>(tile.rows);
  tiles.Configure({{rows, rows, rows, rows, rows, 16, 16, 16}});
  const auto* a = static_cast<const uint16_t*>(tile.a);
  const auto* b = static_cast<const uint16_t*>(tile.b);
  tiles.template Zero<0>();
  tiles.template Zero<1>();
  tiles.template Zero<2>();
  tiles.template Zero<3>();
  for (int64_t k = 0; k < tile.k; k += kAmxDepth) {
    tiles.template Load<4>(a + k, tile.a_stride * 2);
    tiles.template Load<5>(b, kAmxRowBytes);
    tiles.template Load<6>(b + kAmxColumnElements, kAmxRowBytes);
    tiles.template Load<7>(b + 2 * kAmxColumnElements, kAmxRowBytes);
    tiles.template Dot<0, 4, 5>();
    tiles.template Load<5>(b + 3 * kAmxColumnElements, kAmxRowBytes);
    tiles.template Dot<1, 4, 6>();
    tiles.template Dot<2, 4, 7>();
    tiles.template Dot<3, 4, 5>();
    b += kAmxDepth * kBlockColumns;
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
  const auto* upper = static_cast<const uint16_t*>(tile.a);
  const uint16_t* lower = upper + kAmxRows * tile.a_stride;
  for (int64_t half = 0; half < 2; ++half) {
    const auto* b = static_cast<const uint16_t*>(tile.b) + half * 2 * kAmxColumnElements;
    tiles.template Zero<0>();
    tiles.template Zero<1>();
    tiles.template Zero<2>();
    tiles.template Zero<3>();
    for (int64_t k = 0; k < tile.k; k += kAmxDepth) {
      tiles.template Load<6>(b, kAmxRowBytes);
      tiles.template Load<7>(b + kAmxColumnElements, kAmxRowBytes);
      tiles.template Load<4>(upper + k, tile.a_stride * 2);
      tiles.template Load<5>(lower + k, tile.a_stride * 2);
      tiles.template Dot<0, 4, 6>();
      tiles.template Dot<1, 4, 7>();
      tiles.template Dot<2, 5, 6>();
      tiles.template Dot<3, 5, 7>();
      b += kAmxDepth * kBlockColumns;
    }
    float* c = tile.c + half * 32;
    tiles.template Store<0>(c, kAmxRowBytes);
    tiles.template Store<1>(c + 16, kAmxRowBytes);
    tiles.template Store<2>(c + kAmxRows * kBlockColumns, kAmxRowBytes);
    tiles.template Store<3>(c + kAmxRows * kBlockColumns + 16, kAmxRowBytes);
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
}

}  // namespace
}  // namespace sluice::kernels::cpu
