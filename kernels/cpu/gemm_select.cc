#include "kernels/cpu/gemm_select.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {
namespace {

// Sums of floats in another order; families of integers give the same bits.
float SelfTestTolerance(WeightFormat format) { return IsInteger(format) ? 0.0f : 1e-4f; }

struct Candidate {
  const GemmFamily* family = nullptr;
  Isa isa = Isa::kScalar;
  bool CpuFeatures::*needs = nullptr;
};

const GemmFamily& ScalarFamily(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return kGemmF32Scalar;
    case WeightFormat::kBF16:
      return kGemmBf16Scalar;
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:
      break;
  }
  return kGemmInt8Scalar;
}

// Best first.
std::vector<Candidate> Candidates(WeightFormat format) {
  std::vector<Candidate> out;
#if defined(__x86_64__)
  switch (format) {
    case WeightFormat::kF32:
      out = {{&kGemmF32Avx512, Isa::kAvx512}, {&kGemmF32Avx2, Isa::kAvx2}};
      break;
    case WeightFormat::kBF16:
      out = {{&kGemmBf16Amx, Isa::kAmx, &CpuFeatures::avx512_bf16},
             {&kGemmBf16Avx512Native, Isa::kAvx512, &CpuFeatures::fast_avx512_bf16},
             {&kGemmBf16Avx512, Isa::kAvx512},
             {&kGemmBf16Avx2, Isa::kAvx2}};
      break;
    case WeightFormat::kInt8:
      out = {{&kGemmInt8Amx, Isa::kAmx, &CpuFeatures::amx_int8},
             {&kGemmInt8Avx512Vnni, Isa::kAvx512, &CpuFeatures::avx512_vnni},
             {&kGemmInt8Avx512, Isa::kAvx512},
             {&kGemmInt8Avx2, Isa::kAvx2}};
      break;
    case WeightFormat::kInt4:
      out = {{&kGemmInt4Avx512Vnni, Isa::kAvx512, &CpuFeatures::avx512_vnni}};
      break;
  }
#endif
  if (format != WeightFormat::kInt4) out.push_back({&ScalarFamily(format)});
  return out;
}

// Small numbers in every form that a family reads: multiples of 1/16 in [-8, 8), exact in bf16, and
// sixteen times those as int8.
struct Operand {
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
  std::vector<int8_t> int8;
  std::vector<uint8_t> offset;  // int8 + 128

  Operand(size_t count, uint32_t state) {
    for (size_t i = 0; i < count; ++i) {
      state = state * 1664525u + 1013904223u;  // a small linear congruential sequence
      const int32_t value = static_cast<int32_t>(state >> 24) - 128;
      f32.push_back(static_cast<float>(value) / 16.0f);
      bf16.push_back(ToBF16(f32.back()).bits);
      int8.push_back(static_cast<int8_t>(value));
      offset.push_back(static_cast<uint8_t>(value + 128));
    }
  }

  const void* As(GemmInputType type) const {
    switch (type) {
      case GemmInputType::kF32:
      case GemmInputType::kRounded:
        return f32.data();
      case GemmInputType::kBf16:
        return bf16.data();
      case GemmInputType::kInt8:
        return int8.data();
      case GemmInputType::kInt8Offset:
        break;
    }
    return offset.data();
  }
  const void* As(WeightFormat format) const {
    if (IsInteger(format)) return int8.data();
    return format == WeightFormat::kF32 ? static_cast<const void*>(f32.data()) : bf16.data();
  }
};

// What an int8 tile needs beside its operands: scales of three, and the sums of the weights.
struct Int8Parts {
  std::vector<float> scales = std::vector<float>(kBlockColumns, 3.0f);
  std::vector<int32_t> sums = std::vector<int32_t>(kBlockColumns, 0);

  explicit Int8Parts(const std::vector<int8_t>& weights) {
    for (size_t i = 0; i < weights.size(); ++i) {
      sums[i % (4 * kBlockColumns) / 4] += 128 * weights[i];
    }
  }
};

constexpr int64_t kDepth = 192;

// A block of int4 weights made of any bytes; `int8` becomes what it stands for.
std::vector<int8_t> Int4Block(std::vector<int8_t>& int8) {
  std::vector<int8_t> packed(int8.begin(), int8.begin() + kDepth / kInt4Group * kInt4GroupBytes);
  for (int64_t n = 0; n < kBlockColumns; ++n) {
    for (int64_t k = 0; k < kDepth; ++k) {
      int8_t& scale = packed[static_cast<size_t>(PackedOffsetInt4Scale(n, k, kDepth))];
      scale = static_cast<int8_t>(scale % (kInt4LargestScale + 1));
      const int32_t byte = packed[static_cast<size_t>(PackedOffsetInt4(n, k, kDepth))];
      const int32_t half = (byte >> PackedShiftInt4(k)) & 15;
      const int32_t weight = (half < 8 ? half : half - 16) * scale;
      int8[static_cast<size_t>(PackedOffsetInt8(n, k, kDepth))] = static_cast<int8_t>(weight);
    }
  }
  return packed;
}

}  // namespace

float SelfTestError(const GemmFamily& family, WeightFormat format) {
  const GemmFamily& scalar = ScalarFamily(format);
  const Operand a(static_cast<size_t>(family.max_rows * kDepth), 1);
  Operand b(kDepth * kBlockColumns, 2);
  std::vector<int8_t> int4;
  if (format == WeightFormat::kInt4) int4 = Int4Block(b.int8);
  const Int8Parts parts(b.int8);
  alignas(64) float wanted[kMaxTileRows * kBlockColumns];
  alignas(64) float got[kMaxTileRows * kBlockColumns];
  GemmTile tile;
  tile.a_stride = kDepth;
  tile.k = kDepth;
  tile.a_scale = tile.b_scale = parts.scales.data();
  tile.b_sum = parts.sums.data();
  float worst = 0.0f;
  float largest = 1.0f;
  for (int32_t count = 1; count <= family.max_rows; ++count) {
    tile.rows = count;
    tile.a = a.As(scalar.input);
    tile.b = b.As(format);
    tile.c = wanted;
    scalar.tile(tile);
    tile.a = a.As(family.input);
    if (format == WeightFormat::kInt4) tile.b = int4.data();
    tile.c = got;
    family.tile(tile);
    for (int64_t i = 0; i < count * kBlockColumns; ++i) {
      if (!std::isfinite(got[i])) return std::numeric_limits<float>::infinity();
      worst = std::max(worst, std::abs(got[i] - wanted[i]));
      largest = std::max(largest, std::abs(wanted[i]));
    }
  }
  if (family.end != nullptr) family.end();
  return worst / largest;
}

absl::StatusOr<GemmChoice> SelectGemm(WeightFormat format,
                                      const CpuFeatures& features,
                                      const std::string& gemm) {
  if (gemm == "onednn") {
    if (format == WeightFormat::kInt4) return GemmChoice{};
    absl::StatusOr<GemmFamily> family = OneDnnGemm(format);
    if (absl::IsUnimplemented(family.status()))
      return GemmChoice{.family = {.name = "none"},
                        .reason = std::string(family.status().message())};
    if (!family.ok()) return family.status();
    return GemmChoice{*family, "asked for oneDNN"};
  }
  if (gemm == "amx-emulation" && format != WeightFormat::kF32) {
    if (format == WeightFormat::kInt4) return GemmChoice{};
    return GemmChoice{
        format == WeightFormat::kBF16 ? kGemmBf16TileEmulation : kGemmInt8TileEmulation,
        "asked for, slow: for tests"};
  }
  if (gemm != "auto" && gemm != "amx-emulation")
    return absl::InvalidArgumentError(absl::StrCat("unknown gemm: ", gemm));
  std::string reason = features.reason;
  for (const Candidate& candidate : Candidates(format)) {
    if (candidate.isa > features.isa) continue;
    if (candidate.needs != nullptr && !(features.*candidate.needs)) continue;
    const float error = SelfTestError(*candidate.family, format);
    if (error <= SelfTestTolerance(format)) return GemmChoice{*candidate.family, reason};
    absl::StrAppend(&reason, reason.empty() ? "" : "; ", candidate.family->name,
                    " failed its self-test (error ", error, ")");
  }
  if (format == WeightFormat::kInt4) return GemmChoice{.family = {}, .reason = reason};
  return absl::InternalError(absl::StrCat("no GEMM family works: ", reason));
}

}  // namespace sluice::kernels::cpu
