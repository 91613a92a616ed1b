#include "tests/support/random_spec.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/support/random_halting.h"

namespace sluice::testing {
namespace {

class Draw {
 public:
  explicit Draw(uint32_t seed) : engine_(seed) {}
  int32_t Int(int32_t lo, int32_t hi) {
    return std::uniform_int_distribution<int32_t>(lo, hi)(engine_);
  }
  bool Chance(double p) { return std::bernoulli_distribution(p)(engine_); }
  template <typename T>
  T Pick(std::initializer_list<T> values) {
    return *(values.begin() + Int(0, static_cast<int32_t>(values.size()) - 1));
  }

 private:
  std::mt19937 engine_;
};

NormSpec MakeNorm(const std::string& name, bool layer_norm) {
  NormSpec norm;
  norm.kind = layer_norm ? NormKind::kLayer : NormKind::kRms;
  norm.weight = name + ".weight";
  if (layer_norm) norm.bias = name + ".bias";
  return norm;
}

ProjectionSpec MakeProjection(
    const std::string& name, int64_t in, int64_t out, bool bias, bool transposed) {
  ProjectionSpec projection;
  projection.in = in;
  projection.out = out;
  projection.weight = name + ".weight";
  if (bias) projection.bias = name + ".bias";
  projection.transposed = transposed;
  return projection;
}

AttentionSpec MakeAttention(const std::string& name, int64_t dim, Draw& draw, bool experts) {
  AttentionSpec attention;
  attention.num_kv_heads = draw.Int(1, 2);
  attention.num_heads = attention.num_kv_heads * draw.Int(1, 3);
  attention.head_dim = 2 * draw.Int(2, 9);
  const bool bias = draw.Chance(0.3);
  const bool transposed = draw.Chance(0.2);
  const bool switch_head = experts && draw.Chance(0.3);
  if (switch_head) attention.num_kv_heads = attention.num_heads;
  const int64_t q_width = int64_t{attention.num_heads} * attention.head_dim;
  const int64_t kv_width = int64_t{attention.num_kv_heads} * attention.head_dim;
  attention.q = MakeProjection(name + ".q", dim, q_width, bias, transposed);
  attention.k = MakeProjection(name + ".k", dim, kv_width, bias, transposed);
  attention.v = MakeProjection(name + ".v", dim, kv_width, bias && !switch_head, transposed);
  attention.o = MakeProjection(name + ".o", q_width, dim, bias && !switch_head, transposed);
  if (switch_head) {
    for (ProjectionSpec* projection : {&attention.v, &attention.o}) {
      RouterSpec router;
      router.score = ScoreFunction::kSigmoid;
      router.num_experts = draw.Int(2, 4);
      router.top_k = draw.Int(1, 2);
      router.weight = projection->weight + ".router";
      projection->experts = router;
      projection->transposed = true;
    }
  }
  if (draw.Chance(0.3)) {
    attention.q_norm = MakeNorm(name + ".q_norm", false);
    attention.k_norm = MakeNorm(name + ".k_norm", false);
    attention.norm_per_head = draw.Chance(0.5);
  }
  if (draw.Chance(0.8)) {
    RopeSpec rope;
    rope.style = draw.Pick({RopeStyle::kHalf, RopeStyle::kInterleaved});
    rope.rotary_dim = draw.Chance(0.5) ? attention.head_dim : 2;
    attention.rope = rope;
  }
  if (draw.Chance(0.3)) attention.window = draw.Int(1, 12);
  if (draw.Chance(0.2)) attention.sinks = name + ".sinks";
  attention.value_from_residual = draw.Chance(0.2);
  return attention;
}

DenseFfnSpec MakeDense(const std::string& name, int64_t dim, Draw& draw) {
  DenseFfnSpec ffn;
  ffn.hidden = draw.Int(3, 90);
  ffn.gated = draw.Chance(0.6);
  ffn.activation =
      draw.Pick({Activation::kSilu, Activation::kRelu, Activation::kGelu, Activation::kGeluTanh});
  const bool bias = draw.Chance(0.3);
  const bool transposed = draw.Chance(0.2);
  if (ffn.gated) ffn.gate = MakeProjection(name + ".gate", dim, ffn.hidden, bias, transposed);
  ffn.up = MakeProjection(name + ".up", dim, ffn.hidden, bias, transposed);
  ffn.down = MakeProjection(name + ".down", ffn.hidden, dim, bias, transposed);
  ffn.input_from_residual = draw.Chance(0.1);
  return ffn;
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
  depth.gate = draw.Pick({GateFunction::kIdentity, GateFunction::kSigmoid, GateFunction::kOne});
  depth.combine =
      draw.Pick({DepthCombine::kScaledUpdate, DepthCombine::kPlusBlock, DepthCombine::kOnlyBlock});
  if (draw.Chance(0.3)) {
    depth.predictor = {MakeProjection(name + ".predictor.0", dim, 8, true, false),
                       MakeProjection(name + ".predictor.2", 8, 1, true, false)};
    depth.decide = depth.prefill_decide = DepthDecide::kPredictorThreshold;
  }
  depth.capacity = 0.5;
  depth.nested = draw.Chance(0.2);
  if (draw.Chance(0.2)) depth.gate_scale = 0.3f;
  if (topk_prompt && draw.Chance(0.7)) {
    depth.prefill_decide = DepthDecide::kRouterTopK;
    depth.capacity = 0.1 * draw.Int(1, 10);
  }
  for (int i = 0; i <= 100; ++i)
    depth.score_quantiles.push_back(static_cast<float>(i - 50) / 25.0f);
  return depth;
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
    return repeat;
  }
  repeat.adjustable = draw.Chance(0.5);
  if (draw.Chance(0.4))
    repeat.injection = MakeProjection(name + ".adapter", 2 * dim, dim, draw.Chance(0.5), false);
  return repeat;
}

// Walks a spec and adds the tensors it names.
class Filler {
 public:
  Filler(uint32_t seed, MemoryWeightStore& store) : engine_(seed), store_(store) {}

  void Fill(const ModelSpec& spec) {
    const StackSpec& stack = spec.decoder();
    dim_ = stack.embedding.dim;
    Matrix(stack.embedding.weight, stack.embedding.vocab_size, dim_, 1.0f);
    Matrix(stack.embedding.position_weight, spec.max_positions, dim_, 0.3f);
    if (!spec.head.weight.empty()) {
      Matrix(spec.head.weight, stack.embedding.vocab_size, dim_, 1.0f / std::sqrt(Float(dim_)));
    }
    Vector(spec.head.bias, stack.embedding.vocab_size, 0.1f, 0.0f);
    if (stack.final_norm.has_value()) FillNorm(*stack.final_norm, dim_);
    if (stack.embedding.norm.has_value()) FillNorm(*stack.embedding.norm, dim_);
    for (const LayerGroupSpec& group : stack.groups) {
      FillRepeat(group, dim_, [this](const auto&... tensor) { Add(tensor...); });
      if (group.repeat.halting == HaltingKind::kStickBreaking) continue;  // all of it
      for (const LayerSpec& layer : group.layers) FillLayer(layer);
    }
  }

 private:
  static float Float(int64_t value) { return static_cast<float>(value); }

  void Add(const std::string& name, std::vector<int64_t> shape, float scale, float mean) {
    if (name.empty() || store_.Contains(name)) return;
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    std::vector<float> values(static_cast<size_t>(count));
    std::normal_distribution<float> normal(mean, scale);
    for (float& value : values) value = normal(engine_);
    store_.Add(name, std::move(shape), std::move(values));
  }
  void Matrix(const std::string& name, int64_t rows, int64_t cols, float scale) {
    Add(name, {rows, cols}, scale, 0.0f);
  }
  void Vector(const std::string& name, int64_t size, float scale, float mean) {
    Add(name, {size}, scale, mean);
  }
  void FillNorm(const NormSpec& norm, int64_t size) {
    Vector(norm.weight, size, 0.1f, 1.0f);
    Vector(norm.bias, size, 0.1f, 0.0f);
  }
  void FillProjection(const ProjectionSpec& projection) {
    const float scale = 1.0f / std::sqrt(Float(projection.in));
    const bool turned = projection.transposed;
    Matrix(projection.weight, turned ? projection.in : projection.out,
           turned ? projection.out : projection.in, scale);
    Vector(projection.bias, projection.out, 0.1f, 0.0f);
  }
  void FillRouter(const RouterSpec& router, int32_t groups) {
    const int64_t outputs = int64_t{groups} * (router.num_experts + router.num_null_experts);
    Matrix(router.weight, outputs, dim_, 1.0f / std::sqrt(Float(dim_)));
    Vector(router.bias, outputs, 0.1f, 0.0f);
  }
  void FillAttention(const AttentionSpec& attention) {
    for (const auto* projection : {&attention.q, &attention.k}) FillProjection(*projection);
    for (const auto* projection : {&attention.v, &attention.o}) {
      if (!projection->experts.has_value()) {
        FillProjection(*projection);
        continue;
      }
      FillRouter(*projection->experts, attention.num_heads);
      const int64_t in = projection == &attention.v ? dim_ : attention.head_dim;
      const int64_t out = projection == &attention.v ? attention.head_dim : dim_;
      Add(projection->weight, {attention.num_heads * projection->experts->num_experts, in, out},
          1.0f / std::sqrt(Float(in)), 0.0f);
    }
    const auto width = [&](int32_t heads) {
      return attention.norm_per_head ? attention.head_dim : heads * attention.head_dim;
    };
    if (attention.q_norm.has_value()) FillNorm(*attention.q_norm, width(attention.num_heads));
    if (attention.k_norm.has_value()) FillNorm(*attention.k_norm, width(attention.num_kv_heads));
    Vector(attention.sinks, attention.num_heads, 0.5f, 0.0f);
  }
  void FillDense(const DenseFfnSpec& ffn) {
    if (ffn.gated) FillProjection(ffn.gate);
    FillProjection(ffn.up);
    FillProjection(ffn.down);
  }
  void FillMoe(const MoeFfnSpec& moe) {
    FillRouter(moe.router, 1);
    for (int32_t e = 0; e < moe.router.num_experts; ++e) {
      const auto named = [e](const std::string& pattern) {
        return absl::StrReplaceAll(pattern, {{"{e}", absl::StrCat(e)}});
      };
      const bool turned = moe.experts.transposed;
      for (const std::string& up : {moe.experts.gate, moe.experts.up}) {
        Matrix(named(up), turned ? dim_ : moe.hidden, turned ? moe.hidden : dim_,
               1.0f / std::sqrt(Float(dim_)));
      }
      Matrix(named(moe.experts.down), turned ? moe.hidden : dim_, turned ? dim_ : moe.hidden,
             1.0f / std::sqrt(Float(moe.hidden)));
    }
    if (moe.shared.has_value()) FillDense(*moe.shared);
    Matrix(moe.shared_gate, 1, dim_, 0.2f);
  }
  void FillLayer(const LayerSpec& layer) {
    if (layer.depth.has_value()) {
      Matrix(layer.depth->weight, 1, dim_, 1.0f / std::sqrt(Float(dim_)));
      Vector(layer.depth->bias, 1, 0.3f, 0.0f);
      for (const ProjectionSpec& projection : layer.depth->predictor) FillProjection(projection);
    }
    for (const SublayerSpec& sublayer : layer.sublayers) {
      for (const auto* norm :
           {&sublayer.input_norm, &sublayer.output_norm, &sublayer.residual_norm}) {
        if (norm->has_value()) FillNorm(**norm, dim_);
      }
      if (const auto* attention = std::get_if<AttentionSpec>(&sublayer.block))
        FillAttention(*attention);
      if (const auto* ffn = std::get_if<DenseFfnSpec>(&sublayer.block)) FillDense(*ffn);
      if (const auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block)) FillMoe(*moe);
    }
  }

  std::mt19937 engine_;
  MemoryWeightStore& store_;
  int64_t dim_ = 0;
};

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
  const int32_t num_groups = draw.Int(1, 2);
  for (int32_t g = 0; g < num_groups; ++g) {
    LayerGroupSpec group;
    group.name = absl::StrCat("group", g);
    if (what.repeats && draw.Chance(0.4))
      group.repeat = MakeRepeat(group.name, stack.embedding.dim, draw);
    if (draw.Chance(0.1)) group.output_norm = MakeNorm(group.name + ".norm", layer_norm);
    const int32_t num_layers = draw.Int(1, 3);
    for (int32_t l = 0; l < num_layers; ++l) {
      const std::string name = absl::StrCat("g", g, ".l", l);
      LayerSpec layer;
      if (what.depth && !group.repeat.rows_may_stop() && draw.Chance(0.5))
        layer.depth = MakeDepth(name, stack.embedding.dim, draw, what.topk_prompt);
      if (g + l == 0 || draw.Chance(0.85)) {  // a model has at least one attention
        layer.sublayers.push_back(MakeSublayer(
            name + ".attention",
            MakeAttention(name + ".attention", stack.embedding.dim, draw, what.experts), draw,
            layer_norm));
      }
      const bool moe = what.experts && draw.Chance(0.5);
      BlockSpec ffn = moe ? BlockSpec(MakeMoe(name + ".moe", stack.embedding.dim, draw))
                          : BlockSpec(MakeDense(name + ".ffn", stack.embedding.dim, draw));
      layer.sublayers.push_back(MakeSublayer(name + ".ffn", std::move(ffn), draw, layer_norm));
      group.layers.push_back(std::move(layer));
    }
    stack.groups.push_back(std::move(group));
  }
  if (what.repeats && draw.Chance(0.2))
    stack.groups.push_back(RandomHaltingGroup("halting", stack.embedding.dim, seed));
  stack.final_norm = MakeNorm("final", layer_norm);
  spec.stacks.push_back(std::move(stack));
  if (draw.Chance(0.5)) spec.head.weight = "head.weight";
  return spec;
}

ModelSpec PlainSpec(int32_t layers) {
  Draw draw(7);
  ModelSpec spec;
  spec.family = "plain";
  spec.max_positions = 64;
  spec.eos_token_ids = {0};
  StackSpec stack;
  stack.embedding = {.vocab_size = 61, .dim = 48, .weight = "embed.weight"};
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

void FillWeights(const ModelSpec& spec, uint32_t seed, MemoryWeightStore& store) {
  Filler(seed, store).Fill(spec);
}

}  // namespace sluice::testing
