// Self-speculation changes the work, never the answer: guesses of the first layers, confirmed by
// the whole model, give the bits of plain decoding, in any company and after preemption.
#include "engine/self_speculation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "engine/model/model_builder.h"
#include "kernels/backend_factory.h"
#include "tests/engine/test_engine.h"

namespace sluice::testing {
namespace {

std::vector<Request> RandomRequests(int count) {
  std::mt19937 random(29);
  std::vector<Request> requests;
  for (int r = 0; r < count; ++r) {
    Request request;
    for (auto left = 1 + random() % 20; left > 0; --left)
      request.prompt.push_back(static_cast<int32_t>(random() % 96));
    request.stop.max_tokens = 1 + static_cast<int32_t>(random() % 30);
    request.stop.min_tokens = r % 4 == 0 ? std::min(5, request.stop.max_tokens) : 0;
    request.stop.ignore_eos = r % 5 == 0;
    request.sampling.temperature = r % 2 == 0 ? 0.0f : 0.7f;
    request.sampling.top_p = r % 6 == 1 ? 0.8f : 1.0f;
    request.sampling.repetition_penalty = r % 7 == 0 ? 1.3f : 1.0f;
    request.sampling.seed = random();
    request.sampling.logprobs = 1;
    if (r % 3 == 0) request.sampling.prompt_logprobs = 1;
    requests.push_back(request);
  }
  return requests;
}

struct Result {
  std::vector<Answer> answers;
  MetricsSnapshot metrics;
};

// `company`: so many at a time.
Result Serve(const EngineOptions& options, const std::vector<Request>& requests, size_t company) {
  TestEngine engine(options);
  std::vector<std::shared_ptr<AnswerSink>> sinks;
  while (sinks.size() < requests.size() || engine->num_active() > 0) {
    while (sinks.size() < requests.size() && engine->num_active() < static_cast<int64_t>(company)) {
      sinks.push_back(engine.Submit(requests[sinks.size()]));
      EXPECT_TRUE(engine.last_status().ok()) << engine.last_status();
    }
    EXPECT_TRUE(engine->Step());
    EXPECT_TRUE(engine->CheckIntegrity().ok()) << engine->CheckIntegrity();
  }
  Result result{.metrics = engine->metrics().Snapshot()};
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->answer.last_events, 1);
    result.answers.push_back(sink->answer);
  }
  return result;
}

class SelfSpeculationTest
    : public ::testing::TestWithParam<std::tuple<Family, kernels::WeightFormat>> {};

TEST_P(SelfSpeculationTest, AnswersAreThoseOfPlainDecodingBitForBit) {
  const auto [family, format] = GetParam();
  const std::vector<Request> requests = RandomRequests(40);
  const Result plain = Serve({.family = family, .format = format}, requests, 1);
  const int64_t page_bytes = 16 * 2 * 24 * (format == kernels::WeightFormat::kF32 ? 4 : 2);
  struct Setting {
    int32_t exit_layer, draft_tokens;
    size_t company;
    int32_t max_batch_tokens = 512;
    int64_t kv_pages = 0;  // 0: plenty
  };
  uint64_t confirmed = 0, rejected = 0, preemptions = 0;
  for (const Setting& setting : {Setting{1, 1, 1}, Setting{3, 4, 1}, Setting{2, 3, 3},
                                 Setting{3, 7, 4, 9}, Setting{3, 4, 9, 64, 60}}) {
    SCOPED_TRACE(::testing::Message()
                 << "exit " << setting.exit_layer << ", company " << setting.company);
    const Result drafted = Serve({.family = family,
                                  .format = format,
                                  .max_batch_tokens = setting.max_batch_tokens,
                                  .kv_memory_bytes = setting.kv_pages * page_bytes,
                                  .draft_exit_layer = setting.exit_layer,
                                  .draft_tokens = setting.draft_tokens},
                                 requests, setting.company);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_TRUE(drafted.answers[i] == plain.answers[i]) << "request " << i;
    }
    EXPECT_EQ(drafted.metrics.generated_tokens, plain.metrics.generated_tokens);
    confirmed += drafted.metrics.drafts_confirmed;
    rejected += drafted.metrics.drafts_rejected;
    for (const auto& [reason, count] : drafted.metrics.preemptions) preemptions += count;
  }
  EXPECT_GT(confirmed, 100u);
  EXPECT_GT(rejected, 10u);
  EXPECT_GT(preemptions, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Models,
    SelfSpeculationTest,
    ::testing::Combine(::testing::Values(Family::kDense, Family::kMoe, Family::kMod),
                       ::testing::Values(kernels::WeightFormat::kF32,
                                         kernels::WeightFormat::kBF16,
                                         kernels::WeightFormat::kInt8)));

// Usage is that of the answer's own rows; only the FLOPs also count what was guessed in vain.
TEST(SelfSpeculationUsage, CountsEveryTokenOnceAndAllWork) {
  const std::vector<Request> requests = RandomRequests(12);
  const Result plain = Serve({.family = Family::kMod}, requests, 1);
  const Result drafted =
      Serve({.family = Family::kMod, .draft_exit_layer = 2, .draft_tokens = 4}, requests, 1);
  double wasted = 0.0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const ComputeUsage& expected = plain.answers[i].usage.compute;
    const ComputeUsage& compute = drafted.answers[i].usage.compute;
    EXPECT_EQ(compute.rows, expected.rows);
    EXPECT_EQ(compute.executed_token_layers, expected.executed_token_layers);
    EXPECT_EQ(compute.skipped_token_layers, expected.skipped_token_layers);
    EXPECT_DOUBLE_EQ(compute.dense_flops, expected.dense_flops);
    EXPECT_GE(compute.flops, expected.flops * (1 - 1e-9));
    wasted += compute.flops - expected.flops;
  }
  EXPECT_GT(wasted, 0.0);
}

TEST(SelfSpeculationUsage, ATracedRequestIsNotDrafted) {
  Request request;
  request.prompt = {1, 2, 3};
  request.stop = {.max_tokens = 20, .ignore_eos = true};
  request.routing.trace = true;
  const Result result =
      Serve({.family = Family::kMod, .draft_exit_layer = 2, .draft_tokens = 4}, {request}, 1);
  EXPECT_EQ(result.answers[0].tokens.size(), 20u);
  EXPECT_EQ(result.metrics.drafts_confirmed + result.metrics.drafts_rejected, 0u);
}

TEST(SelfSpeculationExit, ALayerThatIsNotThereIsRefused) {
  const ModelSpec spec = PlainSpec(4);
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto backend = kernels::CreateBackend({.device = "reference"});
  ASSERT_TRUE(backend.ok());
  for (const int32_t layer : {-1, 4, 5}) {
    const auto model = BuildModel(spec, weights, **backend, {.exit_layer = layer});
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument) << model.status();
    EXPECT_THAT(std::string(model.status().message()), ::testing::HasSubstr("must be 1 to 3"));
  }
  ModelSpec looped = spec;
  looped.stacks[0].groups[0].repeat.times = 2;
  EXPECT_EQ(BuildModel(looped, weights, **backend, {.exit_layer = 1}).status().code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace sluice::testing
