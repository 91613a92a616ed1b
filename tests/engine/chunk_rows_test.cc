// The rows of a step, from the shape of the model and the kernel family.
#include "engine/chunk_rows.h"

#include "gtest/gtest.h"

namespace sluice {
namespace {

ModelSpec SpecOf(const LayerSpec& layer) {
  LayerGroupSpec group;
  group.layers = {LayerSpec(), layer};
  ModelSpec spec;
  spec.stacks = {StackSpec()};
  spec.stacks[0].groups = {group};
  return spec;
}

LayerSpec ExpertLayer(int32_t experts, int32_t top_k) {
  MoeFfnSpec moe;
  moe.router.num_experts = experts;
  moe.router.top_k = top_k;
  SublayerSpec sublayer;
  sublayer.block = moe;
  LayerSpec layer;
  layer.sublayers = {sublayer};
  return layer;
}

LayerSpec RoutedLayer(double capacity) {
  LayerSpec layer;
  layer.depth.emplace();
  layer.depth->capacity = capacity;
  return layer;
}

int32_t Rows(const LayerSpec& layer,
             const char* family,
             std::optional<kernels::WeightFormat> weights = std::nullopt) {
  EngineConfig config;
  config.max_batch_tokens = 0;
  config.weights = weights;
  return ChunkRows(config, SpecOf(layer),
                   {{"linear bf16", family, ""}, {"linear f32", "avx512", ""}});
}

TEST(ChunkRowsTest, WhatTheOperatorSaysHolds) {
  EngineConfig config;
  config.max_batch_tokens = 77;
  EXPECT_EQ(ChunkRows(config, SpecOf(ExpertLayer(64, 8)), {{"linear bf16", "amx", ""}}), 77);
}

TEST(ChunkRowsTest, SparserLayersWantLongerChunks) {
  EXPECT_EQ(Rows(LayerSpec(), "amx"), kMinChunkRows);
  EXPECT_EQ(Rows(ExpertLayer(64, 8), "amx"), 704);  // 88 * 8
  EXPECT_EQ(Rows(RoutedLayer(0.125), "amx"), 704);
  EXPECT_EQ(Rows(ExpertLayer(128, 8), "amx"), 1408);
  EXPECT_EQ(Rows(ExpertLayer(128, 8), "amx", kernels::WeightFormat::kInt8), 1408);
  EXPECT_EQ(Rows(ExpertLayer(128, 8), "amx", kernels::WeightFormat::kInt4), 704);
  // Tiles multiply no f32: its own family counts.
  EXPECT_EQ(Rows(ExpertLayer(64, 8), "amx", kernels::WeightFormat::kF32), kMinChunkRows);
  EXPECT_EQ(Rows(ExpertLayer(512, 8), "amx", kernels::WeightFormat::kF32), 704);  // 11 * 64
  EXPECT_EQ(Rows(ExpertLayer(387, 16), "amx"), kMaxChunkRows);                    // 88 * 24
  EXPECT_EQ(Rows(ExpertLayer(1000000, 1), "amx"), kMaxChunkRows);
}

TEST(ChunkRowsTest, WithoutMatrixUnitsArithmeticIsTheLimitSooner) {
  EXPECT_EQ(Rows(ExpertLayer(64, 8), "avx512"), kMinChunkRows);
  EXPECT_EQ(Rows(ExpertLayer(1024, 8), "avx512"), 704);  // 5.5 * 128
  EXPECT_EQ(Rows(ExpertLayer(1024, 8), "scalar"), kMinChunkRows);
}

TEST(ChunkRowsTest, ALayerThatNeverSkipsOrHasNoCapacityCountsAsDense) {
  EXPECT_EQ(Rows(RoutedLayer(0.0), "amx"), kMinChunkRows);
  EXPECT_EQ(Rows(RoutedLayer(1.0), "amx"), kMinChunkRows);
}

TEST(ChunkRowsTest, APromptThatIsReadAsAWholeFitsUpToTheContext) {
  LayerSpec layer = RoutedLayer(0.5);
  layer.depth->prefill_decide = DepthDecide::kPromptMean;
  ModelSpec spec = SpecOf(layer);
  EngineConfig config;
  config.max_batch_tokens = 0;
  const auto rows = [&] { return ChunkRows(config, spec, {{"linear bf16", "avx512", ""}}); };
  spec.max_positions = 2000;
  EXPECT_EQ(rows(), 2000);
  spec.max_positions = 100;
  EXPECT_EQ(rows(), kMinChunkRows);
  spec.max_positions = 1 << 20;
  EXPECT_EQ(rows(), kMaxWholePromptRows);
  config.max_context_tokens = 1000;
  EXPECT_EQ(rows(), 1000);
  config.max_batch_tokens = 64;
  EXPECT_EQ(rows(), 64);
}

}  // namespace
}  // namespace sluice
