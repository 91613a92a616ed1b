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

// With nothing skipped, compact positions are the positions and there are no zero rows.
TEST_P(DepthLaws, WhatIsSaidOfSkippedRowsChangesNoBitWhenNoneIsSkipped) {
  ModelSpec absolute = PlainSpec(2);
  absolute.stacks[0].groups[0].layers[1].depth =
      DepthRouterSpec{.weight = "router.weight", .threshold = 0.0f, .capacity = 0.5};
  MemoryWeightStore weights;
  FillWeights(absolute, 3, weights);
  ModelSpec compact = absolute, zeros = absolute;
  compact.stacks[0].groups[0].layers[1].depth->position = DepthPosition::kCompact;
  zeros.stacks[0].groups[0].layers[1].depth->kv = DepthKv::kZeroRows;
  const auto tokens = RandomTokens(5, 40, kPlainVocabulary);
  Logits expected;
  for (const ModelSpec* spec : {&absolute, &compact, &zeros}) {
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

INSTANTIATE_TEST_SUITE_P(Backends, DepthLaws, ::testing::Values("reference", "cpu"));

}  // namespace
}  // namespace sluice::testing
