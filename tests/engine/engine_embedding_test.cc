// Encoders in the engine: embeddings are the pooled hidden rows, the same alone and in company;
// encoder-decoders answer the same in any company and after preemption; what both refuse.
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

Request Ask(uint32_t seed, int32_t length) {
  Request request;
  request.prompt = RandomTokens(seed, length, 97);
  request.stop.max_tokens = 1 + static_cast<int32_t>(seed * 5 % 17);
  request.sampling.temperature = seed % 2 == 0 ? 0.0f : 0.8f;
  request.sampling.seed = seed;
  request.sampling.logprobs = 2;
  return request;
}

TEST(EngineEncoderDecoder, AnswersAreTheSameInAnyCompany) {
  std::vector<Request> requests;
  std::vector<Answer> alone;
  for (uint32_t i = 0; i < 24; ++i) {
    requests.push_back(Ask(i, 1 + static_cast<int32_t>(i * 7 % 30)));
    TestEngine engine({.family = Family::kEncoderDecoder});
    const auto sink = engine.Submit(requests.back());
    ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
    engine.Drain();
    alone.push_back(sink->answer);
    EXPECT_FALSE(alone.back().tokens.empty());
    EXPECT_EQ(alone.back().usage.prompt_tokens,
              static_cast<int32_t>(requests.back().prompt.size()));
  }
  for (const int64_t kv_memory_bytes : {int64_t{0}, int64_t{8} << 20, int64_t{3} << 20}) {
    TestEngine engine({.family = Family::kEncoderDecoder,
                       .max_batch_tokens = 40,
                       .kv_memory_bytes = kv_memory_bytes});
    std::vector<std::shared_ptr<AnswerSink>> sinks;
    for (const Request& request : requests) sinks.push_back(engine.Submit(request));
    engine.Drain();
    for (size_t i = 0; i < requests.size(); ++i)
      EXPECT_TRUE(sinks[i]->answer == alone[i]) << i << " with " << kv_memory_bytes;
    EXPECT_EQ(engine->runner().cache()->num_used_pages(), 0);
  }
}

TEST(EngineEncoderDecoder, ThePromptHasNoLogprobsAndMustFitAStep) {
  TestEngine engine({.family = Family::kEncoderDecoder, .max_batch_tokens = 32});
  Request request = Ask(1, 5);
  request.sampling.prompt_logprobs = 1;
  engine.Submit(request);
  EXPECT_EQ(ErrorParamOf(engine.last_status()), "prompt_logprobs");
  engine.Submit(Ask(1, 32));  // and the decoder's first row
  EXPECT_EQ(ErrorCodeOf(engine.last_status()), "context_length_exceeded");
  EXPECT_EQ(ErrorParamOf(engine.last_status()), "prompt");
  engine.Submit(Ask(1, 31));
  EXPECT_TRUE(engine.last_status().ok()) << engine.last_status();
  engine.Drain();
}

TEST(EngineEncoderDecoder, ARowIsChargedTheLayersOfItsOwnStack) {
  TestEngine engine({.family = Family::kEncoderDecoder});
  const auto sink = engine.Submit(Ask(1, 9));
  ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
  engine.Drain();
  const ComputeUsage& compute = sink->answer.usage.compute;
  const RunnerFacts& facts = engine->runner().facts();
  const int64_t encoder_layers = facts.num_encoder_instances;
  const auto decoder_layers = static_cast<int64_t>(facts.instances.size()) - encoder_layers;
  EXPECT_EQ(encoder_layers, 4);
  // The start token has a row; the last token generated has none.
  const auto decoder_rows = static_cast<int64_t>(sink->answer.tokens.size());
  EXPECT_EQ(compute.rows, 9 + decoder_rows);
  EXPECT_EQ(compute.all_token_layers, 9 * encoder_layers + decoder_rows * decoder_layers);
}

}  // namespace
}  // namespace sluice::testing
