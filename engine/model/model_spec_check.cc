#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/model_spec.h"
#include "engine/model/model_spec_repeat_check.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

// Far above any published model, far below what could overflow a product of three in 64 bits.
constexpr int64_t kMaxDim = 65'536;
constexpr int64_t kMaxHidden = int64_t{1} << 20;
constexpr int64_t kMaxHeads = 4'096;
constexpr int64_t kMaxExperts = 4'096;
constexpr int64_t kMaxLayers = 4'096;
constexpr int64_t kMaxVocab = int64_t{1} << 21;
constexpr int64_t kMaxPositions = int64_t{1} << 24;
constexpr int64_t kMaxRowBegin = int64_t{1} << 32;
constexpr size_t kNumQuantiles = 101;

absl::Status Invalid(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

absl::Status NotRun(const std::string& path, const std::string& what) {
  return absl::UnimplementedError(absl::StrCat(path, ": ", what, " is not implemented"));
}

absl::Status CheckRange(
    const std::string& path, const char* field, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, " is ", value, ", must be between ", lo, " and ", hi));
}

absl::Status CheckEqual(const std::string& path,
                        const char* field,
                        int64_t value,
                        int64_t expected) {
  if (value == expected) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, " is ", value, ", must be ", expected));
}

absl::Status CheckFloat(
    const std::string& path, const char* field, double value, double lo, double hi) {
  if (std::isfinite(value) && value >= lo && value <= hi) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, " is ", value, ", must be between ", lo, " and ", hi));
}

absl::Status CheckName(const std::string& path, const char* field, const std::string& name) {
  if (!name.empty()) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, " names no tensor"));
}

absl::Status CheckNorm(const std::string& path, const std::optional<NormSpec>& norm) {
  if (!norm.has_value()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckFloat(path, "epsilon", static_cast<double>(norm->epsilon), 0.0, 1.0));
  RETURN_IF_ERROR(
      CheckFloat(path, "weight_offset", static_cast<double>(norm->weight_offset), -16.0, 16.0));
  if (norm->kind == NormKind::kRms && !norm->bias.empty())
    return NotRun(path, "an RMS norm with a bias");
  return absl::OkStatus();
}

absl::Status CheckRouter(const std::string& path, const RouterSpec& router) {
  RETURN_IF_ERROR(CheckRange(path, "num_experts", router.num_experts, 1, kMaxExperts));
  RETURN_IF_ERROR(CheckRange(path, "num_null_experts", router.num_null_experts, 0, kMaxExperts));
  RETURN_IF_ERROR(CheckRange(path, "top_k", router.top_k, 1, router.num_experts));
  RETURN_IF_ERROR(CheckFloat(path, "scale", static_cast<double>(router.scale), -1e6, 1e6));
  RETURN_IF_ERROR(CheckFloat(path, "renormalize_epsilon",
                             static_cast<double>(router.renormalize_epsilon), 0.0, 1.0));
  RETURN_IF_ERROR(CheckRange(path, "hidden", router.hidden, 0, kMaxHidden));
  if ((router.hidden > 0) == router.hidden_weight.empty() ||
      (router.hidden == 0 && !router.hidden_bias.empty()))
    return Invalid(path, "hidden_weight must be named exactly when there is a hidden layer");
  return CheckName(path, "weight", router.weight);
}

absl::Status CheckProjection(const std::string& path,
                             const ProjectionSpec& projection,
                             int64_t in,
                             int64_t out) {
  RETURN_IF_ERROR(CheckEqual(path, "in", projection.in, in));
  RETURN_IF_ERROR(CheckEqual(path, "out", projection.out, out));
  RETURN_IF_ERROR(CheckRange(path, "row_begin", projection.row_begin, 0, kMaxRowBegin));
  RETURN_IF_ERROR(CheckName(path, "weight", projection.weight));
  if (projection.split_by_head && !projection.experts.has_value()) {
    return Invalid(path, "split_by_head needs experts");
  }
  return absl::OkStatus();
}

absl::Status CheckDense(const std::string& path,
                        const ProjectionSpec& projection,
                        int64_t in,
                        int64_t out) {
  if (projection.experts.has_value()) return NotRun(path, "an expert projection here");
  return CheckProjection(path, projection, in, out);
}

absl::Status CheckHeadExperts(const std::string& path, const ProjectionSpec& projection) {
  if (!projection.experts.has_value()) return absl::OkStatus();
  const RouterSpec& router = *projection.experts;
  RETURN_IF_ERROR(CheckRouter(path + ".experts", router));
  if (router.num_null_experts != 0) return NotRun(path, "a null expert in a projection");
  if (!projection.bias.empty()) return NotRun(path, "an expert projection with a bias");
  if (projection.row_begin != 0) return NotRun(path, "an expert projection from a fused tensor");
  if (projection.split_by_head && router.num_experts != 1) {
    return Invalid(path, "split_by_head needs exactly one expert per head");
  }
  if (projection.split_by_head && projection.transposed)
    return NotRun(path, "a transposed split projection");
  return absl::OkStatus();
}

absl::Status CheckHeads(const std::string& path, const AttentionSpec& attention) {
  RETURN_IF_ERROR(CheckRange(path, "num_heads", attention.num_heads, 1, kMaxHeads));
  RETURN_IF_ERROR(CheckRange(path, "num_kv_heads", attention.num_kv_heads, 1, attention.num_heads));
  RETURN_IF_ERROR(CheckRange(path, "head_dim", attention.head_dim, 1, kMaxDim));
  RETURN_IF_ERROR(CheckRange(path, "num_heads * head_dim",
                             int64_t{attention.num_heads} * attention.head_dim, 1, kMaxHidden));
  if (attention.num_heads % attention.num_kv_heads != 0) {
    return Invalid(path, absl::StrCat("num_heads ", attention.num_heads,
                                      " is no multiple of num_kv_heads ", attention.num_kv_heads));
  }
  return absl::OkStatus();
}

absl::Status CheckRope(const std::string& path, const AttentionSpec& attention) {
  if (!attention.rope.has_value()) return absl::OkStatus();
  const RopeSpec& rope = *attention.rope;
  RETURN_IF_ERROR(CheckRange(path, "rotary_dim", rope.rotary_dim, 2, attention.head_dim));
  if (rope.rotary_dim % 2 != 0) return Invalid(path, "rotary_dim must be even");
  RETURN_IF_ERROR(CheckFloat(path, "theta", rope.theta, 1.0, 1e12));
  return CheckFloat(path, "linear_factor", rope.linear_factor, 1e-3, 1e6);
}

absl::Status CheckMixture(const std::string& path, const AttentionSpec& attention, int64_t dim) {
  const int64_t width = int64_t{attention.num_heads} * attention.head_dim;
  RETURN_IF_ERROR(CheckRouter(path + ".q.experts", *attention.q.experts));
  if (attention.q.experts->num_null_experts != 0)
    return NotRun(path + ".q.experts", "a null expert in a projection");
  RETURN_IF_ERROR(CheckProjection(path + ".q", attention.q, dim, width));
  RETURN_IF_ERROR(CheckDense(path + ".k", attention.k, dim, width));
  RETURN_IF_ERROR(CheckDense(path + ".v", attention.v, dim, width));
  RETURN_IF_ERROR(CheckDense(path + ".o", attention.o, width, dim));
  if (attention.num_kv_heads != attention.num_heads)
    return NotRun(path, "grouped heads with query experts");
  for (const ProjectionSpec* part : {&attention.q, &attention.o}) {
    if (!part->bias.empty() || part->row_begin != 0 || part->split_by_head)
      return NotRun(path, "a bias, a fused or a split tensor of query experts");
  }
  if (attention.rope.has_value() || attention.q_norm.has_value() || attention.k_norm.has_value() ||
      attention.clip_qkv != 0.0f || !attention.sinks.empty() || attention.value_from_residual)
    return NotRun(path, "rope, q/k norms, clipping, sinks or residual values with query experts");
  if (attention.kv_source == KvSource::kEncoder)
    return NotRun(path + ".kv_source", "another source than self or the second stream");
  if (attention.relative.has_value()) {
    const std::string at = path + ".relative";
    RETURN_IF_ERROR(CheckName(at, "weight", attention.relative->weight));
    RETURN_IF_ERROR(CheckRange(at, "max_distance", attention.relative->max_distance, 1, kMaxDim));
    RETURN_IF_ERROR(
        CheckFloat(at, "scale", static_cast<double>(attention.relative->scale), -1e3, 1e3));
  }
  return absl::OkStatus();
}

// What every attention has, whatever its projections are.
absl::Status CheckAttending(const std::string& path, const AttentionSpec& attention) {
  RETURN_IF_ERROR(CheckFloat(path, "scale", static_cast<double>(attention.scale), 0.0, 1e3));
  RETURN_IF_ERROR(CheckRange(path, "window", attention.window, 0, kMaxPositions));
  if (attention.mask != MaskKind::kCausal)
    return NotRun(path + ".mask", "a mask other than causal");
  return absl::OkStatus();
}

absl::Status CheckAttention(const std::string& path, const AttentionSpec& attention, int64_t dim) {
  RETURN_IF_ERROR(CheckHeads(path, attention));
  RETURN_IF_ERROR(CheckAttending(path, attention));
  if (attention.q.experts.has_value()) return CheckMixture(path, attention, dim);
  const int64_t q_width = int64_t{attention.num_heads} * attention.head_dim;
  const int64_t kv_width = int64_t{attention.num_kv_heads} * attention.head_dim;
  RETURN_IF_ERROR(CheckDense(path + ".q", attention.q, dim, q_width));
  RETURN_IF_ERROR(CheckDense(path + ".k", attention.k, dim, kv_width));
  RETURN_IF_ERROR(CheckProjection(path + ".v", attention.v, dim, kv_width));
  RETURN_IF_ERROR(CheckProjection(path + ".o", attention.o, q_width, dim));
  RETURN_IF_ERROR(CheckHeadExperts(path + ".v", attention.v));
  RETURN_IF_ERROR(CheckHeadExperts(path + ".o", attention.o));
  if (attention.v.split_by_head) return NotRun(path + ".v", "split_by_head of values");
  if (attention.v.experts.has_value() && attention.num_kv_heads != attention.num_heads) {
    return NotRun(path + ".v", "value experts with grouped query heads");
  }
  RETURN_IF_ERROR(CheckNorm(path + ".q_norm", attention.q_norm));
  RETURN_IF_ERROR(CheckNorm(path + ".k_norm", attention.k_norm));
  RETURN_IF_ERROR(CheckRope(path + ".rope", attention));
  if (attention.relative.has_value())
    return NotRun(path + ".relative", "relative positions without query experts");
  RETURN_IF_ERROR(CheckFloat(path, "clip_qkv", static_cast<double>(attention.clip_qkv), 0.0, 1e6));
  if (attention.kv_source != KvSource::kSelf)
    return NotRun(path + ".kv_source", "another source than self");
  return absl::OkStatus();
}

absl::Status CheckDenseFfn(const std::string& path, const DenseFfnSpec& ffn, int64_t dim) {
  RETURN_IF_ERROR(CheckRange(path, "hidden", ffn.hidden, 1, kMaxHidden));
  if (ffn.gated) RETURN_IF_ERROR(CheckDense(path + ".gate", ffn.gate, dim, ffn.hidden));
  RETURN_IF_ERROR(CheckDense(path + ".up", ffn.up, dim, ffn.hidden));
  return CheckDense(path + ".down", ffn.down, ffn.hidden, dim);
}

absl::Status CheckMoeFfn(const std::string& path, const MoeFfnSpec& ffn, int64_t dim) {
  RETURN_IF_ERROR(CheckRouter(path + ".router", ffn.router));
  RETURN_IF_ERROR(CheckRange(path, "hidden", ffn.hidden, 1, kMaxHidden));
  RETURN_IF_ERROR(CheckName(path + ".experts", "up", ffn.experts.up));
  RETURN_IF_ERROR(CheckName(path + ".experts", "down", ffn.experts.down));
  if (!ffn.experts.up_bias.empty() || !ffn.experts.down_bias.empty()) {
    const bool stacked = ffn.experts.up.find("{e}") == std::string::npos &&
                         ffn.experts.down.find("{e}") == std::string::npos;
    if (ffn.gated || !stacked || ffn.shared.has_value())
      return NotRun(path + ".experts", "a bias of gated, unstacked or shared experts");
  }
  if (ffn.experts.fused_gate_up && !ffn.gated)
    return Invalid(path + ".experts", "fused_gate_up needs a gate");
  const bool names_gate = !ffn.experts.gate.empty();
  if (names_gate != (ffn.gated && !ffn.experts.fused_gate_up)) {
    return Invalid(path + ".experts",
                   "gate must be named exactly when the experts are gated and not fused");
  }
  if (ffn.shared.has_value()) RETURN_IF_ERROR(CheckDenseFfn(path + ".shared", *ffn.shared, dim));
  if (!ffn.shared.has_value() && !ffn.shared_gate.empty()) {
    return Invalid(path + ".shared_gate", "needs shared experts");
  }
  return absl::OkStatus();
}

absl::Status CheckBlock(const std::string& path, const BlockSpec& block, int64_t dim) {
  if (const auto* attention = std::get_if<AttentionSpec>(&block))
    return CheckAttention(path, *attention, dim);
  if (const auto* ffn = std::get_if<DenseFfnSpec>(&block)) return CheckDenseFfn(path, *ffn, dim);
  return CheckMoeFfn(path, std::get<MoeFfnSpec>(block), dim);
}

absl::Status CheckSublayer(const std::string& path, const SublayerSpec& sublayer, int64_t dim) {
  RETURN_IF_ERROR(CheckNorm(path + ".input_norm", sublayer.input_norm));
  RETURN_IF_ERROR(CheckNorm(path + ".output_norm", sublayer.output_norm));
  RETURN_IF_ERROR(CheckNorm(path + ".residual_norm", sublayer.residual_norm));
  RETURN_IF_ERROR(
      CheckFloat(path, "residual_scale", static_cast<double>(sublayer.residual_scale), -1e3, 1e3));
  return CheckBlock(path + ".block", sublayer.block, dim);
}

absl::Status CheckPredictor(const std::string& path, const DepthRouterSpec& depth, int64_t dim) {
  const auto& layers = depth.predictor;
  const bool needed = depth.decide == DepthDecide::kPredictorThreshold ||
                      depth.prefill_decide == DepthDecide::kPredictorThreshold;
  if (layers.empty()) {
    return needed ? Invalid(path, "predictor_threshold needs a predictor") : absl::OkStatus();
  }
  if (layers.size() > 2) return NotRun(path, "a predictor of more than two layers");
  if (layers.size() == 1) return CheckDense(path + "[0]", layers[0], dim, 1);
  RETURN_IF_ERROR(CheckRange(path + "[0]", "out", layers[0].out, 1, kMaxDim));
  RETURN_IF_ERROR(CheckDense(path + "[0]", layers[0], dim, layers[0].out));
  return CheckDense(path + "[1]", layers[1], layers[0].out, 1);
}

absl::Status CheckQuantiles(const std::string& path, const std::vector<float>& quantiles) {
  if (quantiles.empty()) return absl::OkStatus();
  if (quantiles.size() != kNumQuantiles)
    return Invalid(path, "needs 101 values, the percentiles 0 to 100");
  for (size_t i = 0; i < quantiles.size(); ++i) {
    if (!std::isfinite(quantiles[i])) return Invalid(path, "has a value that is not finite");
    if (i > 0 && quantiles[i] < quantiles[i - 1]) return Invalid(path, "must not decrease");
  }
  return absl::OkStatus();
}

absl::Status CheckDepth(const std::string& path, const DepthRouterSpec& depth, int64_t dim) {
  RETURN_IF_ERROR(CheckName(path, "weight", depth.weight));
  RETURN_IF_ERROR(CheckPredictor(path + ".predictor", depth, dim));
  RETURN_IF_ERROR(CheckFloat(path, "threshold", static_cast<double>(depth.threshold), 0.0, 1.0));
  RETURN_IF_ERROR(CheckFloat(path, "capacity", depth.capacity, 0.0, 1.0));
  RETURN_IF_ERROR(CheckFloat(path, "gate_scale", static_cast<double>(depth.gate_scale), -1e3, 1e3));
  RETURN_IF_ERROR(CheckQuantiles(path + ".score_quantiles", depth.score_quantiles));
  if (depth.decide == DepthDecide::kRouterTopK) {
    return NotRun(path + ".decide", "router_topk while generating (it may be prefill_decide)");
  }
  if (depth.prefill_decide == DepthDecide::kRouterTopK && depth.capacity <= 0.0)
    return Invalid(path, "router_topk needs a capacity above 0");
  if (depth.kv != DepthKv::kRoutedOnly)
    return NotRun(path + ".kv", "a rule other than routed_only");
  if (depth.position != DepthPosition::kAbsolute)
    return NotRun(path + ".position", "a rule other than absolute");
  return absl::OkStatus();
}

absl::Status CheckLayer(const std::string& path, const LayerSpec& layer, int64_t dim) {
  if (layer.depth.has_value()) RETURN_IF_ERROR(CheckDepth(path + ".depth", *layer.depth, dim));
  if (layer.sublayers.empty() || layer.sublayers.size() > 16)
    return Invalid(path, "needs 1 to 16 sublayers");
  for (size_t i = 0; i < layer.sublayers.size(); ++i) {
    RETURN_IF_ERROR(
        CheckSublayer(absl::StrCat(path, ".sublayers[", i, "]"), layer.sublayers[i], dim));
  }
  return absl::OkStatus();
}

// The sizes of a repeat; model_spec_repeat_check.cc says which parts may stand together.
absl::Status CheckRepeat(const std::string& path, const LayerGroupSpec& group, int64_t dim) {
  RETURN_IF_ERROR(CheckRepeatParts(path, group));
  const RepeatSpec& repeat = group.repeat;
  if (repeat.injection.has_value())
    RETURN_IF_ERROR(CheckDense(path + ".injection", *repeat.injection, 2 * dim, dim));
  if (repeat.gate.has_value()) {
    const HaltingGateSpec& gate = *repeat.gate;
    RETURN_IF_ERROR(CheckRange(path + ".gate.hidden", "out", gate.hidden.out, 1, kMaxDim));
    RETURN_IF_ERROR(CheckDense(path + ".gate.hidden", gate.hidden, dim, gate.hidden.out));
    RETURN_IF_ERROR(CheckDense(path + ".gate.out", gate.out, gate.hidden.out, 2));
    RETURN_IF_ERROR(
        CheckFloat(path + ".gate", "threshold", static_cast<double>(gate.threshold), 0.0, 1.0));
  }
  if (!repeat.depth_router.has_value()) return absl::OkStatus();
  const RouterSpec& router = *repeat.depth_router;
  const std::string at = path + ".depth_router";
  RETURN_IF_ERROR(CheckRouter(at, router));
  RETURN_IF_ERROR(CheckEqual(at, "num_experts", router.num_experts, repeat.times));
  RETURN_IF_ERROR(CheckEqual(at, "top_k", router.top_k, 1));
  return CheckEqual(at, "num_null_experts", router.num_null_experts, 0);
}

absl::Status CheckGroup(const std::string& path, const LayerGroupSpec& group, int64_t dim) {
  RETURN_IF_ERROR(CheckRange(path, "repeat.times", group.repeat.times, 1, kMaxLayers));
  RETURN_IF_ERROR(CheckNorm(path + ".output_norm", group.output_norm));
  if (group.layers.empty()) return Invalid(path, "has no layers");
  for (size_t i = 0; i < group.layers.size(); ++i) {
    RETURN_IF_ERROR(CheckLayer(absl::StrCat(path, ".layers[", i, "]"), group.layers[i], dim));
  }
  return CheckRepeat(path + ".repeat", group, dim);
}

absl::Status CheckStack(const std::string& path, const StackSpec& stack) {
  const EmbeddingSpec& embedding = stack.embedding;
  RETURN_IF_ERROR(
      CheckRange(path + ".embedding", "vocab_size", embedding.vocab_size, 1, kMaxVocab));
  RETURN_IF_ERROR(CheckRange(path + ".embedding", "dim", embedding.dim, 1, kMaxDim));
  RETURN_IF_ERROR(CheckName(path + ".embedding", "weight", embedding.weight));
  RETURN_IF_ERROR(
      CheckFloat(path + ".embedding", "scale", static_cast<double>(embedding.scale), -1e6, 1e6));
  RETURN_IF_ERROR(CheckNorm(path + ".embedding.norm", embedding.norm));
  RETURN_IF_ERROR(CheckNorm(path + ".final_norm", stack.final_norm));
  int64_t executions = 0;
  for (size_t i = 0; i < stack.groups.size(); ++i) {
    const std::string group_path = absl::StrCat(path, ".groups[", i, "]");
    RETURN_IF_ERROR(CheckGroup(group_path, stack.groups[i], embedding.dim));
    executions +=
        int64_t{stack.groups[i].repeat.times} * static_cast<int64_t>(stack.groups[i].layers.size());
    RETURN_IF_ERROR(CheckRange(group_path, "number of layers executed", executions, 1, kMaxLayers));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSpec(const ModelSpec& spec) {
  if (spec.stacks.empty()) return Invalid("stacks", "a model needs one");
  if (spec.stacks.size() > 1 || spec.stacks[0].role != StackRole::kDecoder) {
    return NotRun("stacks", "an encoder");
  }
  RETURN_IF_ERROR(CheckStack("stacks[0]", spec.stacks[0]));
  const EmbeddingSpec& embedding = spec.stacks[0].embedding;
  RETURN_IF_ERROR(
      CheckFloat("head", "logit_scale", static_cast<double>(spec.head.logit_scale), -1e6, 1e6));
  RETURN_IF_ERROR(CheckRange("model", "max_positions", spec.max_positions, 1, kMaxPositions));
  for (const int32_t id : spec.eos_token_ids) {
    RETURN_IF_ERROR(CheckRange("model", "eos_token_ids", id, 0, embedding.vocab_size - 1));
  }
  return absl::OkStatus();
}

}  // namespace sluice
