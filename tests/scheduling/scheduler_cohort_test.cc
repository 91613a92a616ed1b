// Units of several sequences that run in lockstep: which rows a step takes, and when it ends.
#include "tests/scheduling/scheduler_fixture.h"

namespace sluice {
namespace {

class SchedulerCohort : public SchedulerFixture {
 protected:
  // Members with the ids id, id + 1, ...
  absl::Status AddCohort(uint64_t id, const std::vector<Wanted>& members, int32_t priority = 0) {
    std::unique_ptr<Sequence> carrier;
    for (const Wanted& wanted : members) {
      auto sequence = std::make_unique<Sequence>();
      sequence->id = RequestId{id++};
      sequence->tokens.assign(static_cast<size_t>(wanted.prompt), 7);
      sequence->prompt_tokens = wanted.prompt;
      sequence->max_tokens = wanted.max_tokens;
      sequence->whole_prompt = wanted.whole_prompt;
      sequence->priority = priority;
      sequence->deadline = wanted.deadline;
      if (carrier == nullptr) {
        carrier = std::move(sequence);
      } else {
        carrier->companions.push_back(std::move(sequence));
      }
    }
    return scheduler_->Add(std::move(carrier), now_);
  }
};

TEST_F(SchedulerCohort, GoesOnAsFarAsAllHaveTokens) {
  Make({});
  ASSERT_TRUE(AddCohort(1, {{.prompt = 3, .max_tokens = 4}, {.prompt = 5, .max_tokens = 2}}).ok());
  EXPECT_EQ(Step(), "1:0+3* 2:0+3");
  EXPECT_EQ(Step(), "1:3+1* 2:3+1");
  EXPECT_EQ(Step(), "1:4+1* 2:4+1*");
  EXPECT_EQ(Step(), "1:5+1* 2:5+1*");
  EXPECT_EQ(finished_, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(Step(), "");
  EXPECT_EQ(pages_->num_used(), 0);
}

TEST_F(SchedulerCohort, AFinishedMemberTakesNoMorePart) {
  Make({});
  ASSERT_TRUE(AddCohort(1, {{.prompt = 2, .max_tokens = 1}, {.prompt = 4, .max_tokens = 2}}).ok());
  EXPECT_EQ(Step(), "1:0+2* 2:0+2");
  EXPECT_EQ(finished_, std::vector<uint64_t>{1});
  EXPECT_EQ(Step(), "2:2+2*");
  EXPECT_EQ(Step(), "2:4+1*");
  EXPECT_EQ(finished_, (std::vector<uint64_t>{1, 2}));
}

TEST_F(SchedulerCohort, RowsOfAFinishedMemberRunAgainAfterPreemption) {
  Make({}, /*num_pages=*/5, /*page_tokens=*/4);
  ASSERT_TRUE(
      AddCohort(1, {{.prompt = 3, .max_tokens = 1}, {.prompt = 6, .max_tokens = 6}}, 1).ok());
  EXPECT_EQ(Step(), "1:0+3* 2:0+3");
  EXPECT_EQ(Step(), "2:3+3*");
  ASSERT_TRUE(Add({.id = 9, .prompt = 18, .max_tokens = 1, .priority = 0}).ok());
  EXPECT_EQ(Step(), "9:0+18*");
  EXPECT_EQ(scheduler_->num_preemptions(), 1);
  EXPECT_EQ(Step(), "1:0+3 2:0+3");
  EXPECT_EQ(plan_.rows[0].account, RequestId{2});
  EXPECT_EQ(Step(), "2:3+4*");
  EXPECT_EQ(finished_, (std::vector<uint64_t>{1, 9}));
}

TEST_F(SchedulerCohort, TheRowBudgetHoldsForAllMembers) {
  Make({.max_batch_tokens = 7});
  ASSERT_TRUE(AddCohort(1, {{.prompt = 5}, {.prompt = 5}, {.prompt = 5}}).ok());
  EXPECT_EQ(Step(), "1:0+2 2:0+2 3:0+2");
  EXPECT_EQ(Step(), "1:2+2 2:2+2 3:2+2");
  EXPECT_EQ(Step(), "1:4+1* 2:4+1* 3:4+1*");
}

TEST_F(SchedulerCohort, ACapBelowItsWidthDoesNotHoldItBack) {
  Make({.max_batch_tokens = 16});
  ASSERT_TRUE(Add({.id = 9, .prompt = 2, .max_tokens = 20}).ok());
  Step();
  ASSERT_TRUE(AddCohort(1, {{.prompt = 2}, {.prompt = 2}, {.prompt = 2}}).ok());
  EXPECT_EQ(Step(/*prefill_flops=*/2.0), "9:2+1* 1:0+1 2:0+1 3:0+1");
}

TEST_F(SchedulerCohort, PausingOneMemberHoldsAll) {
  Make({});
  ASSERT_TRUE(AddCohort(1, {{.prompt = 2}, {.prompt = 2}}).ok());
  Step();
  scheduler_->SetPaused(RequestId{2}, true);
  EXPECT_EQ(Step(), "");
  scheduler_->SetPaused(RequestId{2}, false);
  EXPECT_EQ(Step(), "1:2+1* 2:2+1*");
}

TEST_F(SchedulerCohort, CancelAndDeadlineTakeAll) {
  Make({});
  ASSERT_TRUE(AddCohort(1, {{.prompt = 2}, {.prompt = 2}}).ok());
  Step();
  EXPECT_TRUE(scheduler_->Cancel(RequestId{2}));
  EXPECT_FALSE(scheduler_->Cancel(RequestId{1}));
  EXPECT_EQ(pages_->num_open(), 0);
  ASSERT_TRUE(AddCohort(3, {{.prompt = 2, .deadline = absl::Seconds(1)}, {.prompt = 2}}).ok());
  now_ = absl::Seconds(2);
  EXPECT_EQ(Step(), "");
  EXPECT_EQ(plan_.expired, (std::vector<RequestId>{RequestId{3}, RequestId{4}}));
}

TEST_F(SchedulerCohort, WhatCouldNeverRunIsRefused) {
  Make({.max_batch_tokens = 8, .max_sequences = 3}, /*num_pages=*/6, /*page_tokens=*/4);
  const Wanted small{.prompt = 2, .max_tokens = 1};
  EXPECT_FALSE(AddCohort(1, {small, small, small, small}).ok());
  const Wanted large{.prompt = 9, .max_tokens = 3};
  EXPECT_TRUE(AddCohort(11, {large, large}).ok());
  EXPECT_FALSE(AddCohort(21, {large, large, small}).ok());
  EXPECT_FALSE(AddCohort(31, {{.prompt = 2, .whole_prompt = true}, small}).ok());
}

}  // namespace
}  // namespace sluice
