// Laws of rows that stop by what their state says: a threshold that is never reached is a fixed
// number of repeats; a row that stopped has the bits of a model of its depth where everything is
// computed; what the later repeats cost; a request's threshold is a model's.
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Logits = std::vector<std::vector<float>>;

constexpr RepeatKv kStoppedKv[] = {RepeatKv::kOwn, RepeatKv::kLatest, RepeatKv::kComputeAll};
constexpr RepeatKv kEveryKv[] = {RepeatKv::kOwn, RepeatKv::kLatest, RepeatKv::kComputeAll,
                                 RepeatKv::kFirst};

class ExitLaws : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<ModelHarness> Make(const ModelSpec& spec, MemoryWeightStore& weights) const {
    EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
    FillWeights(spec, 11, weights);
    auto harness = ModelHarness::Create(spec, weights,
                                        {.device = {.device = GetParam(), .threads = 2},
                                         .format = kernels::WeightFormat::kF32,
                                         .max_rows = 64});
    EXPECT_TRUE(harness.ok()) << harness.status();
    return *std::move(harness);
  }
};

ModelSpec FixedSpec(int32_t times) {
  ModelSpec spec = PlainSpec(2);
  RepeatSpec& repeat = spec.stacks[0].groups[0].repeat;
  repeat.times = times;
  repeat.norm = NormSpec{.weight = "repeat_norm"};
  return spec;
}

ModelSpec ExitSpecOf(HaltingKind kind, RepeatKv kv, float threshold) {
  ModelSpec spec = FixedSpec(4);
  RepeatSpec& repeat = spec.stacks[0].groups[0].repeat;
  repeat.halting = kind;
  repeat.kv = kv;
  repeat.exit = ExitSpec{.threshold = threshold};
  if (kind != HaltingKind::kConvergence) repeat.exit->weight = "exit";
  return spec;
}

TEST_P(ExitLaws, AThresholdThatIsNeverReachedIsAFixedNumberOfRepeats) {
  const auto tokens = RandomTokens(3, 19, kPlainVocabulary);
  MemoryWeightStore weights;
  const Logits fixed = Make(FixedSpec(4), weights)->Run(tokens, 64);
  for (const RepeatKv kv : kStoppedKv) {
    EXPECT_EQ(Make(ExitSpecOf(HaltingKind::kExitGate, kv, 1.0f), weights)->Run(tokens, 7), fixed);
    EXPECT_EQ(Make(ExitSpecOf(HaltingKind::kConvergence, kv, 0.0f), weights)->Run(tokens, 7),
              fixed);
  }
}

TEST_P(ExitLaws, AThresholdThatIsAlwaysReachedIsOneRepeat) {
  const auto tokens = RandomTokens(3, 19, kPlainVocabulary);
  MemoryWeightStore weights;
  const Logits once = Make(FixedSpec(1), weights)->Run(tokens, 64);
  for (const RepeatKv kv : kStoppedKv) {
    const auto gate = Make(ExitSpecOf(HaltingKind::kExitGate, kv, 0.0f), weights);
    EXPECT_EQ(gate->Run(tokens, 7), once);
    EXPECT_EQ(gate->stats().depth()[0], kv == RepeatKv::kComputeAll ? 8 : 2);
  }
}

// Everything is computed: the result of a row is that of a model of the depth at which it stopped.
TEST_P(ExitLaws, WhereEverythingIsComputedAResultIsThatOfItsDepth) {
  const auto tokens = RandomTokens(4, 23, kPlainVocabulary);
  for (const HaltingKind kind : {HaltingKind::kExitGate, HaltingKind::kConvergence}) {
    MemoryWeightStore weights;
    const float threshold = kind == HaltingKind::kExitGate ? 0.7f : 0.62f;
    const auto exits = Make(ExitSpecOf(kind, RepeatKv::kComputeAll, threshold), weights);
    const Logits result = exits->Run(tokens, 5);
    std::vector<Logits> of_depth;
    for (int32_t depth = 1; depth <= 4; ++depth)
      of_depth.push_back(Make(FixedSpec(depth), weights)->Run(tokens, 64));
    std::vector<int> stopped(4, 0);
    for (size_t t = 0; t < tokens.size(); ++t) {
      size_t depth = 0;
      while (depth < 4 && result[t] != of_depth[depth][t]) ++depth;
      ASSERT_LT(depth, 4u) << "row " << t << " has the bits of no depth";
      ++stopped[depth];
    }
    EXPECT_LT(stopped[3], 23) << "some rows stop";
  }
}

TEST_P(ExitLaws, RowsThatStoppedCostNothingButTheirCopies) {
  MemoryWeightStore weights;
  for (const RepeatKv kv : {RepeatKv::kOwn, RepeatKv::kLatest}) {
    const auto harness = Make(ExitSpecOf(HaltingKind::kExitGate, kv, 0.0f), weights);
    const auto full = Make(ExitSpecOf(HaltingKind::kExitGate, kv, 1.0f), weights);
    const KvSequence sequence = harness->Open();
    harness->Step({{.sequence = sequence, .tokens = {5, 6, 7}}});
    full->Step({{.sequence = full->Open(), .tokens = {5, 6, 7}}});
    EXPECT_LT(harness->stats().flops()[0], 0.35 * full->stats().flops()[0]);
    EXPECT_LT(harness->stats().weight_bytes(), 0.4 * full->stats().weight_bytes());
    int stored = 0;
    for (size_t c = 0; c < harness->cache().classes().size(); ++c)
      stored += harness->cache().Length(sequence, static_cast<int32_t>(c));
    EXPECT_EQ(stored, 3) << "in the class of the first repeat, or of all of them";
    EXPECT_EQ(harness->cache().classes().size(), kv == RepeatKv::kOwn ? 4u : 1u);
  }
}

// Shared keys and values are stored once, whatever the number of repeats.
TEST_P(ExitLaws, TheFirstRepeatStoresForAll) {
  ModelSpec spec = FixedSpec(4);
  MemoryWeightStore weights;
  spec.stacks[0].groups[0].repeat.kv = RepeatKv::kFirst;
  const auto shared = Make(spec, weights);
  ASSERT_EQ(shared->cache().classes().size(), 1u);
  EXPECT_EQ(shared->cache().classes()[0].num_layers, 2);
  const auto tokens = RandomTokens(3, 19, kPlainVocabulary);
  shared->Run(tokens, 64);
  const double flops = shared->stats().flops()[0];
  const auto own = Make(FixedSpec(4), weights);
  own->Run(tokens, 64);
  EXPECT_LT(flops, own->stats().flops()[0]) << "no keys and values behind the first repeat";
  EXPECT_NE(shared->Run(tokens, 64), Make(FixedSpec(4), weights)->Run(tokens, 64));
  ModelSpec once = FixedSpec(1);
  once.stacks[0].groups[0].repeat.kv = RepeatKv::kFirst;
  EXPECT_EQ(Make(once, weights)->Run(tokens, 3), Make(FixedSpec(1), weights)->Run(tokens, 64));
}

// The gate is not asked behind the last repeat, and shared keys and values are made once.
TEST_P(ExitLaws, RowsThatNeverStopCostWhatDenseFlopsSays) {
  const auto tokens = RandomTokens(6, 17, kPlainVocabulary);
  for (const RepeatKv kv : kEveryKv) {
    MemoryWeightStore weights;
    const auto harness = Make(ExitSpecOf(HaltingKind::kExitGate, kv, 0.99999f), weights);
    harness->Run(tokens, 64);
    ASSERT_EQ(harness->stats().depth()[0], 8) << "both layers four times";
    for (int32_t row = 0; row < 17; ++row) {
      EXPECT_DOUBLE_EQ(harness->stats().flops()[static_cast<size_t>(row)],
                       harness->model().DenseFlops(row, true));
    }
  }
}

TEST_P(ExitLaws, ARequestsThresholdIsAModelsAndItsNeighboursHaveTheirs) {
  for (const HaltingKind kind :
       {HaltingKind::kExitGate, HaltingKind::kAct, HaltingKind::kConvergence}) {
    for (const RepeatKv kv : kEveryKv) {
      MemoryWeightStore weights;
      const auto harness = Make(ExitSpecOf(kind, kv, 0.5f), weights);
      Logits alone;
      std::vector<Piece> pieces;
      for (const float threshold : {0.9f, 0.2f, 0.6f, 1.0f, 0.0f}) {
        const RowRouting routing{.exit_threshold = threshold};
        const auto tokens =
            RandomTokens(static_cast<uint32_t>(100.0f * threshold), 9, kPlainVocabulary);
        const Logits expected = Make(ExitSpecOf(kind, kv, threshold), weights)->Run(tokens, 64);
        EXPECT_EQ(harness->Run(tokens, 4, routing), expected) << threshold;
        alone.insert(alone.end(), expected.begin(), expected.end());
        pieces.push_back({.sequence = harness->Open(), .tokens = tokens, .routing = routing});
      }
      EXPECT_EQ(harness->Step(pieces), alone);
    }
  }
}

// Depths that requests ask for, beside rows that stop by themselves.
TEST_P(ExitLaws, ARequestedDepthEndsTheRowsThatHaveNotStopped) {
  const auto tokens = RandomTokens(8, 17, kPlainVocabulary);
  for (const RepeatKv kv : kEveryKv) {
    MemoryWeightStore weights;
    ModelSpec spec = ExitSpecOf(HaltingKind::kExitGate, kv, 0.6f);
    spec.stacks[0].groups[0].repeat.adjustable = true;
    const auto harness = Make(spec, weights);
    std::vector<Piece> pieces;
    Logits alone;
    for (const int32_t depth : {3, 1, 2, 0}) {
      ModelSpec shallow = spec;
      if (depth > 0) shallow.stacks[0].groups[0].repeat.times = depth;
      const Logits expected = Make(shallow, weights)->Run(tokens, 64);
      EXPECT_EQ(harness->Run(tokens, 5, {.max_depth = depth}), expected) << depth;
      alone.insert(alone.end(), expected.begin(), expected.end());
      pieces.push_back(
          {.sequence = harness->Open(), .tokens = tokens, .routing = {.max_depth = depth}});
    }
    EXPECT_EQ(harness->Step({pieces[0], pieces[1], pieces[2]}),
              Logits(alone.begin(), alone.begin() + 51));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends,
                         ExitLaws,
                         ::testing::Values("reference", "cpu"),
                         [](const auto& backend) { return std::string(backend.param); });

}  // namespace
}  // namespace sluice::testing
