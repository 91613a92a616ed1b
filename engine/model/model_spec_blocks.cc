// The rules of ValidateSpec for what stands in a sublayer.
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/model_spec_rules.h"
#include "engine/status_macros.h"

namespace sluice::spec_rules {
namespace {

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

absl::Status CheckRopeScaling(const std::string& path, const RopeScalingSpec& scaling) {
  RETURN_IF_ERROR(CheckFloat(path, "factor", scaling.factor, 1e-3, 1e6));
  RETURN_IF_ERROR(
      CheckRange(path, "original_positions", scaling.original_positions, 1, kMaxPositions));
  RETURN_IF_ERROR(CheckFloat(path, "low_rotations", scaling.low_rotations, 1e-3, 1e6));
  RETURN_IF_ERROR(CheckFloat(path, "high_rotations", scaling.high_rotations, 1e-3, 1e6));
  if (scaling.high_rotations > scaling.low_rotations) return absl::OkStatus();
  return Invalid(path, "high_rotations must be above low_rotations");
}

absl::Status CheckRope(const std::string& path, const RopeSpec& rope, int32_t most) {
  RETURN_IF_ERROR(CheckRange(path, "rotary_dim", rope.rotary_dim, 2, most));
  if (rope.scaling.has_value()) RETURN_IF_ERROR(CheckRopeScaling(path + ".scaling", *rope.scaling));
  RETURN_IF_ERROR(CheckFloat(path, "amplitude", rope.amplitude, 1e-3, 1e3));
  if (rope.rotary_dim % 2 != 0) return Invalid(path, "rotary_dim must be even");
  RETURN_IF_ERROR(CheckFloat(path, "theta", rope.theta, 1.0, 1e12));
  if (rope.scaling.has_value() && rope.theta == 1.0)
    return Invalid(path, "theta must be above 1 with a scaling");
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
    if (part->row_begin != 0 || part->split_by_head)
      return NotRun(path, "a fused or a split tensor of query experts");
  }
  if (!attention.q.bias.empty()) return NotRun(path + ".q", "a bias of query experts");
  if (attention.q_norm.has_value() || attention.k_norm.has_value() || attention.clip_qkv != 0.0f ||
      !attention.sinks.empty() || attention.value_from_residual)
    return NotRun(path, "q/k norms, clipping, sinks or residual values with query experts");
  if (attention.rope.has_value()) {
    RETURN_IF_ERROR(CheckRope(path + ".rope", *attention.rope, attention.head_dim));
    if (attention.kv_source != KvSource::kSelf)
      return NotRun(path + ".rope", "rope with keys of a second stream");
  }
  if (attention.kv_source == KvSource::kEncoder)
    return NotRun(path + ".kv_source", "another source than self or the second stream");
  if (attention.sparse.has_value() || attention.mask != MaskKind::kCausal ||
      attention.position_bias.has_value())
    return NotRun(path, "a sparse or full mask or a position bias with query experts");
  if (attention.relative.has_value()) {
    const std::string at = path + ".relative";
    RETURN_IF_ERROR(CheckName(at, "weight", attention.relative->weight));
    RETURN_IF_ERROR(CheckRange(at, "max_distance", attention.relative->max_distance, 1, kMaxDim));
    RETURN_IF_ERROR(
        CheckFloat(at, "scale", static_cast<double>(attention.relative->scale), -1e3, 1e3));
  }
  return absl::OkStatus();
}

absl::Status CheckSparse(const std::string& path, const SparsePatternSpec& sparse, MaskKind mask) {
  RETURN_IF_ERROR(CheckRange(path, "block", sparse.block, 1, kMaxPositions));
  RETURN_IF_ERROR(CheckRange(path, "first_blocks", sparse.first_blocks, 0, kMaxPositions));
  RETURN_IF_ERROR(CheckRange(path, "last_blocks", sparse.last_blocks, 0, kMaxPositions));
  RETURN_IF_ERROR(CheckRange(path, "behind", sparse.behind, 0, kMaxPositions));
  RETURN_IF_ERROR(CheckRange(path, "ahead", sparse.ahead, 0, kMaxPositions));
  RETURN_IF_ERROR(CheckRange(path, "first_repeats", sparse.first_repeats, 0, kMaxRandomBlocks));
  RETURN_IF_ERROR(CheckRange(path, "full_up_to", sparse.full_up_to, 0, kMaxPositions));
  RETURN_IF_ERROR(CheckRange(path, "random_blocks", sparse.random_blocks, 0, kMaxRandomBlocks));
  RETURN_IF_ERROR(CheckRange(path, "seed", sparse.seed, 0, kMaxSeed));
  if (mask == MaskKind::kFull) return absl::OkStatus();
  // Generated rows must see what they would have seen of a longer prompt.
  if (sparse.last_blocks > 0 || sparse.ahead > 0 || sparse.global_queries ||
      sparse.first_repeats > 0 || sparse.full_up_to > 0)
    return Invalid(path, "only first_blocks, behind and random_blocks are causal");
  return absl::OkStatus();
}

// What every attention has, whatever its projections are.
absl::Status CheckAttending(const std::string& path, const AttentionSpec& attention) {
  RETURN_IF_ERROR(CheckFloat(path, "scale", static_cast<double>(attention.scale), 0.0, 1e3));
  RETURN_IF_ERROR(CheckRange(path, "window", attention.window, 0, kMaxPositions));
  if (!attention.sparse.has_value()) return absl::OkStatus();
  if (attention.window > 0) return Invalid(path + ".sparse", "a window is `behind` of the pattern");
  return CheckSparse(path + ".sparse", *attention.sparse, attention.mask);
}

absl::Status CheckPositionBias(const std::string& path, const AttentionSpec& attention) {
  const PositionBiasSpec& bias = *attention.position_bias;
  const int32_t sides = attention.mask == MaskKind::kFull ? 2 : 1;
  RETURN_IF_ERROR(CheckName(path, "weight", bias.weight));
  RETURN_IF_ERROR(CheckRange(path, "num_buckets", bias.num_buckets, 2 * sides, kMaxExperts));
  if (bias.num_buckets % sides != 0)
    return Invalid(path, "num_buckets must be even where later keys are seen");
  return CheckRange(path, "max_distance", bias.max_distance, bias.num_buckets / sides / 2 + 1,
                    kMaxDim);
}

// Attention to the encoder's rows: four projections and nothing else.
absl::Status CheckCross(const std::string& path, const AttentionSpec& attention) {
  const bool experts = attention.v.experts.has_value() || attention.o.experts.has_value();
  const bool norms = attention.q_norm.has_value() || attention.k_norm.has_value();
  const bool positions = attention.rope.has_value() || attention.position_bias.has_value();
  const bool masks =
      attention.sparse.has_value() || attention.window > 0 || attention.mask != MaskKind::kCausal;
  for (const ProjectionSpec* part : {&attention.q, &attention.k, &attention.v, &attention.o}) {
    if (part->low_rank.has_value() || part->scaling.has_value())
      return NotRun(path + ".kv_source", "attention to an encoder with adapters");
  }
  if (experts || norms || positions || masks || !attention.sinks.empty() ||
      attention.clip_qkv != 0.0f || attention.value_from_residual)
    return NotRun(path + ".kv_source",
                  "attention to an encoder with experts, norms, positions, a mask or sinks");
  return absl::OkStatus();
}

absl::Status CheckAttention(const std::string& path, const AttentionSpec& attention, int64_t dim) {
  RETURN_IF_ERROR(CheckHeads(path, attention));
  RETURN_IF_ERROR(CheckAttending(path, attention));
  if (attention.q.experts.has_value()) return CheckMixture(path, attention, dim);
  const int64_t q_width = int64_t{attention.num_heads} * attention.head_dim;
  const int64_t kv_width = int64_t{attention.num_kv_heads} * attention.head_dim;
  RETURN_IF_ERROR(CheckDense(path + ".q", WithoutAdapters(attention.q), dim, q_width));
  RETURN_IF_ERROR(CheckDense(path + ".k", WithoutAdapters(attention.k), dim, kv_width));
  RETURN_IF_ERROR(CheckProjection(path + ".v", WithoutAdapters(attention.v), dim, kv_width));
  RETURN_IF_ERROR(CheckProjection(path + ".o", WithoutAdapters(attention.o), q_width, dim));
  RETURN_IF_ERROR(CheckAdapters(path + ".q", attention.q, 0));
  RETURN_IF_ERROR(CheckAdapters(path + ".k", attention.k, attention.num_kv_heads));
  RETURN_IF_ERROR(CheckAdapters(path + ".v", attention.v, attention.num_kv_heads));
  RETURN_IF_ERROR(CheckAdapters(path + ".o", attention.o, 0));
  RETURN_IF_ERROR(CheckHeadExperts(path + ".v", attention.v));
  RETURN_IF_ERROR(CheckHeadExperts(path + ".o", attention.o));
  if (attention.v.split_by_head) return NotRun(path + ".v", "split_by_head of values");
  if (attention.v.experts.has_value() && attention.num_kv_heads != attention.num_heads) {
    return NotRun(path + ".v", "value experts with grouped query heads");
  }
  RETURN_IF_ERROR(CheckNorm(path + ".q_norm", attention.q_norm));
  RETURN_IF_ERROR(CheckNorm(path + ".k_norm", attention.k_norm));
  if (attention.rope.has_value())
    RETURN_IF_ERROR(CheckRope(path + ".rope", *attention.rope, attention.head_dim));
  if (attention.position_bias.has_value())
    RETURN_IF_ERROR(CheckPositionBias(path + ".position_bias", attention));
  if (attention.relative.has_value())
    return NotRun(path + ".relative", "relative positions without query experts");
  RETURN_IF_ERROR(CheckFloat(path, "clip_qkv", static_cast<double>(attention.clip_qkv), 0.0, 1e6));
  if (attention.kv_source == KvSource::kSecondStream)
    return NotRun(path + ".kv_source", "a second stream without query experts");
  if (attention.kv_source == KvSource::kEncoder) return CheckCross(path, attention);
  return absl::OkStatus();
}

absl::Status CheckLatentAttention(const std::string& path,
                                  const LatentAttentionSpec& attention,
                                  int64_t dim) {
  RETURN_IF_ERROR(CheckRange(path, "num_heads", attention.num_heads, 1, kMaxHeads));
  RETURN_IF_ERROR(CheckRange(path, "nope_dim", attention.nope_dim, 1, kMaxDim));
  RETURN_IF_ERROR(CheckRange(path, "rope_dim", attention.rope_dim, 2, kMaxDim));
  RETURN_IF_ERROR(CheckRange(path, "value_dim", attention.value_dim, 1, kMaxDim));
  RETURN_IF_ERROR(CheckRange(path, "latent_dim", attention.latent_dim, 1, kMaxDim));
  const int64_t heads = attention.num_heads;
  const int64_t q_width = heads * (int64_t{attention.nope_dim} + attention.rope_dim);
  const int64_t kv_width = heads * (int64_t{attention.nope_dim} + attention.value_dim);
  const int64_t cached = int64_t{attention.latent_dim} + attention.rope_dim;
  RETURN_IF_ERROR(CheckRange(path, "width of the queries", q_width, 1, kMaxHidden));
  RETURN_IF_ERROR(CheckRange(path, "width of keys and values", kv_width, 1, kMaxHidden));
  RETURN_IF_ERROR(
      CheckRange(path, "num_heads * (latent_dim + rope_dim)", heads * cached, 1, 8 * kMaxHidden));
  int64_t q_in = dim;
  if (attention.q_down.has_value()) {
    q_in = attention.q_down->out;
    RETURN_IF_ERROR(CheckRange(path + ".q_down", "out", q_in, 1, kMaxDim));
    RETURN_IF_ERROR(CheckDense(path + ".q_down", *attention.q_down, dim, q_in));
  }
  RETURN_IF_ERROR(CheckDense(path + ".q", attention.q, q_in, q_width));
  RETURN_IF_ERROR(CheckDense(path + ".kv_down", attention.kv_down, dim, cached));
  RETURN_IF_ERROR(CheckDense(path + ".kv_up", attention.kv_up, attention.latent_dim, kv_width));
  RETURN_IF_ERROR(CheckDense(path + ".o", attention.o, heads * attention.value_dim, dim));
  if (!attention.q.bias.empty()) return NotRun(path + ".q", "a bias");
  if (!attention.kv_up.bias.empty()) return NotRun(path + ".kv_up", "a bias");
  if (attention.kv_up.transposed || attention.kv_down.transposed)
    return NotRun(path, "a transposed key or value projection");
  RETURN_IF_ERROR(CheckNorm(path + ".q_norm", attention.q_norm));
  RETURN_IF_ERROR(CheckNorm(path + ".kv_norm", attention.kv_norm));
  RETURN_IF_ERROR(CheckRope(path + ".rope", attention.rope, attention.rope_dim));
  return CheckFloat(path, "scale", static_cast<double>(attention.scale), 0.0, 1e3);
}

absl::Status CheckDenseFfn(const std::string& path, const DenseFfnSpec& ffn, int64_t dim) {
  if (ffn.activation == Activation::kClampedSwiglu)
    return NotRun(path + ".activation", "clamped_swiglu outside of experts");
  RETURN_IF_ERROR(CheckRange(path, "hidden", ffn.hidden, 1, kMaxHidden));
  if (ffn.gated) {
    RETURN_IF_ERROR(CheckDense(path + ".gate", WithoutAdapters(ffn.gate), dim, ffn.hidden));
    RETURN_IF_ERROR(CheckAdapters(path + ".gate", ffn.gate, 0));
  }
  RETURN_IF_ERROR(CheckDense(path + ".up", WithoutAdapters(ffn.up), dim, ffn.hidden));
  RETURN_IF_ERROR(CheckDense(path + ".down", WithoutAdapters(ffn.down), ffn.hidden, dim));
  RETURN_IF_ERROR(CheckAdapters(path + ".up", ffn.up, 0));
  RETURN_IF_ERROR(CheckAdapters(path + ".down", ffn.down, 0));
  return CheckScaling(path + ".hidden_scaling", ffn.hidden_scaling, 0);
}

bool HasAdapters(const DenseFfnSpec& ffn) {
  return ffn.gate.low_rank.has_value() || ffn.up.low_rank.has_value() ||
         ffn.down.low_rank.has_value() || ffn.hidden_scaling.has_value();
}

absl::Status CheckExperts(const std::string& path, const MoeFfnSpec& ffn, int64_t dim) {
  const ExpertWeightsSpec& experts = ffn.experts;
  if (experts.interleaved && !experts.fused_gate_up)
    return Invalid(path, "interleaved needs fused_gate_up");
  if (!experts.gate_bias.empty() && experts.gate.empty())
    return Invalid(path, "gate_bias needs a gate of its own");
  if (experts.encoding == ExpertEncoding::kMxfp4 && experts.transposed)
    return NotRun(path, "a transposed mxfp4 matrix");
  if (experts.encoding == ExpertEncoding::kMxfp4 && (dim % 32 != 0 || ffn.hidden % 32 != 0))
    return Invalid(path, "mxfp4 needs sizes that are multiples of 32");
  if (ffn.activation != Activation::kClampedSwiglu) return absl::OkStatus();
  if (!ffn.gated) return Invalid(path, "clamped_swiglu needs a gate");
  RETURN_IF_ERROR(CheckFloat(path, "clamp.alpha", static_cast<double>(ffn.clamp.alpha), 1e-3, 1e3));
  return CheckFloat(path, "clamp.limit", static_cast<double>(ffn.clamp.limit), 1e-3, 1e6);
}

absl::Status CheckMoeFfn(const std::string& path, const MoeFfnSpec& ffn, int64_t dim) {
  RETURN_IF_ERROR(CheckFfnRouter(path + ".router", ffn.router));
  RETURN_IF_ERROR(CheckRange(path, "hidden", ffn.hidden, 1, kMaxHidden));
  RETURN_IF_ERROR(CheckName(path + ".experts", "up", ffn.experts.up));
  RETURN_IF_ERROR(CheckName(path + ".experts", "down", ffn.experts.down));
  if (ffn.experts.fused_gate_up && !ffn.gated)
    return Invalid(path + ".experts", "fused_gate_up needs a gate");
  const bool names_gate = !ffn.experts.gate.empty();
  if (names_gate != (ffn.gated && !ffn.experts.fused_gate_up)) {
    return Invalid(path + ".experts",
                   "gate must be named exactly when the experts are gated and not fused");
  }
  RETURN_IF_ERROR(CheckExperts(path + ".experts", ffn, dim));
  if (ffn.shared.has_value()) RETURN_IF_ERROR(CheckDenseFfn(path + ".shared", *ffn.shared, dim));
  if (ffn.shared.has_value() && HasAdapters(*ffn.shared))
    return NotRun(path + ".shared", "a soft-merged adapter of a shared expert");
  if (!ffn.shared.has_value() && !ffn.shared_gate.empty()) {
    return Invalid(path + ".shared_gate", "needs shared experts");
  }
  return absl::OkStatus();
}

absl::Status CheckMixtureFfn(const std::string& path, const MixtureFfnSpec& ffn) {
  RETURN_IF_ERROR(CheckRange(path, "group_size", ffn.group_size, 1, kMaxExperts));
  RETURN_IF_ERROR(CheckRange(path, "num_experts", ffn.num_experts, 1, kMaxExperts));
  RETURN_IF_ERROR(CheckRange(path, "hidden", ffn.hidden, 1, kMaxHidden));
  RETURN_IF_ERROR(CheckFloat(path, "temperature", static_cast<double>(ffn.temperature), 1e-3, 1e6));
  if (ffn.activation == Activation::kClampedSwiglu)
    return NotRun(path + ".activation", "clamped_swiglu without a gate");
  RETURN_IF_ERROR(CheckName(path, "controller", ffn.controller));
  RETURN_IF_ERROR(CheckName(path, "up", ffn.up));
  return CheckName(path, "down", ffn.down);
}

absl::Status CheckBlock(const std::string& path, const BlockSpec& block, int64_t dim) {
  if (const auto* mixture = std::get_if<MixtureFfnSpec>(&block))
    return CheckMixtureFfn(path, *mixture);
  if (const auto* attention = std::get_if<AttentionSpec>(&block))
    return CheckAttention(path, *attention, dim);
  if (const auto* latent = std::get_if<LatentAttentionSpec>(&block))
    return CheckLatentAttention(path, *latent, dim);
  if (const auto* ffn = std::get_if<DenseFfnSpec>(&block)) return CheckDenseFfn(path, *ffn, dim);
  return CheckMoeFfn(path, std::get<MoeFfnSpec>(block), dim);
}

}  // namespace

absl::Status CheckSublayer(const std::string& path, const SublayerSpec& sublayer, int64_t dim) {
  RETURN_IF_ERROR(CheckNorm(path + ".input_norm", sublayer.input_norm));
  RETURN_IF_ERROR(CheckNorm(path + ".output_norm", sublayer.output_norm));
  RETURN_IF_ERROR(CheckNorm(path + ".residual_norm", sublayer.residual_norm));
  RETURN_IF_ERROR(
      CheckFloat(path, "residual_scale", static_cast<double>(sublayer.residual_scale), -1e3, 1e3));
  return CheckBlock(path + ".block", sublayer.block, dim);
}

}  // namespace sluice::spec_rules
