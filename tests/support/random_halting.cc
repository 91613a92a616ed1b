#include "tests/support/random_halting.h"

#include <cmath>
#include <random>

namespace sluice::testing {
namespace {

RouterSpec MlpRouter(const std::string& name, int64_t hidden, int32_t experts, int32_t top_k) {
  return {.score = ScoreFunction::kSoftmax,
          .num_experts = experts,
          .top_k = top_k,
          .renormalize = true,
          .renormalize_epsilon = 1e-6f,
          .weight = name + ".2.weight",
          .hidden = hidden,
          .hidden_weight = name + ".0.weight",
          .hidden_bias = name + ".0.bias"};
}

float Unit(int64_t inputs) { return 1.0f / std::sqrt(static_cast<float>(inputs)); }

void FillRouter(const RouterSpec& router, int64_t dim, const AddTensor& add) {
  add(router.hidden_weight, {router.hidden, dim}, Unit(dim), 0.0f);
  add(router.hidden_bias, {router.hidden}, 0.1f, 0.0f);
  add(router.weight, {router.num_experts, router.hidden}, 2.0f * Unit(router.hidden), 0.0f);
}

void FillAttention(const AttentionSpec& attention, int64_t dim, const AddTensor& add) {
  const int64_t width = attention.q.out;
  const int64_t experts = attention.q.experts->num_experts;
  FillRouter(*attention.q.experts, dim, add);
  add(attention.q.weight, {experts, dim, width}, Unit(dim), 0.0f);
  add(attention.o.weight, {experts, width, dim}, Unit(width), 0.0f);
  add(attention.k.weight, {width, dim}, Unit(dim), 0.0f);
  add(attention.v.weight, {width, dim}, Unit(dim), 0.0f);
  if (!attention.relative.has_value()) return;
  add(attention.relative->weight,
      {attention.num_heads, attention.head_dim, 2 * attention.relative->max_distance + 1}, 0.3f,
      0.0f);
}

void FillFfn(const MoeFfnSpec& ffn, int64_t dim, const AddTensor& add) {
  const int64_t experts = ffn.router.num_experts;
  FillRouter(ffn.router, dim, add);
  add(ffn.experts.up, {experts, dim, ffn.hidden}, Unit(dim), 0.0f);
  add(ffn.experts.down, {experts, ffn.hidden, dim}, Unit(ffn.hidden), 0.0f);
  add(ffn.experts.up_bias, {experts, ffn.hidden}, 0.2f, 0.0f);
  add(ffn.experts.down_bias, {experts, dim}, 0.2f, 0.0f);
}

}  // namespace

LayerGroupSpec RandomHaltingGroup(const std::string& name, int64_t dim, uint32_t seed) {
  std::mt19937 engine(seed);
  const auto draw = [&](int32_t lo, int32_t hi) {
    return std::uniform_int_distribution<int32_t>(lo, hi)(engine);
  };
  AttentionSpec attention;
  attention.num_heads = attention.num_kv_heads = draw(1, 3);
  attention.head_dim = draw(3, 17);
  const int64_t width = int64_t{attention.num_heads} * attention.head_dim;
  attention.q = {.in = dim, .out = width, .weight = name + ".q"};
  attention.q.transposed = true;
  attention.q.experts = MlpRouter(name + ".q_router", draw(4, 20), draw(2, 5), draw(1, 2));
  attention.k = {.in = dim, .out = width, .weight = name + ".k"};
  attention.v = {.in = dim, .out = width, .weight = name + ".v"};
  attention.o = {.in = width, .out = dim, .weight = name + ".o"};
  attention.o.transposed = true;
  attention.kv_source = KvSource::kSecondStream;
  if (draw(0, 3) > 0) {
    attention.relative = RelativePositionSpec{
        .weight = name + ".relative", .max_distance = draw(1, 9), .scale = 0.7f};
  }
  MoeFfnSpec ffn;
  ffn.router = MlpRouter(name + ".ffn_router", draw(4, 20), draw(2, 5), draw(1, 2));
  ffn.hidden = draw(3, 40);
  ffn.gated = false;
  ffn.activation = Activation::kRelu;
  ffn.experts = {.up = name + ".up",
                 .down = name + ".down",
                 .up_bias = name + ".up_bias",
                 .down_bias = name + ".down_bias"};
  ffn.experts.transposed = true;
  const NormSpec norm{.kind = NormKind::kLayer};
  const bool before = draw(0, 1) == 1;
  LayerSpec layer;
  layer.sublayers.resize(2);
  layer.sublayers[0].block = attention;
  layer.sublayers[1].block = ffn;
  for (SublayerSpec& sublayer : layer.sublayers)
    (before ? sublayer.input_norm : sublayer.residual_norm) = norm;
  LayerGroupSpec group;
  group.name = name;
  group.layers.push_back(std::move(layer));
  group.repeat.times = draw(2, 4);
  group.repeat.halting = HaltingKind::kStickBreaking;
  HaltingGateSpec gate;
  gate.hidden = {
      .in = dim, .out = dim, .weight = name + ".gate.0.weight", .bias = name + ".gate.0.bias"};
  gate.out = {.in = dim, .out = 2, .weight = name + ".gate.2.weight"};
  gate.threshold = 0.9f;
  group.repeat.gate = gate;
  return group;
}

void AddRandomExits(const std::string& name, int64_t dim, uint32_t seed, RepeatSpec& repeat) {
  std::mt19937 engine(seed);
  const auto draw = [&](int32_t lo, int32_t hi) {
    return std::uniform_int_distribution<int32_t>(lo, hi)(engine);
  };
  if (draw(0, 2) == 0) repeat.norm = NormSpec{.weight = name + ".repeat_norm"};
  if (draw(0, 2) == 0 && !repeat.injection.has_value()) {
    repeat.signal = StepSignalSpec{.positions = draw(0, 1) == 0};
    repeat.signal->steps = !repeat.signal->positions || draw(0, 1) == 0;
    if (repeat.signal->steps && draw(0, 1) == 0) repeat.signal->step_weight = name + ".steps";
  }
  const int32_t kind = repeat.halting == HaltingKind::kNone ? draw(0, 4) : 0;
  if (kind == 0) {
    if (draw(0, 1) == 0) repeat.kv = RepeatKv::kFirst;
    return;
  }
  repeat.kv = static_cast<RepeatKv>(draw(0, 3));
  ExitSpec exit{.weight = name + ".exit"};
  if (draw(0, 1) == 0) exit.bias = name + ".exit_bias";
  if (kind == 1) {
    repeat.halting = HaltingKind::kConvergence;
    exit = ExitSpec{.threshold = 0.8f};
  } else if (kind == 2 && !repeat.injection.has_value()) {
    repeat.halting = HaltingKind::kAct;
    exit.threshold = 0.8f;
    exit.output = static_cast<ActOutput>(draw(0, 2));
  } else {
    repeat.halting = HaltingKind::kExitGate;
    exit.threshold = 0.6f;
  }
  repeat.exit = exit;
  if (dim < 2) repeat.signal.reset();
}

bool MayRouteDepth(const RepeatSpec& repeat) {
  return !repeat.rows_may_stop() && !repeat.exits() && repeat.kv == RepeatKv::kOwn;
}

void MakeRunnable(LayerGroupSpec& group) {
  for (const LayerSpec& layer : group.layers) {
    for (const SublayerSpec& sublayer : layer.sublayers) {
      const auto* attention = std::get_if<AttentionSpec>(&sublayer.block);
      const bool own = std::holds_alternative<LatentAttentionSpec>(sublayer.block) ||
                       (attention != nullptr && attention->q.experts.has_value());
      if (own && group.repeat.kv != RepeatKv::kComputeAll) group.repeat.kv = RepeatKv::kOwn;
    }
  }
}

void FillRepeat(const LayerGroupSpec& group, int64_t dim, const AddTensor& add) {
  if (group.output_norm.has_value()) {
    add(group.output_norm->weight, {dim}, 0.1f, 1.0f);
    add(group.output_norm->bias, {dim}, 0.1f, 0.0f);
  }
  if (group.repeat.injection.has_value()) {
    add(group.repeat.injection->weight, {dim, 2 * dim}, Unit(2 * dim), 0.0f);
    add(group.repeat.injection->bias, {dim}, 0.1f, 0.0f);
  }
  if (group.repeat.depth_router.has_value())
    add(group.repeat.depth_router->weight, {group.repeat.times, dim}, Unit(dim), 0.0f);
  if (group.repeat.exit.has_value()) {
    add(group.repeat.exit->weight, {1, dim}, 2.0f * Unit(dim), 0.0f);
    add(group.repeat.exit->bias, {1}, 0.3f, 0.0f);
  }
  if (group.repeat.signal.has_value())
    add(group.repeat.signal->step_weight, {group.repeat.times, dim}, 0.5f, 0.0f);
  if (group.repeat.norm.has_value()) {
    add(group.repeat.norm->weight, {dim}, 0.1f, 1.0f);
    add(group.repeat.norm->bias, {dim}, 0.1f, 0.0f);
  }
  if (!group.repeat.gate.has_value()) return;
  const LayerSpec& layer = group.layers[0];
  FillAttention(std::get<AttentionSpec>(layer.sublayers[0].block), dim, add);
  FillFfn(std::get<MoeFfnSpec>(layer.sublayers[1].block), dim, add);
  const HaltingGateSpec& gate = *group.repeat.gate;
  add(gate.hidden.weight, {dim, dim}, Unit(dim), 0.0f);
  add(gate.hidden.bias, {dim}, 0.1f, 0.0f);
  add(gate.out.weight, {2, dim}, 6.0f * Unit(dim), 0.0f);  // some halt, some do not
}

}  // namespace sluice::testing
