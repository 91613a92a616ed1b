// Embeddings out of the engine: the pooled hidden rows, the same alone and in company; what an
// encoder refuses.
#include <cmath>
#include <random>

#include "engine/request_error.h"
#include "tests/engine/test_engine.h"
#include "tests/support/model_harness.h"

namespace sluice::testing {
namespace {

Request Embed(uint32_t seed, int32_t length) {
  Request request;
  request.prompt = RandomTokens(seed, length, 97);
  request.embed = true;
  return request;
}

std::vector<float> Alone(const Request& request) {
  TestEngine engine({.family = Family::kEncoder});
  const auto sink = engine.Submit(request);
  EXPECT_TRUE(engine.last_status().ok()) << engine.last_status();
  engine.Drain();
  EXPECT_EQ(sink->answer.finish, FinishReason::kStop);
  EXPECT_EQ(sink->answer.usage.prompt_tokens, static_cast<int32_t>(request.prompt.size()));
  EXPECT_EQ(sink->answer.usage.completion_tokens, 0);
  EXPECT_TRUE(sink->answer.tokens.empty());
  return sink->answer.embedding;
}

TEST(EngineEmbedding, IsTheMeanOfTheHiddenRows) {
  const ModelSpec spec = FamilySpec(Family::kEncoder);
  MemoryWeightStore weights;
  FillWeights(spec, 11, weights);
  auto harness = ModelHarness::Create(spec, weights, {.device = {.device = "cpu", .threads = 2}});
  ASSERT_TRUE(harness.ok()) << harness.status();
  const Request request = Embed(3, 19);
  const auto rows = (*harness)->Run(request.prompt, 64);
  const std::vector<float> embedding = Alone(request);
  ASSERT_EQ(embedding.size(), rows[0].size());
  for (size_t i = 0; i < embedding.size(); ++i) {
    double sum = 0.0;
    for (const auto& row : rows) sum += static_cast<double>(row[i]);
    EXPECT_FLOAT_EQ(embedding[i], static_cast<float>(sum / 19.0));
  }
}

TEST(EngineEmbedding, IsTheSameInAnyCompanyAndLeavesNoPages) {
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 20; ++i) requests.push_back(Embed(i, 1 + static_cast<int32_t>(i * 3)));
  for (const int32_t max_batch_tokens : {64, 130, 512}) {
    TestEngine engine({.family = Family::kEncoder, .max_batch_tokens = max_batch_tokens});
    std::vector<std::shared_ptr<AnswerSink>> sinks;
    for (const Request& request : requests) sinks.push_back(engine.Submit(request));
    engine.Drain();
    for (size_t i = 0; i < requests.size(); ++i)
      EXPECT_EQ(sinks[i]->answer.embedding, Alone(requests[i])) << i;
    EXPECT_EQ(engine->runner().cache()->num_used_pages(), 0);
  }
}

TEST(EngineEmbedding, WhatTheModelDoesNotGiveIsRefused) {
  TestEngine encoder({.family = Family::kEncoder, .max_batch_tokens = 32});
  Request request = Embed(1, 5);
  request.embed = false;
  encoder.Submit(request);
  EXPECT_EQ(ErrorCodeOf(encoder.last_status()), "unsupported_parameter");
  EXPECT_EQ(ErrorParamOf(encoder.last_status()), "model");
  encoder.Submit(Embed(1, 33));  // more than a step holds
  EXPECT_EQ(ErrorCodeOf(encoder.last_status()), "context_length_exceeded");
  EXPECT_EQ(ErrorParamOf(encoder.last_status()), "prompt");
  encoder.Submit(Embed(1, 32));
  EXPECT_TRUE(encoder.last_status().ok()) << encoder.last_status();
  encoder.Drain();
  TestEngine decoder({.family = Family::kDense});
  decoder.Submit(Embed(1, 5));
  EXPECT_EQ(ErrorCodeOf(decoder.last_status()), "unsupported_parameter");
}

}  // namespace
}  // namespace sluice::testing
