// The AMX families on real tile registers. Used only where CPUID and the system permit it.
#include <immintrin.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_amx_tile.h"

namespace sluice::kernels::cpu {
namespace {

// The intrinsics are macros that want literal register numbers.
#define SLUICE_EACH_TILE(intrinsic, ...)                             \
  if constexpr (kTile == 0) intrinsic(0 __VA_OPT__(, ) __VA_ARGS__); \
  if constexpr (kTile == 1) intrinsic(1 __VA_OPT__(, ) __VA_ARGS__); \
  if constexpr (kTile == 2) intrinsic(2 __VA_OPT__(, ) __VA_ARGS__); \
  if constexpr (kTile == 3) intrinsic(3 __VA_OPT__(, ) __VA_ARGS__); \
  if constexpr (kTile == 4) intrinsic(4 __VA_OPT__(, ) __VA_ARGS__); \
  if constexpr (kTile == 5) intrinsic(5 __VA_OPT__(, ) __VA_ARGS__); \
  if constexpr (kTile == 6) intrinsic(6 __VA_OPT__(, ) __VA_ARGS__); \
  if constexpr (kTile == 7) intrinsic(7 __VA_OPT__(, ) __VA_ARGS__);

#define SLUICE_TILE_DOT(sum, a, b)                 \
  if constexpr (kCode == 100 * sum + 10 * a + b) { \
    if constexpr (kInt8) {                         \
      _tile_dpbssd(sum, a, b);                     \
    } else {                                       \
      _tile_dpbf16ps(sum, a, b);                   \
    }                                              \
  }

// Intel SDM vol. 2, LDTILECFG: palette 1, 64 bytes per row everywhere.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfiguration) == 64);

template <bool kInt8>
struct HardwareTiles {
  static constexpr int64_t kElementBytes = kInt8 ? 1 : 2;
  void Configure(const TileShape& shape) {
    TileConfiguration configuration;
    for (int t = 0; t < 8; ++t) configuration.rows[t] = shape.rows[t];
    _tile_loadconfig(&configuration);
  }
  template <int kTile>
  void Zero() {
    SLUICE_EACH_TILE(_tile_zero)
  }
  template <int kTile>
  void Load(const char* from, int64_t stride_bytes) {
    SLUICE_EACH_TILE(_tile_loadd, from, stride_bytes)
  }
  template <int kTile>
  void Store(float* to, int64_t stride_bytes) {
    SLUICE_EACH_TILE(_tile_stored, to, stride_bytes)
  }
  // The combinations that gemm_amx_tile.h uses.
  template <int kSum, int kA, int kB>
  void Dot() {
    constexpr int kCode = 100 * kSum + 10 * kA + kB;
    static_assert(kCode == 45 || kCode == 46 || kCode == 146 || kCode == 147 || kCode == 247 ||
                  kCode == 256 || kCode == 345 || kCode == 357);
    SLUICE_TILE_DOT(0, 4, 5)
    SLUICE_TILE_DOT(0, 4, 6)
    SLUICE_TILE_DOT(1, 4, 6)
    SLUICE_TILE_DOT(1, 4, 7)
    SLUICE_TILE_DOT(2, 4, 7)
    SLUICE_TILE_DOT(2, 5, 6)
    SLUICE_TILE_DOT(3, 4, 5)
    SLUICE_TILE_DOT(3, 5, 7)
  }
};

void ReleaseTiles() { _tile_release(); }

}  // namespace

const GemmFamily kGemmBf16Amx{
    "amx",   GemmInputType::kBf16, 32,   &RunAmxTile<HardwareTiles<false>>,
    nullptr, &ReleaseTiles,        false};
const GemmFamily kGemmInt8Amx{"amx",   GemmInputType::kInt8, 32,   &RunAmxTile<HardwareTiles<true>>,
                              nullptr, &ReleaseTiles,        false};

}  // namespace sluice::kernels::cpu
