// Laws of groups whose rows run a varying number of repeats: a requested depth is a model of that
// depth, whatever the neighbours asked for; a router that always chooses the last depth, or a gate
// that never halts, is a fixed number of repeats.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/support/model_harness.h"
#include "tests/support/random_halting.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Logits = std::vector<std::vector<float>>;

class RecurrenceLaws : public ::testing::TestWithParam<const char*> {
 protected:
  HarnessOptions Options() const {
    return {.device = {.device = GetParam(), .threads = 2},
            .format = kernels::WeightFormat::kF32,
            .max_rows = 64};
  }
  std::unique_ptr<ModelHarness> Make(const ModelSpec& spec, MemoryWeightStore& weights) const {
    EXPECT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
    FillWeights(spec, 11, weights);
    auto harness = ModelHarness::Create(spec, weights, Options());
    EXPECT_TRUE(harness.ok()) << harness.status();
    return *std::move(harness);
  }
};

// A looped model whose requests choose their number of repeats.
ModelSpec LoopedSpec(int32_t times, bool injects) {
  ModelSpec spec = PlainSpec(2);
  RepeatSpec& repeat = spec.stacks[0].groups[0].repeat;
  repeat.times = times;
  repeat.adjustable = true;
  if (injects) repeat.injection = ProjectionSpec{.in = 96, .out = 48, .weight = "adapter"};
  return spec;
}

TEST_P(RecurrenceLaws, ARequestedDepthIsAModelOfThatDepth) {
  const auto tokens = RandomTokens(3, 19, kPlainVocabulary);
  for (const bool injects : {false, true}) {
    MemoryWeightStore weights;
    const auto deep = Make(LoopedSpec(4, injects), weights);
    for (int32_t depth = 1; depth <= 4; ++depth) {
      const auto shallow = Make(LoopedSpec(depth, injects), weights);
      EXPECT_EQ(deep->Run(tokens, 5, {.max_depth = depth}), shallow->Run(tokens, 64)) << depth;
      EXPECT_EQ(deep->stats().depth()[0], 2 * depth) << "layers executed";
      EXPECT_EQ(deep->stats().routed_offered()[0], 2 * 4);
      EXPECT_EQ(deep->stats().routed_executed()[0], 2 * depth);
    }
  }
}

TEST_P(RecurrenceLaws, NeighboursOfOtherDepthsChangeNoBit) {
  MemoryWeightStore weights;
  const auto harness = Make(LoopedSpec(4, true), weights);
  Logits alone, alone_next;
  std::vector<Piece> prompts, next;
  for (const int32_t depth : {2, 0, 1, 4, 3}) {
    const RowRouting routing{.max_depth = depth};
    const auto tokens = RandomTokens(static_cast<uint32_t>(depth), 9, kPlainVocabulary);
    const Logits all = harness->Run(tokens, 64, routing);
    alone.insert(alone.end(), all.begin(), all.begin() + 8);
    alone_next.push_back(all[8]);
    const KvSequence sequence = harness->Open();
    prompts.push_back(
        {.sequence = sequence, .tokens = {tokens.begin(), tokens.begin() + 8}, .routing = routing});
    next.push_back({.sequence = sequence, .tokens = {tokens[8]}, .first = 8, .routing = routing});
  }
  EXPECT_EQ(harness->Step(prompts), alone);
  EXPECT_EQ(harness->Step(next), alone_next);
}

// The work of rows that have left is not done: fewer FLOPs, no keys and values, no weights read
// when nobody is left.
TEST_P(RecurrenceLaws, RowsThatHaveStoppedCostNothing) {
  MemoryWeightStore weights;
  const auto harness = Make(LoopedSpec(4, true), weights);
  const KvSequence sequence = harness->Open();
  harness->Step({{.sequence = sequence, .tokens = {5}, .routing = {.max_depth = 1}}});
  const double flops = harness->stats().flops()[0];
  const double bytes = harness->stats().weight_bytes();
  int stored = 0;
  for (size_t c = 0; c < harness->cache().classes().size(); ++c)
    stored += harness->cache().Length(sequence, static_cast<int32_t>(c));
  EXPECT_EQ(stored, 1) << "one class holds the row: that of the first repeat";
  harness->Step({{.sequence = sequence, .tokens = {5}, .first = 1}});
  EXPECT_GT(harness->stats().flops()[0], 3.0 * flops);
  EXPECT_GT(harness->stats().weight_bytes(), 3.0 * bytes);
}

TEST_P(RecurrenceLaws, ARouterOfOneDepthIsOnePassWithItsWeight) {
  // softmax over one choice is 1: x + B(x), and the plain model is B(x); so the difference of the
  // two is the embedding, which the head (tied) sees as the logits of the embedding itself.
  ModelSpec spec = PlainSpec(2);
  spec.stacks[0].final_norm.reset();
  MemoryWeightStore weights;
  const auto plain = Make(spec, weights);
  ModelSpec chosen = spec;
  RepeatSpec& repeat = chosen.stacks[0].groups[0].repeat;
  repeat.halting = HaltingKind::kChosenDepth;
  repeat.depth_router = RouterSpec{.num_experts = 1, .top_k = 1, .weight = "depth_router"};
  const auto routed = Make(chosen, weights);
  ModelSpec none = spec;  // only the embedding: a depth router of weight 0 and nothing else
  none.stacks[0].groups[0].repeat = repeat;
  none.stacks[0].groups[0].repeat.depth_router->scale = 0.0f;
  const auto embedding = Make(none, weights);
  const auto tokens = RandomTokens(5, 12, kPlainVocabulary);
  const Logits with = routed->Run(tokens, 64);
  const Logits without = plain->Run(tokens, 64);
  const Logits input = embedding->Run(tokens, 64);
  for (size_t t = 0; t < with.size(); ++t) {
    for (size_t v = 0; v < with[t].size(); ++v)
      ASSERT_NEAR(with[t][v], without[t][v] + input[t][v], 2e-4f) << t << " " << v;
  }
}

// A group whose router, all scores being alike, chooses its last repeat with weight 1/2.
ModelSpec DeepestChosen(int32_t times, MemoryWeightStore& weights) {
  ModelSpec spec = PlainSpec(2);
  RepeatSpec& repeat = spec.stacks[0].groups[0].repeat;
  const std::string name = "depth_router" + std::to_string(times);
  repeat.times = times;
  repeat.halting = HaltingKind::kChosenDepth;
  repeat.adjustable = true;
  repeat.depth_router = RouterSpec{.score = ScoreFunction::kSigmoid,
                                   .num_experts = times,
                                   .top_k = 1,
                                   .weight = name,
                                   .selection_bias = name + ".bias"};
  std::vector<float> bias(static_cast<size_t>(times), 0.0f);
  bias.back() = 1.0f;
  weights.Add(name, {times, 48}, std::vector<float>(bias.size() * 48, 0.0f));
  weights.Add(name + ".bias", {times}, bias);
  return spec;
}

TEST_P(RecurrenceLaws, ARequestCapsAChosenDepth) {
  MemoryWeightStore weights;
  FillWeights(DeepestChosen(3, weights), 11, weights);
  const auto deep = ModelHarness::Create(DeepestChosen(3, weights), weights, Options());
  ASSERT_TRUE(deep.ok()) << deep.status();
  const auto tokens = RandomTokens(3, 19, kPlainVocabulary);
  for (int32_t depth = 1; depth <= 3; ++depth) {
    const auto shallow = ModelHarness::Create(DeepestChosen(depth, weights), weights, Options());
    ASSERT_TRUE(shallow.ok()) << shallow.status();
    const Logits expected = (*shallow)->Run(tokens, 64);
    EXPECT_EQ((*deep)->Run(tokens, 5, {.max_depth = depth}), expected) << depth;
    EXPECT_EQ((*deep)->stats().depth()[0], 2 * depth) << "layers executed";
    EXPECT_EQ((*deep)->Run(tokens, 64), (*deep)->Run(tokens, 64, {.max_depth = 3}));
  }
}

// A gate whose logits are zero halves the chance to go on at each step; a threshold of 1 halts
// nobody, one of 0.6 everybody before the third step.
TEST_P(RecurrenceLaws, TheThresholdSaysWhoHalts) {
  ModelSpec spec = PlainSpec(1);
  spec.stacks[0].groups.push_back(RandomHaltingGroup("halting", 48, 4));
  RepeatSpec& repeat = spec.stacks[0].groups[1].repeat;
  repeat.times = 4;
  const auto tokens = RandomTokens(6, 17, kPlainVocabulary);
  for (const auto& [threshold, steps] : {std::pair(1.0f, 4), std::pair(0.6f, 2)}) {
    repeat.gate->threshold = threshold;
    MemoryWeightStore weights;
    FillWeights(spec, 11, weights);
    weights.Add(repeat.gate->out.weight, {2, 48}, std::vector<float>(96, 0.0f));
    const auto harness = ModelHarness::Create(spec, weights, Options());
    ASSERT_TRUE(harness.ok()) << harness.status();
    const Logits once = (*harness)->Run(tokens, 64);
    EXPECT_EQ((*harness)->stats().depth()[0], 1 + steps);
    EXPECT_EQ((*harness)->Run(tokens, 1), once);
  }
}

// The gate is asked once between two repeats, whatever else a row costs.
TEST_P(RecurrenceLaws, RowsThatNeverHaltCostWhatDenseFlopsSays) {
  ModelSpec spec = PlainSpec(1);
  spec.stacks[0].groups.push_back(RandomHaltingGroup("halting", 48, 4));
  LayerGroupSpec& group = spec.stacks[0].groups[1];
  group.repeat.times = 4;
  group.repeat.gate->threshold = 1.0f;
  RouterSpec& heads = *std::get<AttentionSpec>(group.layers[0].sublayers[0].block).q.experts;
  RouterSpec& experts = std::get<MoeFfnSpec>(group.layers[0].sublayers[1].block).router;
  for (RouterSpec* router : {&heads, &experts}) router->top_k = router->num_experts;  // all run
  MemoryWeightStore weights;
  const auto harness = Make(spec, weights);
  const auto tokens = RandomTokens(6, 17, kPlainVocabulary);
  harness->Run(tokens, 64);
  for (int32_t row = 0; row < 17; ++row) {
    EXPECT_DOUBLE_EQ(harness->stats().flops()[static_cast<size_t>(row)],
                     harness->model().DenseFlops(row, true));
  }
}

TEST_P(RecurrenceLaws, HaltingIsTheSameInAnyCompany) {
  int halted = 0;
  for (uint32_t seed = 0; seed < kNumRandomSpecs; ++seed) {
    SCOPED_TRACE(seed);
    ModelSpec spec = PlainSpec(1);
    spec.stacks[0].groups.push_back(RandomHaltingGroup("halting", 48, seed));
    MemoryWeightStore weights;
    const auto harness = Make(spec, weights);
    const auto tokens = RandomTokens(seed, 21, kPlainVocabulary);
    const Logits alone = harness->Run(tokens, 64);
    const ForwardStats& stats = harness->stats();
    for (size_t row = 0; row < tokens.size(); ++row)
      halted += stats.routed_executed()[row] < stats.routed_offered()[row] ? 1 : 0;
    for (const int32_t chunk : {1, 6}) EXPECT_EQ(harness->Run(tokens, chunk), alone) << chunk;
    const auto other = RandomTokens(seed + 100, 15, kPlainVocabulary);
    const Logits together = harness->Step({{.sequence = harness->Open(), .tokens = other},
                                           {.sequence = harness->Open(), .tokens = tokens},
                                           {.sequence = harness->Open(), .tokens = other}});
    EXPECT_EQ(Logits(together.begin() + 15, together.begin() + 36), alone);
  }
  EXPECT_GT(halted, 40);
}

INSTANTIATE_TEST_SUITE_P(Backends,
                         RecurrenceLaws,
                         ::testing::Values("reference", "cpu"),
                         [](const auto& backend) { return std::string(backend.param); });

}  // namespace
}  // namespace sluice::testing
