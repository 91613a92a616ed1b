// A scheduler over a FakePageBudget, with short ways to add requests and run steps.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/scheduling/scheduler.h"
#include "tests/scheduling/fake_page_budget.h"

namespace sluice {

struct Wanted {
  uint64_t id = 0;
  int32_t prompt = 1;
  int32_t max_tokens = 4;
  int32_t priority = 0;
  bool whole_prompt = false;
  std::optional<absl::Duration> deadline;
  double flops_per_row = 0.0;
};

class SchedulerFixture : public ::testing::Test {
 protected:
  void Make(const SchedulerLimits& limits,
            int32_t num_pages = 1000,
            int32_t page_tokens = 4,
            int32_t max_places = 1000) {
    pages_ = std::make_unique<FakePageBudget>(num_pages, page_tokens, max_places);
    scheduler_ = std::make_unique<Scheduler>(limits, *pages_);
  }

  absl::Status Add(const Wanted& wanted) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = RequestId{wanted.id};
    sequence->tokens.assign(static_cast<size_t>(wanted.prompt), 7);
    sequence->prompt_tokens = wanted.prompt;
    sequence->max_tokens = wanted.max_tokens;
    sequence->priority = wanted.priority;
    sequence->whole_prompt = wanted.whole_prompt;
    sequence->deadline = wanted.deadline;
    sequence->flops_per_row = wanted.flops_per_row;
    return scheduler_->Add(std::move(sequence), now_);
  }

  // "1:0+4 2:9+1*": request:first row+count, * when it samples.
  static std::string Describe(const StepPlan& plan) {
    std::string text;
    for (const PlannedRows& rows : plan.rows) {
      absl::StrAppend(&text, text.empty() ? "" : " ", static_cast<uint64_t>(rows.sequence->id), ":",
                      rows.first, "+", rows.count, rows.samples ? "*" : "");
    }
    return text;
  }

  // Schedules, "computes" and commits one step; ids of finished requests go to finished_.
  std::string Step(double prefill_flops = 0.0) {
    plan_ = scheduler_->Schedule(now_, {.flops = prefill_flops});
    EXPECT_EQ(plan_.empty(), !scheduler_->HasRunnable());
    const std::string text = Describe(plan_);
    StepResult result;
    for (const PlannedRows& rows : plan_.rows) {
      pages_->Store(*rows.sequence->kv, rows.count);
      if (rows.samples) result.tokens.push_back({rows.sequence->id, 5, false});
    }
    for (const auto& sequence : scheduler_->Commit(result)) {
      finished_.push_back(static_cast<uint64_t>(sequence->id));
    }
    EXPECT_TRUE(scheduler_->CheckIntegrity().ok()) << scheduler_->CheckIntegrity();
    EXPECT_EQ(pages_->num_open(), scheduler_->num_running());
    return text;
  }

  std::unique_ptr<FakePageBudget> pages_;
  std::unique_ptr<Scheduler> scheduler_;
  absl::Duration now_ = absl::ZeroDuration();
  StepPlan plan_;
  std::vector<uint64_t> finished_;
};

}  // namespace sluice
