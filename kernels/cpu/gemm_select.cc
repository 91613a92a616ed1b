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

constexpr float kSelfTestTolerance = 1e-4f;

struct Candidate {
  const GemmFamily* family = nullptr;
  Isa isa = Isa::kScalar;
  bool needs_bf16 = false;
  bool needs_fast_bf16 = false;
};

// Best first.
std::vector<Candidate> Candidates(WeightFormat format) {
#if defined(__x86_64__)
  if (format == WeightFormat::kF32) {
    return {{&kGemmF32Avx512, Isa::kAvx512}, {&kGemmF32Avx2, Isa::kAvx2}, {&kGemmF32Scalar}};
  }
  return {{&kGemmBf16Amx, Isa::kAmx, true},
          {&kGemmBf16Avx512Native, Isa::kAvx512, true, true},
          {&kGemmBf16Avx512, Isa::kAvx512},
          {&kGemmBf16Avx2, Isa::kAvx2},
          {&kGemmBf16Scalar}};
#else
  return {{format == WeightFormat::kF32 ? &kGemmF32Scalar : &kGemmBf16Scalar}};
#endif
}

// A small linear congruential sequence of multiples of 1/16 in [-8, 8), exact in bf16.
float NextValue(uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return static_cast<float>(static_cast<int32_t>(state >> 24) - 128) / 16.0f;
}

void Fill(std::vector<float>& f32, std::vector<uint16_t>& bf16, uint32_t seed) {
  for (size_t i = 0; i < f32.size(); ++i) {
    f32[i] = NextValue(seed);
    bf16[i] = ToBF16(f32[i]).bits;
  }
}

}  // namespace

float SelfTestError(const GemmFamily& family, WeightFormat format) {
  constexpr int64_t kDepth = 192;
  const bool f32 = format == WeightFormat::kF32;
  const auto rows = static_cast<size_t>(family.max_rows);
  std::vector<float> a(rows * kDepth);
  std::vector<uint16_t> a_bf16(a.size());  // the same values, which bf16 holds exactly
  std::vector<float> b(kDepth * kBlockColumns);
  std::vector<uint16_t> b_bf16(b.size());
  Fill(a, a_bf16, 1);
  Fill(b, b_bf16, 2);
  alignas(64) float wanted[kMaxTileRows * kBlockColumns];
  alignas(64) float got[kMaxTileRows * kBlockColumns];
  GemmTile tile;
  tile.a_stride = kDepth;
  tile.b = f32 ? static_cast<const void*>(b.data()) : b_bf16.data();
  tile.k = kDepth;
  float worst = 0.0f;
  float largest = 1.0f;
  for (int32_t count = 1; count <= family.max_rows; ++count) {
    tile.rows = count;
    tile.a = a.data();  // what the scalar families read
    tile.c = wanted;
    (f32 ? kGemmF32Scalar : kGemmBf16Scalar).tile(tile);
    if (family.input == GemmInputType::kBf16) tile.a = a_bf16.data();
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
    absl::StatusOr<GemmFamily> family = OneDnnGemm(format);
    if (!family.ok()) return family.status();
    return GemmChoice{*family, "asked for oneDNN"};
  }
  if (gemm != "auto") return absl::InvalidArgumentError(absl::StrCat("unknown gemm: ", gemm));
  std::string reason = features.reason;
  for (const Candidate& candidate : Candidates(format)) {
    if (candidate.isa > features.isa) continue;
    if (candidate.needs_bf16 && !features.avx512_bf16) continue;
    if (candidate.needs_fast_bf16 && !features.fast_avx512_bf16) continue;
    const float error = SelfTestError(*candidate.family, format);
    if (error <= kSelfTestTolerance) return GemmChoice{*candidate.family, reason};
    absl::StrAppend(&reason, reason.empty() ? "" : "; ", candidate.family->name,
                    " failed its self-test (error ", error, ")");
  }
  return absl::InternalError(absl::StrCat("no GEMM family works: ", reason));
}

}  // namespace sluice::kernels::cpu
