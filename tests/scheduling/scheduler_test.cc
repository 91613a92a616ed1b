#include "engine/scheduling/scheduler.h"

#include <gtest/gtest.h>

#include "engine/request_error.h"
#include "tests/scheduling/scheduler_fixture.h"

namespace sluice {
namespace {

using SchedulerTest = SchedulerFixture;

TEST_F(SchedulerTest, PromptsAreCutIntoChunksThatFillTheRowBudget) {
  Make({.max_batch_tokens = 8});
  ASSERT_TRUE(Add({.id = 1, .prompt = 11}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 4}).ok());
  EXPECT_EQ(Step(), "1:0+8");
  EXPECT_EQ(Step(), "1:8+3* 2:0+4*");
  EXPECT_EQ(Step(), "1:11+1* 2:4+1*");
}

TEST_F(SchedulerTest, DecodeRowsComeBeforePrefillRows) {
  Make({.max_batch_tokens = 6});
  ASSERT_TRUE(Add({.id = 1, .prompt = 6}).ok());
  EXPECT_EQ(Step(), "1:0+6*");
  ASSERT_TRUE(Add({.id = 2, .prompt = 20, .priority = -1}).ok());
  EXPECT_EQ(Step(), "1:6+1* 2:0+5");
  EXPECT_EQ(Step(), "1:7+1* 2:5+5");
}

TEST_F(SchedulerTest, PrefillRowsAreCappedOnlyWhileOthersDecode) {
  Make({.max_batch_tokens = 100});
  ASSERT_TRUE(Add({.id = 1, .prompt = 10, .max_tokens = 2}).ok());
  EXPECT_EQ(Step(3), "1:0+10*");
  ASSERT_TRUE(Add({.id = 2, .prompt = 10}).ok());
  EXPECT_EQ(Step(3), "1:10+1* 2:0+3");
  EXPECT_EQ(Step(3), "2:3+7*");
}

TEST_F(SchedulerTest, AdmissionFollowsPriorityThenArrival) {
  Make({.max_batch_tokens = 3, .max_sequences = 3});
  ASSERT_TRUE(Add({.id = 1, .priority = 2}).ok());
  ASSERT_TRUE(Add({.id = 2, .priority = 1}).ok());
  ASSERT_TRUE(Add({.id = 3, .priority = 1}).ok());
  ASSERT_TRUE(Add({.id = 4, .priority = 0}).ok());
  EXPECT_EQ(Step(), "4:0+1* 2:0+1* 3:0+1*");
  EXPECT_EQ(scheduler_->num_waiting(), 1);
}

TEST_F(SchedulerTest, FinishesAtMaxTokens) {
  Make({});
  ASSERT_TRUE(Add({.id = 1, .prompt = 2, .max_tokens = 3}).ok());
  Step();
  Step();
  EXPECT_TRUE(finished_.empty());
  Step();
  EXPECT_EQ(finished_, (std::vector<uint64_t>{1}));
  EXPECT_EQ(pages_->num_used(), 0);
  EXPECT_FALSE(scheduler_->HasRunnable());
}

TEST_F(SchedulerTest, FinishesWhenTheResultSaysSo) {
  Make({});
  ASSERT_TRUE(Add({.id = 1}).ok());
  const StepPlan plan = scheduler_->Schedule(now_, {});
  const auto finished = scheduler_->Commit({{{RequestId{1}, 42, true}}});
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_EQ(finished[0]->tokens.back(), 42);
  EXPECT_EQ(finished[0]->status, SequenceStatus::kFinished);
  EXPECT_EQ(pages_->num_used(), 0);
}

TEST_F(SchedulerTest, MaxTokensZeroComputesThePromptAndSamplesNothing) {
  Make({.max_batch_tokens = 4});
  ASSERT_TRUE(Add({.id = 1, .prompt = 6, .max_tokens = 0}).ok());
  EXPECT_EQ(Step(), "1:0+4");
  EXPECT_EQ(Step(), "1:4+2");
  EXPECT_EQ(finished_, (std::vector<uint64_t>{1}));
}

TEST_F(SchedulerTest, PromptRowsThatSkipMoreFitMoreIntoAStepThatDecodes) {
  Make({.max_batch_tokens = 64});
  ASSERT_TRUE(Add({.id = 1, .max_tokens = 20}).ok());
  EXPECT_EQ(Step(8.0), "1:0+1*");
  ASSERT_TRUE(Add({.id = 2, .prompt = 20, .flops_per_row = 0.5}).ok());
  ASSERT_TRUE(Add({.id = 3, .prompt = 20, .flops_per_row = 2.0}).ok());
  EXPECT_EQ(Step(8.0), "1:1+1* 2:0+16");
  EXPECT_EQ(Step(8.0), "1:2+1* 2:16+4* 3:0+3");
  EXPECT_EQ(Step(8.0), "1:3+1* 2:20+1* 3:3+4");
  EXPECT_EQ(Step(1.0), "1:4+1* 2:21+1* 3:7+1") << "one row even where it costs more";
}

TEST_F(SchedulerTest, APromptThatHasNotRunCostsWhatIsExpectedOfAll) {
  Make({.max_batch_tokens = 64});
  ASSERT_TRUE(Add({.id = 1, .max_tokens = 20}).ok());
  Step();
  ASSERT_TRUE(Add({.id = 2, .prompt = 20}).ok());
  ASSERT_TRUE(Add({.id = 3, .prompt = 20, .flops_per_row = 1.0}).ok());
  const StepPlan plan = scheduler_->Schedule(now_, {.flops = 8.0, .flops_per_row = 4.0});
  EXPECT_EQ(Describe(plan), "1:1+1* 2:0+2");
}

TEST_F(SchedulerTest, TheFirstPromptOfAStepHasALeastNumberOfRows) {
  Make({.max_batch_tokens = 64, .min_prefill_rows = 6});
  ASSERT_TRUE(Add({.id = 1, .max_tokens = 20}).ok());
  Step();
  ASSERT_TRUE(Add({.id = 2, .prompt = 20}).ok());
  ASSERT_TRUE(Add({.id = 3, .prompt = 20}).ok());
  EXPECT_EQ(Step(2.0), "1:1+1* 2:0+6");
  EXPECT_EQ(Step(2.0), "1:2+1* 2:6+6");
  EXPECT_EQ(Step(10.0), "1:3+1* 2:12+8* 3:0+2");
}

TEST_F(SchedulerTest, FlopsDoNotBoundAStepWithoutDecodes) {
  Make({.max_batch_tokens = 64});
  ASSERT_TRUE(Add({.id = 1, .prompt = 20}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 20}).ok());
  EXPECT_EQ(Step(8.0), "1:0+20* 2:0+20*");
}

TEST_F(SchedulerTest, WhatCanNeverRunIsRefused) {
  Make({.max_batch_tokens = 16, .max_context_tokens = 100}, 12, 4);
  const auto code = [&](const Wanted& wanted) {
    const absl::Status added = Add(wanted);
    EXPECT_EQ(added.code(), absl::StatusCode::kInvalidArgument) << added;
    return ErrorCodeOf(added);
  };
  EXPECT_EQ(code({.id = 1, .prompt = 0}), "empty_prompt");
  EXPECT_EQ(code({.id = 1, .prompt = 90, .max_tokens = 11}), "context_length_exceeded");
  EXPECT_EQ(code({.id = 1, .prompt = 3, .max_tokens = 2147483647}), "context_length_exceeded");
  EXPECT_EQ(code({.id = 1, .prompt = 45, .max_tokens = 4}), "kv_capacity");
  EXPECT_EQ(code({.id = 1, .prompt = 17, .whole_prompt = true}), "context_length_exceeded");
  EXPECT_TRUE(Add({.id = 1, .prompt = 44, .max_tokens = 4}).ok());
}

TEST_F(SchedulerTest, TheQueueIsBoundedInRequestsAndTokens) {
  Make({.max_queued_requests = 3, .max_queued_tokens = 10});
  ASSERT_TRUE(Add({.id = 1, .prompt = 6}).ok());
  const absl::Status full = Add({.id = 2, .prompt = 5});
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorCodeOf(full), "queue_full");
  ASSERT_TRUE(Add({.id = 3, .prompt = 2}).ok());
  ASSERT_TRUE(Add({.id = 4, .prompt = 2}).ok());
  EXPECT_EQ(scheduler_->num_queued_tokens(), 10);
  Step();
  EXPECT_EQ(scheduler_->num_queued_tokens(), 0);
  ASSERT_TRUE(Add({.id = 5}).ok());
  ASSERT_TRUE(Add({.id = 6}).ok());
  ASSERT_TRUE(Add({.id = 7}).ok());
  EXPECT_EQ(ErrorCodeOf(Add({.id = 8})), "queue_full");
}

TEST_F(SchedulerTest, APromptOverTheTokenBoundIsTakenByAnEmptyQueue) {
  Make({.max_queued_tokens = 10});
  EXPECT_TRUE(Add({.id = 1, .prompt = 50}).ok());
  EXPECT_EQ(ErrorCodeOf(Add({.id = 2})), "queue_full");
}

TEST_F(SchedulerTest, CancelFreesEverythingAtOnce) {
  Make({.max_sequences = 1});
  ASSERT_TRUE(Add({.id = 1, .prompt = 9}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 9}).ok());
  Step();
  EXPECT_GT(pages_->num_used(), 0);
  EXPECT_TRUE(scheduler_->Cancel(RequestId{1}));
  EXPECT_EQ(pages_->num_used(), 0);
  EXPECT_TRUE(scheduler_->Cancel(RequestId{2}));
  EXPECT_FALSE(scheduler_->Cancel(RequestId{2}));
  EXPECT_EQ(scheduler_->num_queued_tokens(), 0);
  EXPECT_FALSE(scheduler_->HasRunnable());
  EXPECT_EQ(Step(), "");
}

TEST_F(SchedulerTest, CancelInsideAStepTakesTheRowsOut) {
  Make({});
  ASSERT_TRUE(Add({.id = 1}).ok());
  ASSERT_TRUE(Add({.id = 2}).ok());
  scheduler_->Schedule(now_, {});
  EXPECT_TRUE(scheduler_->Cancel(RequestId{1}));
  scheduler_->Commit({{{RequestId{1}, 5, false}, {RequestId{2}, 6, false}}});
  EXPECT_EQ(Step(), "2:1+1*");
}

TEST_F(SchedulerTest, APlanThatWasNotCommittedIsPlannedAgain) {
  Make({});
  ASSERT_TRUE(Add({.id = 1, .prompt = 4}).ok());
  EXPECT_EQ(Describe(scheduler_->Schedule(now_, {})), "1:0+4*");
  EXPECT_EQ(Step(), "1:0+4*");
}

TEST_F(SchedulerTest, DeadlinesEndWaitingAndRunningSequences) {
  Make({.max_sequences = 1});
  ASSERT_TRUE(Add({.id = 1, .deadline = absl::Seconds(5)}).ok());
  ASSERT_TRUE(Add({.id = 2, .deadline = absl::Seconds(3)}).ok());
  ASSERT_TRUE(Add({.id = 3}).ok());
  EXPECT_EQ(Step(), "1:0+1*");
  now_ = absl::Seconds(3);
  EXPECT_EQ(Step(), "1:1+1*");
  EXPECT_EQ(plan_.expired, (std::vector<RequestId>{RequestId{2}}));
  now_ = absl::Seconds(6);
  EXPECT_EQ(Step(), "3:0+1*");
  EXPECT_EQ(plan_.expired, (std::vector<RequestId>{RequestId{1}}));
}

TEST_F(SchedulerTest, ADeadlineThatHasPassedIsRefused) {
  Make({});
  now_ = absl::Seconds(2);
  EXPECT_EQ(Add({.id = 1, .deadline = absl::Seconds(2)}).code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(SchedulerTest, PausedSequencesKeepTheirPagesAndAreNotScheduled) {
  Make({});
  ASSERT_TRUE(Add({.id = 1, .prompt = 8}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 8}).ok());
  Step();
  scheduler_->SetPaused(RequestId{1}, true);
  EXPECT_EQ(Step(), "2:8+1*");
  EXPECT_EQ(scheduler_->num_paused(), 1);
  EXPECT_EQ(scheduler_->num_running(), 2);
  scheduler_->SetPaused(RequestId{1}, false);
  EXPECT_EQ(Step(), "1:8+1* 2:9+1*");
}

TEST_F(SchedulerTest, AWholePromptIsNeverCut) {
  Make({.max_batch_tokens = 10});
  ASSERT_TRUE(Add({.id = 1, .prompt = 6, .whole_prompt = true}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 6, .whole_prompt = true}).ok());
  EXPECT_EQ(Step(), "1:0+6*");
  EXPECT_EQ(Step(), "1:6+1* 2:0+6*");
}

TEST_F(SchedulerTest, AWholePromptThatDoesNotFitBesideDecodesRunsAlone) {
  Make({.max_batch_tokens = 10});
  ASSERT_TRUE(Add({.id = 1, .prompt = 3}).ok());
  Step();
  ASSERT_TRUE(Add({.id = 2, .prompt = 10, .whole_prompt = true}).ok());
  EXPECT_EQ(Step(), "2:0+10*");
  EXPECT_EQ(Step(), "1:3+1* 2:10+1*");
}

TEST_F(SchedulerTest, TheCapOnPrefillRowsDoesNotBlockAWholePrompt) {
  Make({.max_batch_tokens = 20});
  ASSERT_TRUE(Add({.id = 1, .prompt = 3}).ok());
  Step();
  ASSERT_TRUE(Add({.id = 2, .prompt = 10, .whole_prompt = true}).ok());
  ASSERT_TRUE(Add({.id = 3, .prompt = 4}).ok());
  EXPECT_EQ(Step(2), "1:3+1* 2:0+10*");
  EXPECT_EQ(Step(2), "1:4+1* 2:10+1* 3:0+2");
}

}  // namespace
}  // namespace sluice
