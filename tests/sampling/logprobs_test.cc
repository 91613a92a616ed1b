#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "engine/request_error.h"
#include "engine/sampling/sampler.h"

namespace sluice {
namespace {

std::vector<float> RandomLogits(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, 4.0f);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TEST(LogprobsTest, AgreesWithLogSoftmax) {
  const std::vector<float> logits = RandomLogits(1000, 3);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(double{logit});
  for (const int32_t token : {0, 17, 999}) {
    const auto logprob = LogprobOf(logits, token, 0);
    ASSERT_TRUE(logprob.ok());
    EXPECT_EQ(logprob->token, token);
    EXPECT_TRUE(logprob->top.empty());
    const double expected = double{logits[static_cast<size_t>(token)]} - std::log(sum);
    EXPECT_NEAR(double{logprob->logprob}, expected, 2e-6);
  }
}

TEST(LogprobsTest, TheTokenAndItsEntryInTopAreTheSameFloat) {
  const std::vector<float> logits = RandomLogits(64, 4);
  const auto all = LogprobOf(logits, 0, 64);
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->top.size(), 64u);
  for (const auto& [token, logprob] : all->top) {
    EXPECT_EQ(LogprobOf(logits, token, 3)->logprob, logprob);
  }
}

TEST(LogprobsTest, TopIsBestFirstAndEqualsAscend) {
  const auto logprob = LogprobOf(std::vector<float>{1.0f, 3.0f, 2.0f, 3.0f, 2.0f}, 0, 4);
  ASSERT_TRUE(logprob.ok());
  std::vector<int32_t> tokens;
  for (const auto& entry : logprob->top) tokens.push_back(entry.first);
  EXPECT_EQ(tokens, (std::vector<int32_t>{1, 3, 2, 4}));
  EXPECT_EQ(LogprobOf(std::vector<float>{1.0f, 2.0f}, 0, 20)->top.size(), 2u);
}

TEST(LogprobsTest, NonFiniteLogitsAreAnError) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInfinity}) {
    const auto logprob = LogprobOf(std::vector<float>{0.0f, bad}, 0, 1);
    EXPECT_EQ(logprob.status().code(), absl::StatusCode::kInternal);
    EXPECT_EQ(ErrorCodeOf(logprob.status()), "nonfinite_logits");
  }
  EXPECT_FALSE(LogprobOf(std::vector<float>(3, -kInfinity), 0, 1).ok());
}

// The raw logits count, not what bias, penalties and temperature made of them.
TEST(LogprobsTest, TheSamplerReportsTheModelsOwnProbabilities) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.logit_bias = {{2, 100.0f}};
  params.logprobs = 2;
  Sampler sampler(params, 3);
  std::vector<float> logits = {1.0f, 2.0f, 0.5f};
  const std::vector<float> raw = logits;
  const auto choice = sampler.Sample(logits, {});
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->token, 2);
  EXPECT_EQ(choice->logprob.logprob, LogprobOf(raw, 2, 0)->logprob);
  ASSERT_EQ(choice->logprob.top.size(), 2u);
  EXPECT_EQ(choice->logprob.top[0].first, 1);
}

}  // namespace
}  // namespace sluice
