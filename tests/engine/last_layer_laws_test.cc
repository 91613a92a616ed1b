// The last layer leaves out rows whose logits nobody wants (engine/model/last_layer.h): that
// changes no bit of the others, costs what DenseFlops says, and is done by the models that can.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/model/last_layer.h"
#include "engine/model/model_spec_json.h"
#include "tests/support/model_harness.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {
namespace {

using Logits = std::vector<std::vector<float>>;

struct Setting {
  std::string name;
  HarnessOptions options;
};

std::vector<Setting> Settings() {
  std::vector<Setting> out;
  for (const char* device : {"reference", "cpu"}) {
    for (const auto format : {kernels::WeightFormat::kF32, kernels::WeightFormat::kBF16,
                              kernels::WeightFormat::kInt8, kernels::WeightFormat::kInt4}) {
      out.push_back({absl::StrCat(device, "_", Name(format)),
                     {.device = {.device = device, .threads = 2}, .format = format}});
    }
  }
  return out;
}

class LastLayerLaws : public ::testing::TestWithParam<Setting> {};

// One sequence in steps of at most `chunk` rows: the logits that are wanted.
Logits LogitsOfWanted(ModelHarness& harness,
                      const std::vector<int32_t>& tokens,
                      const std::vector<uint8_t>& unwanted,
                      size_t chunk) {
  const KvSequence sequence = harness.Open();
  Logits all;
  for (size_t first = 0; first < tokens.size(); first += chunk) {
    const size_t last = std::min(tokens.size(), first + chunk);
    const auto cut = [&](const auto& list) {
      return std::decay_t<decltype(list)>(list.begin() + static_cast<int64_t>(first),
                                          list.begin() + static_cast<int64_t>(last));
    };
    Piece piece{.sequence = sequence,
                .tokens = cut(tokens),
                .first = static_cast<int32_t>(first),
                .unwanted = cut(unwanted)};
    for (auto& row : harness.Step({piece})) all.push_back(std::move(row));
  }
  harness.Free(sequence);
  return all;
}

// What the last step ran, against the same rows with nothing skipped.
void ExpectAtMostDense(ModelHarness& harness, const std::vector<uint8_t>& unwanted, size_t chunk) {
  const std::span<const double> flops = harness.stats().flops();
  const size_t first = (unwanted.size() - 1) / chunk * chunk;
  ASSERT_EQ(flops.size(), unwanted.size() - first);
  for (size_t i = first; i < unwanted.size(); ++i) {
    const double dense = harness.model().DenseFlops(static_cast<int32_t>(i), unwanted[i] == 0);
    EXPECT_LE(flops[i - first], dense * (1 + 1e-9)) << i;
  }
}

// The logits of some rows, wanted alone, against those of the same rows where all are wanted.
void ExpectEqualBits(const ModelSpec& spec,
                     uint32_t seed,
                     const HarnessOptions& options,
                     const std::vector<size_t>& chunks = {23, 7}) {
  constexpr int32_t kTokens = 23;
  SCOPED_TRACE(::testing::Message() << "seed " << seed << " " << SpecToJson(spec).dump());
  MemoryWeightStore weights;
  FillWeights(spec, seed + 1, weights);
  HarnessOptions tight = options;
  tight.max_rows = kTokens;  // the arena has nothing to spare
  auto harness = ModelHarness::Create(spec, weights, tight);
  ASSERT_TRUE(harness.ok()) << harness.status();
  const auto tokens = RandomTokens(seed, kTokens, spec.decoder().embedding.vocab_size);
  const Logits whole = (*harness)->Run(tokens, kTokens);
  std::mt19937 random(seed);
  for (const size_t chunk : chunks) {
    std::vector<uint8_t> unwanted;
    for (int32_t i = 0; i < kTokens; ++i) unwanted.push_back(random() % 4 != 0 ? 1 : 0);
    const Logits wanted = LogitsOfWanted(**harness, tokens, unwanted, chunk);
    ExpectAtMostDense(**harness, unwanted, chunk);
    size_t next = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (unwanted[i] != 0) continue;
      ASSERT_LT(next, wanted.size());
      ASSERT_EQ(wanted[next].size(), whole[i].size());
      EXPECT_EQ(std::memcmp(wanted[next].data(), whole[i].data(), whole[i].size() * sizeof(float)),
                0)
          << "chunk " << chunk << " row " << i;
      ++next;
    }
    EXPECT_EQ(next, wanted.size());
  }
  EXPECT_EQ((*harness)->cache().num_used_pages(), 0);
}

TEST_P(LastLayerLaws, RowsThatNobodyWantsChangeNoBit) {
  int skipping = 0, skipping_routed = 0, skipping_latent = 0;
  for (uint32_t seed = 0; seed < kNumRandomSpecs / 3; ++seed) {
    const ModelSpec spec = RandomSpec(seed);
    ExpectEqualBits(spec, seed, GetParam().options);
    if (!LastLayerCanSkip(spec)) continue;
    ++skipping;
    const LayerSpec& last = spec.decoder().groups.back().layers.back();
    skipping_routed += last.depth.has_value() ? 1 : 0;
    skipping_latent +=
        std::holds_alternative<LatentAttentionSpec>(last.sublayers.front().block) ? 1 : 0;
  }
  if (SLUICE_SANITIZED) return;  // fewer specs
  EXPECT_GT(skipping, 25);
  EXPECT_GT(skipping_routed, 5);
  EXPECT_GT(skipping_latent, 5);
}

// Rules that read a whole prompt, in one chunk.
TEST_P(LastLayerLaws, NorWhereThePromptIsChosenFromAsAWhole) {
  int skipping_routed = 0;
  for (uint32_t seed = 0; seed < kNumRandomSpecs / 4; ++seed) {
    const ModelSpec spec = RandomSpec(seed, {.topk_prompt = true});
    ExpectEqualBits(spec, seed, GetParam().options, {23});
    skipping_routed +=
        LastLayerCanSkip(spec) && spec.decoder().groups.back().layers.back().depth.has_value() ? 1
                                                                                               : 0;
  }
  if (!SLUICE_SANITIZED) {
    EXPECT_GT(skipping_routed, 3);
  }
}

// Two sequences, one of which decodes.
TEST_P(LastLayerLaws, NorBesideARowThatDecodes) {
  const ModelSpec spec = PlainSpec(2);
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto harness = ModelHarness::Create(spec, weights, GetParam().options);
  ASSERT_TRUE(harness.ok()) << harness.status();
  const auto tokens = RandomTokens(1, 9, kPlainVocabulary);
  const Logits alone = (*harness)->Run(tokens, 9);
  const KvSequence decoding = (*harness)->Open();
  (*harness)->Step({{.sequence = decoding, .tokens = {tokens.begin(), tokens.end() - 1}}});
  const Logits both = (*harness)->Step(
      {{.sequence = (*harness)->Open(),
        .tokens = RandomTokens(2, 5, kPlainVocabulary),
        .unwanted = {1, 1, 1, 1, 1}},
       {.sequence = decoding, .tokens = {tokens.back()}, .first = 8, .is_prompt = false}});
  ASSERT_EQ(both.size(), 1u);
  EXPECT_EQ(both[0], alone.back());
}

TEST_P(LastLayerLaws, NorInALayerThatIsRouted) {
  for (const auto kv : {DepthKv::kRoutedOnly, DepthKv::kAllTokens}) {
    for (const auto gate : {DepthGatePlace::kMerge, DepthGatePlace::kLastSublayer}) {
      for (const int32_t first_sublayer : {0, 1}) {
        // Keys of all rows only where the attention is routed.
        if (first_sublayer == 1 && kv == DepthKv::kAllTokens) continue;
        ModelSpec spec = PlainSpec(2);
        spec.stacks[0].groups[0].layers[1].depth = DepthRouterSpec{.weight = "router.weight",
                                                                   .reads_normed = true,
                                                                   .first_sublayer = first_sublayer,
                                                                   .gate_place = gate,
                                                                   .kv = kv,
                                                                   .capacity = 0.5};
        ASSERT_TRUE(LastLayerCanSkip(spec));
        ASSERT_TRUE(ValidateSpec(spec).ok()) << ValidateSpec(spec);
        ExpectEqualBits(spec, 1, GetParam().options);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends,
                         LastLayerLaws,
                         ::testing::ValuesIn(Settings()),
                         [](const auto& setting) { return setting.param.name; });

TEST(LastLayerTest, ARowThatNobodyWantsCostsItsKeysOnly) {
  const ModelSpec spec = PlainSpec(3);
  MemoryWeightStore weights;
  FillWeights(spec, 3, weights);
  auto harness = ModelHarness::Create(spec, weights, {});
  ASSERT_TRUE(harness.ok()) << harness.status();
  const std::vector<uint8_t> unwanted = {1, 1, 0, 1, 1};
  (*harness)->Step({{.sequence = (*harness)->Open(),
                     .tokens = RandomTokens(1, 5, kPlainVocabulary),
                     .unwanted = unwanted}});
  const auto& attention =
      std::get<AttentionSpec>(spec.decoder().groups[0].layers[2].sublayers[0].block);
  const auto& ffn = std::get<DenseFfnSpec>(spec.decoder().groups[0].layers[2].sublayers[1].block);
  const auto dim = static_cast<double>(spec.decoder().embedding.dim);
  const double width = static_cast<double>(attention.num_heads) * attention.head_dim;
  for (int32_t row = 0; row < 5; ++row) {
    const double flops = (*harness)->stats().flops()[static_cast<size_t>(row)];
    const bool wanted = unwanted[static_cast<size_t>(row)] == 0;
    EXPECT_DOUBLE_EQ(flops, (*harness)->model().DenseFlops(row, wanted));
    if (wanted) continue;
    const double all = (*harness)->model().DenseFlops(row, true) - 2.0 * kPlainVocabulary * dim;
    // Queries, outputs and the feed-forward; attention to the keys so far.
    const double left_out = 2.0 * 2.0 * width * dim +
                            2.0 * (ffn.gated ? 3 : 2) * static_cast<double>(ffn.hidden) * dim +
                            4.0 * width * (row + 1);
    EXPECT_DOUBLE_EQ(all - flops, left_out);
  }
}

TEST(LastLayerTest, WhoCan) {
  const auto changed = [](const std::function<void(ModelSpec&, LayerSpec&)>& change) {
    ModelSpec spec = PlainSpec(2);
    change(spec, spec.stacks[0].groups[0].layers.back());
    return LastLayerCanSkip(spec);
  };
  EXPECT_TRUE(LastLayerCanSkip(PlainSpec(1)));
  EXPECT_TRUE(changed([](ModelSpec&, LayerSpec& last) { last.depth.emplace(); }));
  EXPECT_TRUE(changed([](ModelSpec&, LayerSpec& last) {
    last.depth = DepthRouterSpec{.kv = DepthKv::kAllTokens};
  }));
  EXPECT_FALSE(changed([](ModelSpec&, LayerSpec& last) {
    last.depth = DepthRouterSpec{.position = DepthPosition::kCompact};
  }));
  EXPECT_FALSE(changed(
      [](ModelSpec&, LayerSpec& last) { last.depth = DepthRouterSpec{.kv = DepthKv::kZeroRows}; }));
  EXPECT_TRUE(changed([](ModelSpec&, LayerSpec& last) { last.sublayers[1].block = MoeFfnSpec{}; }));
  EXPECT_FALSE(changed([](ModelSpec&, LayerSpec& last) {  // rows compete for experts
    MoeFfnSpec moe;
    moe.router.capacity.emplace();
    last.sublayers[1].block = moe;
  }));
  EXPECT_FALSE(changed([](ModelSpec&, LayerSpec& last) {
    MoeFfnSpec moe;
    moe.router.pick = ExpertPick::kExpertTopK;
    last.sublayers[1].block = moe;
  }));
  EXPECT_FALSE(
      changed([](ModelSpec&, LayerSpec& last) { last.sublayers[1].block = MixtureFfnSpec{}; }));
  EXPECT_TRUE(changed(
      [](ModelSpec&, LayerSpec& last) { last.sublayers[0].block = LatentAttentionSpec{}; }));
  EXPECT_FALSE(changed([](ModelSpec&, LayerSpec& last) {  // Mixture-of-Attention
    std::get<AttentionSpec>(last.sublayers[0].block).q.experts.emplace();
  }));
  EXPECT_FALSE(
      changed([](ModelSpec&, LayerSpec& last) {  // keys of the second are made of the first
        last.sublayers[1] = last.sublayers[0];
      }));
  EXPECT_TRUE(
      changed([](ModelSpec& spec, LayerSpec&) { spec.stacks[0].groups[0].repeat.times = 3; }));
  EXPECT_FALSE(changed(
      [](ModelSpec& spec, LayerSpec&) { spec.stacks[0].groups[0].repeat.adjustable = true; }));
  EXPECT_FALSE(changed(
      [](ModelSpec& spec, LayerSpec&) { spec.stacks[0].groups[0].repeat.kv = RepeatKv::kFirst; }));
  EXPECT_FALSE(changed([](ModelSpec& spec, LayerSpec&) {
    spec.stacks[0].groups[0].repeat.halting = HaltingKind::kStickBreaking;
  }));
  EXPECT_FALSE(
      changed([](ModelSpec& spec, LayerSpec&) { spec.stacks[0].groups[0].repeat.exit.emplace(); }));
  EXPECT_FALSE(changed([](ModelSpec&, LayerSpec& last) {
    std::get<AttentionSpec>(last.sublayers[0].block).kv_source = KvSource::kEncoder;
  }));
  EXPECT_FALSE(changed([](ModelSpec&, LayerSpec& last) {
    std::get<AttentionSpec>(last.sublayers[0].block).mask = MaskKind::kFull;
  }));
  EXPECT_FALSE(changed([](ModelSpec&, LayerSpec& last) {
    std::get<AttentionSpec>(last.sublayers[0].block).v.experts.emplace().capacity.emplace();
  }));
  EXPECT_FALSE(changed([](ModelSpec& spec, LayerSpec&) { spec.head.pooling = Pooling::kMean; }));
  EXPECT_FALSE(changed([](ModelSpec& spec, LayerSpec&) {  // an encoder before it
    spec.stacks.insert(spec.stacks.begin(), spec.stacks[0]);
    spec.stacks[0].role = StackRole::kEncoder;
  }));
}

}  // namespace
}  // namespace sluice::testing
