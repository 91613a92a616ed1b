// Cohorts of Mixture of Tokens through the real engine: an answer belongs to its cohort and to
// nobody else, whatever the engine does with it.
#include <gtest/gtest.h>

#include <random>

#include "tests/engine/test_engine.h"

namespace sluice::testing {
namespace {

constexpr int64_t kPageBytes = 16 * 2 * 24 * 4;

// Prompts and answers of different lengths.
std::vector<Request> RandomCohort(uint32_t seed, size_t size) {
  std::mt19937 random(seed);
  std::vector<Request> requests(size);
  for (Request& request : requests) {
    request.prompt.resize(1 + random() % 20);
    for (int32_t& token : request.prompt) token = static_cast<int32_t>(random() % 96);
    request.stop = {.max_tokens = static_cast<int32_t>(1 + random() % 25), .ignore_eos = true};
    request.sampling = {.temperature = 0.7f, .seed = random(), .logprobs = 0};
    if (random() % 3 == 0) request.sampling.prompt_logprobs = 0;
    request.routing.mode = RoutingParams::Mode::kCohort;
  }
  return requests;
}

std::vector<Answer> Answers(const std::vector<std::shared_ptr<AnswerSink>>& sinks) {
  std::vector<Answer> answers;
  for (const auto& sink : sinks) answers.push_back(sink->answer);
  return answers;
}

std::vector<Answer> Alone(const std::vector<Request>& cohort) {
  TestEngine engine({.family = Family::kMot});
  const auto sinks = engine.SubmitCohort(cohort);
  EXPECT_TRUE(engine.last_status().ok()) << engine.last_status();
  engine.Drain();
  for (const auto& sink : sinks) EXPECT_EQ(sink->answer.last_events, 1);
  return Answers(sinks);
}

TEST(CohortTest, CompanyAndPreemptionChangeNoBit) {
  std::vector<std::vector<Request>> cohorts;
  std::vector<std::vector<Answer>> alone;
  for (uint32_t c = 0; c < 6; ++c) {
    cohorts.push_back(RandomCohort(c, 1 + c % kCohortSize));
    alone.push_back(Alone(cohorts.back()));
  }
  Request single = RandomCohort(99, 1)[0];
  single.routing.mode = RoutingParams::Mode::kIsolated;
  TestEngine quiet({.family = Family::kMot});
  const auto expected = quiet.Submit(single);
  quiet.Drain();

  int64_t preemptions = 0;
  for (const int64_t pages : {0, 110, 80, 60}) {
    for (const int32_t rows : {512, 13, 5}) {
      TestEngine engine({.family = Family::kMot,
                         .max_batch_tokens = rows,
                         .kv_memory_bytes = pages * kPageBytes});
      std::vector<std::vector<std::shared_ptr<AnswerSink>>> sinks;
      std::vector<std::shared_ptr<AnswerSink>> singles;
      for (const auto& cohort : cohorts) {
        sinks.push_back(engine.SubmitCohort(cohort));
        ASSERT_TRUE(engine.last_status().ok()) << engine.last_status();
        singles.push_back(engine.Submit(single));
        for (int step = 0; step < 3; ++step) engine->Step();
      }
      engine.Drain();
      for (size_t c = 0; c < cohorts.size(); ++c)
        EXPECT_EQ(Answers(sinks[c]), alone[c]) << c << ", pages " << pages << ", rows " << rows;
      for (const auto& sink : singles) EXPECT_EQ(sink->answer, expected->answer);
      preemptions += static_cast<int64_t>(engine->metrics().Snapshot().preemptions["pages"]);
    }
  }
  EXPECT_GT(preemptions, 0) << "the small caches must have forced recomputation";
}

TEST(CohortTest, MembersAreMixed) {
  std::vector<Request> cohort = RandomCohort(3, 2);
  for (Request& request : cohort) request.stop.max_tokens = 20;
  const auto both = Alone(cohort);
  const auto first = Alone({cohort[0]});
  EXPECT_NE(both[0].logprob_bits, first[0].logprob_bits);
}

TEST(CohortTest, ACohortOfOneIsTheRequestAlone) {
  std::vector<Request> cohort = RandomCohort(4, 1);
  const auto one = Alone(cohort);
  cohort[0].routing.mode = RoutingParams::Mode::kModelDefault;
  TestEngine engine({.family = Family::kMot});
  const auto sink = engine.Submit(cohort[0]);
  engine.Drain();
  EXPECT_EQ(sink->answer, one[0]);
}

TEST(CohortTest, CancellingOneMemberEndsAll) {
  for (int cancel_at = 0; cancel_at < 25; ++cancel_at) {
    TestEngine engine({.family = Family::kMot, .max_batch_tokens = 9});
    const auto sinks = engine.SubmitCohort(RandomCohort(5, 3));
    for (int step = 0; step < cancel_at; ++step) engine->Step();
    for (uint64_t id = 1; id <= 3; ++id) engine->Cancel(RequestId{id}, "disconnect");
    EXPECT_EQ(engine->num_active(), 0);
    EXPECT_TRUE(engine->CheckIntegrity().ok()) << engine->CheckIntegrity();
    for (const auto& sink : sinks) EXPECT_EQ(sink->answer.last_events, 1);
  }
}

TEST(CohortTest, WhatCannotRunIsRefusedAsOne) {
  const auto refusal = [](const EngineOptions& options, const std::vector<Request>& cohort) {
    TestEngine engine(options);
    const auto sinks = engine.SubmitCohort(cohort);
    EXPECT_EQ(engine->num_active(), 0);
    for (const auto& sink : sinks) EXPECT_EQ(sink->answer.last_events, 0);
    return std::string(engine.last_status().message());
  };
  const EngineOptions mot{.family = Family::kMot};
  EXPECT_NE(refusal(mot, RandomCohort(1, kCohortSize + 1)).find("at most 4"), std::string::npos);
  EXPECT_FALSE(refusal(mot, {}).empty());
  EXPECT_FALSE(refusal({.family = Family::kDense}, RandomCohort(1, 2)).empty());
  EXPECT_FALSE(
      refusal({.family = Family::kMot, .max_batch_tokens = 2}, RandomCohort(1, 3)).empty());
  EXPECT_FALSE(refusal({.family = Family::kMot, .max_sequences = 2}, RandomCohort(1, 3)).empty());
  std::vector<Request> long_ones = RandomCohort(1, 4);
  for (Request& request : long_ones) request.stop.max_tokens = 40;
  EXPECT_FALSE(
      refusal({.family = Family::kMot, .kv_memory_bytes = 24 * kPageBytes}, long_ones).empty());

  TestEngine engine(mot);
  engine.Submit(RandomCohort(1, 1)[0]);
  EXPECT_NE(std::string(engine.last_status().message()).find("cohort"), std::string::npos);
}

}  // namespace
}  // namespace sluice::testing
