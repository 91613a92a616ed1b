// The tensor layouts of the published Mixture-of-Depths code bases, seen from the names. Their
// values are compared by golden_test, on fixtures that are not part of this repository.
#include "absl/strings/str_cat.h"
#include "engine/architectures/architectures.h"
#include "engine/model/model_spec.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/model/spec_stores.h"

namespace sluice::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr int64_t kVocab = 32, kDim = 24, kHidden = 40;

json Config() {
  return {{"model_type", "mod"},
          {"vocab_size", kVocab},
          {"hidden_size", kDim},
          {"intermediate_size", kHidden},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 4},
          {"max_position_embeddings", 16},
          {"mod", {{"layers", {1}}, {"capacity_tokens", 4}}}};
}

void AddLlamaBlock(ShapeStore& store, const std::string& name) {
  for (const char* part : {"wq", "wk", "wv", "wo"})
    store.Add(absl::StrCat(name, ".attention.", part, ".weight"), {kDim, kDim});
  for (const char* part : {"w1", "w3"})
    store.Add(absl::StrCat(name, ".feed_forward.", part, ".weight"), {kHidden, kDim});
  store.Add(name + ".feed_forward.w2.weight", {kDim, kHidden});
  for (const char* part : {".attention_norm.weight", ".ffn_norm.weight"})
    store.Add(name + part, {kDim});
}

ShapeStore MetaWeights(const std::string& routed_block) {
  ShapeStore store;
  store.Add("tok_embeddings.weight", {kVocab, kDim});
  store.Add("output.weight", {kVocab, kDim});
  store.Add("norm.weight", {kDim});
  AddLlamaBlock(store, "layers.0");
  AddLlamaBlock(store, routed_block);
  return store;
}

ShapeStore TowerWeights() {
  ShapeStore store;
  store.Add("embedding_layer.layers.0.weight", {kVocab, kDim});
  store.Add("embedding_layer.layers.1.layer.weight", {16, kDim});
  store.Add("head.weight", {kVocab, kDim});
  store.Add("encoder.blocks.block_1.router.weight", {1, kDim});
  for (const char* block : {"block_0.block", "block_1.transformer_block.block"}) {
    const std::string attention =
        absl::StrCat("encoder.blocks.", block, ".residual_attention.layer");
    const std::string ffn = absl::StrCat("encoder.blocks.", block, ".residual_feedforward.layer");
    store.Add(attention + ".attention.input_projection.weight", {3 * kDim, kDim});
    store.Add(attention + ".attention.output_projection.weight", {kDim, kDim});
    store.Add(ffn + ".feedforward.logging_ff_pre_relu.weight", {kHidden, kDim});
    store.Add(ffn + ".feedforward.logging_ff_post_relu.weight", {kDim, kHidden});
    for (const std::string& norm : {attention + ".pre_norm", ffn + ".pre_norm"}) {
      store.Add(norm + ".weight", {kDim});
      store.Add(norm + ".bias", {kDim});
    }
  }
  return store;
}

const LayerSpec& LayerOf(const ModelSpec& spec, size_t layer) {
  return spec.decoder().groups.at(0).layers.at(layer);
}
const AttentionSpec& AttentionOf(const ModelSpec& spec, size_t layer) {
  return std::get<AttentionSpec>(LayerOf(spec, layer).sublayers.at(0).block);
}

TEST(ModLayouts, SramshettyHasMetaNamesAndARouterUnderEveryLayer) {
  ShapeStore store = MetaWeights("layers.1");
  for (const char* layer : {"layers.0", "layers.1"}) {
    store.Add(absl::StrCat(layer, ".router.weight"), {1, kDim});
    store.Add(absl::StrCat(layer, ".aux_router.0.weight"), {12, kDim});
    store.Add(absl::StrCat(layer, ".aux_router.2.weight"), {1, 12});
  }
  json config = Config();
  config["mod"].update({{"combine", "ffn_gated_double"}, {"pos", "compact"}});
  const auto spec = SpecFromConfig(config, store);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(AttentionOf(*spec, 0).rope->style, RopeStyle::kInterleaved);
  EXPECT_EQ(AttentionOf(*spec, 0).q.weight, "layers.0.attention.wq.weight");
  EXPECT_EQ(spec->head.weight, "output.weight");
  EXPECT_FALSE(LayerOf(*spec, 0).depth.has_value());
  const DepthRouterSpec& depth = *LayerOf(*spec, 1).depth;
  EXPECT_EQ(depth.weight, "layers.1.router.weight");
  EXPECT_EQ(depth.predictor.size(), 2u);
  EXPECT_EQ(depth.gate_place, DepthGatePlace::kLastSublayer);
  EXPECT_EQ(depth.combine, DepthCombine::kPlusBlock);
  EXPECT_EQ(depth.capacity_rows, 4);
  EXPECT_EQ(depth.capacity, 0.25);
}

TEST(ModLayouts, AstramindWrapsTheRoutedBlock) {
  ShapeStore store = MetaWeights("layers.1.block");
  store.Add("layers.1.router.weight_predictor.weight", {1, kDim});
  store.Add("layers.1.router.weight_predictor.bias", {1});
  const auto spec = SpecFromConfig(Config(), store);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(AttentionOf(*spec, 0).o.weight, "layers.0.attention.wo.weight");
  EXPECT_EQ(AttentionOf(*spec, 1).o.weight, "layers.1.block.attention.wo.weight");
  EXPECT_EQ(LayerOf(*spec, 1).depth->bias, "layers.1.router.weight_predictor.bias");
  store.Erase("layers.1.block.ffn_norm.weight");
  EXPECT_THAT(std::string(SpecFromConfig(Config(), store).status().message()),
              HasSubstr("layers.1.block.ffn_norm.weight"));
}

TEST(ModLayouts, KyegomezRoutesBlocksOfATower) {
  ShapeStore store = TowerWeights();
  json config = Config();
  config["hidden_act"] = "relu";
  const auto spec = SpecFromConfig(config, store);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->decoder().final_norm.has_value());
  EXPECT_EQ(AttentionOf(*spec, 1).v.row_begin, 12);
  EXPECT_EQ(AttentionOf(*spec, 1).v.row_stride, 18);
  EXPECT_FALSE(AttentionOf(*spec, 1).rope.has_value());
  EXPECT_EQ(LayerOf(*spec, 1).depth->weight, "encoder.blocks.block_1.router.weight");
  config["num_local_experts"] = 2;
  config["num_experts_per_tok"] = 1;
  EXPECT_EQ(SpecFromConfig(config, store).status().code(), absl::StatusCode::kUnimplemented);
  // A fused tensor of another height is no tower of this shape.
  store.Add(
      "encoder.blocks.block_0.block.residual_attention.layer.attention.input_projection.weight",
      {2 * kDim, kDim});
  EXPECT_THAT(std::string(SpecFromConfig(Config(), store).status().message()),
              HasSubstr("input_projection.weight"));
}

TEST(ModLayouts, AFileWithTheNamesOfTwoLayoutsIsTheTower) {
  ShapeStore store = TowerWeights();
  store.Add("tok_embeddings.weight", {4, kDim});
  json config = Config();
  config["hidden_act"] = "relu";
  const auto spec = SpecFromConfig(config, store);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->decoder().final_norm.has_value());
  EXPECT_EQ(spec->decoder().embedding.weight, "embedding_layer.layers.0.weight");
}

}  // namespace
}  // namespace sluice::testing
