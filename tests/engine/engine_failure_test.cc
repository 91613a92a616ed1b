// What the engine does when one of its own rules is broken: everybody gets an answer, and nothing
// is kept.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "engine/request_error.h"
#include "tests/engine/test_engine.h"

namespace sluice::testing {
namespace {

Request Endless() {
  Request request;
  request.prompt = {1, 2, 3};
  request.stop = {.max_tokens = 50, .ignore_eos = true};
  return request;
}

// A runner whose cache always claims to be full, although it said that every request fits.
class StarvedRunner final : public ModelRunner, public PageBudget {
 public:
  const RunnerFacts& facts() const override { return facts_; }
  PageBudget& pages() override { return *this; }
  const ForwardStats& Run(const Batch&, ForwardObserver*, LogitsSink) override { return stats_; }
  void Truncate(KvSequence, int32_t) override {}
  void Commit(KvSequence) override {}
  void Scrub(KvSequence) override {}
  double DenseFlops(int32_t, bool, bool) const override { return 0.0; }

  absl::StatusOr<KvSequence> Open() override { return absl::ResourceExhaustedError("full"); }
  absl::Status Reserve(KvSequence, int32_t) override {
    return absl::ResourceExhaustedError("full");
  }
  void Free(KvSequence) override {}
  bool CanEverFit(std::span<const int32_t>) const override { return true; }

 private:
  RunnerFacts facts_;
  ForwardStats stats_;
};

// A runner whose outputs are no numbers, and that counts what is done about it.
class SpoiltRunner final : public ModelRunner, public PageBudget {
 public:
  explicit SpoiltRunner(int* scrubbed) : scrubbed_(scrubbed) {
    facts_.instances.resize(1);
    stats_.Reserve(64, 1, 0);
  }
  const RunnerFacts& facts() const override { return facts_; }
  PageBudget& pages() override { return *this; }
  const ForwardStats& Run(const Batch& batch, ForwardObserver*, LogitsSink logits) override {
    stats_.Reset(batch.num_rows());
    std::vector<float> row(97, std::numeric_limits<float>::quiet_NaN());
    for (size_t i = 0; i < batch.wanted.size(); ++i) logits(static_cast<int32_t>(i), row);
    return stats_;
  }
  void Truncate(KvSequence, int32_t) override {}
  void Commit(KvSequence) override {}
  void Scrub(KvSequence) override { ++*scrubbed_; }
  double DenseFlops(int32_t, bool, bool) const override { return 0.0; }

  absl::StatusOr<KvSequence> Open() override { return KvSequence{0}; }
  absl::Status Reserve(KvSequence, int32_t) override { return absl::OkStatus(); }
  void Free(KvSequence) override {}
  bool CanEverFit(std::span<const int32_t>) const override { return true; }

 private:
  int* scrubbed_;
  RunnerFacts facts_;
  ForwardStats stats_;
};

// Whoever gets the pages next must not find what spoiled the answer.
TEST(EngineFailureTest, PagesBehindAnOutputThatIsNoNumberAreScrubbed) {
  const std::unique_ptr<Tokenizer> tokenizer = MakeFakeTokenizer();
  for (const bool embed : {true, false}) {
    FixedClock clock;
    ModelCard card;
    card.vocab_size = 97;
    card.max_context_tokens = 64;
    card.max_batch_tokens = 64;
    card.embedding_size = embed ? 97 : 0;
    int scrubbed = 0;
    Engine engine({.card = card,
                   .runner = std::make_unique<SpoiltRunner>(&scrubbed),
                   .tokenizer = tokenizer.get(),
                   .clock = &clock});
    Request request;
    request.prompt = {1, 2, 3};
    request.embed = embed;
    request.stop.max_tokens = 0;  // scored
    if (!embed) request.sampling.prompt_logprobs = 1;
    auto sink = std::make_shared<AnswerSink>();
    ASSERT_TRUE(engine.Submit(RequestId{1}, request, sink).ok());
    EXPECT_TRUE(engine.Step());
    EXPECT_EQ(ErrorCodeOf(sink->answer.error), "nonfinite_logits");
    EXPECT_EQ(scrubbed, 1) << (embed ? "an embedding" : "a scored prompt");
  }
}

TEST(EngineFailureTest, AStepWithoutProgressIsCounted) {
  const std::unique_ptr<Tokenizer> tokenizer = MakeFakeTokenizer();
  FixedClock clock;
  ModelCard card;
  card.vocab_size = 97;
  card.max_context_tokens = 64;
  card.max_batch_tokens = 64;
  Engine engine({.card = card,
                 .runner = std::make_unique<StarvedRunner>(),
                 .tokenizer = tokenizer.get(),
                 .clock = &clock});
  EXPECT_FALSE(engine.Step());
  EXPECT_FALSE(engine.stalled()) << "nothing to do is no failure";
  auto sink = std::make_shared<AnswerSink>();
  ASSERT_TRUE(engine.Submit(RequestId{1}, Endless(), sink).ok());
  EXPECT_FALSE(engine.Step());
  EXPECT_TRUE(engine.stalled());
  EXPECT_EQ(engine.metrics().Snapshot().invariant_violations.at("no_progress"), 1u);
  engine.FailAll(absl::UnavailableError("the engine has failed"));
  EXPECT_EQ(sink->answer.finish, FinishReason::kError);
  EXPECT_EQ(sink->answer.last_events, 1);
  EXPECT_EQ(engine.num_active(), 0);
}

TEST(EngineFailureTest, FailingAllAnswersEveryoneOnceAndFreesThePages) {
  TestEngine engine({.max_sequences = 2});
  std::vector<std::shared_ptr<AnswerSink>> sinks;
  for (int i = 0; i < 4; ++i) sinks.push_back(engine.Submit(Endless()));
  for (int step = 0; step < 3; ++step) engine->Step();
  engine->FailAll(RequestError(absl::StatusCode::kUnavailable, "device_lost", "", "lost"));
  for (const auto& sink : sinks) {
    EXPECT_EQ(ErrorCodeOf(sink->answer.error), "device_lost");
    EXPECT_EQ(sink->answer.last_events, 1);
  }
  EXPECT_TRUE(engine->CheckIntegrity().ok()) << engine->CheckIntegrity();
}

TEST(EngineFailureTest, CancellingAllAnswersEveryoneOnceAndFreesThePages) {
  TestEngine engine({.max_sequences = 2});
  std::vector<std::shared_ptr<AnswerSink>> sinks;
  for (int i = 0; i < 4; ++i) sinks.push_back(engine.Submit(Endless()));
  engine->Step();
  engine->CancelAll("shutdown");
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->answer.finish, FinishReason::kCancelled);
    EXPECT_EQ(sink->answer.last_events, 1);
  }
  EXPECT_TRUE(engine->CheckIntegrity().ok()) << engine->CheckIntegrity();
}

}  // namespace
}  // namespace sluice::testing
