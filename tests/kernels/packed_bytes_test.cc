// The bytes that backends pack are what packed caches hold: when they change, caches must be
// refused.
#include <cmath>
#include <string>
#include <vector>

#include "engine/weights/checksum.h"
#include "engine/weights/packed_cache.h"
#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

struct PackedBytes {
  const char* device;
  WeightFormat format;
  DType source;
  uint64_t matrix;
  uint64_t experts;
};

constexpr PackedBytes kExpected[] = {
    {"cpu", WeightFormat::kF32, DType::kF32, 0x3b0f0667abb68f68u, 0x7fc817df381a5a77u},
    {"cpu", WeightFormat::kF32, DType::kBF16, 0xe5afa4e87f4f7523u, 0x49cd45e3e5107d50u},
    {"cpu", WeightFormat::kBF16, DType::kF32, 0x9b9bf7d7475ca15au, 0xbb7946135b7e6eb2u},
    {"cpu", WeightFormat::kBF16, DType::kBF16, 0x9b9bf7d7475ca15au, 0xbb7946135b7e6eb2u},
    {"cpu", WeightFormat::kInt8, DType::kF32, 0xa6391fcd8d697254u, 0xfcdf81e508860f62u},
    {"cpu", WeightFormat::kInt8, DType::kBF16, 0x1aff8f00ab99dd8bu, 0xcd09f0820e559fe2u},
    {"cpu", WeightFormat::kInt4, DType::kF32, 0xfae0b727e540b6cau, 0x22c74fa2017c9993u},
    {"cpu", WeightFormat::kInt4, DType::kBF16, 0xcd2ea0fa0fe35d51u, 0x9f0f4d9c81d78966u},
    {"reference", WeightFormat::kF32, DType::kF32, 0x6360986f8d85ed14u, 0x8b8e04575551e42bu},
    {"reference", WeightFormat::kF32, DType::kBF16, 0x2d72c3906babd839u, 0x1e558d8eff801e57u},
    {"reference", WeightFormat::kBF16, DType::kF32, 0x9d5572c8c64ae54au, 0xb13df4cccd426cabu},
    {"reference", WeightFormat::kBF16, DType::kBF16, 0x9d5572c8c64ae54au, 0xb13df4cccd426cabu},
    {"reference", WeightFormat::kInt8, DType::kF32, 0xce00affd9eea0468u, 0xfa14840998def9dfu},
    {"reference", WeightFormat::kInt8, DType::kBF16, 0x52aefc10ecd32f63u, 0x2d28559c63718014u},
    {"reference", WeightFormat::kInt4, DType::kF32, 0xa019cde766888513u, 0x392b033c131f128du},
    {"reference", WeightFormat::kInt4, DType::kBF16, 0x6dd7d6e2cec3a1bfu, 0x653685fe21e544f6u},
};

// Numbers that are the same on every machine and with every standard library.
class Numbers {
 public:
  Numbers(int64_t count, DType dtype, uint64_t seed) : dtype_(dtype) {
    for (int64_t i = 0; i < count; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const auto integer = static_cast<int32_t>(seed >> 40) - (1 << 23);
      floats_.push_back(std::ldexp(static_cast<float>(integer), -26));
      rounded_.push_back(ToBF16(floats_.back()));
    }
  }
  WeightSource Matrix(int64_t n, int64_t k) const {
    if (dtype_ == DType::kF32) return {floats_.data(), dtype_, n, k};
    return {rounded_.data(), dtype_, n, k};
  }

 private:
  const DType dtype_;
  std::vector<float> floats_;
  std::vector<BF16> rounded_;
};

uint64_t Sum(const PackedMatrix& matrix, uint64_t seed) {
  const auto* data = static_cast<const std::byte*>(matrix.data);
  return Checksum64({data, static_cast<size_t>(matrix.bytes())}, seed);
}

uint64_t MatrixSum(Backend& backend, WeightFormat format, DType source) {
  constexpr int64_t kRows = 200, kInputs = 130;
  const Numbers numbers(kRows * kInputs, source, 1);
  const WeightSource matrix = numbers.Matrix(kRows, kInputs);
  return Sum(*backend.Pack({&matrix, 1}, format), 0);
}

uint64_t ExpertsSum(Backend& backend, WeightFormat format, DType source) {
  constexpr int32_t kExperts = 2;
  constexpr int64_t kDim = 96, kHidden = 300;  // more than a slice
  PackedExperts experts =
      std::move(*backend.AllocateExperts(kExperts, kDim, kHidden, /*gated=*/true, format));
  for (int32_t expert = 0; expert < kExperts; ++expert) {
    const auto seed = static_cast<uint64_t>(10 * expert);
    const Numbers gate(kHidden * kDim, source, seed), up(kHidden * kDim, source, seed + 1);
    const Numbers down(kDim * kHidden, source, seed + 2);
    backend.PackExpert({.w1 = gate.Matrix(kHidden, kDim),
                        .w3 = up.Matrix(kHidden, kDim),
                        .w2 = down.Matrix(kDim, kHidden)},
                       expert, experts);
  }
  uint64_t sum = 0;
  for (const PackedExperts::Slice& slice : experts.slices)
    sum = Sum(slice.w2, Sum(slice.w3, Sum(slice.w1, sum)));
  return sum;
}

TEST(PackedBytesTest, AreThoseOfThisVersionOnEveryInstructionSet) {
  RunAmxInstructions();
  for (const PackedBytes& expected : kExpected) {
    for (const char* isa : {"scalar", "avx2", "avx512", "amx"}) {
      const bool is_cpu = std::string(expected.device) == "cpu";
      auto backend =
          CreateBackend({.device = expected.device, .threads = 2, .isa = is_cpu ? isa : "auto"});
      if (absl::IsFailedPrecondition(backend.status())) continue;  // not on this machine
      ASSERT_TRUE(backend.ok()) << backend.status();
      const uint64_t matrix = MatrixSum(**backend, expected.format, expected.source);
      const uint64_t experts = ExpertsSum(**backend, expected.format, expected.source);
      EXPECT_TRUE(matrix == expected.matrix && experts == expected.experts)
          << expected.device << " " << isa << " packs " << Name(expected.source) << " as "
          << Name(expected.format) << " into other bytes: " << std::hex << "0x" << matrix << "u, 0x"
          << experts
          << "u. If that is meant, raise kPackedCacheVersion and put these sums into the table.";
    }
  }
}

static_assert(kPackedCacheVersion == 2, "the sums above are those of version 2");

}  // namespace
}  // namespace sluice::kernels
