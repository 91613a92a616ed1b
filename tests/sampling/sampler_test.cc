#include "engine/sampling/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/request_error.h"

namespace sluice {
namespace {

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0.0f;
  return params;
}

int32_t Choose(Sampler& sampler,
               std::vector<float> logits,
               const std::vector<int32_t>& forbidden = {}) {
  const auto choice = sampler.Sample(logits, forbidden);
  EXPECT_TRUE(choice.ok()) << choice.status();
  return choice.ok() ? choice->token : -1;
}

int32_t Choose(const SamplingParams& params, const std::vector<float>& logits) {
  Sampler sampler(params, static_cast<int32_t>(logits.size()));
  return Choose(sampler, logits);
}

TEST(SamplerTest, GreedyTakesTheFirstOfEqualLogits) {
  EXPECT_EQ(Choose(Greedy(), {1.0f, 3.0f, 3.0f, 2.0f}), 1);
  EXPECT_EQ(Choose(Greedy(), {-0.0f, 0.0f}), 0);
}

TEST(SamplerTest, TheSameSeedGivesTheSameTokensAndAnotherSeedOthers) {
  SamplingParams params;
  const auto text = [&](uint64_t seed) {
    params.seed = seed;
    Sampler sampler(params, 50);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 20; ++i) {
      tokens.push_back(Choose(sampler, std::vector<float>(50, 0.0f)));
      sampler.Append(tokens.back(), true);
    }
    return tokens;
  };
  EXPECT_EQ(text(5), text(5));
  EXPECT_NE(text(5), text(6));
}

TEST(SamplerTest, TokenIDependsOnItsIndexOnly) {
  SamplingParams params;
  params.seed = 9;
  const std::vector<float> flat(1000, 0.0f);
  Sampler first(params, 1000);
  first.Append(1, false);
  EXPECT_EQ(Choose(first, flat), Choose(first, flat));
  for (int i = 0; i < 7; ++i) first.Append(Choose(first, flat), true);
  // Recomputed after preemption: the same seven tokens are appended, none is drawn.
  Sampler second(params, 1000);
  for (int i = 0; i < 7; ++i) second.Append(2, true);
  EXPECT_EQ(Choose(first, flat), Choose(second, flat));
}

TEST(SamplerTest, ForbiddenTokensAreNotChosen) {
  Sampler sampler(Greedy(), 3);
  EXPECT_EQ(Choose(sampler, {5.0f, 4.0f, 3.0f}, {0, 1}), 2);
  EXPECT_EQ(Choose(sampler, {5.0f, 4.0f, 3.0f}, {77, -1}), 0);
  EXPECT_EQ(Choose(sampler, {5.0f, 4.0f, 3.0f}), 0);
}

TEST(SamplerTest, OnlyAllowedTokensAreChosen) {
  SamplingParams params = Greedy();
  params.allowed_token_ids = {2, 0, 2, 99, -4};
  EXPECT_EQ(Choose(params, {1.0f, 9.0f, 2.0f, 9.0f}), 2);
}

TEST(SamplerTest, LogitBiasIsAddedBeforeTheChoice) {
  SamplingParams params = Greedy();
  params.logit_bias = {{1, 2.5f}, {0, -100.0f}, {55, 1.0f}};
  EXPECT_EQ(Choose(params, {9.0f, 1.0f, 3.0f}), 1);
}

TEST(SamplerTest, ASingleTokenBadWordIsNeverChosen) {
  SamplingParams params = Greedy();
  params.bad_words = {{1}, {}, {2, 99}};
  EXPECT_EQ(Choose(params, {1.0f, 9.0f, 2.0f}), 2);
}

TEST(SamplerTest, ALongBadWordIsForbiddenOnlyWhereItWouldBeCompleted) {
  SamplingParams params = Greedy();
  params.bad_words = {{3, 4, 1}};
  const std::vector<float> logits = {0.0f, 9.0f, 5.0f, 0.0f, 0.0f};
  Sampler sampler(params, 5);
  EXPECT_EQ(Choose(sampler, logits), 1);
  // The prompt does not count.
  sampler.Append(3, false);
  sampler.Append(4, false);
  EXPECT_EQ(Choose(sampler, logits), 1);
  sampler.Append(3, true);
  EXPECT_EQ(Choose(sampler, logits), 1);
  sampler.Append(4, true);
  EXPECT_EQ(Choose(sampler, logits), 2);
  sampler.Append(2, true);
  EXPECT_EQ(Choose(sampler, logits), 1);
}

TEST(SamplerTest, RepetitionPenaltyCountsPromptAndOutputOnce) {
  SamplingParams params = Greedy();
  params.repetition_penalty = 2.0f;
  Sampler sampler(params, 4);
  sampler.Append(0, false);
  sampler.Append(0, false);
  sampler.Append(1, true);
  // 4 / 2 = 2 and -1 * 2 = -2.
  EXPECT_EQ(Choose(sampler, {4.0f, -1.0f, 1.9f, -3.0f}), 0);
  EXPECT_EQ(Choose(sampler, {4.0f, -1.0f, 2.1f, -3.0f}), 2);
  EXPECT_EQ(Choose(sampler, {-9.0f, -1.0f, -2.1f, -3.0f}), 1);
  EXPECT_EQ(Choose(sampler, {-9.0f, -1.0f, -1.9f, -3.0f}), 2);
}

TEST(SamplerTest, FrequencyAndPresencePenaltiesCountTheOutput) {
  SamplingParams params = Greedy();
  params.frequency_penalty = 0.5f;
  Sampler frequency(params, 3);
  params.frequency_penalty = 0.0f;
  params.presence_penalty = 0.5f;
  Sampler presence(params, 3);
  for (Sampler* sampler : {&frequency, &presence}) {
    sampler->Append(0, false);
    sampler->Append(1, true);
    sampler->Append(1, true);
  }
  EXPECT_EQ(Choose(frequency, {0.0f, 1.1f, 0.0f}), 1);
  EXPECT_EQ(Choose(frequency, {0.0f, 0.9f, 0.0f}), 0);
  EXPECT_EQ(Choose(presence, {0.0f, 0.6f, 0.0f}), 1);
  EXPECT_EQ(Choose(presence, {0.0f, 0.4f, 0.0f}), 0);
}

TEST(SamplerTest, NonFiniteLogitsAreAnError) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  SamplingParams sampled;
  for (const SamplingParams& params : {Greedy(), sampled}) {
    for (const float bad : {std::nanf(""), kInfinity}) {
      Sampler sampler(params, 3);
      std::vector<float> logits = {0.0f, bad, 1.0f};
      const auto choice = sampler.Sample(logits, {});
      EXPECT_EQ(choice.status().code(), absl::StatusCode::kInternal);
      EXPECT_EQ(ErrorCodeOf(choice.status()), "nonfinite_logits");
    }
    Sampler sampler(params, 3);
    EXPECT_EQ(Choose(sampler, {-kInfinity, 0.0f, -kInfinity}), 1);
    std::vector<float> logits = {-kInfinity, 0.0f, -kInfinity};
    const std::vector<int32_t> forbidden = {1};
    EXPECT_EQ(ErrorCodeOf(sampler.Sample(logits, forbidden).status()), "no_token_allowed");
  }
}

TEST(SamplerTest, ATinyTemperatureIsGreedy) {
  SamplingParams params;
  for (const float temperature : {1e-30f, 1e-6f, 1e-4f}) {
    params.temperature = temperature;
    for (uint64_t seed = 0; seed < 20; ++seed) {
      params.seed = seed;
      EXPECT_EQ(Choose(params, {1e4f, 1.1e4f, -1e4f}), 1);
    }
  }
}

}  // namespace
}  // namespace sluice
