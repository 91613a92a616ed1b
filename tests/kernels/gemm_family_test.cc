// GEMM families on tiles, without a backend: the AMX loop on emulated tiles, its instructions on
// emulated ones where the processor has none, and the choice of a family.
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/peak_loops.h"
#include "tests/support/amx_instructions.h"

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

// Families that this processor runs, chosen by the backend or not: the widening one beside the
// native one, say.
std::vector<GemmFamily> RunnableBf16Families() {
  std::vector<GemmFamily> out = {kGemmBf16Scalar};
#if defined(__x86_64__)
  const CpuFeatures features = *DetectCpuFeatures("auto");
  if (features.isa >= Isa::kAvx2) out.push_back(kGemmBf16Avx2);
  if (features.isa >= Isa::kAvx512) out.push_back(kGemmBf16Avx512);
  if (features.avx512_bf16) out.push_back(kGemmBf16Avx512Native);
  if (RunAmxInstructions()) out.push_back(kGemmBf16Amx);
#endif
  return out;
}

TEST(Bf16FamilyTest, EveryFamilyMatchesTheScalarOne) {
  for (const GemmFamily& family : RunnableBf16Families()) {
    EXPECT_LE(SelfTestError(family, WeightFormat::kBF16), 1e-6f) << family.name;
  }
}

TEST(Bf16FamilyTest, BitsOfARowDoNotDependOnTheRowsBesideIt) {
  const std::vector<uint16_t> bf16 = Values(kMaxTileRows * kDepth, 1);
  std::vector<float> f32;
  for (const uint16_t bits : bf16) f32.push_back(ToFloat(BF16{bits}));
  const std::vector<uint16_t> b = Values(kDepth * kBlockColumns, 2);
  for (const GemmFamily& family : RunnableBf16Families()) {
    const bool rounded = family.input == GemmInputType::kRounded;
    const void* a = rounded ? static_cast<const void*>(f32.data()) : bf16.data();
    Result all;
    family.tile({a, kDepth, b.data(), kDepth, family.max_rows, all.values[0]});
    for (int32_t rows = 1; rows < family.max_rows; ++rows) {
      for (int32_t first = 0; first + rows <= family.max_rows; first += 3) {
        Result some;
        const void* from = static_cast<const char*>(a) + first * kDepth * InputBytes(family.input);
        family.tile({from, kDepth, b.data(), kDepth, rows, some.values[0]});
        ASSERT_EQ(0, std::memcmp(some.values, all.values[first], static_cast<size_t>(rows) * 256))
            << family.name << ": " << rows << " rows from " << first;
      }
    }
    if (family.end != nullptr) family.end();
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

#if defined(__x86_64__)
class AmxInstructionTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!RunAmxInstructions()) GTEST_SKIP() << "no AVX-512 here";
  }
};

// The numbers of the self-test are exact in every order of summation.
TEST_F(AmxInstructionTest, FamiliesGiveTheNumbersOfTheScalarOnes) {
  EXPECT_EQ(SelfTestError(kGemmBf16Amx, WeightFormat::kBF16), 0.0f);
  EXPECT_EQ(SelfTestError(kGemmInt8Amx, WeightFormat::kInt8), 0.0f);
}

TEST_F(AmxInstructionTest, ThreadsHaveTheirOwnTiles) {
  const std::vector<uint16_t> a = Values(kMaxTileRows * kDepth, 1);
  const std::vector<uint16_t> b = Values(kDepth * kBlockColumns, 2);
  const auto run = [&](int32_t rows, Result& out) {
    kGemmBf16Amx.tile({a.data(), kDepth, b.data(), kDepth, rows, out.values[0]});
    kGemmBf16Amx.end();
  };
  Result wanted;
  run(kMaxTileRows, wanted);
  Result narrow, wide;
  std::thread other([&] {
    for (int i = 0; i < 20; ++i) run(7, narrow);
  });
  for (int i = 0; i < 20; ++i) run(kMaxTileRows, wide);
  other.join();
  EXPECT_EQ(0, std::memcmp(wide.values, wanted.values, sizeof(wanted.values)));
  EXPECT_EQ(0, std::memcmp(narrow.values, wanted.values, 7 * 256));
}

TEST_F(AmxInstructionTest, AProcessorWithAmxUsesIt) {
  CpuFeatures features = *DetectCpuFeatures("auto");
  features.isa = Isa::kAmx;
  features.avx512_bf16 = features.amx_int8 = true;
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kInt8}) {
    const absl::StatusOr<GemmChoice> choice = SelectGemm(format, features, "auto");
    ASSERT_TRUE(choice.ok()) << choice.status();
    EXPECT_STREQ(choice->family.name, "amx") << choice->reason;
  }
}

TEST_F(AmxInstructionTest, PeakLoopsRun) {
  EXPECT_EQ(kPeakBf16Amx.run(2), 0.0f);
  EXPECT_EQ(kPeakInt8Amx.run(2), 0.0f);
}
#endif

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
  for (const char* gemm : {"auto", "onednn", "amx-emulation"}) {
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
