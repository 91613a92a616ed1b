// What `sluice inspect` says that skipping is worth: only what skipping spares.
#include "server/commands/spec_summary.h"

#include "gtest/gtest.h"
#include "tests/support/random_spec.h"

namespace sluice::server {
namespace {

// The second of two layers is routed. A plain layer keeps 2 * 24 numbers of 2 bytes.
constexpr int64_t kKvBytes = 2 * (24 + 24);
constexpr int64_t kAttention = 48 + 2 * 48 * 48, kKeys = 2 * 48 * 24, kFfn = 48 + 3 * 48 * 80;

SpecSummary Summarize(const DepthRouterSpec& depth) {
  ModelSpec spec = testing::PlainSpec(2);
  spec.stacks[0].groups[0].layers[1].depth = depth;
  return SummarizeSpec(spec);
}

// Numbers of the routed layer that an average row does not read.
int64_t Spared(const SpecSummary& summary) {
  return summary.parameters_total - static_cast<int64_t>(summary.parameters_active);
}

TEST(SpecSummaryTest, ASkippedLayerSparesItsWeightsAndKeys) {
  const SpecSummary summary = Summarize({.weight = "router.weight", .capacity = 0.5});
  EXPECT_EQ(Spared(summary), (kAttention + kKeys + kFfn) / 2);
  EXPECT_EQ(summary.kv_bytes_per_token_bf16, 2 * kKvBytes);
  EXPECT_EQ(summary.expected_kv_bytes_per_token, 1.5 * kKvBytes);
  EXPECT_EQ(summary.expected_skip_ratio, 0.5);
}

TEST(SpecSummaryTest, KeysThatAreStoredOfAllRowsAreNotSpared) {
  const SpecSummary summary =
      Summarize({.weight = "router.weight", .kv = DepthKv::kAllTokens, .capacity = 0.5});
  EXPECT_EQ(Spared(summary), (kAttention + kFfn) / 2);
  EXPECT_EQ(summary.expected_kv_bytes_per_token, 2.0 * kKvBytes);
}

TEST(SpecSummaryTest, SublayersBeforeTheRoutedOnesAreRunByEveryRow) {
  const SpecSummary summary =
      Summarize({.weight = "router.weight", .first_sublayer = 1, .capacity = 0.5});
  EXPECT_EQ(Spared(summary), kFfn / 2);
  EXPECT_EQ(summary.expected_kv_bytes_per_token, 2.0 * kKvBytes);
}

TEST(SpecSummaryTest, ExpertsThatARowDoesNotChooseAreSpared) {
  MoeFfnSpec ffn;
  ffn.router = {.num_experts = 5, .top_k = 2, .weight = "router.weight"};
  ffn.hidden = 16;
  ffn.experts = {.gate = "{e}.gate", .up = "{e}.up", .down = "{e}.down"};
  ModelSpec spec = testing::PlainSpec(2);
  const int64_t plain = SummarizeSpec(spec).parameters_total;
  spec.stacks[0].groups[0].layers[1].sublayers[1].block = ffn;
  const SpecSummary summary = SummarizeSpec(spec);
  const int64_t one = 3 * 48 * 16;
  EXPECT_EQ(summary.parameters_total - plain, 5 * 48 + 5 * one - 3 * 48 * 80);
  EXPECT_EQ(Spared(summary), 3 * one);
  EXPECT_EQ(summary.experts_per_token, 2);
}

TEST(SpecSummaryTest, WhereNoShareIsKnownEveryRowIsTakenToRun) {
  for (const DepthRouterSpec& depth :
       {DepthRouterSpec{.weight = "router.weight"},
        DepthRouterSpec{.weight = "router.weight", .capacity = 0.25, .capacity_rows = 16}}) {
    const SpecSummary summary = Summarize(depth);
    EXPECT_EQ(Spared(summary), 0);
    EXPECT_EQ(summary.expected_kv_bytes_per_token, 2.0 * kKvBytes);
    EXPECT_EQ(summary.expected_skip_ratio, 0.0);
    EXPECT_EQ(summary.routed_instances, 1);
  }
}

}  // namespace
}  // namespace sluice::server
