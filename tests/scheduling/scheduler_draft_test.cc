// Guesses of self-speculation in a step's plan: they take what everybody else has left.
#include <gtest/gtest.h>

#include "tests/scheduling/scheduler_fixture.h"

namespace sluice {
namespace {

class SchedulerDraftTest : public SchedulerFixture {
 protected:
  // The drafts of every entry of the last plan.
  std::vector<int32_t> Drafts() const {
    std::vector<int32_t> drafts;
    for (const PlannedRows& rows : plan_.rows) drafts.push_back(rows.drafts);
    return drafts;
  }
  using Counts = std::vector<int32_t>;
};

TEST_F(SchedulerDraftTest, ADecodingSequenceDraftsUpToItsEnd) {
  Make({.max_batch_tokens = 32, .draft_tokens = 4, .max_drafting_sequences = 2});
  ASSERT_TRUE(Add({.id = 1, .prompt = 3, .max_tokens = 4}).ok());
  EXPECT_EQ(Step(), "1:0+3*");
  EXPECT_EQ(Drafts(), Counts{0}) << "nothing is behind a prompt's row";
  EXPECT_EQ(Step(), "1:3+1*");
  EXPECT_EQ(Drafts(), Counts{2}) << "three tokens are left, one of them the step's own";
  EXPECT_EQ(plan_.num_rows, 3);
  EXPECT_EQ(Step(), "1:4+1*");
  EXPECT_EQ(Drafts(), Counts{1});
}

TEST_F(SchedulerDraftTest, TheLastRowOfACutPromptDraftsNothing) {
  Make({.max_batch_tokens = 8, .draft_tokens = 4, .max_drafting_sequences = 2});
  ASSERT_TRUE(Add({.id = 1, .prompt = 9}).ok());
  EXPECT_EQ(Step(), "1:0+8");
  EXPECT_EQ(Step(), "1:8+1*");
  EXPECT_EQ(Drafts(), Counts{0});
}

TEST_F(SchedulerDraftTest, DraftsTakeTheRowsThatDecodesAndPrefillsLeave) {
  Make({.max_batch_tokens = 8, .draft_tokens = 4, .max_drafting_sequences = 4});
  ASSERT_TRUE(Add({.id = 1, .prompt = 2, .max_tokens = 20}).ok());
  ASSERT_TRUE(Add({.id = 2, .prompt = 2, .max_tokens = 20}).ok());
  Step();
  ASSERT_TRUE(Add({.id = 3, .prompt = 4, .max_tokens = 20}).ok());
  EXPECT_EQ(Step(), "1:2+1* 2:2+1* 3:0+4*");
  EXPECT_EQ(Drafts(), (Counts{2, 0, 0}));
  EXPECT_EQ(plan_.num_rows, 8);
}

TEST_F(SchedulerDraftTest, ManyDecodingSequencesDraftNothing) {
  Make({.max_batch_tokens = 64, .draft_tokens = 4, .max_drafting_sequences = 2});
  for (const uint64_t id : {1, 2, 3}) ASSERT_TRUE(Add({.id = id, .max_tokens = 9}).ok());
  Step();
  Step();
  EXPECT_EQ(Drafts(), (Counts{0, 0, 0}));
}

TEST_F(SchedulerDraftTest, DraftsNeverTakeThePageOfAnother) {
  Make({.max_batch_tokens = 64, .draft_tokens = 4, .max_drafting_sequences = 4}, 2, 4);
  ASSERT_TRUE(Add({.id = 1, .prompt = 3, .max_tokens = 5}).ok());
  EXPECT_EQ(Step(), "1:0+3*");
  ASSERT_TRUE(Add({.id = 2, .prompt = 1, .max_tokens = 2}).ok());
  EXPECT_EQ(Step(), "1:3+1* 2:0+1*");
  EXPECT_EQ(Drafts(), (Counts{0, 0})) << "a guess would need a third page";
  EXPECT_EQ(scheduler_->num_preemptions(), 0);
}

TEST_F(SchedulerDraftTest, AStreamOfWholePromptsLeavesEverySecondStepToTheOthers) {
  Make({.max_batch_tokens = 10});
  ASSERT_TRUE(Add({.id = 1, .prompt = 2, .max_tokens = 8}).ok());
  EXPECT_EQ(Step(), "1:0+2*");
  for (const uint64_t id : {2, 3, 4})
    ASSERT_TRUE(Add({.id = id, .prompt = 10, .max_tokens = 1, .whole_prompt = true}).ok());
  EXPECT_EQ(Step(), "2:0+10*");
  EXPECT_EQ(Step(), "1:2+1*");
  EXPECT_EQ(Step(), "3:0+10*");
  EXPECT_EQ(Step(), "1:3+1*");
}

}  // namespace
}  // namespace sluice
