// GEMM families on tiles, without a backend: the AMX loop on emulated tiles, and the choice of a
// family.
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {
namespace {

constexpr int64_t kDepth = 320;

std::vector<uint16_t> Values(size_t count, uint32_t seed) {
  std::vector<uint16_t> out(count);
  for (uint16_t& value : out) {
    seed = seed * 1664525u + 1013904223u;
    value = ToBF16((static_cast<float>(seed >> 16) - 32768.0f) / 10000.0f).bits;
  }
  return out;
}

struct Result {
  alignas(64) float values[kMaxTileRows][kBlockColumns] = {};
};

TEST(AmxLoopTest, EmulatedTilesMatchTheScalarFamily) {
  EXPECT_LE(SelfTestError(kGemmBf16TileEmulation, WeightFormat::kBF16), 1e-6f);
}

TEST(AmxLoopTest, BitsOfARowDoNotDependOnTheRowsBesideIt) {
  const std::vector<uint16_t> a = Values(kMaxTileRows * kDepth, 1);
  const std::vector<uint16_t> b = Values(kDepth * kBlockColumns, 2);
  Result all;
  kGemmBf16TileEmulation.tile({a.data(), kDepth, b.data(), kDepth, kMaxTileRows, all.values[0]});
  for (int32_t rows = 1; rows < kMaxTileRows; ++rows) {
    Result some;
    kGemmBf16TileEmulation.tile({a.data(), kDepth, b.data(), kDepth, rows, some.values[0]});
    ASSERT_EQ(0, std::memcmp(some.values, all.values, static_cast<size_t>(rows) * 256)) << rows;
  }
}

// int8 sums are exact, so every family gives the bits of the scalar one.
TEST(Int8FamilyTest, EveryFamilyGivesTheSameBits) {
  EXPECT_EQ(SelfTestError(kGemmInt8TileEmulation, WeightFormat::kInt8), 0.0f);
#if defined(__x86_64__)
  const CpuFeatures features = *DetectCpuFeatures("auto");
  if (features.isa >= Isa::kAvx2) {
    EXPECT_EQ(SelfTestError(kGemmInt8Avx2, WeightFormat::kInt8), 0.0f);
  }
  if (features.isa >= Isa::kAvx512) {
    EXPECT_EQ(SelfTestError(kGemmInt8Avx512, WeightFormat::kInt8), 0.0f);
  }
  if (features.avx512_vnni) {
    EXPECT_EQ(SelfTestError(kGemmInt8Avx512Vnni, WeightFormat::kInt8), 0.0f);
    EXPECT_EQ(SelfTestError(kGemmInt4Avx512Vnni, WeightFormat::kInt4), 0.0f);
  }
  if (features.amx_int8) {
    EXPECT_EQ(SelfTestError(kGemmInt8Amx, WeightFormat::kInt8), 0.0f);
  }
#endif
}

void WrongInt8Tile(const GemmTile& tile) {
  kGemmInt8Scalar.tile(tile);
  tile.c[0] = std::nextafter(tile.c[0], 1e9f);
}

TEST(Int8FamilyTest, SelfTestFindsTheLastBit) {
  const GemmFamily wrong{"wrong", GemmInputType::kInt8, 8, &WrongInt8Tile};
  EXPECT_GT(SelfTestError(wrong, WeightFormat::kInt8), 0.0f);
}

#if defined(__x86_64__)
// An input of one too much.
void WrongInt4Tile(const GemmTile& tile) {
  GemmTile moved = tile;
  std::vector<uint8_t> a(static_cast<size_t>(tile.rows * tile.a_stride));
  std::memcpy(a.data(), tile.a, a.size());
  ++a[0];
  moved.a = a.data();
  kGemmInt4Avx512Vnni.tile(moved);
}

TEST(Int8FamilyTest, SelfTestOfInt4FindsOneStep) {
  if (!DetectCpuFeatures("auto")->avx512_vnni) GTEST_SKIP() << "no AVX512-VNNI here";
  const GemmFamily wrong{"wrong", GemmInputType::kInt8Offset, 8, &WrongInt4Tile};
  EXPECT_GT(SelfTestError(wrong, WeightFormat::kInt4), 0.0f);
}
#endif

TEST(GemmSelectTest, Int4WithoutAFamilyOfItsOwnIsMadeInt8) {
  for (const char* gemm : {"auto", "onednn"}) {
    const absl::StatusOr<GemmChoice> choice = SelectGemm(WeightFormat::kInt4, CpuFeatures(), gemm);
    ASSERT_TRUE(choice.ok()) << choice.status();
    EXPECT_EQ(choice->family.tile, nullptr);
  }
}

void WrongTile(const GemmTile& tile) {
  kGemmBf16Scalar.tile(tile);
  tile.c[tile.rows * kBlockColumns - 1] += 1000.0f;
}

TEST(GemmSelectTest, SelfTestFindsAWrongElement) {
  const GemmFamily wrong{"wrong", GemmInputType::kRounded, 8, &WrongTile};
  EXPECT_GT(SelfTestError(wrong, WeightFormat::kBF16), 1e-2f);
}

TEST(GemmSelectTest, FallsBackToWhatTheMachineHas) {
  CpuFeatures features;
  features.reason = "a test";
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8}) {
    absl::StatusOr<GemmChoice> choice = SelectGemm(format, features, "auto");
    ASSERT_TRUE(choice.ok());
    EXPECT_STREQ(choice->family.name, "scalar");
    EXPECT_EQ(choice->reason, "a test");
  }
}

TEST(CpuFeaturesTest, ACapLimitsAndUnknownNamesAreRefused) {
  EXPECT_EQ(DetectCpuFeatures("scalar")->isa, Isa::kScalar);
  EXPECT_FALSE(DetectCpuFeatures("scalar")->avx512_bf16);
  EXPECT_EQ(DetectCpuFeatures("sse9").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sluice::kernels::cpu
