#include "engine/compute_budget.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr double kRow = 1e6;  // FLOPs of a dense row

// A machine that takes `base` seconds to read the weights and 1 us for a dense row's FLOPs.
void Prompt(ComputeBudget& budget, double base, double rows, bool decodes) {
  budget.Observe({.seconds = base + rows * 1e-6,
                  .decodes = decodes,
                  .prefill_flops = rows * kRow,
                  .flops = rows * kRow,
                  .dense_flops = rows * kRow});
}

void Decode(ComputeBudget& budget, double seconds) {
  budget.Observe({.seconds = seconds, .decodes = true, .flops = kRow, .dense_flops = kRow});
}

TEST(ComputeBudget, CapsNothingBeforeAPromptWasMeasured) {
  ComputeBudget budget(0.1);
  EXPECT_EQ(budget.PrefillFlops(), 0.0);
  Decode(budget, 0.01);
  EXPECT_EQ(budget.PrefillFlops(), 0.0);
}

TEST(ComputeBudget, LongDecodingDoesNotMakePromptRowsLookSlow) {
  ComputeBudget budget(0.1);
  Prompt(budget, 0.0, 50'000, false);
  for (int step = 0; step < 1000; ++step) Decode(budget, 0.01);
  // 90 ms are left beside the decode rows; a decode row that took 10 ms says nothing of prompts.
  EXPECT_NEAR(budget.PrefillFlops() / kRow, 90'000, 1);
}

TEST(ComputeBudget, FindsTheChunkFromABadStart) {
  ComputeBudget budget(0.1);
  Prompt(budget, 0.01, 5, false);  // all of it is the reading of weights
  for (int step = 0; step < 20; ++step) Decode(budget, 0.01);
  EXPECT_LT(budget.PrefillFlops() / kRow, 100);
  for (int step = 0; step < 12; ++step) {
    Prompt(budget, 0.01, budget.PrefillFlops() / kRow, true);
  }
  EXPECT_NEAR(budget.PrefillFlops() / kRow, 90'000, 9'000);
}

TEST(ComputeBudget, DecodingThatFillsAStepLeavesTheLeast) {
  ComputeBudget budget(0.1);
  Prompt(budget, 0.0, 1000, false);
  for (int step = 0; step < 100; ++step) Decode(budget, 0.5);
  EXPECT_EQ(budget.PrefillFlops(), 1.0);
}

// The many that decoded have gone, and prompts leave no step in which that could be seen alone.
TEST(ComputeBudget, MixedStepsTellThatDecodingHasBecomeCheaper) {
  ComputeBudget budget(0.1);
  Prompt(budget, 0.0, 10'000, false);
  for (int step = 0; step < 100; ++step) Decode(budget, 0.106);
  ASSERT_EQ(budget.PrefillFlops(), 1.0);
  Prompt(budget, 0.01, 16, true);
  for (int step = 0; step < 20; ++step) {
    const double rows = budget.PrefillFlops() / kRow;
    EXPECT_LE(0.01 + rows * 1e-6, 0.105) << "step " << step;
    Prompt(budget, 0.01, rows, true);
  }
  EXPECT_NEAR(budget.PrefillFlops() / kRow, 90'000, 5'000);
}

TEST(ComputeBudget, ExpectsOfARequestWhatItsRowsDidAndOfANewOneWhatAllDid) {
  ComputeBudget budget(0.1);
  EXPECT_EQ(budget.ExpectedShare({}), 1.0);
  budget.Observe({.seconds = 1e-3, .prefill_flops = 60.0, .flops = 60.0, .dense_flops = 100.0});
  EXPECT_DOUBLE_EQ(budget.ExpectedShare({}), 0.6);
  EXPECT_DOUBLE_EQ(budget.ExpectedShare({.flops = 30.0, .dense_flops = 100.0}), 0.3);
}

}  // namespace
}  // namespace sluice
