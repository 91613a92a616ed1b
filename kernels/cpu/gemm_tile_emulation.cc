// The AMX loop on emulated tile registers: slow, for tests on machines without AMX.
#include <cstring>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_amx_tile.h"

namespace sluice::kernels::cpu {
namespace {

float Widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float out = 0.0f;
  std::memcpy(&out, &wide, sizeof(out));
  return out;
}

class EmulatedTiles {
 public:
  void Configure(const TileShape& shape) {
    shape_ = shape;
    std::memset(tiles_, 0, sizeof(tiles_));
  }
  template <int kTile>
  void Zero() {
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
  }
  template <int kTile>
  void Load(const uint16_t* from, int64_t stride_bytes) {
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
    for (int r = 0; r < shape_.rows[kTile]; ++r) {
      std::memcpy(tiles_[kTile][r], from + r * (stride_bytes / 2), kRowBytes);
    }
  }
  // TDPBF16PS (Intel SDM vol. 2), without its treatment of denormals.
  template <int kSum, int kA, int kB>
  void Dot() {
    for (int m = 0; m < shape_.rows[kSum]; ++m) {
      float sum[16];
      std::memcpy(sum, tiles_[kSum][m], kRowBytes);
      for (int pair = 0; pair < 16; ++pair) {
        for (int n = 0; n < 16; ++n) {
          for (int i = 0; i < 2; ++i) {
            sum[n] += Widen(Half<kA>(m, 2 * pair + i)) * Widen(Half<kB>(pair, 2 * n + i));
          }
        }
      }
      std::memcpy(tiles_[kSum][m], sum, kRowBytes);
    }
  }
  template <int kTile>
  void Store(float* to, int64_t stride_bytes) {
    for (int r = 0; r < shape_.rows[kTile]; ++r) {
      std::memcpy(to + r * (stride_bytes / 4), tiles_[kTile][r], kRowBytes);
    }
  }

 private:
  static constexpr int kRowBytes = 64;

  template <int kTile>
  uint16_t Half(int row, int column) const {
    uint16_t out = 0;
    std::memcpy(&out, &tiles_[kTile][row][2 * column], sizeof(out));
    return out;
  }

  TileShape shape_ = {};
  uint8_t tiles_[8][16][kRowBytes] = {};
};

}  // namespace

const GemmFamily kGemmBf16TileEmulation{"tile-emulation", GemmInputType::kBf16, 32,
                                        &RunAmxTile<EmulatedTiles>};

}  // namespace sluice::kernels::cpu
