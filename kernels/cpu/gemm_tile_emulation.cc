// The AMX loops on emulated tile registers: slow, for tests on machines without AMX. Whole models
// run on them; the instructions themselves are tested by tests/support/amx_instructions.h.
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

template <bool kInt8>
class EmulatedTiles {
 public:
  static constexpr int64_t kElementBytes = kInt8 ? 1 : 2;
  void Configure(const TileShape& shape) {
    shape_ = shape;
    std::memset(tiles_, 0, sizeof(tiles_));
  }
  template <int kTile>
  void Zero() {
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
  }
  template <int kTile>
  void Load(const char* from, int64_t stride_bytes) {
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
    for (int r = 0; r < shape_.rows[kTile]; ++r) {
      std::memcpy(tiles_[kTile][r], from + r * stride_bytes, kRowBytes);
    }
  }
  template <int kSum, int kA, int kB>
  void Dot() {
    if constexpr (kInt8) {
      DotInt8<kSum, kA, kB>();
    } else {
      DotBf16<kSum, kA, kB>();
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

  // As TDPBF16PS (Intel SDM vol. 2), which flushes denormals and sums the even and the odd products
  // apart: its last bits are others.
  template <int kSum, int kA, int kB>
  void DotBf16() {
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

  // TDPBSSD.
  template <int kSum, int kA, int kB>
  void DotInt8() {
    for (int m = 0; m < shape_.rows[kSum]; ++m) {
      int32_t sum[16];
      std::memcpy(sum, tiles_[kSum][m], kRowBytes);
      for (int k = 0; k < kRowBytes; ++k) {
        const int32_t a = static_cast<int8_t>(tiles_[kA][m][k]);
        for (int n = 0; n < 16; ++n)
          sum[n] += a * static_cast<int8_t>(tiles_[kB][k / 4][4 * n + k % 4]);
      }
      std::memcpy(tiles_[kSum][m], sum, kRowBytes);
    }
  }

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

const GemmFamily kGemmBf16TileEmulation{"tile-emulation",
                                        GemmInputType::kBf16,
                                        32,
                                        &RunAmxTile<EmulatedTiles<false>>,
                                        nullptr,
                                        nullptr,
                                        false};
const GemmFamily kGemmInt8TileEmulation{"tile-emulation",
                                        GemmInputType::kInt8,
                                        32,
                                        &RunAmxTile<EmulatedTiles<true>>,
                                        nullptr,
                                        nullptr,
                                        false};

}  // namespace sluice::kernels::cpu
