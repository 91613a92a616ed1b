// The sampler's frequencies against the probabilities that the formulae give, written out naively.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "engine/sampling/sampler.h"

namespace sluice {
namespace {

struct Entry {
  size_t token = 0;
  double p = 0.0;
};

void Normalize(std::vector<Entry>& entries) {
  double sum = 0.0;
  for (const Entry& entry : entries) sum += entry.p;
  for (Entry& entry : entries) entry.p /= sum;
}

void SortByProbability(std::vector<Entry>& entries) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.p > b.p; });
}

// The first entries whose probabilities reach `mass`.
void CutAt(std::vector<Entry>& entries, double mass) {
  double sum = 0.0;
  size_t kept = 0;
  while (kept < entries.size() && sum < mass) sum += entries[kept++].p;
  entries.resize(kept);
  Normalize(entries);
}

void KeepTypical(std::vector<Entry>& entries, double share) {
  double entropy = 0.0;
  for (const Entry& entry : entries) entropy -= entry.p * std::log(entry.p);
  std::stable_sort(entries.begin(), entries.end(), [=](const Entry& a, const Entry& b) {
    return std::abs(-std::log(a.p) - entropy) < std::abs(-std::log(b.p) - entropy);
  });
  CutAt(entries, share);
}

std::vector<double> Naive(const SamplingParams& params, const std::vector<float>& logits) {
  std::vector<Entry> entries;
  for (size_t i = 0; i < logits.size(); ++i) {
    entries.push_back({i, std::exp(double{logits[i]} / double{params.temperature})});
  }
  Normalize(entries);
  SortByProbability(entries);
  const double floor = double{params.min_p} * entries[0].p;
  std::erase_if(entries, [=](const Entry& entry) { return entry.p < floor; });
  if (params.top_k > 0 && entries.size() > static_cast<size_t>(params.top_k)) {
    entries.resize(static_cast<size_t>(params.top_k));
  }
  Normalize(entries);
  if (params.top_p < 1.0f) CutAt(entries, double{params.top_p});
  if (params.typical_p < 1.0f) KeepTypical(entries, double{params.typical_p});
  std::vector<double> probabilities(logits.size(), 0.0);
  for (const Entry& entry : entries) probabilities[entry.token] = entry.p;
  return probabilities;
}

std::vector<float> RandomLogits(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.5f);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// Upper 10^-4 point of the chi-square distribution (Wilson and Hilferty 1931).
double ChiSquareLimit(double degrees) {
  const double z = 3.719;
  const double t = 1.0 - 2.0 / (9.0 * degrees) + z * std::sqrt(2.0 / (9.0 * degrees));
  return degrees * t * t * t;
}

void ExpectFrequencies(const SamplingParams& params, const std::vector<float>& logits) {
  const std::vector<double> expected = Naive(params, logits);
  constexpr int kDraws = 20'000;
  std::vector<int> counts(logits.size());
  Sampler sampler(params, static_cast<int32_t>(logits.size()));
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> scratch = logits;
    const auto choice = sampler.Sample(scratch, {});
    ASSERT_TRUE(choice.ok());
    ++counts[static_cast<size_t>(choice->token)];
    sampler.Append(choice->token, true);
  }
  double chi_square = 0.0;
  double degrees = -1.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double mean = expected[i] * kDraws;
    if (mean == 0.0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " is outside the filters";
      continue;
    }
    chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
    degrees += 1.0;
  }
  if (degrees > 0.0) {
    EXPECT_LT(chi_square, ChiSquareLimit(degrees)) << degrees;
  }
}

struct Case {
  const char* name;
  SamplingParams params;
};

class SamplerDistributionTest : public ::testing::TestWithParam<Case> {};

TEST_P(SamplerDistributionTest, FollowsTheFormula) {
  SamplingParams params = GetParam().params;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    params.seed = seed;
    ExpectFrequencies(params, RandomLogits(24, seed));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Filters,
    SamplerDistributionTest,
    ::testing::Values(
        Case{"Plain", {}},
        Case{"Cold", {.temperature = 0.4f}},
        Case{"Hot", {.temperature = 2.0f}},
        Case{"TopK", {.top_k = 5}},
        Case{"TopKOfOne", {.top_k = 1}},
        Case{"TopP", {.top_p = 0.8f}},
        Case{"TopPTiny", {.top_p = 0.01f}},
        Case{"MinP", {.min_p = 0.1f}},
        Case{"Typical", {.typical_p = 0.6f}},
        Case{"TopKTopP", {.temperature = 1.3f, .top_p = 0.7f, .top_k = 9}},
        Case{"MinPTopP", {.top_p = 0.9f, .min_p = 0.05f}},
        Case{"TopPTypical", {.top_p = 0.9f, .typical_p = 0.7f}},
        Case{
            "All",
            {.temperature = 0.8f, .top_p = 0.95f, .top_k = 12, .min_p = 0.02f, .typical_p = 0.9f}}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

// The penalties change the logits as the formula says: the frequencies are those of the changed
// logits.
TEST(SamplerDistributionTest, PenaltiesAreAppliedBeforeTheTemperature) {
  const std::vector<float> logits = {1.0f, 0.5f, -0.5f, 0.2f, -1.0f};
  SamplingParams params{.temperature = 0.7f,
                        .repetition_penalty = 1.5f,
                        .presence_penalty = 0.3f,
                        .frequency_penalty = 0.2f};
  std::vector<float> changed = logits;
  changed[0] = 1.0f / 1.5f;                     // in the prompt
  changed[1] = 0.5f / 1.5f - 2 * 0.2f - 0.3f;   // generated twice
  changed[2] = -0.5f * 1.5f - 1 * 0.2f - 0.3f;  // generated once
  const std::vector<double> expected = Naive({.temperature = 0.7f}, changed);
  constexpr int kDraws = 20'000;
  std::vector<int> counts(logits.size());
  for (int i = 0; i < kDraws; ++i) {
    params.seed = static_cast<uint64_t>(i);
    Sampler sampler(params, 5);
    sampler.Append(0, false);
    for (const int32_t token : {1, 2, 1}) sampler.Append(token, true);
    std::vector<float> scratch = logits;
    ++counts[static_cast<size_t>(sampler.Sample(scratch, {})->token)];
  }
  double chi_square = 0.0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double mean = expected[i] * kDraws;
    chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
  }
  EXPECT_LT(chi_square, ChiSquareLimit(4.0));
}

// On a vocabulary of real size the fast paths (bounds, heap, partial sorts) keep the set the
// formula keeps.
TEST(SamplerDistributionTest, LargeVocabulariesKeepTheSameSet) {
  std::mt19937_64 random(99);
  int narrowed = 0;
  for (uint64_t trial = 0; trial < 60; ++trial) {
    const std::vector<float> logits = RandomLogits(5000, trial);
    SamplingParams params;
    params.temperature = 0.3f + static_cast<float>(random() % 20) / 10.0f;
    if (random() % 2 == 0) params.top_k = 1 + static_cast<int32_t>(random() % 1500);
    if (random() % 2 == 0) params.top_p = static_cast<float>(1 + random() % 99) / 100.0f;
    if (random() % 3 == 0) params.min_p = static_cast<float>(random() % 50) / 1000.0f;
    if (random() % 4 == 0) params.typical_p = static_cast<float>(1 + random() % 99) / 100.0f;
    const std::vector<double> expected = Naive(params, logits);
    narrowed += std::count(expected.begin(), expected.end(), 0.0) > 0 ? 1 : 0;
    Sampler sampler(params, 5000);
    for (int i = 0; i < 100; ++i) {
      std::vector<float> scratch = logits;
      const auto choice = sampler.Sample(scratch, {});
      ASSERT_TRUE(choice.ok());
      ASSERT_GT(expected[static_cast<size_t>(choice->token)], 0.0) << "trial " << trial;
      sampler.Append(choice->token, true);
    }
  }
  EXPECT_GT(narrowed, 30);
}

}  // namespace
}  // namespace sluice
