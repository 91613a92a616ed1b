#include "engine/sampling/softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "engine/sampling/uniform_random.h"

namespace sluice {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(SoftmaxTest, SumExpAgreesWithTheFormula) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0.0f, 8.0f);
  for (const size_t size : {1u, 7u, 8u, 63u, 64u, 65u, 1000u}) {
    std::vector<float> logits(size);
    for (float& logit : logits) logit = normal(random);
    const float max = logits[static_cast<size_t>(ArgMax(logits))];
    double expected = 0.0;
    for (const float logit : logits) expected += std::exp((double{logit} - double{max}) / 0.7);
    EXPECT_NEAR(SumExp(logits, max, 1.0f / 0.7f) / expected, 1.0, 2e-6) << size;
    const double sum = SumExp(logits, max, 1.0f / 0.7f);
    EXPECT_EQ(ExpInPlace(logits, max, 1.0f / 0.7f), sum);
  }
}

TEST(SoftmaxTest, EachTermIsAccurateToAFewUlp) {
  for (float x = 0.0f; x > -87.0f; x -= 0.0137f) {
    std::vector<float> logits = {x};
    ExpInPlace(logits, 0.0f, 1.0f);
    EXPECT_NEAR(double{logits[0]} / std::exp(double{x}), 1.0, 3e-7) << x;
  }
}

TEST(SoftmaxTest, FarAndForbiddenTermsAreExactlyZero) {
  std::vector<float> logits = {0.0f, -100.0f, -kInfinity, std::numeric_limits<float>::lowest()};
  EXPECT_EQ(ExpInPlace(logits, 0.0f, 1.0f), 1.0);
  EXPECT_EQ(logits, (std::vector<float>{1.0f, 0.0f, 0.0f, 0.0f}));
}

TEST(SoftmaxTest, ArgMaxTakesTheFirstOfEquals) {
  for (size_t size = 1; size < 40; ++size) {
    for (size_t first = 0; first < size; ++first) {
      std::vector<float> logits(size, -3.0f);
      logits[first] = 2.0f;
      logits[size - 1] = 2.0f;
      ASSERT_EQ(ArgMax(logits), static_cast<int32_t>(first)) << size;
    }
  }
}

TEST(SoftmaxTest, ArgMaxOfNothingIsMinusOne) {
  EXPECT_EQ(ArgMax({}), -1);
  EXPECT_EQ(ArgMax(std::vector<float>(20, -kInfinity)), -1);
}

TEST(SoftmaxTest, OnlyNanAndPlusInfinityAreNotFinite) {
  std::vector<float> logits(37, 1.0f);
  logits[30] = -kInfinity;
  EXPECT_TRUE(AllFinite(logits));
  for (const float bad : {kInfinity, std::nanf(""), -std::nanf("")}) {
    logits[36] = bad;
    EXPECT_FALSE(AllFinite(logits));
  }
}

TEST(UniformRandomTest, IsAPureFunctionOfSeedAndIndex) {
  static_assert(UniformRandom(1, 2) == UniformRandom(1, 2));
  EXPECT_NE(UniformRandom(1, 2), UniformRandom(1, 3));
  EXPECT_NE(UniformRandom(1, 2), UniformRandom(2, 2));
  EXPECT_NE(UniformRandom(1, 2), UniformRandom(2, 1));
}

// Chi-square with 99 degrees of freedom: below 149 with probability 0.999.
TEST(UniformRandomTest, IsUniformAlongIndicesAndAlongSeeds) {
  constexpr int kDraws = 100'000;
  std::vector<double> by_index(100), by_seed(100);
  for (uint64_t i = 0; i < kDraws; ++i) {
    by_index[static_cast<size_t>(UniformRandom(12345, i) * 100.0)] += 1.0;
    by_seed[static_cast<size_t>(UniformRandom(i, 0) * 100.0)] += 1.0;
  }
  for (const auto& counts : {by_index, by_seed}) {
    double chi_square = 0.0;
    for (const double count : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
    EXPECT_LT(chi_square, 149.0);
    EXPECT_GT(chi_square, 50.0);
  }
}

}  // namespace
}  // namespace sluice
