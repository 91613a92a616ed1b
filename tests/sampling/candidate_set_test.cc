#include "engine/sampling/candidate_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace sluice {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Coarse values, so that many are equal.
std::vector<float> RandomLogits(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = static_cast<float>(random() % 200) / 16.0f;
  return logits;
}

std::vector<int32_t> Sorted(const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  return order;
}

std::vector<int32_t> Tokens(const CandidateSet& set) {
  std::vector<int32_t> tokens;
  for (const Candidate& candidate : set.candidates()) tokens.push_back(candidate.token);
  return tokens;
}

TEST(CandidateSetTest, TopIsThePrefixOfAStableSort) {
  const std::vector<float> logits = RandomLogits(3000, 7);
  const std::vector<int32_t> sorted = Sorted(logits);
  CandidateSet set;
  for (const int32_t k : {1, 2, 63, 64, 65, 512, 513, 2999, 3000}) {
    set.TakeTop(logits, k);
    EXPECT_EQ(Tokens(set), std::vector<int32_t>(sorted.begin(), sorted.begin() + k)) << k;
  }
}

TEST(CandidateSetTest, TopLeavesOutForbiddenTokens) {
  CandidateSet set;
  set.TakeTop(std::vector<float>{-kInfinity, 1.0f, -kInfinity, -5.0f}, 3);
  EXPECT_EQ(Tokens(set), (std::vector<int32_t>{1, 3}));
}

TEST(CandidateSetTest, MassIsTheShortestPrefixThatReachesIt) {
  const std::vector<float> logits = RandomLogits(3000, 8);
  const std::vector<int32_t> sorted = Sorted(logits);
  const float max = logits[static_cast<size_t>(sorted[0])];
  for (const double share : {0.001, 0.1, 0.5, 0.9, 0.999, 1.0}) {
    CandidateSet set;
    set.TakeAbove(logits, -std::numeric_limits<double>::infinity());
    set.Weigh(max, 3.0f);
    const double wanted = share * set.TotalWeight();
    set.KeepMass(wanted);
    double sum = 0.0;
    std::vector<int32_t> expected;
    for (const int32_t token : sorted) {
      if (sum >= wanted * (1.0 - 1e-12)) break;
      const float logit = logits[static_cast<size_t>(token)];
      sum += std::exp((double{logit} - double{max}) / 3.0);
      expected.push_back(token);
    }
    EXPECT_THAT(Tokens(set), ::testing::UnorderedElementsAreArray(expected)) << share;
  }
}

TEST(CandidateSetTest, AtLeastOneCandidateStays) {
  CandidateSet set;
  set.TakeAbove(std::vector<float>{1.0f, 2.0f, 2.0f}, -1e30);
  set.Weigh(2.0f, 1.0f);
  set.KeepMass(0.0);
  EXPECT_EQ(Tokens(set), (std::vector<int32_t>{1}));
}

// Probabilities 0.6, 0.2, 0.1, 0.1: entropy 1.089; surprises 0.511, 1.609, 2.303, 2.303; distances
// 0.578, 0.521, 1.214, 1.214. So the second comes first, then the first.
TEST(CandidateSetTest, TypicalPrefersSurpriseNearTheEntropy) {
  const std::vector<float> logits = {std::log(0.6f), std::log(0.2f), std::log(0.1f),
                                     std::log(0.1f)};
  const auto kept = [&](double share) {
    CandidateSet set;
    set.TakeAbove(logits, -1e30);
    set.Weigh(logits[0], 1.0f);
    set.KeepTypical(share);
    return Tokens(set);
  };
  EXPECT_EQ(kept(0.15), (std::vector<int32_t>{1}));
  EXPECT_EQ(kept(0.5), (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(kept(0.85), (std::vector<int32_t>{1, 0, 2}));
  EXPECT_EQ(kept(0.95), (std::vector<int32_t>{1, 0, 2, 3}));
}

TEST(CandidateSetTest, DrawFollowsTheWeightsAndNeverTakesAWeightlessToken) {
  CandidateSet set;
  set.TakeAbove(std::vector<float>{0.0f, -1e6f, 0.0f, -1e6f}, -1e30);
  set.Weigh(0.0f, 1.0f);
  EXPECT_EQ(set.Draw(0.0), 0);
  EXPECT_EQ(set.Draw(0.49), 0);
  EXPECT_EQ(set.Draw(0.51), 2);
  EXPECT_EQ(set.Draw(0.9999999999), 2);
}

}  // namespace
}  // namespace sluice
