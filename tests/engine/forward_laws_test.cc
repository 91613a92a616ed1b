// Laws that every model must obey, on random specs: how a sequence is split, and who else is in the
// batch, never change a bit; degenerate sparse settings equal their dense form. House rules 7.6.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/model/model_spec_json.h"
#include "tests/support/amx_instructions.h"
#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Logits = std::vector<std::vector<float>>;

// Rows whose bits differ.
int DifferentRows(const Logits& a, const Logits& b) {
  if (a.size() != b.size()) return std::numeric_limits<int>::max();
  int different = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    different += a[i].size() == b[i].size() &&
                         std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) == 0
                     ? 0
                     : 1;
  }
  return different;
}

double MaxDifference(const Logits& a, const Logits& b) {
  double largest = a.size() == b.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    for (size_t j = 0; j < a[i].size(); ++j) {
      const double difference =
          std::abs(static_cast<double>(a[i][j]) - static_cast<double>(b[i][j]));
      largest = std::isfinite(difference) ? std::max(largest, difference)
                                          : std::numeric_limits<double>::infinity();
    }
  }
  return largest;
}

struct Setting {
  std::string name;
  HarnessOptions options;
  uint32_t specs = kNumRandomSpecs;
};

std::vector<Setting> Settings() {
  const auto f32 = kernels::WeightFormat::kF32;
  const auto bf16 = kernels::WeightFormat::kBF16;
  std::vector<Setting> out = {
      {"reference_f32", {.device = {.device = "reference"}, .format = f32}},
      {"cpu_f32", {.device = {.device = "cpu", .threads = 2}, .format = f32}},
      {"cpu_bf16", {.device = {.device = "cpu", .threads = 2}, .format = bf16}},
      {"cpu_int8",
       {.device = {.device = "cpu", .threads = 2}, .format = kernels::WeightFormat::kInt8}},
      {"reference_int8",
       {.device = {.device = "reference"}, .format = kernels::WeightFormat::kInt8}},
      {"cpu_int4",
       {.device = {.device = "cpu", .threads = 2}, .format = kernels::WeightFormat::kInt4}},
      {"reference_int4",
       {.device = {.device = "reference"}, .format = kernels::WeightFormat::kInt4}},
      {"cpu_scalar_bf16",
       {.device = {.device = "cpu", .threads = 1, .isa = "scalar"}, .format = bf16}}};
  // The other instruction sets with every format, on fewer specs.
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    const kernels::DeviceSpec device{.device = "cpu", .threads = 2, .isa = isa};
    if (!kernels::CreateBackend(device).ok()) continue;  // not on this processor
    for (const auto format :
         {f32, bf16, kernels::WeightFormat::kInt8, kernels::WeightFormat::kInt4}) {
      out.push_back({absl::StrCat("cpu_", isa, "_", Name(format), "_few"),
                     {.device = device, .format = format},
                     std::max(5u, kNumRandomSpecs / 20)});
    }
  }
#if !SLUICE_SANITIZED  // slow; sanitizers see the loop in the op tests
  const kernels::DeviceSpec emulation{.device = "cpu", .threads = 2, .gemm = "amx-emulation"};
  out.push_back({"cpu_amx_emulation_bf16", {.device = emulation, .format = bf16}});
  const kernels::DeviceSpec amx{.device = "cpu", .threads = 2, .isa = "amx"};
  if (!RunAmxInstructions() || !kernels::CreateBackend(amx).ok()) return out;
  for (const auto format : {bf16, kernels::WeightFormat::kInt8, kernels::WeightFormat::kInt4}) {
    out.push_back({absl::StrCat("cpu_amx_", Name(format)),
                   {.device = amx, .format = format},
                   kNumRandomSpecs / 20});  // emulated instructions are slow
  }
#endif
  return out;
}

class ForwardLaws : public ::testing::TestWithParam<Setting> {};

TEST_P(ForwardLaws, SplittingASequenceChangesNoBit) {
  int every_key = 0;
  for (uint32_t seed = 0; seed < GetParam().specs; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed);
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    auto harness = ModelHarness::Create(spec, weights, GetParam().options);
    ASSERT_TRUE(harness.ok()) << harness.status() << SpecToJson(spec).dump();
    every_key += absl::StrContains(SpecToJson(spec).dump(), "all_tokens") ? 1 : 0;
    const auto tokens = RandomTokens(seed, 23, spec.decoder().embedding.vocab_size);
    const Logits whole = (*harness)->Run(tokens, 64);
    for (const int32_t chunk : {1, 5, 16}) {
      EXPECT_EQ(DifferentRows(whole, (*harness)->Run(tokens, chunk)), 0) << "chunk " << chunk;
    }
    EXPECT_EQ((*harness)->cache().num_used_pages(), 0);
  }
  if (GetParam().specs == kNumRandomSpecs) {
    EXPECT_GT(every_key, 5);
  }
}

TEST_P(ForwardLaws, NeighboursChangeNoBit) {
  for (uint32_t seed = 0; seed < GetParam().specs; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed);
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    auto harness = ModelHarness::Create(spec, weights, GetParam().options);
    ASSERT_TRUE(harness.ok()) << harness.status();
    const int32_t vocab = spec.decoder().embedding.vocab_size;
    const auto tokens = RandomTokens(seed, 12, vocab);
    const Logits alone = (*harness)->Run(tokens, 64);

    // Among four others of random lengths, in a random place, in two steps.
    std::mt19937 engine(seed);
    std::vector<Piece> first, second;
    const int32_t place = static_cast<int32_t>(seed % 5);
    Logits together;
    size_t first_row = 0, second_row = 0;
    for (int32_t p = 0; p < 5; ++p) {
      const bool ours = p == place;
      const auto other = RandomTokens(seed * 7 + static_cast<uint32_t>(p) + 1,
                                      1 + static_cast<int32_t>(engine() % 9), vocab);
      const auto& list = ours ? tokens : other;
      const size_t cut = ours ? 7 : list.size() / 2;
      const KvSequence sequence = (*harness)->Open();
      if (ours) {
        for (const Piece& piece : first) first_row += piece.tokens.size();
        for (const Piece& piece : second) second_row += piece.tokens.size();
      }
      if (cut > 0)
        first.push_back({.sequence = sequence,
                         .tokens = {list.begin(), list.begin() + static_cast<int64_t>(cut)}});
      second.push_back({.sequence = sequence,
                        .tokens = {list.begin() + static_cast<int64_t>(cut), list.end()},
                        .first = static_cast<int32_t>(cut)});
    }
    const Logits step1 = (*harness)->Step(first);
    const Logits step2 = (*harness)->Step(second);
    together.insert(together.end(), step1.begin() + static_cast<int64_t>(first_row),
                    step1.begin() + static_cast<int64_t>(first_row) + 7);
    together.insert(together.end(), step2.begin() + static_cast<int64_t>(second_row),
                    step2.begin() + static_cast<int64_t>(second_row) + 5);
    EXPECT_EQ(DifferentRows(alone, together), 0);
  }
}

TEST_P(ForwardLaws, TheNumberOfThreadsChangesNoBit) {
  if (GetParam().options.device.device == "reference")
    GTEST_SKIP() << "the reference has no threads";
  for (uint32_t seed = 0; seed < GetParam().specs / 5; ++seed) {
    const ModelSpec spec = RandomSpec(seed);
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    const auto tokens = RandomTokens(seed, 30, spec.decoder().embedding.vocab_size);
    std::vector<Logits> results;
    for (const int threads : {1, 2, 3}) {
      HarnessOptions options = GetParam().options;
      options.device.threads = threads;
      auto harness = ModelHarness::Create(spec, weights, options);
      ASSERT_TRUE(harness.ok()) << harness.status();
      results.push_back((*harness)->Run(tokens, 11));
    }
    EXPECT_EQ(DifferentRows(results[0], results[1]), 0) << "seed " << seed;
    EXPECT_EQ(DifferentRows(results[0], results[2]), 0) << "seed " << seed;
  }
}

// A depth router that takes every row and passes the block's output through: the plain model, bit
// for bit.
TEST_P(ForwardLaws, RoutingEverythingIsTheDenseModel) {
  const ModelSpec dense = PlainSpec(4);
  MemoryWeightStore weights;
  FillWeights(dense, 3, weights);
  ModelSpec routed = dense;
  auto& layers = routed.stacks[0].groups[0].layers;
  for (size_t l = 1; l < layers.size(); l += 2) {
    layers[l].depth = DepthRouterSpec{.weight = "router.weight",
                                      .gate = GateFunction::kOne,
                                      .combine = DepthCombine::kOnlyBlock,
                                      .capacity = 0.5};
  }
  weights.Add("router.weight", {1, 48}, std::vector<float>(48, 0.01f));
  const auto tokens = RandomTokens(5, 40, 61);
  auto plain = ModelHarness::Create(dense, weights, GetParam().options);
  auto mod = ModelHarness::Create(routed, weights, GetParam().options);
  ASSERT_TRUE(plain.ok() && mod.ok()) << plain.status() << mod.status();
  const Logits expected = (*plain)->Run(tokens, 9);
  EXPECT_EQ(DifferentRows(expected, (*mod)->Run(tokens, 9, {.capacity = 1.0f})), 0);
  // The knob at 0: the model without its routed layers.
  ModelSpec shallow = dense;
  auto& kept = shallow.stacks[0].groups[0].layers;
  kept.erase(kept.begin() + 3);
  kept.erase(kept.begin() + 1);
  auto half = ModelHarness::Create(shallow, weights, GetParam().options);
  ASSERT_TRUE(half.ok()) << half.status();
  EXPECT_EQ(DifferentRows((*half)->Run(tokens, 9), (*mod)->Run(tokens, 9, {.capacity = 0.0f})), 0);
  EXPECT_GT(DifferentRows(expected, (*half)->Run(tokens, 9)), 0)
      << "the two depths must differ at all";
}

TEST_P(ForwardLaws, SkippedRowsWriteNoKeys) {
  ModelSpec spec = PlainSpec(2);
  spec.stacks[0].groups[0].layers[1].depth =
      DepthRouterSpec{.weight = "router.weight", .capacity = 0.5};
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto harness = ModelHarness::Create(spec, weights, GetParam().options);
  ASSERT_TRUE(harness.ok()) << harness.status();
  const KvSequence sequence = (*harness)->Open();
  (*harness)->Step({{.sequence = sequence, .tokens = RandomTokens(1, 40, 61)}});
  ASSERT_EQ((*harness)->cache().classes().size(), 2u);
  const int32_t all = (*harness)->cache().Length(sequence, 0);
  const int32_t routed = (*harness)->cache().Length(sequence, 1);
  EXPECT_EQ(all, 40);
  EXPECT_GT(routed, 0);
  EXPECT_LT(routed, 40);
  EXPECT_EQ(routed, (*harness)->stats().depth_choices().at(0).executed);
}

TEST_P(ForwardLaws, OneExpertIsTheDenseFfn) {
  const ModelSpec dense = PlainSpec(3);
  MemoryWeightStore weights;
  FillWeights(dense, 3, weights);
  ModelSpec moe = dense;
  for (size_t l = 0; l < 3; ++l) {
    const std::string name = absl::StrCat("l", l);
    MoeFfnSpec block;
    block.router = {.num_experts = 1, .top_k = 1, .renormalize = true, .weight = name + ".router"};
    block.hidden = 80;
    block.experts = {
        .gate = name + ".gate.weight", .up = name + ".up.weight", .down = name + ".down.weight"};
    moe.stacks[0].groups[0].layers[l].sublayers[1].block = block;
    weights.Add(name + ".router", {1, 48}, std::vector<float>(48, 0.1f));
  }
  const auto tokens = RandomTokens(5, 30, 61);
  auto plain = ModelHarness::Create(dense, weights, GetParam().options);
  auto sparse = ModelHarness::Create(moe, weights, GetParam().options);
  ASSERT_TRUE(plain.ok() && sparse.ok()) << plain.status() << sparse.status();
  const double tolerance = GetParam().options.format == kernels::WeightFormat::kF32 ? 1e-5 : 2e-2;
  EXPECT_LE(MaxDifference((*plain)->Run(tokens, 9), (*sparse)->Run(tokens, 9)), tolerance);
}

TEST_P(ForwardLaws, NullExpertsOnlyIsTheIdentity) {
  ModelSpec spec = PlainSpec(1);
  MoeFfnSpec block;
  block.router = {
      .num_experts = 1, .num_null_experts = 1, .top_k = 1, .weight = "router", .bias = "bias"};
  block.hidden = 80;
  block.experts = {.gate = "l0.gate.weight", .up = "l0.up.weight", .down = "l0.down.weight"};
  ModelSpec without = spec;
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  weights.Add("router", {2, 48}, std::vector<float>(96, 0.0f));
  weights.Add("bias", {2}, {-100.0f, 100.0f});
  spec.stacks[0].groups[0].layers[0].sublayers[1].block = block;
  without.stacks[0].groups[0].layers[0].sublayers.pop_back();
  const auto tokens = RandomTokens(5, 20, 61);
  auto a = ModelHarness::Create(spec, weights, GetParam().options);
  auto b = ModelHarness::Create(without, weights, GetParam().options);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_EQ(DifferentRows((*a)->Run(tokens, 7), (*b)->Run(tokens, 7)), 0);
}

// A group repeated n times is n groups with the same tensors: shared weights, separate caches.
TEST_P(ForwardLaws, RepeatingAGroupIsUnrollingIt) {
  ModelSpec repeated = PlainSpec(2);
  repeated.stacks[0].groups[0].repeat.times = 3;
  ModelSpec unrolled = PlainSpec(2);
  const auto layers = unrolled.stacks[0].groups[0].layers;
  for (int i = 0; i < 2; ++i) {
    auto& all = unrolled.stacks[0].groups[0].layers;
    all.insert(all.end(), layers.begin(), layers.end());
  }
  MemoryWeightStore weights;
  FillWeights(repeated, 3, weights);
  const auto tokens = RandomTokens(5, 30, 61);
  auto a = ModelHarness::Create(repeated, weights, GetParam().options);
  auto b = ModelHarness::Create(unrolled, weights, GetParam().options);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_EQ(DifferentRows((*a)->Run(tokens, 7), (*b)->Run(tokens, 7)), 0);
}

TEST_P(ForwardLaws, TopKOfThePromptTakesExactlyItsShare) {
  ModelSpec spec = PlainSpec(2);
  spec.stacks[0].groups[0].layers[1].depth = DepthRouterSpec{
      .weight = "router.weight", .prefill_decide = DepthDecide::kRouterTopK, .capacity = 0.25};
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto harness = ModelHarness::Create(spec, weights, GetParam().options);
  ASSERT_TRUE(harness.ok()) << harness.status();
  const KvSequence one = (*harness)->Open();
  const KvSequence two = (*harness)->Open();
  (*harness)->Step({{.sequence = one, .tokens = RandomTokens(1, 21, 61)},
                    {.sequence = two, .tokens = RandomTokens(2, 3, 61)}});
  // floor(0.25 * 21) = 5 rows of the first prompt, max(1, floor(0.25 * 3)) = 1 of the second.
  EXPECT_EQ((*harness)->cache().Length(one, 1), 5);
  EXPECT_EQ((*harness)->cache().Length(two, 1), 1);
}

// The rows that top-k or the mean takes of a prompt depend on that prompt only.
TEST_P(ForwardLaws, NeighboursChangeNoBitOfAPromptUnderTopK) {
  int top_k_specs = 0, mean_specs = 0;
  for (uint32_t seed = 0; seed < GetParam().specs; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed, {.topk_prompt = true});
    top_k_specs += absl::StrContains(SpecToJson(spec).dump(), "router_topk") ? 1 : 0;
    mean_specs += absl::StrContains(SpecToJson(spec).dump(), "prompt_mean") ? 1 : 0;
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    auto harness = ModelHarness::Create(spec, weights, GetParam().options);
    ASSERT_TRUE(harness.ok()) << harness.status();
    const int32_t vocab = spec.decoder().embedding.vocab_size;
    const auto tokens = RandomTokens(seed, 12, vocab);
    const Logits alone = (*harness)->Step({{.sequence = (*harness)->Open(), .tokens = tokens}});
    std::vector<Piece> pieces;
    size_t first_row = 0;
    for (uint32_t p = 0; p < 4; ++p) {
      const auto size = static_cast<int32_t>(1 + (seed + 3 * p) % 11);
      if (p == seed % 4) pieces.push_back({.sequence = (*harness)->Open(), .tokens = tokens});
      if (p < seed % 4) first_row += static_cast<size_t>(size);
      pieces.push_back(
          {.sequence = (*harness)->Open(), .tokens = RandomTokens(seed * 5 + p, size, vocab)});
    }
    const Logits together = (*harness)->Step(pieces);
    const auto first = together.begin() + static_cast<int64_t>(first_row);
    EXPECT_EQ(DifferentRows(alone, {first, first + 12}), 0);
  }
  if (GetParam().specs < kNumRandomSpecs) return;
  EXPECT_GT(top_k_specs, 10);
  EXPECT_GT(mean_specs, static_cast<int>(kNumRandomSpecs) / 100);
}

INSTANTIATE_TEST_SUITE_P(Backends,
                         ForwardLaws,
                         ::testing::ValuesIn(Settings()),
                         [](const auto& setting) { return setting.param.name; });

// The cpu backend against the specification, on whole models.
TEST(ForwardAgainstReference, CpuEqualsReferenceInF32) {
  int depth_layers = 0, expert_layers = 0, other_choices = 0;
  for (uint32_t seed = 0; seed < kNumRandomSpecs; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed);
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    auto reference = ModelHarness::Create(spec, weights, {});
    auto cpu = ModelHarness::Create(spec, weights, {.device = {.device = "cpu", .threads = 2}});
    ASSERT_TRUE(reference.ok() && cpu.ok()) << reference.status() << cpu.status();
    const auto tokens = RandomTokens(seed, 33, spec.decoder().embedding.vocab_size);
    const Logits expected = (*reference)->Run(tokens, 33);
    const Logits got = (*cpu)->Run(tokens, 33);
    // A near tie in a router may fall either way; then the routed rows differ and nothing else can
    // be compared.
    if ((*reference)->stats().taken() != (*cpu)->stats().taken()) {
      ++other_choices;
      continue;
    }
    depth_layers += static_cast<int>((*cpu)->stats().depth_choices().size());
    expert_layers += static_cast<int>((*cpu)->stats().expert_choices().size());
    double largest = 1.0;
    for (const auto& row : expected) {
      for (const float value : row)
        largest = std::max(largest, static_cast<double>(std::abs(value)));
    }
    EXPECT_LE(MaxDifference(expected, got), 2e-4 * largest);
  }
  EXPECT_LE(other_choices, 2 + static_cast<int>(kNumRandomSpecs) / 50) << "near ties are rare";
  EXPECT_GT(depth_layers, 10);
  EXPECT_GT(expert_layers, 10);
}

}  // namespace
}  // namespace sluice::testing
