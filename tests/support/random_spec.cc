#include "tests/support/random_spec.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/support/random_draw.h"
#include "tests/support/random_halting.h"
#include "tests/support/random_masks.h"
#include "tests/support/random_mixture.h"
#include "tests/support/random_soft.h"

namespace sluice::testing {
namespace {

DenseFfnSpec MakeDense(const std::string& name, int64_t dim, Draw& draw) {
  DenseFfnSpec ffn;
  ffn.hidden = draw.Int(3, 90);
  ffn.gated = draw.Chance(0.6);
  ffn.activation =
      draw.Pick({Activation::kSilu, Activation::kRelu, Activation::kGelu, Activation::kGeluTanh});
  const bool bias = draw.Chance(0.3), transposed = draw.Chance(0.2);
  if (ffn.gated) ffn.gate = MakeProjection(name + ".gate", dim, ffn.hidden, bias, transposed);
  ffn.up = MakeProjection(name + ".up", dim, ffn.hidden, bias, transposed);
  ffn.down = MakeProjection(name + ".down", ffn.hidden, dim, bias, transposed);
  ffn.input_from_residual = draw.Chance(0.1);
  return ffn;
}

// Fused and interleaved files, biases, the clamped activation.
void BendExperts(const std::string& name, Draw& draw, MoeFfnSpec& moe) {
  if (moe.gated && draw.Chance(0.4)) {
    moe.experts.gate.clear();
    moe.experts.up = name + ".experts.gate_up";
    moe.experts.down = name + ".experts.down";
    moe.experts.fused_gate_up = true;
    moe.experts.interleaved = draw.Chance(0.5);
  }
  if (draw.Chance(0.3)) {
    moe.experts.up_bias = name + ".experts.up_bias";
    moe.experts.down_bias = name + ".experts.down_bias";
    if (!moe.experts.gate.empty()) moe.experts.gate_bias = name + ".experts.gate_bias";
  }
  if (moe.gated && draw.Chance(0.3)) {
    moe.activation = Activation::kClampedSwiglu;
    moe.clamp = {.alpha = 1.7f, .limit = 0.5f};
  }
}

void GroupExperts(const std::string& name, Draw& draw, RouterSpec& router) {
  if (draw.Chance(0.2)) router.selection_bias = name + ".router.selection_bias";
  if (router.num_null_experts > 0 || !draw.Chance(0.4)) return;
  const int32_t size = draw.Int(2, 3);
  router.num_groups = draw.Int(2, 4);
  router.top_groups = draw.Int(1, router.num_groups);
  router.num_experts = router.num_groups * size;
  router.top_k = std::min(router.top_k, router.top_groups * size);
  router.group_score = draw.Pick({GroupScore::kMax, GroupScore::kTopTwoSum});
}

MoeFfnSpec MakeMoe(const std::string& name, int64_t dim, Draw& draw) {
  MoeFfnSpec moe;
  moe.router.score = draw.Pick(
      {ScoreFunction::kSoftmax, ScoreFunction::kSigmoid, ScoreFunction::kSoftmaxOverTopK});
  moe.router.num_experts = draw.Int(1, 6);
  moe.router.num_null_experts = draw.Chance(0.3) ? draw.Int(1, 2) : 0;
  moe.router.top_k = draw.Int(1, std::min(3, moe.router.num_experts));
  moe.router.renormalize = moe.router.score != ScoreFunction::kSoftmaxOverTopK && draw.Chance(0.5);
  moe.router.weight = name + ".router.weight";
  if (draw.Chance(0.2)) moe.router.bias = name + ".router.bias";
  moe.hidden = draw.Int(3, 80);
  moe.gated = draw.Chance(0.6);
  moe.activation = draw.Pick({Activation::kSilu, Activation::kRelu});
  moe.experts.up = name + ".experts.{e}.up";
  moe.experts.down = name + ".experts.{e}.down";
  if (moe.gated) moe.experts.gate = name + ".experts.{e}.gate";
  moe.experts.transposed = draw.Chance(0.3);
  moe.input_from_residual = draw.Chance(0.2);
  if (draw.Chance(0.2)) moe.output_bias = name + ".output_bias";
  BendExperts(name, draw, moe);
  GroupExperts(name, draw, moe.router);
  if (draw.Chance(0.3)) {
    moe.shared = MakeDense(name + ".shared", dim, draw);
    moe.shared->input_from_residual = false;
    if (draw.Chance(0.5)) moe.shared_gate = name + ".shared_gate";
  }
  return moe;
}

SublayerSpec MakeSublayer(const std::string& name, BlockSpec block, Draw& draw, bool layer_norm) {
  SublayerSpec sublayer;
  sublayer.block = std::move(block);
  sublayer.input_norm = MakeNorm(name + ".in", layer_norm);
  if (draw.Chance(0.2)) sublayer.output_norm = MakeNorm(name + ".out", layer_norm);
  if (draw.Chance(0.1)) sublayer.residual_norm = MakeNorm(name + ".post", layer_norm);
  if (draw.Chance(0.15)) sublayer.residual_scale = 0.5f;
  return sublayer;
}

DepthRouterSpec MakeDepth(const std::string& name, int64_t dim, Draw& draw, bool topk_prompt) {
  DepthRouterSpec depth;
  depth.weight = name + ".depth.weight";
  if (draw.Chance(0.5)) depth.bias = name + ".depth.bias";
  depth.gate = draw.Pick(
      {GateFunction::kIdentity, GateFunction::kSigmoid, GateFunction::kOne, GateFunction::kTanh});
  depth.combine =
      draw.Pick({DepthCombine::kScaledUpdate, DepthCombine::kPlusBlock, DepthCombine::kOnlyBlock});
  if (draw.Chance(0.3)) {
    depth.predictor = {MakeProjection(name + ".predictor.0", dim, 8, true, false),
                       MakeProjection(name + ".predictor.2", 8, 1, true, false)};
    depth.decide = depth.prefill_decide = DepthDecide::kPredictorThreshold;
  }
  depth.capacity = 0.5;
  depth.force_first = !topk_prompt && draw.Chance(0.2);
  if (draw.Chance(0.3)) depth.gate_place = DepthGatePlace::kLastSublayer;
  if (draw.Chance(0.3)) depth.position = DepthPosition::kCompact;
  if (depth.position == DepthPosition::kAbsolute && draw.Chance(0.3)) depth.kv = DepthKv::kZeroRows;
  if (depth.position == DepthPosition::kAbsolute && draw.Chance(0.3))
    depth.kv = DepthKv::kAllTokens;
  depth.nested = draw.Chance(0.2);
  depth.reads_normed = draw.Chance(0.3);
  depth.first_sublayer = draw.Chance(0.2) ? 1 : 0;
  depth.threshold_inclusive = draw.Chance(0.3);
  if (draw.Chance(0.2)) depth.hidden = MakeProjection(name + ".depth.hidden", dim, 7, false, false);
  if (draw.Chance(0.2)) depth.input_scale = 0.7f;
  if (draw.Chance(0.2)) depth.gate_scale = 0.3f;
  if (topk_prompt && draw.Chance(0.7)) {
    depth.prefill_decide = DepthDecide::kRouterTopK;
    depth.capacity = 0.1 * draw.Int(1, 10);
    depth.capacity_rows = draw.Chance(0.3) ? draw.Int(1, 9) : 0;
    depth.min_rows = draw.Int(0, 2);
    depth.strict_top_k = draw.Chance(0.3);
    depth.softmax_over_selected = depth.gate == GateFunction::kIdentity && draw.Chance(0.7);
  }
  if (topk_prompt && depth.prefill_decide == DepthDecide::kRouterThreshold && draw.Chance(0.6)) {
    depth.prefill_decide = DepthDecide::kPromptMean;
    depth.hidden.reset();
    return depth;
  }
  for (int i = 0; i <= 100; ++i)
    depth.score_quantiles.push_back(static_cast<float>(i - 50) / 25.0f);
  return depth;
}

// Takes away what a routed layer does not run beside its router.
void MakeRunnable(LayerSpec& layer) {
  bool attends_first = false;
  if (layer.depth->gate_place == DepthGatePlace::kLastSublayer)
    layer.sublayers.back().residual_scale = 1.0f;
  for (SublayerSpec& sublayer : layer.sublayers) {
    auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
    if (attention != nullptr && layer.depth->kv == DepthKv::kZeroRows) attention->sinks.clear();
    if (attention != nullptr && &sublayer == &layer.sublayers.front()) attends_first = true;
    const bool latent = std::holds_alternative<LatentAttentionSpec>(sublayer.block);
    if (latent) layer.depth->position = DepthPosition::kAbsolute;
    if (latent || (attention != nullptr && attention->q.experts.has_value()))
      layer.depth->kv = DepthKv::kRoutedOnly;
  }
  if (layer.sublayers.size() == 1) layer.depth->first_sublayer = 0;
  if (layer.depth->kv == DepthKv::kAllTokens && (!attends_first || layer.depth->first_sublayer > 0))
    layer.depth->kv = DepthKv::kRoutedOnly;
}

// How a group repeats: a fixed number of times, as often as a request asks, as often as a router
// says; from the state alone or with the input injected.
RepeatSpec MakeRepeat(const std::string& name, int64_t dim, Draw& draw) {
  RepeatSpec repeat;
  repeat.times = draw.Int(2, 3);
  if (draw.Chance(0.3)) {
    repeat.halting = HaltingKind::kChosenDepth;
    repeat.depth_router =
        RouterSpec{.score = draw.Pick({ScoreFunction::kSoftmax, ScoreFunction::kSigmoid}),
                   .num_experts = repeat.times,
                   .top_k = 1,
                   .scale = draw.Chance(0.5) ? 1.0f : 0.5f,
                   .weight = name + ".depth_router.weight"};
    if (draw.Chance(0.3)) repeat.depth_router->input_scale = 0.6f;
    if (draw.Chance(0.3)) repeat.kv = RepeatKv::kFirst;
    repeat.adjustable = draw.Chance(0.5);
    return repeat;
  }
  repeat.adjustable = draw.Chance(0.5);
  if (draw.Chance(0.4))
    repeat.injection = MakeProjection(name + ".adapter", 2 * dim, dim, draw.Chance(0.5), false);
  if (draw.Chance(0.7))
    AddRandomExits(name, dim, static_cast<uint32_t>(draw.Int(0, 1 << 20)), repeat);
  return repeat;
}

}  // namespace

ModelSpec RandomSpec(uint32_t seed, const SpecDraw& what) {
  Draw draw(seed);
  ModelSpec spec;
  spec.family = "random";
  spec.max_positions = 64;
  spec.eos_token_ids = {0};
  StackSpec stack;
  stack.embedding = {
      .vocab_size = draw.Int(30, 70), .dim = draw.Int(9, 70), .weight = "embed.weight"};
  if (draw.Chance(0.2)) stack.embedding.position_weight = "positions.weight";
  const bool layer_norm = draw.Chance(0.3);
  if (draw.Chance(0.1)) stack.embedding.norm = NormSpec{.kind = NormKind::kLayer};
  const bool choosing = what.experts && draw.Chance(0.25);  // then no row skips a layer
  const int32_t num_groups = draw.Int(1, 2);
  for (int32_t g = 0; g < num_groups; ++g) {
    LayerGroupSpec group;
    group.name = absl::StrCat("group", g);
    if (what.repeats && draw.Chance(0.4))
      group.repeat = MakeRepeat(group.name, stack.embedding.dim, draw);
    if (choosing && group.repeat.rows_may_stop()) group.repeat = {};
    if (draw.Chance(0.1)) group.output_norm = MakeNorm(group.name + ".norm", layer_norm);
    const int32_t num_layers = draw.Int(1, 3);
    for (int32_t l = 0; l < num_layers; ++l) {
      const std::string name = absl::StrCat("g", g, ".l", l);
      LayerSpec layer;
      if (what.depth && !choosing && MayRouteDepth(group.repeat) && draw.Chance(0.5))
        layer.depth = MakeDepth(name, stack.embedding.dim, draw, what.topk_prompt);
      if (g + l == 0 || draw.Chance(0.85)) {  // a model has at least one attention
        const std::string attention = name + ".attention";
        const int64_t dim = stack.embedding.dim;
        BlockSpec block = RandomAttention(attention, dim, draw, what.experts);
        if (draw.Chance(0.2) && !what.encoder && !what.two_stacks)
          block = RandomLatentAttention(attention, dim, draw);
        if (what.experts && !what.encoder && !what.two_stacks && draw.Chance(0.2))
          block = RandomMixture(attention, dim, seed + 1);
        layer.sublayers.push_back(MakeSublayer(attention, std::move(block), draw, layer_norm));
      }
      BlockSpec ffn = MakeDense(name + ".ffn", stack.embedding.dim, draw);
      if (what.experts && draw.Chance(0.5)) {
        MoeFfnSpec moe = MakeMoe(name + ".moe", stack.embedding.dim, draw);
        if (choosing) RandomPick(seed + static_cast<uint32_t>(l), what.topk_prompt, moe.router);
        ffn = std::move(moe);
      }
      layer.sublayers.push_back(MakeSublayer(name + ".ffn", std::move(ffn), draw, layer_norm));
      if (layer.depth.has_value()) MakeRunnable(layer);
      group.layers.push_back(std::move(layer));
    }
    MakeRunnable(group);
    stack.groups.push_back(std::move(group));
  }
  if (what.repeats && !choosing && draw.Chance(0.2))
    stack.groups.push_back(RandomHaltingGroup("halting", stack.embedding.dim, seed));
  stack.final_norm = MakeNorm("final", layer_norm);
  spec.stacks.push_back(std::move(stack));
  if (draw.Chance(0.5)) spec.head.weight = "head.weight";
  if (what.encoder) {
    MakeEncoder(seed, spec);
  } else {
    DrawMasks(seed, spec);
    if (what.experts) DrawSoftParts(seed, spec);
    if (what.two_stacks) AddEncoder(seed, spec);
  }
  return spec;
}

std::vector<int32_t> RandomTokens(uint32_t seed, int32_t count, int32_t vocab) {
  std::mt19937 engine(seed);
  std::uniform_int_distribution<int32_t> token(0, vocab - 1);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& value : tokens) value = token(engine);
  return tokens;
}

ModelSpec PlainSpec(int32_t layers) {
  Draw draw(7);
  ModelSpec spec;
  spec.family = "plain";
  spec.max_positions = 64;
  spec.eos_token_ids = {0};
  StackSpec stack;
  stack.embedding = {.vocab_size = kPlainVocabulary, .dim = 48, .weight = "embed.weight"};
  LayerGroupSpec group;
  group.name = "layers";
  for (int32_t l = 0; l < layers; ++l) {
    const std::string name = absl::StrCat("l", l);
    AttentionSpec attention;
    attention.num_heads = 4;
    attention.num_kv_heads = 2;
    attention.head_dim = 12;
    attention.q = MakeProjection(name + ".q", 48, 48, false, false);
    attention.k = MakeProjection(name + ".k", 48, 24, false, false);
    attention.v = MakeProjection(name + ".v", 48, 24, false, false);
    attention.o = MakeProjection(name + ".o", 48, 48, false, false);
    attention.rope = RopeSpec{.rotary_dim = 12};
    DenseFfnSpec ffn;
    ffn.hidden = 80;
    ffn.gate = MakeProjection(name + ".gate", 48, 80, false, false);
    ffn.up = MakeProjection(name + ".up", 48, 80, false, false);
    ffn.down = MakeProjection(name + ".down", 80, 48, false, false);
    LayerSpec layer;
    layer.sublayers.push_back({.input_norm = MakeNorm(name + ".norm1", false), .block = attention});
    layer.sublayers.push_back({.input_norm = MakeNorm(name + ".norm2", false), .block = ffn});
    group.layers.push_back(std::move(layer));
  }
  stack.groups.push_back(std::move(group));
  stack.final_norm = MakeNorm("final", false);
  spec.stacks.push_back(std::move(stack));
  return spec;
}

}  // namespace sluice::testing
