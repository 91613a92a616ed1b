// The tile units: 16 x 16 results of 64-byte rows.
#include <immintrin.h>

#include "kernels/cpu/peak_loops.h"

namespace sluice::kernels::cpu {
namespace {

struct alignas(64) TileConfiguration {  // Intel SDM vol. 2, LDTILECFG
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void BeginTiles() {
  const TileConfiguration configuration;
  _tile_loadconfig(&configuration);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

float EndTiles() {
  alignas(64) float first[256];
  _tile_stored(0, first, 64);
  _tile_release();
  return first[0];
}

float RunBf16(int64_t rounds) {
  BeginTiles();
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return EndTiles();
}

float RunInt8(int64_t rounds) {
  BeginTiles();
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  return EndTiles();
}

}  // namespace

const PeakLoop kPeakBf16Amx{"bf16 tiles, amx", &RunBf16, 4 * 2.0 * 16 * 16 * 32};
const PeakLoop kPeakInt8Amx{"int8 tiles, amx", &RunInt8, 4 * 2.0 * 16 * 16 * 64};

}  // namespace sluice::kernels::cpu
