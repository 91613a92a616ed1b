// Laws of Mixture of Tokens on random specs: a row that is alone in its group, and a cohort beside
// others. That how a sequence is split and who runs beside it changes no bit is forward_laws_test.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Logits = std::vector<std::vector<float>>;

constexpr int32_t kLength = 9;

// Small models whose feed-forwards all mix, in groups of up to five rows.
ModelSpec MixtureSpec(uint32_t seed) {
  std::mt19937 engine(seed);
  const auto draw = [&](int32_t lo, int32_t hi) {
    return std::uniform_int_distribution<int32_t>(lo, hi)(engine);
  };
  ModelSpec spec = PlainSpec(2);
  for (LayerSpec& layer : spec.stacks[0].groups[0].layers) {
    const std::string name = std::get<DenseFfnSpec>(layer.sublayers[1].block).up.weight;
    MixtureFfnSpec mixture{.group_size = 5, .num_experts = draw(1, 40), .hidden = draw(1, 30)};
    mixture.activation = draw(0, 1) == 0 ? Activation::kRelu : Activation::kGelu;
    mixture.temperature = draw(0, 1) == 0 ? 1.0f : 0.5f;
    mixture.emit_over_experts = draw(0, 1) == 0;
    mixture.controller = name + ".controller";
    mixture.up = name + ".lin1";
    mixture.down = name + ".lin2";
    layer.sublayers[1].block = mixture;
  }
  return spec;
}

class MixtureLaws : public ::testing::TestWithParam<HarnessOptions> {
 protected:
  void Load(uint32_t seed) {
    const ModelSpec spec = MixtureSpec(seed);
    weights_ = std::make_unique<MemoryWeightStore>();
    FillWeights(spec, seed + 1, *weights_);
    auto harness = ModelHarness::Create(spec, *weights_, GetParam());
    ASSERT_TRUE(harness.ok()) << harness.status();
    harness_ = *std::move(harness);
    tokens_.clear();
    for (uint32_t s = 0; s < 4; ++s)
      tokens_.push_back(RandomTokens(seed * 9 + s, kLength, kPlainVocabulary));
  }

  // One sequence of a run: which tokens, where in which cohort, how many of them.
  struct Member {
    size_t tokens = 0;
    RowRouting routing;
    int32_t length = kLength;
  };

  // The logits of every member, in steps of `chunk` rows of each, in the order given.
  std::vector<Logits> Run(const std::vector<Member>& members, int32_t chunk) {
    std::vector<Logits> logits(members.size());
    std::vector<KvSequence> sequences;
    for (size_t m = 0; m < members.size(); ++m) sequences.push_back(harness_->Open());
    for (int32_t first = 0; first < kLength; first += chunk) {
      std::vector<Piece> pieces;
      std::vector<size_t> owner;
      for (size_t m = 0; m < members.size(); ++m) {
        const int32_t last = std::min({first + chunk, members[m].length, kLength});
        if (first >= last) continue;
        const auto& list = tokens_[members[m].tokens];
        pieces.push_back({.sequence = sequences[m],
                          .tokens = {list.begin() + first, list.begin() + last},
                          .first = first,
                          .routing = members[m].routing});
        owner.insert(owner.end(), static_cast<size_t>(last - first), m);
      }
      Logits step = harness_->Step(pieces);
      for (size_t i = 0; i < step.size(); ++i) logits[owner[i]].push_back(std::move(step[i]));
    }
    for (const KvSequence sequence : sequences) harness_->Free(sequence);
    return logits;
  }

  std::unique_ptr<MemoryWeightStore> weights_;
  std::unique_ptr<ModelHarness> harness_;
  std::vector<std::vector<int32_t>> tokens_;
};

RowRouting At(int32_t cohort, int32_t slot) { return {.cohort = cohort, .slot = slot}; }

TEST_P(MixtureLaws, ACohortOfOneIsARowAlone) {
  for (uint32_t seed = 0; seed < kNumRandomSpecs / 5; ++seed) {
    Load(seed);
    EXPECT_EQ(Run({{0, At(3, 2)}}, 4), Run({{0, {}}}, kLength)) << seed;
  }
}

TEST_P(MixtureLaws, SplittingACohortChangesNoBit) {
  for (uint32_t seed = 0; seed < kNumRandomSpecs / 5; ++seed) {
    Load(seed);
    const std::vector<Member> members = {{0, At(0, 0)}, {1, At(0, 1)}, {2, At(0, 4)}};
    const auto whole = Run(members, kLength);
    for (const int32_t chunk : {1, 4}) EXPECT_EQ(Run(members, chunk), whole) << seed;
  }
}

TEST_P(MixtureLaws, TheOrderOfTheRowsChangesNoBit) {
  for (uint32_t seed = 0; seed < kNumRandomSpecs / 5; ++seed) {
    Load(seed);
    const auto forward = Run({{0, At(0, 0)}, {1, At(0, 1)}, {2, At(0, 2)}}, 4);
    const auto backward = Run({{2, At(0, 2)}, {0, At(0, 0)}, {1, At(0, 1)}}, 4);
    EXPECT_EQ(backward[0], forward[2]) << seed;
    EXPECT_EQ(backward[1], forward[0]) << seed;
    EXPECT_EQ(backward[2], forward[1]) << seed;
  }
}

TEST_P(MixtureLaws, OtherCohortsAndRowsAloneChangeNoBit) {
  for (uint32_t seed = 0; seed < kNumRandomSpecs / 5; ++seed) {
    Load(seed);
    const auto apart = Run({{0, At(7, 0)}, {1, At(7, 1)}}, 4);
    const auto beside = Run(
        {{2, At(8, 0)}, {0, At(7, 0)}, {3, {}}, {1, At(7, 1)}, {3, At(8, 1)}, {2, At(1, 0)}}, 4);
    EXPECT_EQ(beside[1], apart[0]) << seed;
    EXPECT_EQ(beside[3], apart[1]) << seed;
    EXPECT_EQ(beside[2], Run({{3, {}}}, 4)[0]) << seed;
  }
}

TEST_P(MixtureLaws, MembersOfACohortSeeEachOther) {
  Load(1);
  const auto both = Run({{0, At(0, 0)}, {1, At(0, 1)}}, 4);
  EXPECT_NE(both[0], Run({{0, {}}}, 4)[0]);
}

TEST_P(MixtureLaws, AMemberThatHasFinishedIsAZeroRow) {
  Load(2);
  const auto shorter = Run({{0, At(0, 0)}, {1, At(0, 1), 4}}, 2);
  const auto both = Run({{0, At(0, 0)}, {1, At(0, 1)}}, 2);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(shorter[0][i], both[0][i]) << i;
  EXPECT_NE(shorter[0][4], both[0][4]);
}

INSTANTIATE_TEST_SUITE_P(Backends,
                         MixtureLaws,
                         ::testing::Values(HarnessOptions{.device = {.device = "reference"}},
                                           HarnessOptions{
                                               .device = {.device = "cpu", .threads = 2}},
                                           HarnessOptions{.device = {.device = "cpu", .threads = 2},
                                                          .format = kernels::WeightFormat::kBF16}));

}  // namespace
}  // namespace sluice::testing
