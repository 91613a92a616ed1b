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
  EXPECT_EQ(budget.PrefillFlops(kRow), 0.0);
  Decode(budget, 0.01);
  EXPECT_EQ(budget.PrefillFlops(kRow), 0.0);
}

TEST(ComputeBudget, LongDecodingDoesNotMakePromptRowsLookSlow) {
  ComputeBudget budget(0.1);
  Prompt(budget, 0.0, 50'000, false);
  for (int step = 0; step < 1000; ++step) Decode(budget, 0.01);
  // 90 ms are left beside the decode rows; a decode row that took 10 ms says nothing of prompts.
  EXPECT_NEAR(budget.PrefillFlops(kRow) / kRow, 90'000, 1);
}

TEST(ComputeBudget, FindsTheChunkFromABadStart) {
  ComputeBudget budget(0.1);
  Prompt(budget, 0.01, 5, false);  // all of it is the reading of weights
  for (int step = 0; step < 20; ++step) Decode(budget, 0.01);
  EXPECT_LT(budget.PrefillFlops(kRow) / kRow, 100);
  for (int step = 0; step < 12; ++step) {
    Prompt(budget, 0.01, budget.PrefillFlops(kRow) / kRow, true);
  }
  EXPECT_NEAR(budget.PrefillFlops(kRow) / kRow, 90'000, 9'000);
}

TEST(ComputeBudget, APromptIsNeverStoppedByDecoding) {
  ComputeBudget budget(0.1);
  Prompt(budget, 0.0, 1000, false);
  for (int step = 0; step < 100; ++step) Decode(budget, 0.5);
  EXPECT_EQ(budget.PrefillFlops(kRow), 16 * kRow);
}

TEST(ComputeBudget, ADecodeTimeThatNoLongerHoldsDoesNotMakePromptsFree) {
  ComputeBudget budget(0.1);
  for (int step = 0; step < 100; ++step) Decode(budget, 0.05);
  Prompt(budget, 0.0, 1000, true);  // 1 ms in all, though decoding took 50 ms before
  EXPECT_LE(budget.PrefillFlops(kRow), 0.05 / 1e-4 * 1000 * kRow * 1.001);
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
