// Laws of depth-routed layers: what a switch says of skipped rows means nothing when no row is
// skipped; top-k and a forced first row take exactly what they say.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Logits = std::vector<std::vector<float>>;

class DepthLaws : public ::testing::TestWithParam<const char*> {
 protected:
  HarnessOptions Options() const {
    return {.device = {.device = GetParam(), .threads = 2},
            .format = kernels::WeightFormat::kF32,
            .max_rows = 64};
  }
};

// With nothing skipped, compact positions are the positions, there are no zero rows, and all keys
// are those of the rows that run.
TEST_P(DepthLaws, WhatIsSaidOfSkippedRowsChangesNoBitWhenNoneIsSkipped) {
  ModelSpec absolute = PlainSpec(2);
  absolute.stacks[0].groups[0].layers[1].depth =
      DepthRouterSpec{.weight = "router.weight", .threshold = 0.0f, .capacity = 0.5};
  MemoryWeightStore weights;
  FillWeights(absolute, 3, weights);
  ModelSpec compact = absolute, zeros = absolute, every_key = absolute;
  compact.stacks[0].groups[0].layers[1].depth->position = DepthPosition::kCompact;
  zeros.stacks[0].groups[0].layers[1].depth->kv = DepthKv::kZeroRows;
  every_key.stacks[0].groups[0].layers[1].depth->kv = DepthKv::kAllTokens;
  const auto tokens = RandomTokens(5, 40, kPlainVocabulary);
  Logits expected;
  for (const ModelSpec* spec : {&absolute, &compact, &zeros, &every_key}) {
    auto harness = ModelHarness::Create(*spec, weights, Options());
    ASSERT_TRUE(harness.ok()) << harness.status();
    const Logits got = (*harness)->Run(tokens, 9);
    if (expected.empty()) expected = got;
    EXPECT_EQ(expected, got);
  }
}

TEST_P(DepthLaws, AForcedFirstRowIsTakenWhateverItsScore) {
  ModelSpec spec = PlainSpec(2);
  spec.stacks[0].groups[0].layers[1].depth = DepthRouterSpec{
      .weight = "router.weight", .force_first = true, .threshold = 1.0f, .capacity = 0.5};
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto harness = ModelHarness::Create(spec, weights, Options());
  ASSERT_TRUE(harness.ok()) << harness.status();
  const KvSequence sequence = (*harness)->Open();
  for (const int32_t first : {0, 4, 8}) {
    (*harness)->Step({{.sequence = sequence,
                       .tokens = RandomTokens(static_cast<uint32_t>(first), 4, kPlainVocabulary),
                       .first = first}});
    EXPECT_EQ((*harness)->cache().Length(sequence, 1), 1);
  }
}

// A request's capacity of 0 and 1 is exact, whatever the model forces or drops.
TEST_P(DepthLaws, CapacityZeroAndOneAreExact) {
  ModelSpec forced = PlainSpec(2), strict = PlainSpec(2);
  forced.stacks[0].groups[0].layers[1].depth =
      DepthRouterSpec{.weight = "router.weight", .force_first = true, .capacity = 0.5};
  strict.stacks[0].groups[0].layers[1].depth =
      DepthRouterSpec{.weight = "router.weight",
                      .prefill_decide = DepthDecide::kRouterTopK,
                      .capacity = 0.5,
                      .strict_top_k = true};
  MemoryWeightStore weights;
  FillWeights(forced, 3, weights);
  for (const ModelSpec* spec : {&forced, &strict}) {
    auto harness = ModelHarness::Create(*spec, weights, Options());
    ASSERT_TRUE(harness.ok()) << harness.status();
    for (const float capacity : {0.0f, 1.0f}) {
      const KvSequence sequence = (*harness)->Open();
      (*harness)->Step({{.sequence = sequence,
                         .tokens = RandomTokens(7, 12, kPlainVocabulary),
                         .routing = {.capacity = capacity}}});
      EXPECT_EQ((*harness)->cache().Length(sequence, 1), capacity == 0.0f ? 0 : 12);
    }
  }
}

TEST_P(DepthLaws, TopKTakesWhatItsSwitchesSay) {
  struct Case {
    double capacity;
    int32_t capacity_rows, min_rows;
    bool strict;
    int32_t of_21, of_3;  // rows taken of prompts of 21 and of 3 rows
  };
  for (const Case& expected :
       {Case{0.25, 0, 1, false, 5, 1}, Case{0.25, 0, 0, false, 5, 0}, Case{0.25, 0, 2, false, 5, 2},
        Case{0.25, 8, 1, false, 8, 3}, Case{0.25, 0, 1, true, 4, 1}, Case{0.0, 8, 1, true, 7, 2}}) {
    ModelSpec spec = PlainSpec(2);
    spec.stacks[0].groups[0].layers[1].depth =
        DepthRouterSpec{.weight = "router.weight",
                        .prefill_decide = DepthDecide::kRouterTopK,
                        .capacity = expected.capacity,
                        .capacity_rows = expected.capacity_rows,
                        .min_rows = expected.min_rows,
                        .strict_top_k = expected.strict};
    MemoryWeightStore weights;
    FillWeights(spec, 3, weights);
    auto harness = ModelHarness::Create(spec, weights, Options());
    ASSERT_TRUE(harness.ok()) << harness.status();
    const KvSequence one = (*harness)->Open();
    const KvSequence two = (*harness)->Open();
    (*harness)->Step({{.sequence = one, .tokens = RandomTokens(1, 21, kPlainVocabulary)},
                      {.sequence = two, .tokens = RandomTokens(2, 3, kPlainVocabulary)}});
    EXPECT_EQ((*harness)->cache().Length(one, 1), expected.of_21);
    EXPECT_EQ((*harness)->cache().Length(two, 1), expected.of_3);
  }
}

// All that a skipped row costs is its router, its key and its value, and those are stored.
TEST_P(DepthLaws, WhereNoKeyIsSkippedARowPaysForItsKeyAndValueOnly) {
  ModelSpec without = PlainSpec(2), spec = PlainSpec(2);
  without.stacks[0].groups[0].layers.pop_back();
  spec.stacks[0].groups[0].layers[1].depth =
      DepthRouterSpec{.weight = "router.weight", .kv = DepthKv::kAllTokens, .capacity = 0.5};
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto routed = ModelHarness::Create(spec, weights, Options());
  auto shallow = ModelHarness::Create(without, weights, Options());
  ASSERT_TRUE(routed.ok() && shallow.ok()) << routed.status() << shallow.status();
  const auto tokens = RandomTokens(1, 40, kPlainVocabulary);
  const KvSequence sequence = (*routed)->Open();
  (*routed)->Step({{.sequence = sequence, .tokens = tokens}});
  ASSERT_EQ((*routed)->cache().classes().size(), 1u);
  EXPECT_EQ((*routed)->cache().Length(sequence, 0), 40);
  const int32_t taken = (*routed)->stats().depth_choices().at(0).executed;
  EXPECT_GT(taken, 0);
  EXPECT_LT(taken, 40);
  (*shallow)->Step({{.sequence = (*shallow)->Open(), .tokens = tokens}});
  const double router = 2.0 * 48, key_and_value = 2.0 * 48 * (24 + 24);
  int32_t cheap = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const double more = (*routed)->stats().flops()[i] - (*shallow)->stats().flops()[i];
    EXPECT_GE(more, router + key_and_value);
    cheap += more == router + key_and_value ? 1 : 0;
  }
  EXPECT_EQ(cheap, 40 - taken);
}

// Of a layer that half of the rows take, half of the weights are active, but those of the keys.
TEST_P(DepthLaws, WhereNoKeyIsSkippedItsWeightsAreActive) {
  int64_t active[2];
  for (const bool half : {false, true}) {
    ModelSpec spec = PlainSpec(2);
    spec.stacks[0].groups[0].layers[1].depth = DepthRouterSpec{
        .weight = "router.weight", .kv = DepthKv::kAllTokens, .capacity = half ? 0.5 : 1.0};
    MemoryWeightStore weights;
    FillWeights(spec, 3, weights);
    auto harness = ModelHarness::Create(spec, weights, Options());
    ASSERT_TRUE(harness.ok()) << harness.status();
    active[half ? 1 : 0] = (*harness)->model().num_active_parameters();
  }
  EXPECT_EQ(active[0] - active[1], (2 * 48 + 2 * 48 * 48 + 3 * 48 * 80) / 2);
}

// A share that the checkpoint does not say is no share of zero: every weight is active, and there
// is none to report.
TEST_P(DepthLaws, WhereNoShareIsKnownEveryWeightIsActive) {
  for (const int32_t rows : {0, 16}) {
    ModelSpec spec = PlainSpec(2);
    spec.stacks[0].groups[0].layers[1].depth = DepthRouterSpec{
        .weight = "router.weight", .capacity = rows > 0 ? 0.25 : 0.0, .capacity_rows = rows};
    MemoryWeightStore weights;
    FillWeights(spec, 3, weights);
    auto harness = ModelHarness::Create(spec, weights, Options());
    ASSERT_TRUE(harness.ok()) << harness.status();
    const Model& model = (*harness)->model();
    EXPECT_EQ(model.num_active_parameters(), model.num_parameters());
    EXPECT_EQ(model.instances()[0].capacity, 1.0);
    EXPECT_FALSE(model.instances()[1].capacity.has_value());
  }
}

// A layer that nobody takes still leaves its keys: what follows sees them.
TEST_P(DepthLaws, KeysOfALayerThatNobodyTookAreSeenLater) {
  ModelSpec spec = PlainSpec(2);
  spec.stacks[0].groups[0].layers[1].depth =
      DepthRouterSpec{.weight = "router.weight", .kv = DepthKv::kAllTokens, .capacity = 0.5};
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto harness = ModelHarness::Create(spec, weights, Options());
  ASSERT_TRUE(harness.ok()) << harness.status();
  const auto tokens = RandomTokens(1, 9, kPlainVocabulary);
  std::vector<Logits> last;
  for (const float before : {0.0f, 1.0f}) {  // keys follow from what the layer is given
    const KvSequence sequence = (*harness)->Open();
    (*harness)->Step({{.sequence = sequence,
                       .tokens = {tokens.begin(), tokens.end() - 1},
                       .routing = {.capacity = before}}});
    last.push_back((*harness)->Step({{.sequence = sequence,
                                      .tokens = {tokens.back()},
                                      .first = 8,
                                      .routing = {.capacity = 1.0f}}}));
  }
  EXPECT_EQ(last[0], last[1]);
}

TEST_P(DepthLaws, OnlyAnInclusiveThresholdTakesRowsThatAreAtIt) {
  for (const bool inclusive : {false, true}) {
    ModelSpec spec = PlainSpec(2);
    spec.stacks[0].groups[0].layers[1].depth =
        DepthRouterSpec{.weight = "zeros", .threshold_inclusive = inclusive, .capacity = 0.5};
    MemoryWeightStore weights;
    FillWeights(PlainSpec(2), 3, weights);
    weights.Add("zeros", {1, 48}, std::vector<float>(48, 0.0f));
    auto harness = ModelHarness::Create(spec, weights, Options());
    ASSERT_TRUE(harness.ok()) << harness.status();
    (*harness)->Run(RandomTokens(1, 12, kPlainVocabulary), 12);
    EXPECT_EQ((*harness)->stats().depth_choices().at(0).executed, inclusive ? 12 : 0);
  }
}

// The sublayers in front of the routed part run for every row.
TEST_P(DepthLaws, SublayersInFrontOfTheRoutedPartAreNotSkipped) {
  ModelSpec spec = PlainSpec(2), without = PlainSpec(2);
  spec.stacks[0].groups[0].layers[1].depth = DepthRouterSpec{.weight = "router.weight",
                                                             .first_sublayer = 1,
                                                             .gate = GateFunction::kOne,
                                                             .combine = DepthCombine::kOnlyBlock,
                                                             .capacity = 0.5};
  without.stacks[0].groups[0].layers[1].sublayers.pop_back();
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  const auto tokens = RandomTokens(5, 30, kPlainVocabulary);
  auto routed = ModelHarness::Create(spec, weights, Options());
  auto whole = ModelHarness::Create(PlainSpec(2), weights, Options());
  auto part = ModelHarness::Create(without, weights, Options());
  ASSERT_TRUE(routed.ok() && whole.ok() && part.ok());
  EXPECT_EQ((*routed)->Run(tokens, 7, {.capacity = 1.0f}), (*whole)->Run(tokens, 7));
  EXPECT_EQ((*routed)->Run(tokens, 7, {.capacity = 0.0f}), (*part)->Run(tokens, 7));
}

// One decision for a prompt, one for each generated row.
TEST_P(DepthLaws, TheMeanOfAPromptDecidesForAllOfIt) {
  ModelSpec mean = PlainSpec(2), threshold = PlainSpec(2);
  threshold.stacks[0].groups[0].layers[1].depth =
      DepthRouterSpec{.weight = "router.weight", .kv = DepthKv::kAllTokens, .capacity = 0.5};
  mean.stacks[0].groups[0].layers[1].depth = threshold.stacks[0].groups[0].layers[1].depth;
  mean.stacks[0].groups[0].layers[1].depth->prefill_decide = DepthDecide::kPromptMean;
  MemoryWeightStore weights;
  FillWeights(mean, 3, weights);
  auto by_mean = ModelHarness::Create(mean, weights, Options());
  auto by_row = ModelHarness::Create(threshold, weights, Options());
  ASSERT_TRUE(by_mean.ok() && by_row.ok()) << by_mean.status() << by_row.status();
  int none = 0, all = 0, generated = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const auto tokens = RandomTokens(seed, 14, kPlainVocabulary);
    const KvSequence one = (*by_mean)->Open(), two = (*by_row)->Open();
    const std::vector<int32_t> prompt(tokens.begin(), tokens.begin() + 9);
    const Logits first = (*by_mean)->Step({{.sequence = one, .tokens = prompt}});
    const int32_t taken = (*by_mean)->stats().depth_choices().at(0).executed;
    ASSERT_TRUE(taken == 0 || taken == 9) << taken;
    (taken == 0 ? none : all) += 1;
    EXPECT_EQ(first, (*by_row)->Step({{.sequence = two,
                                       .tokens = prompt,
                                       .routing = {.capacity = taken == 0 ? 0.0f : 1.0f}}}));
    for (int32_t i = 9; i < 14; ++i) {
      Piece piece{.sequence = one,
                  .tokens = {tokens[static_cast<size_t>(i)]},
                  .first = i,
                  .is_prompt = false};
      const Logits row = (*by_mean)->Step({piece});
      generated += (*by_mean)->stats().depth_choices().at(0).executed;
      piece.sequence = two;
      EXPECT_EQ(row, (*by_row)->Step({piece}));
    }
    (*by_mean)->Free(one);
    (*by_row)->Free(two);
  }
  EXPECT_GT(none, 0);
  EXPECT_GT(all, 0);
  EXPECT_GT(generated, 0);
  EXPECT_LT(generated, 12 * 5);
}

INSTANTIATE_TEST_SUITE_P(Backends, DepthLaws, ::testing::Values("reference", "cpu"));

}  // namespace
}  // namespace sluice::testing
