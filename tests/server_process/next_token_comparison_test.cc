// Divergence, agreement and perplexity against numbers computed by hand.
#include "server/commands/next_token_comparison.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace sluice::server {
namespace {

std::vector<float> Logs(std::vector<double> probabilities) {
  std::vector<float> out;
  for (const double p : probabilities) out.push_back(static_cast<float>(std::log(p)) + 3.0f);
  return out;
}

TEST(NextTokenComparisonTest, EqualDistributionsAreNotApart) {
  NextTokenComparison comparison;
  const std::vector<float> logits = {1.0f, -2.0f, 0.5f};
  const std::vector<float> shifted = {11.0f, 8.0f, 10.5f};  // the same distribution
  EXPECT_TRUE(comparison.Add(logits, shifted, 1));
  const NextTokenDistance distance = comparison.Distance();
  EXPECT_NEAR(distance.mean_divergence, 0.0, 1e-12);
  EXPECT_EQ(distance.top_agreement, 1.0);
  EXPECT_NEAR(distance.subject_perplexity, distance.baseline_perplexity, 1e-9);
}

TEST(NextTokenComparisonTest, MatchesTheFormulaeByHand) {
  NextTokenComparison comparison;
  EXPECT_TRUE(comparison.Add(Logs({0.25, 0.75}), Logs({0.5, 0.5}), 0));
  EXPECT_TRUE(comparison.Add(Logs({0.1, 0.9}), Logs({0.8, 0.2}), 1));
  const NextTokenDistance distance = comparison.Distance();
  const double first = 0.5 * std::log(0.5 / 0.25) + 0.5 * std::log(0.5 / 0.75);
  const double second = 0.8 * std::log(0.8 / 0.1) + 0.2 * std::log(0.2 / 0.9);
  EXPECT_EQ(distance.positions, 2);
  EXPECT_NEAR(distance.mean_divergence, (first + second) / 2, 1e-6);
  EXPECT_NEAR(distance.largest_divergence, second, 1e-6);
  EXPECT_NEAR(distance.p99_divergence, second, 1e-6);
  EXPECT_NEAR(distance.subject_perplexity, 1.0 / std::sqrt(0.25 * 0.9), 1e-5);
  EXPECT_NEAR(distance.baseline_perplexity, 1.0 / std::sqrt(0.5 * 0.2), 1e-5);
  EXPECT_EQ(distance.top_agreement, 0.0);  // the first tie goes to the lower token
}

TEST(NextTokenComparisonTest, NinetyNineOfAHundredDoNotExceedThePercentile) {
  NextTokenComparison comparison;
  for (int i = 0; i < 99; ++i) comparison.Add(Logs({0.5, 0.5}), Logs({0.5, 0.5}), 0);
  comparison.Add(Logs({0.1, 0.9}), Logs({0.9, 0.1}), 0);
  EXPECT_NEAR(comparison.Distance().p99_divergence, 0.0, 1e-9);
  EXPECT_GT(comparison.Distance().largest_divergence, 1.0);
}

TEST(NextTokenComparisonTest, WhatIsNotFiniteIsNotCounted) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  NextTokenComparison comparison;
  EXPECT_FALSE(comparison.Add(std::vector<float>{nan, 1.0f}, std::vector<float>{0.0f, 1.0f}, 0));
  EXPECT_FALSE(comparison.Add(std::vector<float>{0.0f, 1.0f}, std::vector<float>{0.0f, nan}, 0));
  EXPECT_EQ(comparison.Distance().positions, 0);
}

}  // namespace
}  // namespace sluice::server
