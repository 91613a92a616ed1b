#include <gtest/gtest.h>

#include "tests/scheduling/scheduler_fixture.h"

namespace sluice {
namespace {

using SchedulerPreemptionTest = SchedulerFixture;

TEST_F(SchedulerPreemptionTest, TheYoungestGivesItsPagesToTheOldest) {
  Make({}, /*num_pages=*/4, /*page_tokens=*/4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 8, .max_tokens = 8}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 8, .max_tokens = 8}).ok());
  EXPECT_EQ(Step(), "1:0+8* 2:0+8*");
  EXPECT_EQ(Step(), "1:8+1*");
  EXPECT_EQ(scheduler_->num_preemptions(), 1);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  EXPECT_EQ(scheduler_->num_queued_tokens(), 9);
}

TEST_F(SchedulerPreemptionTest, RecomputationRunsPromptAndGeneratedTokensAgain) {
  Make({}, 4, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 7, .max_tokens = 3}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 7, .max_tokens = 3}).ok());
  EXPECT_EQ(Step(), "1:0+7* 2:0+7*");
  EXPECT_EQ(Step(), "1:7+1* 2:7+1*");
  EXPECT_EQ(Step(), "1:8+1*");
  EXPECT_EQ(Step(), "2:0+9*");
  EXPECT_EQ(finished_, (std::vector<uint64_t>{1, 2}));
}

TEST_F(SchedulerPreemptionTest, TheLeastUrgentGoesFirst) {
  Make({}, 6, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 8, .max_tokens = 8, .priority = 5}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 8, .max_tokens = 8, .priority = 1}).ok());
  ASSERT_TRUE(Add({.id = 3, .prompt = 8, .max_tokens = 8, .priority = 1}).ok());
  EXPECT_EQ(Step(), "2:0+8* 3:0+8* 1:0+8*");
  EXPECT_EQ(Step(), "2:8+1* 3:8+1*");
}

TEST_F(SchedulerPreemptionTest, TheMoreUrgentKeepsItsPagesAndTheOtherHoldsStill) {
  Make({}, 4, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 12, .max_tokens = 4}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 4, .max_tokens = 4}).ok());
  EXPECT_EQ(Step(), "1:0+12* 2:0+4*");
  scheduler_->SetPaused(RequestId{1}, true);
  // Request 2 may take the pages of a paused one, though it is older.
  EXPECT_EQ(Step(), "2:4+1*");
  EXPECT_EQ(scheduler_->num_preemptions(), 1);
  scheduler_->SetPaused(RequestId{1}, false);
  // Now the older one waits: within a priority nobody is preempted for a waiting one.
  EXPECT_EQ(Step(), "2:5+1*");
  EXPECT_EQ(scheduler_->num_preemptions(), 1);
}

TEST_F(SchedulerPreemptionTest, APreemptedSequenceStandsInFrontOfItsPriority) {
  Make({.max_sequences = 2}, 4, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 8, .max_tokens = 2}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 8, .max_tokens = 8}).ok());
  ASSERT_TRUE(Add({.id = 3, .prompt = 1, .max_tokens = 1}).ok());
  EXPECT_EQ(Step(), "1:0+8* 2:0+8*");
  EXPECT_EQ(Step(), "1:8+1*");
  EXPECT_EQ(Step(), "2:0+9* 3:0+1*");
}

TEST_F(SchedulerPreemptionTest, TheHeadOfTheLineIsNotOvertaken) {
  Make({}, 4, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 8, .max_tokens = 3}).ok());
  Step();
  ASSERT_TRUE(Add({.id = 2, .prompt = 12, .max_tokens = 2}).ok());
  ASSERT_TRUE(Add({.id = 3, .prompt = 1, .max_tokens = 2}).ok());
  EXPECT_EQ(Step(), "1:8+1*");
  EXPECT_EQ(Step(), "1:9+1*");
  EXPECT_EQ(Step(), "2:0+12* 3:0+1*");
}

TEST_F(SchedulerPreemptionTest, AWaitingSequencePreemptsLessUrgentOnes) {
  Make({}, 4, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 12, .max_tokens = 4, .priority = 1}).ok());
  Step();
  ASSERT_TRUE(Add({.id = 2, .prompt = 8, .max_tokens = 2, .priority = 0}).ok());
  EXPECT_EQ(Step(), "2:0+8*");
  EXPECT_EQ(scheduler_->num_preemptions(), 1);
}

TEST_F(SchedulerPreemptionTest, AWaitingSequenceTakesAPlaceFromALessUrgentOne) {
  Make({.max_sequences = 1});
  ASSERT_TRUE(Add({.id = 1, .priority = 1}).ok());
  Step();
  ASSERT_TRUE(Add({.id = 2, .max_tokens = 1, .priority = 0}).ok());
  EXPECT_EQ(Step(), "2:0+1*");
  EXPECT_EQ(Step(), "1:0+2*");
}

TEST_F(SchedulerPreemptionTest, PausedSequencesDoNotBlockTheOthers) {
  Make({.max_sequences = 2}, 1000, 4, /*max_places=*/2);
  ASSERT_TRUE(Add({.id = 1}).ok());
  ASSERT_TRUE(Add({.id = 2}).ok());
  Step();
  scheduler_->SetPaused(RequestId{1}, true);
  scheduler_->SetPaused(RequestId{2}, true);
  ASSERT_TRUE(Add({.id = 3, .max_tokens = 1}).ok());
  EXPECT_EQ(Step(), "3:0+1*");
  EXPECT_EQ(Step(), "");
  EXPECT_EQ(scheduler_->num_paused(), 2);
  scheduler_->SetPaused(RequestId{2}, false);
  EXPECT_EQ(Step(), "2:0+2*");
}

TEST_F(SchedulerPreemptionTest, AVictimAlreadyPlannedLeavesTheStep) {
  Make({.max_batch_tokens = 6}, 6, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 20, .max_tokens = 2}).ok());
  EXPECT_EQ(Step(), "1:0+6");
  scheduler_->SetPaused(RequestId{1}, true);
  ASSERT_TRUE(Add({.id = 2, .prompt = 12, .max_tokens = 6}).ok());
  EXPECT_EQ(Step(), "2:0+6");
  EXPECT_EQ(Step(), "2:6+6*");
  scheduler_->SetPaused(RequestId{1}, false);
  // The decode row of request 2 has its page when the prefill of request 1 asks for one.
  EXPECT_EQ(Step(), "1:6+5");
  EXPECT_EQ(plan_.num_rows, 5);
  EXPECT_EQ(scheduler_->num_preemptions(), 1);
}

TEST_F(SchedulerPreemptionTest, AWholePromptIsRecomputedWholeAndItsGeneratedTokensInChunks) {
  Make({.max_batch_tokens = 8}, 4, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 7, .max_tokens = 9, .whole_prompt = true}).ok());
  EXPECT_EQ(Step(), "1:0+7*");
  for (int i = 0; i < 3; ++i) Step();
  ASSERT_TRUE(Add({.id = 2, .prompt = 8, .max_tokens = 1, .priority = -1}).ok());
  EXPECT_EQ(Step(), "2:0+7");
  EXPECT_EQ(Step(), "2:7+1*");
  EXPECT_EQ(Step(), "1:0+7");
  EXPECT_EQ(Step(), "1:7+4*");
}

}  // namespace
}  // namespace sluice
