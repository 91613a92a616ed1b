// Ways to bend a valid spec, for the tests of ValidateSpec's rules.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <ostream>
#include <string>

#include "engine/model/model_spec.h"
#include "tests/support/random_halting.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {

inline AttentionSpec& AttentionOf(ModelSpec& spec) {
  return std::get<AttentionSpec>(spec.stacks[0].groups[0].layers[0].sublayers[0].block);
}
inline DenseFfnSpec& FfnOf(ModelSpec& spec) {
  return std::get<DenseFfnSpec>(spec.stacks[0].groups[0].layers[0].sublayers[1].block);
}
inline LayerSpec& LayerOf(ModelSpec& spec) { return spec.stacks[0].groups[0].layers[0]; }

inline DepthRouterSpec& Route(ModelSpec& spec) {
  return LayerOf(spec).depth.emplace(DepthRouterSpec{.weight = "router.weight"});
}

inline MoeFfnSpec& MakeSparse(ModelSpec& spec) {
  MoeFfnSpec ffn;
  ffn.router = {.num_experts = 4, .top_k = 2, .weight = "gate.weight"};
  ffn.hidden = 32;
  ffn.experts = {.gate = "w1.{e}", .up = "w3.{e}", .down = "w2.{e}"};
  return LayerOf(spec).sublayers[1].block.emplace<MoeFfnSpec>(ffn);
}

// Four experts that choose rows.
inline RouterSpec& LetExpertsChoose(ModelSpec& spec) {
  RouterSpec& router = MakeSparse(spec).router;
  router.top_k = router.num_experts;
  router.pick = ExpertPick::kExpertTopK;
  router.capacity = ExpertCapacitySpec{.factor = 1.0};
  return router;
}

// The first attention as Mixture-of-Attention with rotary positions.
inline AttentionSpec& MixAttention(ModelSpec& spec) {
  AttentionSpec& attention = std::get<AttentionSpec>(LayerOf(spec).sublayers[0].block);
  attention.num_kv_heads = attention.num_heads;
  attention.k.out = attention.v.out = attention.q.out;
  attention.q.experts = RouterSpec{.num_experts = 3, .top_k = 2, .weight = "select.weight"};
  return attention;
}

inline RepeatSpec& RepeatOf(ModelSpec& spec) { return spec.stacks[0].groups[0].repeat; }

inline void ChooseDepth(ModelSpec& spec) {
  RepeatOf(spec).times = 3;
  RepeatOf(spec).halting = HaltingKind::kChosenDepth;
  RepeatOf(spec).depth_router =
      RouterSpec{.num_experts = 3, .top_k = 1, .weight = "depth_router.weight"};
}

// Adds a group that halts.
inline LayerGroupSpec& Halting(ModelSpec& spec) {
  auto& groups = spec.stacks[0].groups;
  if (groups.size() == 1) groups.push_back(RandomHaltingGroup("halting", 48, 1));
  return groups[1];
}
inline AttentionSpec& MixtureOf(ModelSpec& spec) {
  return std::get<AttentionSpec>(Halting(spec).layers[0].sublayers[0].block);
}

inline RopeScalingSpec& ScaleRope(ModelSpec& spec) {
  return AttentionOf(spec).rope->scaling.emplace(
      RopeScalingSpec{.factor = 4.0, .original_positions = 32});
}

inline LatentAttentionSpec& MakeLatent(ModelSpec& spec) {
  LatentAttentionSpec attention{
      .num_heads = 3, .nope_dim = 6, .rope_dim = 4, .value_dim = 5, .latent_dim = 7};
  const auto linear = [](int64_t in, int64_t out) {
    return ProjectionSpec{.in = in, .out = out, .weight = "w"};
  };
  attention.q_down = linear(48, 9);
  attention.q = linear(9, 30);
  attention.kv_down = linear(48, 11);
  attention.kv_up = linear(7, 33);
  attention.o = linear(15, 48);
  attention.rope.rotary_dim = 4;
  return LayerOf(spec).sublayers[0].block.emplace<LatentAttentionSpec>(attention);
}

inline void GiveHeadExperts(ModelSpec& spec) {
  AttentionSpec& attention = AttentionOf(spec);
  attention.num_kv_heads = attention.num_heads;
  attention.k.out = attention.v.out = attention.q.out;
  attention.v.experts = attention.o.experts = RouterSpec{
      .score = ScoreFunction::kSigmoid, .num_experts = 3, .top_k = 2, .weight = "select.weight"};
}

inline SparsePatternSpec& Sparse(ModelSpec& spec) { return AttentionOf(spec).sparse.emplace(); }

inline void Encode(ModelSpec& spec) {
  spec.stacks[0].role = StackRole::kEncoder;
  spec.head = {.pooling = Pooling::kMean};
  for (LayerSpec& layer : spec.stacks[0].groups[0].layers)
    std::get<AttentionSpec>(layer.sublayers[0].block).mask = MaskKind::kFull;
}

// The last stack behind an encoder of the same layers.
inline void AddStack(ModelSpec& spec) {
  spec.stacks.insert(spec.stacks.begin(), spec.stacks[0]);
  spec.stacks[0].role = StackRole::kEncoder;
  for (LayerSpec& layer : spec.stacks[0].groups[0].layers)
    std::get<AttentionSpec>(layer.sublayers[0].block).mask = MaskKind::kFull;
}
inline AttentionSpec& CrossOf(ModelSpec& spec) {
  AddStack(spec);
  auto& cross = std::get<AttentionSpec>(spec.stacks[1].groups[0].layers[0].sublayers[0].block);
  cross.kv_source = KvSource::kEncoder;
  cross.rope.reset();
  return cross;
}
inline PositionBiasSpec& Bias(ModelSpec& spec) {
  return AttentionOf(spec).position_bias.emplace(
      PositionBiasSpec{.weight = "bias", .num_buckets = 8, .max_distance = 10});
}

struct BadSpec {
  const char* name;
  std::function<void(ModelSpec&)> bend;
  const char* message;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

inline constexpr auto kNotRun = absl::StatusCode::kUnimplemented;
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline void PrintTo(const BadSpec& bad, std::ostream* out) { *out << bad.name; }

// The bent spec is refused with the code, and the message names the path.
inline void ExpectRefused(const BadSpec& bad) {
  ModelSpec spec = PlainSpec(2);
  bad.bend(spec);
  const absl::Status status = ValidateSpec(spec);
  EXPECT_EQ(status.code(), bad.code) << status;
  EXPECT_NE(std::string(status.message()).find(bad.message), std::string::npos) << status;
}

}  // namespace sluice::testing
