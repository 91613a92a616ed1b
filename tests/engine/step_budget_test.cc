// How the engine sizes the prompt chunks of steps that also decode: on a machine whose every step
// takes 10 ms and 1 ms more for each dense row's FLOPs.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/engine/test_engine.h"

namespace sluice::testing {
namespace {

constexpr double kRowFlops = 1e6;
constexpr int32_t kVocab = 97;
constexpr int32_t kHalf = 2;  // a token whose rows skip half of the work

struct RanStep {
  int32_t prompt_rows = 0;
  double milliseconds = 0.0;
};

class TimedRunner final : public ModelRunner, public PageBudget {
 public:
  TimedRunner(FixedClock* clock, std::vector<RanStep>* steps) : clock_(clock), steps_(steps) {
    facts_.instances.resize(1);
    stats_.Reserve(512, 1, 0);
  }
  const RunnerFacts& facts() const override { return facts_; }
  PageBudget& pages() override { return *this; }
  const ForwardStats& Run(const Batch& batch, ForwardObserver*, LogitsSink logits) override {
    stats_.Reset(batch.num_rows());
    RanStep step{.milliseconds = 10.0};
    for (int32_t row = 0; row < batch.num_rows(); ++row) {
      const auto at = static_cast<size_t>(row);
      const double share = batch.tokens[at] == kHalf ? 0.5 : 1.0;
      stats_.AddRowFlops(row, share * kRowFlops);
      step.prompt_rows += batch.is_prompt[at];
      step.milliseconds += share;
    }
    clock_->now += absl::Milliseconds(step.milliseconds);
    steps_->push_back(step);
    std::vector<float> row(kVocab, 0.0f);
    row[1] = 1.0f;
    for (size_t i = 0; i < batch.wanted.size(); ++i) logits(static_cast<int32_t>(i), row);
    return stats_;
  }
  void Truncate(KvSequence, int32_t) override {}
  void Commit(KvSequence) override {}
  void Scrub(KvSequence) override {}
  double DenseFlops(int32_t, bool, bool) const override { return kRowFlops; }

  absl::StatusOr<KvSequence> Open() override { return KvSequence{next_++}; }
  absl::Status Reserve(KvSequence, int32_t) override { return absl::OkStatus(); }
  void Free(KvSequence) override {}
  bool CanEverFit(std::span<const int32_t>) const override { return true; }

 private:
  FixedClock* clock_;
  std::vector<RanStep>* steps_;
  RunnerFacts facts_;
  ForwardStats stats_;
  int32_t next_ = 0;
};

class StepBudgetTest : public ::testing::Test {
 protected:
  StepBudgetTest() {
    ModelCard card;
    card.vocab_size = kVocab;
    card.max_context_tokens = 10'000;
    card.max_batch_tokens = 512;
    EngineConfig config;
    config.max_batch_tokens = 512;
    config.max_step_ms = 100.0;
    engine_ = std::make_unique<Engine>(
        Engine::Parts{.config = config,
                      .card = card,
                      .runner = std::make_unique<TimedRunner>(&clock_, &steps_),
                      .tokenizer = tokenizer_.get(),
                      .clock = &clock_});
  }

  void Submit(int32_t prompt_tokens, int32_t token, int32_t max_tokens) {
    Request request;
    request.prompt.assign(static_cast<size_t>(prompt_tokens), token);
    request.sampling.temperature = 0.0f;
    request.stop = {.max_tokens = max_tokens, .ignore_eos = true};
    ASSERT_TRUE(
        engine_->Submit(RequestId{next_id_++}, request, std::make_shared<AnswerSink>()).ok());
  }

  void Run(int32_t steps) {
    for (int32_t i = 0; i < steps; ++i) ASSERT_TRUE(engine_->Step());
  }

  // Prompt rows of the last of `steps` steps beside a sequence that has decoded for a while.
  int32_t ChunkOf(int32_t token, int32_t steps) {
    Submit(50, 1, 5000);
    Run(200);
    steps_.clear();
    Submit(5000, token, 1);
    Run(steps);
    return steps_.back().prompt_rows;
  }

  FixedClock clock_;
  std::vector<RanStep> steps_;
  std::unique_ptr<Tokenizer> tokenizer_ = MakeFakeTokenizer();
  std::unique_ptr<Engine> engine_;
  uint64_t next_id_ = 1;
};

TEST_F(StepBudgetTest, APromptBesideLongDecodingFillsTheStepAndNoMore) {
  const int32_t rows = ChunkOf(1, 8);  // 100 ms less 10 and that of the decode row
  EXPECT_GE(rows, 80);
  EXPECT_LE(rows, 89);
  for (const RanStep& step : steps_) EXPECT_LE(step.milliseconds, 100.0);
  EXPECT_GE(steps_.front().prompt_rows, 60) << "the decode rows' own slowness is not the prompt's";
}

TEST_F(StepBudgetTest, RowsThatSkipHalfOfTheWorkMakeChunksTwiceAsLong) {
  const int32_t rows = ChunkOf(kHalf, 8);
  EXPECT_GE(rows, 160);
  EXPECT_LE(rows, 178);
  EXPECT_LE(steps_.front().prompt_rows, 89) << "before one was seen it counts as others did";
  for (const RanStep& step : steps_) EXPECT_LE(step.milliseconds, 100.0);
}

TEST_F(StepBudgetTest, WithoutDecodingOnlyTheRowBudgetCounts) {
  Submit(2000, 1, 1);
  Run(1);
  EXPECT_EQ(steps_.back().prompt_rows, 512);
}

}  // namespace
}  // namespace sluice::testing
