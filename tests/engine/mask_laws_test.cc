// Sparse patterns against their definition, key by key; encoders on random specs: neighbours change
// no bit, the cpu backend equals the reference, every row sees every other.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

#include "engine/blocks/position_bias.h"
#include "engine/blocks/sparse_pattern.h"
#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Rows = std::vector<std::vector<float>>;
constexpr SpecDraw kEncoder = {.depth = false, .repeats = false, .encoder = true};

// How often the query sees each position, as model_spec.h says it.
std::map<int64_t, int> Seen(const SparsePatternSpec& spec,
                            bool causal,
                            int32_t position,
                            int32_t length) {
  const int64_t limit = causal ? position + 1 : length;
  const int64_t own = position / spec.block;
  const int64_t blocks = (limit + spec.block - 1) / spec.block;
  const auto global = [&](int64_t block) {
    return block < spec.first_blocks || (!causal && block >= blocks - spec.last_blocks);
  };
  const bool all = !causal && (length <= spec.full_up_to || (spec.global_queries && global(own)));
  std::map<int64_t, int> seen;
  for (int64_t p = 0; p < limit; ++p) {
    const int64_t block = p / spec.block;
    const bool near = block >= own - spec.behind && block <= own + spec.ahead;
    const int count = all || global(block) || near ? 1 : 0;
    const int again = !all && block == 0 ? spec.first_repeats : 0;
    if (count + again > 0) seen[p] = count + again;
  }
  return seen;
}

std::map<int64_t, int> Listed(const SparsePattern& pattern,
                              int32_t position,
                              int32_t length,
                              int32_t head) {
  std::vector<kernels::KvSpan> spans(static_cast<size_t>(pattern.num_spans()));
  pattern.Fill(position, length, head, spans);
  std::map<int64_t, int> seen;
  for (const kernels::KvSpan& span : spans) {
    for (int64_t p = span.begin; p < span.end; ++p) ++seen[p];
  }
  return seen;
}

SparsePatternSpec DrawSpec(std::mt19937& random, bool causal) {
  const auto draw = [&](uint32_t below) { return static_cast<int32_t>(random() % below); };
  SparsePatternSpec spec{.block = 1 + draw(5), .first_blocks = draw(4), .behind = draw(4)};
  if (causal) return spec;
  spec.last_blocks = draw(4);
  spec.ahead = draw(4);
  spec.global_queries = draw(2) == 1;
  spec.first_repeats = draw(3);
  spec.full_up_to = draw(3) == 0 ? draw(30) : 0;
  return spec;
}

TEST(SparsePattern, SpansAreWhatTheSpecSays) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    const bool causal = trial % 2 == 0;
    const SparsePatternSpec spec = DrawSpec(random, causal);
    const SparsePattern pattern(spec, causal ? MaskKind::kCausal : MaskKind::kFull);
    const auto length = static_cast<int32_t>(1 + random() % 40);
    for (int32_t position = 0; position < length; ++position) {
      EXPECT_EQ(Listed(pattern, position, length, 0), Seen(spec, causal, position, length))
          << "trial " << trial << " position " << position << " of " << length;
    }
  }
}

TEST(SparsePattern, RandomBlocksAreOthersAndAsManyAsAsked) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 200; ++trial) {
    const bool causal = trial % 2 == 0;
    SparsePatternSpec spec = DrawSpec(random, causal);
    spec.global_queries = false;
    spec.full_up_to = spec.first_repeats = 0;
    const int32_t length = spec.block * 20;
    const auto without = Seen(spec, causal, length / 2, length);
    spec.random_blocks = 3;
    spec.seed = trial;
    const SparsePattern pattern(spec, causal ? MaskKind::kCausal : MaskKind::kFull);
    const auto seen = Listed(pattern, length / 2, length, 1);
    for (const auto& [position, count] : seen) EXPECT_EQ(count, 1) << position;
    const auto limit = static_cast<size_t>(causal ? length / 2 + 1 : length);
    const size_t wanted = static_cast<size_t>(3 * spec.block);
    EXPECT_EQ(seen.size(), std::min(limit, without.size() + wanted)) << "trial " << trial;
    EXPECT_EQ(seen, Listed(pattern, length / 2, length, 1));
  }
}

// The numbers are part of a model: they may never change. tools/golden/sparse.py has the same rule.
TEST(SparsePattern, DrawsAreFixed) {
  std::set<std::vector<int32_t>> lists;
  for (int32_t head = 0; head < 4; ++head) {
    for (int64_t block = 0; block < 4; ++block) {
      const auto drawn = DrawBlocks(7, head, block, 3, 100);
      const std::vector<int32_t> list(drawn.begin(), drawn.begin() + 3);
      EXPECT_TRUE(list[0] < list[1] && list[1] < list[2] && list[0] >= 0 && list[2] < 100);
      lists.insert(list);
    }
  }
  EXPECT_EQ(lists.size(), 16u);
  const auto all = DrawBlocks(7, 0, 0, 5, 5);
  EXPECT_EQ(std::vector<int32_t>(all.begin(), all.begin() + 5),
            (std::vector<int32_t>{0, 1, 2, 3, 4}));
  const auto drawn = DrawBlocks(36864, 1, 9, 3, 50);
  EXPECT_EQ(std::vector<int32_t>(drawn.begin(), drawn.begin() + 3),
            (std::vector<int32_t>{39, 48, 49}));
}

void ExpectNear(const Rows& wanted, const Rows& got) {
  ASSERT_EQ(wanted.size(), got.size());
  float largest = 0.0f, worst = 0.0f;
  for (size_t i = 0; i < wanted.size(); ++i) {
    for (size_t j = 0; j < wanted[i].size(); ++j) {
      largest = std::max(largest, std::abs(wanted[i][j]));
      worst = std::max(worst, std::abs(wanted[i][j] - got[i][j]));
    }
  }
  EXPECT_LE(worst, 2e-4f * (1.0f + largest));
}

// First blocks that cover everything are full attention, bit for bit.
TEST(SparsePattern, SeeingEverythingIsFullAttention) {
  for (const char* device : {"reference", "cpu"}) {
    const ModelSpec full = PlainSpec(2);
    ModelSpec sparse = full;
    for (LayerSpec& layer : sparse.stacks[0].groups[0].layers)
      std::get<AttentionSpec>(layer.sublayers[0].block).sparse = {.block = 4, .first_blocks = 99};
    MemoryWeightStore weights;
    FillWeights(full, 3, weights);
    const HarnessOptions options{.device = {.device = device, .threads = 1}};
    auto a = ModelHarness::Create(full, weights, options);
    auto b = ModelHarness::Create(sparse, weights, options);
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    const auto tokens = RandomTokens(5, 30, kPlainVocabulary);
    EXPECT_TRUE((*a)->Run(tokens, 7) == (*b)->Run(tokens, 7)) << device;
  }
}

TEST(Encoders, NeighboursChangeNoBit) {
  for (uint32_t seed = 0; seed < kNumRandomSpecs; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed, kEncoder);
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    for (const auto format : {kernels::WeightFormat::kF32, kernels::WeightFormat::kBF16,
                              kernels::WeightFormat::kInt8}) {
      auto harness = ModelHarness::Create(
          spec, weights, {.device = {.device = "cpu", .threads = 2}, .format = format});
      ASSERT_TRUE(harness.ok()) << harness.status();
      const int32_t vocab = spec.decoder().embedding.vocab_size;
      const auto tokens = RandomTokens(seed, 17, vocab);
      const Rows alone = (*harness)->Run(tokens, 64);
      EXPECT_EQ(alone[0].size(), static_cast<size_t>(spec.decoder().embedding.dim));
      const auto other = RandomTokens(seed + 99, static_cast<int32_t>(1 + seed % 20), vocab);
      const Rows together = (*harness)->Step({{.sequence = (*harness)->Open(), .tokens = other},
                                              {.sequence = (*harness)->Open(), .tokens = tokens},
                                              {.sequence = (*harness)->Open(), .tokens = other}});
      const auto first = together.begin() + static_cast<int64_t>(other.size());
      EXPECT_TRUE(alone == Rows(first, first + 17));
    }
  }
}

TEST(Encoders, CpuEqualsReferenceInF32) {
  for (uint32_t seed = 0; seed < kNumRandomSpecs; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed, kEncoder);
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    auto reference = ModelHarness::Create(spec, weights, {});
    auto cpu = ModelHarness::Create(spec, weights, {.device = {.device = "cpu", .threads = 2}});
    ASSERT_TRUE(reference.ok() && cpu.ok()) << reference.status() << cpu.status();
    const auto tokens = RandomTokens(seed, 33, spec.decoder().embedding.vocab_size);
    const Rows wanted = (*reference)->Run(tokens, 64);
    const Rows got = (*cpu)->Run(tokens, 64);
    ExpectNear(wanted, got);
  }
}

// Full attention: the last token reaches the first row.
TEST(Encoders, TheFirstRowSeesTheLastToken) {
  ModelSpec spec = PlainSpec(1);
  spec.stacks[0].role = StackRole::kEncoder;
  spec.head = {.pooling = Pooling::kFirst};
  std::get<AttentionSpec>(spec.stacks[0].groups[0].layers[0].sublayers[0].block).mask =
      MaskKind::kFull;
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto harness = ModelHarness::Create(spec, weights, {});
  ASSERT_TRUE(harness.ok()) << harness.status();
  std::vector<int32_t> tokens = RandomTokens(5, 12, kPlainVocabulary);
  const Rows before = (*harness)->Run(tokens, 64);
  tokens.back() = (tokens.back() + 1) % kPlainVocabulary;
  EXPECT_FALSE(before[0] == (*harness)->Run(tokens, 64)[0]);
}

// Of an encoder-decoder: the prompt whole with the decoder's first rows, the rest in steps of
// `chunk`.
Rows Decode(ModelHarness& harness,
            const std::vector<int32_t>& prompt,
            const std::vector<int32_t>& tokens,
            int32_t chunk) {
  const KvSequence sequence = harness.Open();
  Rows all;
  const auto total = static_cast<int32_t>(tokens.size());
  for (int32_t first = 0; first < total; first += chunk) {
    const int32_t last = std::min(total, first + chunk);
    Piece piece{.sequence = sequence,
                .tokens = {tokens.begin() + first, tokens.begin() + last},
                .first = first};
    if (first == 0) piece.encoder = prompt;
    for (auto& row : harness.Step({piece})) all.push_back(std::move(row));
  }
  harness.Free(sequence);
  return all;
}

constexpr SpecDraw kTwoStacks = {.depth = false, .repeats = false, .two_stacks = true};

TEST(EncoderDecoders, ChunksAndNeighboursChangeNoBit) {
  for (uint32_t seed = 0; seed < kNumRandomSpecs; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed, kTwoStacks);
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    for (const auto format : {kernels::WeightFormat::kF32, kernels::WeightFormat::kBF16,
                              kernels::WeightFormat::kInt8}) {
      auto harness = ModelHarness::Create(
          spec, weights, {.device = {.device = "cpu", .threads = 2}, .format = format});
      ASSERT_TRUE(harness.ok()) << harness.status();
      const int32_t vocab = spec.decoder().embedding.vocab_size;
      const auto prompt = RandomTokens(seed, 11, vocab);
      const auto tokens = RandomTokens(seed + 50, 9, vocab);
      const Rows whole = Decode(**harness, prompt, tokens, 64);
      for (const int32_t chunk : {1, 4}) {
        EXPECT_TRUE(whole == Decode(**harness, prompt, tokens, chunk)) << chunk;
      }
      const auto other = RandomTokens(seed + 99, static_cast<int32_t>(1 + seed % 9), vocab);
      const Rows together =
          (*harness)->Step({{.sequence = (*harness)->Open(), .tokens = other, .encoder = other},
                            {.sequence = (*harness)->Open(), .tokens = tokens, .encoder = prompt}});
      const auto first = together.begin() + static_cast<int64_t>(other.size());
      EXPECT_TRUE(whole == Rows(first, first + 9));
      const auto longer = RandomTokens(seed + 7, 12, vocab);
      EXPECT_FALSE(whole == Decode(**harness, longer, tokens, 64)) << "the prompt must matter";
    }
  }
}

TEST(EncoderDecoders, CpuEqualsReferenceInF32) {
  for (uint32_t seed = 0; seed < kNumRandomSpecs; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    const ModelSpec spec = RandomSpec(seed, kTwoStacks);
    MemoryWeightStore weights;
    FillWeights(spec, seed + 1, weights);
    auto reference = ModelHarness::Create(spec, weights, {});
    auto cpu = ModelHarness::Create(spec, weights, {.device = {.device = "cpu", .threads = 2}});
    ASSERT_TRUE(reference.ok() && cpu.ok()) << reference.status() << cpu.status();
    const int32_t vocab = spec.decoder().embedding.vocab_size;
    const auto prompt = RandomTokens(seed, 21, vocab);
    const auto tokens = RandomTokens(seed + 50, 9, vocab);
    ExpectNear(Decode(**reference, prompt, tokens, 64), Decode(**cpu, prompt, tokens, 64));
  }
}

// Buckets by hand: transformers' T5Attention._relative_position_bucket, 8 buckets to distance 10.
TEST(PositionBias, BucketsAreThePublishedOnes) {
  const PositionBiasSpec spec{.weight = "bias", .num_buckets = 8, .max_distance = 10};
  std::vector<int32_t> causal, full;
  for (const int32_t d : {3, 0, -1, -3, -4, -5, -6, -7, -8, -9, -10, -50})
    causal.push_back(PositionBucket(spec, MaskKind::kCausal, d));
  for (const int32_t d : {-50, -10, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 50})
    full.push_back(PositionBucket(spec, MaskKind::kFull, d));
  EXPECT_EQ(causal, (std::vector<int32_t>{0, 0, 1, 3, 4, 4, 5, 6, 7, 7, 7, 7}));
  EXPECT_EQ(full, (std::vector<int32_t>{3, 3, 3, 2, 2, 2, 1, 0, 5, 6, 6, 6, 7, 7}));
}

}  // namespace
}  // namespace sluice::testing
