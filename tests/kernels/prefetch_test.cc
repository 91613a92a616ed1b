// The distance of prefetching: the rule that chooses it, given times, and what a backend makes of
// an order to measure.
#include <algorithm>

#include "gmock/gmock.h"
#include "kernels/cpu/prefetch_choice.h"
#include "tests/kernels/backend_param.h"

namespace sluice::kernels {
namespace {

using cpu::ChoosePrefetch;
using cpu::kPrefetchCandidates;
using cpu::PrefetchTimes;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

// Rounds in which every candidate takes the same time, of memory whose rate halves every other one.
PrefetchTimes EqualTimes(size_t rounds) {
  PrefetchTimes times;
  for (auto& candidate : times) {
    for (size_t round = 0; round < rounds; ++round) candidate.push_back(round % 2 == 0 ? 1.0 : 2.0);
  }
  return times;
}

std::vector<double>& TimesOf(int64_t bytes, PrefetchTimes& times) {
  const auto* found = std::find(kPrefetchCandidates.begin(), kPrefetchCandidates.end(), bytes);
  return times[static_cast<size_t>(found - kPrefetchCandidates.begin())];
}

// Makes the first `rounds` times of a candidate those of `gain` times the speed.
void SpeedUp(double gain, int64_t bytes, size_t rounds, PrefetchTimes& times) {
  std::vector<double>& seconds = TimesOf(bytes, times);
  for (size_t round = 0; round < rounds; ++round) seconds[round] /= gain;
}

TEST(PrefetchChoiceTest, NothingFasterLeavesTheDefault) {
  const auto choice = ChoosePrefetch(EqualTimes(16));
  EXPECT_EQ(choice.bytes, 4096);
  EXPECT_EQ(choice.text, "prefetch 4 KiB ahead: no other faster by 3 %");
}

TEST(PrefetchChoiceTest, TheFastestOfThoseBeyondTheMarginIsChosen) {
  PrefetchTimes times = EqualTimes(16);
  SpeedUp(1.029, 1024, 16, times);
  EXPECT_EQ(ChoosePrefetch(times).bytes, 4096);
  SpeedUp(1.04, 16384, 16, times);
  EXPECT_EQ(ChoosePrefetch(times).bytes, 16384);
  SpeedUp(1.06, 8192, 16, times);
  const auto choice = ChoosePrefetch(times);
  EXPECT_EQ(choice.bytes, 8192);
  EXPECT_EQ(choice.text, "prefetch 8 KiB ahead: 1.06x of 4 KiB");
}

TEST(PrefetchChoiceTest, NoPrefetchingIsACandidate) {
  PrefetchTimes times = EqualTimes(16);
  SpeedUp(1.05, 0, 16, times);
  const auto choice = ChoosePrefetch(times);
  EXPECT_EQ(choice.bytes, 0);
  EXPECT_EQ(choice.text, "no prefetch ahead: 1.05x of 4 KiB");
}

// Means, sums and best times of the first would choose, medians of the others.
TEST(PrefetchChoiceTest, NoiseDoesNotChoose) {
  PrefetchTimes times = EqualTimes(16);
  for (size_t round = 0; round < 7; ++round) TimesOf(4096, times)[round] *= 10.0;  // disturbed
  EXPECT_EQ(ChoosePrefetch(times).bytes, 4096);

  times = EqualTimes(16);
  for (double& seconds : TimesOf(8192, times)) seconds *= 1.2;
  SpeedUp(1.5, 8192, 14, times);  // 8 and three deviations of 2 are 14
  EXPECT_EQ(ChoosePrefetch(times).bytes, 4096);
  SpeedUp(1.5, 8192, 15, times);
  EXPECT_EQ(ChoosePrefetch(times).bytes, 8192);

  times = EqualTimes(16);
  SpeedUp(1.02, 8192, 16, times);  // always, but rarely by much
  SpeedUp(1.5, 8192, 7, times);
  EXPECT_EQ(ChoosePrefetch(times).bytes, 4096);

  times = EqualTimes(9);  // all of them are not enough
  SpeedUp(1.5, 8192, 9, times);
  EXPECT_EQ(ChoosePrefetch(times).bytes, 4096);
}

class TuneTest : public testing::Test {
 protected:
  // What the start-up report says of products with weights of a format.
  static std::string ReasonOf(const Backend& backend, WeightFormat format) {
    for (const KernelChoice& choice : backend.Kernels()) {
      if (choice.op == std::string("linear ") + Name(format)) return choice.reason;
    }
    return "";
  }
  static void Tune(Backend& backend,
                   const std::vector<const PackedMatrix*>& weights,
                   double seconds) {
    backend.ReserveScratch(8);
    backend.Tune(weights, seconds);
  }
  static std::unique_ptr<Backend> Make(DeviceSpec spec) {
    spec.threads = 2;
    return std::move(*CreateBackend(spec));
  }
  static constexpr int64_t kLarge = 32768;  // outputs of 64 MiB of int8
};

TEST_F(TuneTest, FewWeightsAreNotMeasured) {
  const std::unique_ptr<Backend> backend = Make({});
  if (!backend->Prefetches(WeightFormat::kInt8)) GTEST_SKIP() << "AMX here";
  const PackedMatrix weight =
      std::move(*backend->AllocateMatrix(kLarge - 64, 2048, WeightFormat::kInt8));
  Tune(*backend, {&weight}, 1.0);
  EXPECT_THAT(ReasonOf(*backend, WeightFormat::kInt8),
              HasSubstr("; prefetch 4 KiB ahead, not measured: less than 64 MiB of them"));
  EXPECT_THAT(ReasonOf(*backend, WeightFormat::kF32), Not(HasSubstr("prefetch")));
}

TEST_F(TuneTest, WithoutTimeNothingIsMeasured) {
  const std::unique_ptr<Backend> backend = Make({});
  if (!backend->Prefetches(WeightFormat::kInt8)) GTEST_SKIP() << "AMX here";
  const PackedMatrix weight =
      std::move(*backend->AllocateMatrix(kLarge, 2048, WeightFormat::kInt8));
  Tune(*backend, {&weight}, 0.0);
  EXPECT_THAT(ReasonOf(*backend, WeightFormat::kInt8),
              HasSubstr("; prefetch 4 KiB ahead, not measured: loading was too short"));
}

// Experts and matrices of several widths together make enough.
TEST_F(TuneTest, EnoughWeightsAreMeasuredAndNoBitChanges) {
  for (const WeightFormat format : Formats()) {
    const std::unique_ptr<Backend> backend = Make({});
    if (!backend->Prefetches(format)) continue;  // AMX here
    Matrix source = RandomMatrix(130, 1000, 1);
    Matrix x = RandomMatrix(1, 1000, 2);
    const PackedMatrix small = std::move(*backend->AllocateMatrix(0, 64, format));
    const WeightSource rows = SourceOf(source);
    const PackedMatrix odd = std::move(*backend->Pack({&rows, 1}, format));
    const int64_t outputs = (int64_t{72} << 20) / ValueBytes(format, 2048);
    const PackedMatrix large = std::move(*backend->AllocateMatrix(outputs, 2048, format));
    const PackedExperts experts =
        std::move(*backend->AllocateExperts(3, 512, 600, /*gated=*/false, format));
    const PackedMatrix none;
    std::vector<const PackedMatrix*> weights = {&small, &odd, &large, &none};
    for (const PackedExperts::Slice& slice : experts.slices)
      weights.insert(weights.end(), {&slice.w1, &slice.w3, &slice.w2});
    LinearArgs args{.x = x.View(), .x_rows = AllRows(1), .weight = &odd};
    Matrix before(1, 130), after(1, 130);
    args.out = before.View();
    args.out_rows = AllRows(1);
    backend->Linear(args);
    Tune(*backend, weights, 30.0);
    args.out = after.View();
    backend->Linear(args);
    EXPECT_EQ(before.values, after.values) << Name(format);
    for (const WeightFormat other : Formats()) {
      const bool is_told = ReasonOf(*backend, other).find("prefetch") != std::string::npos;
      EXPECT_EQ(is_told, other == format) << Name(other) << " with weights of " << Name(format);
    }
    EXPECT_THAT(ReasonOf(*backend, format),
                MatchesRegex(".*; (no prefetch ahead|prefetch (1|2|8|16) KiB ahead): "
                             "[0-9.]+x of 4 KiB|.*; prefetch 4 KiB ahead: no other faster by 3 %"));
  }
}

TEST_F(TuneTest, WhatWasAskedForStands) {
  const std::unique_ptr<Backend> backend = Make({.isa = "scalar", .prefetch_bytes = 192});
  const PackedMatrix weight =
      std::move(*backend->AllocateMatrix(kLarge, 2048, WeightFormat::kInt8));
  Tune(*backend, {&weight}, 1.0);
  for (const WeightFormat format : Formats()) {
    EXPECT_THAT(ReasonOf(*backend, format), HasSubstr("; prefetch 192 bytes ahead: asked for"));
  }
}

TEST_F(TuneTest, TilesDoNotPrefetchAndSaySo) {
  const std::unique_ptr<Backend> backend = Make({.gemm = "amx-emulation", .prefetch_bytes = 0});
  const PackedMatrix weight =
      std::move(*backend->AllocateMatrix(kLarge, 2048, WeightFormat::kInt8));
  Tune(*backend, {&weight}, 1.0);
  EXPECT_FALSE(backend->Prefetches(WeightFormat::kBF16));
  EXPECT_FALSE(backend->Prefetches(WeightFormat::kInt8));
  EXPECT_FALSE(backend->Prefetches(WeightFormat::kInt4));  // it is made int8
  EXPECT_TRUE(backend->Prefetches(WeightFormat::kF32));
  EXPECT_THAT(ReasonOf(*backend, WeightFormat::kInt8), HasSubstr("; does not prefetch"));
  EXPECT_THAT(ReasonOf(*backend, WeightFormat::kBF16), Not(HasSubstr("prefetch")));
  EXPECT_THAT(ReasonOf(*backend, WeightFormat::kF32), HasSubstr("; no prefetch ahead: asked for"));
}

TEST_F(TuneTest, OtherBackendsDoNotPrefetch) {
  EXPECT_FALSE(Make({.device = "reference"})->Prefetches(WeightFormat::kF32));
  if (const auto onednn = CreateBackend({.gemm = "onednn"}); onednn.ok()) {
    EXPECT_FALSE((*onednn)->Prefetches(WeightFormat::kF32));
  }
}

TEST_F(TuneTest, OddDistancesAreRefused) {
  for (const int64_t bytes : {-64, 1, 100, 65600}) {
    EXPECT_EQ(CreateBackend({.prefetch_bytes = bytes}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace sluice::kernels
