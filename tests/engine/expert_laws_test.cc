// Laws of experts that choose rows, refuse rows, or run for fewer choices than trained: a request's
// own rows decide and nobody else's, and degenerate settings equal their plain form.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/blocks/expert_selection.h"
#include "engine/model/model_spec_json.h"
#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Logits = std::vector<std::vector<float>>;
using Decide = RowRouting::Decide;

constexpr int32_t kExperts = 4;

bool SameBits(const Logits& a, const Logits& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size() ||
        std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0)
      return false;
  }
  return true;
}

// One layer whose FFN has four experts; `router` is what the cases bend.
ModelSpec ExpertSpec(const RouterSpec& router) {
  ModelSpec spec = PlainSpec(2);
  MoeFfnSpec ffn;
  ffn.router = router;
  ffn.router.num_experts = kExperts;
  ffn.router.weight = "router";
  ffn.hidden = 80;
  ffn.experts = {.gate = "e{e}.gate", .up = "e{e}.up", .down = "e{e}.down"};
  spec.stacks[0].groups[0].layers[1].sublayers[1].block = ffn;
  return spec;
}

class ExpertLaws : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<ModelHarness> Make(const ModelSpec& spec, uint32_t seed = 3) {
    MemoryWeightStore weights;
    FillWeights(spec, seed, weights);
    auto harness =
        ModelHarness::Create(spec, weights, {.device = {.device = GetParam(), .threads = 2}});
    EXPECT_TRUE(harness.ok()) << harness.status() << SpecToJson(spec).dump();
    return *std::move(harness);
  }
  static std::vector<int32_t> Ids(const ModelHarness& harness) {
    const ExpertChoice& choice = harness.stats().expert_choices().at(0);
    const auto ids = harness.stats().expert_ids(choice);
    return {ids.begin(), ids.end()};
  }
};

TEST_P(ExpertLaws, ACapacityThatNobodyReachesChangesNoBit) {
  auto harness = Make(
      ExpertSpec({.top_k = 2, .renormalize = true, .capacity = ExpertCapacitySpec{.rows = 1'000}}));
  const auto tokens = RandomTokens(5, 30, kPlainVocabulary);
  const Logits all = harness->Run(tokens, 64);
  EXPECT_TRUE(SameBits(all, harness->Run(tokens, 64, {.decide = Decide::kCapacity})));
  EXPECT_EQ(harness->stats().expert_choices().at(0).dropped, 0);
}

TEST_P(ExpertLaws, AFullExpertRefusesWhoComesLast) {
  RouterSpec router{.top_k = 1, .capacity = ExpertCapacitySpec{.rows = 3}};
  auto harness = Make(ExpertSpec(router));
  const auto tokens = RandomTokens(5, 20, kPlainVocabulary);
  const KvSequence sequence = harness->Open();
  harness->Step({{.sequence = sequence, .tokens = tokens}});
  const std::vector<int32_t> wanted = Ids(*harness);
  const RowRouting capped{.decide = Decide::kCapacity};
  const KvSequence again = harness->Open();
  harness->Step({{.sequence = again, .tokens = tokens, .routing = capped}});
  const std::vector<int32_t> kept = Ids(*harness);
  int32_t load[kExperts] = {};
  int32_t dropped = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const bool fits = load[wanted[i]]++ < 3;
    dropped += fits ? 0 : 1;
    EXPECT_EQ(kept[i], fits ? wanted[i] : kExperts) << i;
    EXPECT_EQ(harness->stats().dropped()[i], fits ? 0 : 1) << i;
  }
  EXPECT_GT(dropped, 0);
  EXPECT_EQ(harness->stats().expert_choices().at(0).dropped, dropped);
  // Generated rows are never refused.
  for (int32_t i = 0; i < 8; ++i) {
    harness->Step({{.sequence = again,
                    .tokens = {tokens[0]},
                    .first = 20 + i,
                    .routing = capped,
                    .is_prompt = false}});
    EXPECT_LT(Ids(*harness).at(0), kExperts);
  }
}

TEST_P(ExpertLaws, SecondChoicesQueueBehindFirstOnes) {
  // Every row wants expert 0, then expert 1; each takes four of ten.
  ModelSpec spec =
      ExpertSpec({.top_k = 2,
                  .renormalize = true,
                  .bias = "bias",
                  .capacity = ExpertCapacitySpec{.share = 0.4, .renormalize_kept = true}});
  MemoryWeightStore weights;
  weights.Add("router", {kExperts, 48}, std::vector<float>(kExperts * 48, 0.0f));
  weights.Add("bias", {kExperts}, {3.0f, 2.0f, 1.0f, 0.0f});
  FillWeights(spec, 3, weights);
  auto harness =
      ModelHarness::Create(spec, weights, {.device = {.device = GetParam(), .threads = 2}});
  ASSERT_TRUE(harness.ok()) << harness.status();
  (*harness)->Run(RandomTokens(5, 10, kPlainVocabulary), 64, {.decide = Decide::kCapacity});
  const std::vector<int32_t> ids = Ids(**harness);
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(ids[2 * i], i < 4 ? 0 : kExperts) << i;
    EXPECT_EQ(ids[2 * i + 1], i < 4 ? 1 : kExperts) << i;
  }
}

TEST_P(ExpertLaws, EveryExpertTakesItsShareOfThePrompt) {
  auto harness = Make(ExpertSpec({.top_k = kExperts,
                                  .pick = ExpertPick::kExpertTopK,
                                  .capacity = ExpertCapacitySpec{.factor = 1.0, .min_rows = 2}}));
  for (const int32_t length : {1, 2, 3, 10, 22, 23}) {
    harness->Run(RandomTokens(5, length, kPlainVocabulary), 64);
    const std::vector<int32_t> ids = Ids(*harness);
    // round(22 / 4) is 6 and round(10 / 4) is 2: halves go to the even number.
    const int32_t share = length == 22 || length == 23 ? 6 : std::min(length, 2);
    for (int32_t e = 0; e < kExperts; ++e)
      EXPECT_EQ(std::count(ids.begin(), ids.end(), e), share) << length;
  }
}

TEST_P(ExpertLaws, AThresholdOfZeroTakesEveryExpert) {
  const RouterSpec all{.top_k = kExperts};
  RouterSpec above = all;
  above.pick = ExpertPick::kThreshold;
  above.thresholds.assign(kExperts, 0.0f);
  const auto tokens = RandomTokens(5, 30, kPlainVocabulary);
  EXPECT_TRUE(
      SameBits(Make(ExpertSpec(all))->Run(tokens, 7), Make(ExpertSpec(above))->Run(tokens, 7)));
}

TEST_P(ExpertLaws, GeneratedRowsFollowTheThresholds) {
  RouterSpec prompt{.top_k = kExperts,
                    .pick = ExpertPick::kExpertTopK,
                    .thresholds = {0.2f, 0.3f, 0.25f, 0.25f},
                    .capacity = ExpertCapacitySpec{.factor = 1.0}};
  RouterSpec above = prompt;
  above.pick = ExpertPick::kThreshold;
  const auto tokens = RandomTokens(5, 30, kPlainVocabulary);
  // A request may ask for the other rule of the prompt.
  auto first = Make(ExpertSpec(prompt));
  auto second = Make(ExpertSpec(above));
  EXPECT_TRUE(
      SameBits(first->Run(tokens, 7, {.decide = Decide::kThreshold}), second->Run(tokens, 7)));
  EXPECT_TRUE(
      SameBits(first->Run(tokens, 64), second->Run(tokens, 64, {.decide = Decide::kTopKPrompt})));
  const KvSequence sequence = first->Open();
  first->Step({{.sequence = sequence, .tokens = tokens}});
  first->Step({{.sequence = sequence, .tokens = {7}, .first = 30, .is_prompt = false}});
  EXPECT_EQ(Ids(*first).size(), size_t{kExperts});
}

TEST_P(ExpertLaws, FewerExpertsPerTokenAreTheSmallerModel) {
  const auto tokens = RandomTokens(5, 30, kPlainVocabulary);
  for (const auto score : {ScoreFunction::kSoftmax, ScoreFunction::kSoftmaxOverTopK}) {
    for (int32_t limit = 1; limit < 3; ++limit) {
      const RouterSpec three{.score = score, .top_k = 3};
      RouterSpec fewer = three;
      fewer.top_k = limit;
      const Logits small = Make(ExpertSpec(fewer))->Run(tokens, 7);
      const Logits limited = Make(ExpertSpec(three))->Run(tokens, 7, {.experts_per_token = limit});
      double worst = 0.0;
      for (size_t i = 0; i < small.size(); ++i) {
        for (size_t c = 0; c < small[i].size(); ++c)
          worst = std::max(worst, static_cast<double>(std::abs(small[i][c] - limited[i][c])));
      }
      EXPECT_LT(worst, 1e-5) << limit;
    }
  }
}

TEST_P(ExpertLaws, AnExpertThresholdOfOneRunsNoExpert) {
  ModelSpec without = ExpertSpec({.score = ScoreFunction::kSigmoid, .top_k = 2});
  auto harness = Make(without);
  without.stacks[0].groups[0].layers[1].sublayers.pop_back();
  const auto tokens = RandomTokens(5, 30, kPlainVocabulary);
  EXPECT_TRUE(
      SameBits(Make(without)->Run(tokens, 7), harness->Run(tokens, 7, {.expert_threshold = 1.0f})));
  EXPECT_TRUE(
      SameBits(harness->Run(tokens, 7), harness->Run(tokens, 7, {.expert_threshold = 0.0f})));
}

// Alone or in the middle of others, in one step: the same bits, whatever the experts do.
TEST_P(ExpertLaws, NeighboursChangeNoBitOfAPrompt) {
  int capped = 0, chosen = 0;
  for (uint32_t seed = 0; seed < std::max(kNumRandomSpecs, 120u); ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed, {.depth = false, .topk_prompt = true});
    const std::string text = SpecToJson(spec).dump();
    capped += absl::StrContains(text, "\"min_rows\"") ? 1 : 0;
    chosen += absl::StrContains(text, "\"expert_top_k\"") ? 1 : 0;
    auto harness = Make(spec, seed);
    const int32_t vocab = spec.decoder().embedding.vocab_size;
    const RowRouting routing{.decide = Decide::kCapacity, .expert_threshold = 0.02f};
    const auto tokens = RandomTokens(seed, 14, vocab);
    const Logits alone =
        harness->Step({{.sequence = harness->Open(), .tokens = tokens, .routing = routing}});
    const auto other = RandomTokens(seed + 1, 9, vocab);
    const auto last = RandomTokens(seed + 2, 17, vocab);
    const Logits together =
        harness->Step({{.sequence = harness->Open(), .tokens = other},
                       {.sequence = harness->Open(), .tokens = tokens, .routing = routing},
                       {.sequence = harness->Open(), .tokens = last, .routing = routing}});
    EXPECT_TRUE(SameBits(alone, {together.begin() + 9, together.begin() + 23}));
  }
  EXPECT_GT(capped, 5);
  EXPECT_GT(chosen, 3);
}

INSTANTIATE_TEST_SUITE_P(Backends, ExpertLaws, ::testing::Values("reference", "cpu"));

TEST(ExpertCapacity, CountsAsThePublishedCodeDoes) {
  EXPECT_EQ(ExpertCapacity({.rows = 5}, 8, 3), 5);
  EXPECT_EQ(ExpertCapacity({.share = 0.3}, 8, 10), 3);
  EXPECT_EQ(ExpertCapacity({.share = 0.3}, 8, 11), 4);
  EXPECT_EQ(ExpertCapacity({.factor = 1.0}, 4, 10), 2) << "2.5 to the even number";
  EXPECT_EQ(ExpertCapacity({.factor = 1.0}, 4, 14), 4) << "3.5 to the even number";
  EXPECT_EQ(ExpertCapacity({.factor = 2.0, .min_rows = 4}, 8, 3), 4);
}

TEST(ExpertLawsDeathTest, APartOfAPromptIsRefused) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  ModelSpec spec = ExpertSpec({.top_k = kExperts,
                               .pick = ExpertPick::kExpertTopK,
                               .capacity = ExpertCapacitySpec{.factor = 1.0}});
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto harness = ModelHarness::Create(spec, weights, {});
  ASSERT_TRUE(harness.ok()) << harness.status();
  EXPECT_DEATH((*harness)->Run(RandomTokens(5, 20, kPlainVocabulary), 7), "part of a prompt");
}

}  // namespace
}  // namespace sluice::testing
