#include "engine/architectures/weight_check.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "engine/status_macros.h"
#include "engine/weights/mxfp4.h"

namespace sluice {
namespace {

absl::Status CheckShape(const WeightStore& weights,
                        const std::string& name,
                        const std::vector<int64_t>& expected) {
  ASSIGN_OR_RETURN(const TensorRange range, weights.Find(name));
  if (range.shape != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", name, "' has shape [", absl::StrJoin(range.shape, ", "),
                     "], expected [", absl::StrJoin(expected, ", "), "]"));
  }
  if (!kernels::IsFloat(range.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' must be F32, BF16 or F16"));
  }
  return absl::OkStatus();
}

// An empty name is a tensor the spec does without.
absl::Status CheckVector(const WeightStore& weights, const std::string& name, int64_t size) {
  return name.empty() ? absl::OkStatus() : CheckShape(weights, name, {size});
}

absl::Status CheckNorm(const WeightStore& weights,
                       const std::optional<NormSpec>& norm,
                       int64_t size) {
  if (!norm.has_value()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckVector(weights, norm->weight, size));
  return CheckVector(weights, norm->bias, size);
}

// `rows`: the outputs of the whole tensor, of which the projection takes a part.
absl::Status CheckProjection(const WeightStore& weights,
                             const ProjectionSpec& projection,
                             int64_t rows) {
  RETURN_IF_ERROR(CheckVector(weights, projection.bias, rows));
  if (projection.transposed) return CheckShape(weights, projection.weight, {projection.in, rows});
  return CheckShape(weights, projection.weight, {rows, projection.in});
}

absl::Status CheckProjection(const WeightStore& weights, const ProjectionSpec& projection) {
  return CheckProjection(weights, projection, projection.row_begin + projection.out);
}

absl::Status CheckSoftRouter(const WeightStore& weights,
                             const SoftRouterSpec& router,
                             int64_t width) {
  RETURN_IF_ERROR(CheckShape(weights, router.weight, {width, router.num_experts}));
  return CheckVector(weights, router.bias, router.num_experts);
}

absl::Status CheckScaling(const WeightStore& weights,
                          const std::optional<SoftScalingSpec>& scaling,
                          int64_t width) {
  if (!scaling.has_value()) return absl::OkStatus();
  const int64_t experts = scaling->router.num_experts;
  const int64_t run = width / std::max(1, scaling->heads);
  RETURN_IF_ERROR(CheckSoftRouter(weights, scaling->router, run));
  if (scaling->heads == 0) return CheckShape(weights, scaling->weight, {experts, run});
  return CheckShape(weights, scaling->weight, {scaling->heads, experts, run});
}

absl::Status CheckAdapters(const WeightStore& weights, const ProjectionSpec& projection) {
  RETURN_IF_ERROR(CheckScaling(weights, projection.scaling, projection.out));
  if (!projection.low_rank.has_value()) return absl::OkStatus();
  const SoftLowRankSpec& spec = *projection.low_rank;
  const int64_t experts = spec.router.num_experts;
  RETURN_IF_ERROR(CheckSoftRouter(weights, spec.router, projection.in));
  RETURN_IF_ERROR(CheckShape(weights, spec.down, {experts, projection.in, spec.rank}));
  return CheckShape(weights, spec.up, {experts, spec.rank, projection.out});
}

absl::Status CheckRouter(const WeightStore& weights,
                         const RouterSpec& router,
                         int64_t dim,
                         int64_t copies) {
  const int64_t rows = copies * (router.num_experts + router.num_null_experts);
  if (router.hidden > 0) {
    RETURN_IF_ERROR(CheckShape(weights, router.hidden_weight, {router.hidden, dim}));
    RETURN_IF_ERROR(CheckVector(weights, router.hidden_bias, router.hidden));
    dim = router.hidden;
  }
  RETURN_IF_ERROR(CheckShape(weights, router.weight, {rows, dim}));
  RETURN_IF_ERROR(CheckVector(weights, router.bias, rows));
  return CheckVector(weights, router.selection_bias, rows);
}

// Value and output projections: plain, or one expert per head and choice.
absl::Status CheckHeadProjection(const WeightStore& weights,
                                 const AttentionSpec& attention,
                                 const ProjectionSpec& projection,
                                 bool output) {
  if (!projection.experts.has_value()) return CheckProjection(weights, projection);
  RETURN_IF_ERROR(CheckRouter(weights, *projection.experts, attention.q.in, attention.num_heads));
  if (projection.split_by_head) {
    return CheckShape(weights, projection.weight, {projection.out, projection.in});
  }
  const int64_t in = output ? attention.head_dim : projection.in;
  const int64_t out = output ? projection.out : attention.head_dim;
  const int64_t experts = int64_t{attention.num_heads} * projection.experts->num_experts;
  return CheckShape(
      weights, projection.weight,
      projection.transposed ? std::vector{experts, in, out} : std::vector{experts, out, in});
}

// Stacked [experts, in, out] (or [experts, out, in]) of query and output experts.
absl::Status CheckMixture(const WeightStore& weights, const AttentionSpec& attention) {
  const RouterSpec& router = *attention.q.experts;
  RETURN_IF_ERROR(CheckRouter(weights, router, attention.q.in, 1));
  for (const ProjectionSpec* part : {&attention.q, &attention.o}) {
    RETURN_IF_ERROR(CheckShape(
        weights, part->weight,
        part->transposed ? std::vector<int64_t>{router.num_experts, part->in, part->out}
                         : std::vector<int64_t>{router.num_experts, part->out, part->in}));
  }
  if (attention.relative.has_value()) {
    RETURN_IF_ERROR(CheckShape(
        weights, attention.relative->weight,
        {attention.num_heads, attention.head_dim, 2 * attention.relative->max_distance + 1}));
  }
  RETURN_IF_ERROR(CheckVector(weights, attention.o.bias, attention.o.out));
  const bool fused = attention.k.weight == attention.v.weight;  // the values last
  const int64_t rows = (fused ? attention.v : attention.k).row_begin + attention.k.out;
  RETURN_IF_ERROR(CheckProjection(weights, attention.k, rows));
  return CheckProjection(weights, attention.v);
}

absl::Status CheckAttention(const WeightStore& weights, const AttentionSpec& attention) {
  if (attention.position_bias.has_value()) {
    RETURN_IF_ERROR(CheckShape(weights, attention.position_bias->weight,
                               {attention.position_bias->num_buckets, attention.num_heads}));
  }
  if (attention.q.experts.has_value()) return CheckMixture(weights, attention);
  if (attention.q.weight == attention.k.weight) {  // one fused tensor, the values last
    const bool by_head = attention.q.row_run > 0;
    const int64_t rows = by_head ? attention.q.out / attention.q.row_run * attention.q.row_stride
                                 : attention.v.row_begin + attention.v.out;
    for (const ProjectionSpec* part : {&attention.q, &attention.k, &attention.v}) {
      ProjectionSpec plain = *part;
      plain.bias.clear();
      RETURN_IF_ERROR(CheckProjection(weights, plain, rows));
      // A bias of q and k only stands by part and head (Huginn's qk_bias).
      const std::vector<int64_t> shape =
          attention.v.bias.empty()
              ? std::vector<int64_t>{2, 1, attention.num_heads, attention.head_dim}
              : std::vector<int64_t>{rows};
      if (!part->bias.empty()) RETURN_IF_ERROR(CheckShape(weights, part->bias, shape));
    }
  } else {
    RETURN_IF_ERROR(CheckProjection(weights, attention.q));
    RETURN_IF_ERROR(CheckProjection(weights, attention.k));
    RETURN_IF_ERROR(CheckHeadProjection(weights, attention, attention.v, false));
  }
  RETURN_IF_ERROR(CheckHeadProjection(weights, attention, attention.o, true));
  for (const ProjectionSpec* part : {&attention.q, &attention.k, &attention.v, &attention.o})
    RETURN_IF_ERROR(CheckAdapters(weights, *part));
  const bool per_head = attention.norm_per_head;
  RETURN_IF_ERROR(
      CheckNorm(weights, attention.q_norm, per_head ? attention.head_dim : attention.q.out));
  RETURN_IF_ERROR(
      CheckNorm(weights, attention.k_norm, per_head ? attention.head_dim : attention.k.out));
  return CheckVector(weights, attention.sinks, attention.num_heads);
}

absl::Status CheckLatentAttention(const WeightStore& weights,
                                  const LatentAttentionSpec& attention) {
  if (attention.q_down.has_value()) {
    RETURN_IF_ERROR(CheckProjection(weights, *attention.q_down));
    RETURN_IF_ERROR(CheckNorm(weights, attention.q_norm, attention.q_down->out));
  }
  RETURN_IF_ERROR(CheckProjection(weights, attention.q));
  RETURN_IF_ERROR(CheckProjection(weights, attention.kv_down));
  RETURN_IF_ERROR(CheckNorm(weights, attention.kv_norm, attention.latent_dim));
  RETURN_IF_ERROR(CheckProjection(weights, attention.kv_up));
  return CheckProjection(weights, attention.o);
}

absl::Status CheckDenseFfn(const WeightStore& weights, const DenseFfnSpec& ffn) {
  if (ffn.gated) {  // of its own, or the first rows of one tensor
    const ProjectionSpec& last = ffn.gate.weight == ffn.up.weight ? ffn.up : ffn.gate;
    RETURN_IF_ERROR(CheckProjection(weights, ffn.gate, last.row_begin + last.out));
  }
  RETURN_IF_ERROR(CheckProjection(weights, ffn.up));
  RETURN_IF_ERROR(CheckProjection(weights, ffn.down));
  for (const ProjectionSpec* part : {&ffn.gate, &ffn.up, &ffn.down})
    RETURN_IF_ERROR(CheckAdapters(weights, *part));
  return CheckScaling(weights, ffn.hidden_scaling, ffn.hidden);
}

// The two tensors of stacked mxfp4 matrices [out, in].
absl::Status CheckMxfp4(const WeightStore& weights,
                        const std::string& name,
                        const std::vector<int64_t>& matrices) {
  const auto check = [&](const std::string& part, const std::vector<int64_t>& expected) {
    const absl::StatusOr<TensorRange> range = weights.Find(part);
    if (!range.ok()) return range.status();
    if (range->shape == expected && range->dtype == kernels::DType::kU8) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", part, "' is ", kernels::Name(range->dtype), " [",
        absl::StrJoin(range->shape, ", "), "], expected u8 [", absl::StrJoin(expected, ", "), "]"));
  };
  const int64_t blocks = matrices[2] / kMxfp4BlockElements;
  RETURN_IF_ERROR(check(name + "_blocks", {matrices[0], matrices[1], blocks, kMxfp4BlockBytes}));
  return check(name + "_scales", {matrices[0], matrices[1], blocks});
}

// A matrix [out, in] of every expert: one tensor each where the name has "{e}", else stacked.
absl::Status CheckExpertMatrix(const WeightStore& weights,
                               const MoeFfnSpec& ffn,
                               const std::string& pattern,
                               int64_t out,
                               int64_t in) {
  const bool transposed = ffn.experts.transposed;
  const int32_t experts = ffn.router.num_experts;
  if (ffn.experts.encoding == ExpertEncoding::kMxfp4)
    return CheckMxfp4(weights, pattern, {experts, out, in});
  if (pattern.find("{e}") == pattern.npos) {
    return CheckShape(weights, pattern,
                      transposed ? std::vector<int64_t>{experts, in, out}
                                 : std::vector<int64_t>{experts, out, in});
  }
  for (int32_t e = 0; e < experts; ++e) {
    const std::string name = absl::StrReplaceAll(pattern, {{"{e}", absl::StrCat(e)}});
    RETURN_IF_ERROR(CheckShape(
        weights, name, transposed ? std::vector<int64_t>{in, out} : std::vector<int64_t>{out, in}));
  }
  return absl::OkStatus();
}

absl::Status CheckMoeFfn(const WeightStore& weights, const MoeFfnSpec& ffn, int64_t dim) {
  RETURN_IF_ERROR(CheckRouter(weights, ffn.router, dim, 1));
  const int64_t up_rows = ffn.experts.fused_gate_up ? 2 * ffn.hidden : ffn.hidden;
  RETURN_IF_ERROR(CheckExpertMatrix(weights, ffn, ffn.experts.up, up_rows, dim));
  RETURN_IF_ERROR(CheckExpertMatrix(weights, ffn, ffn.experts.down, dim, ffn.hidden));
  if (!ffn.experts.gate.empty()) {
    RETURN_IF_ERROR(CheckExpertMatrix(weights, ffn, ffn.experts.gate, ffn.hidden, dim));
  }
  const auto check_bias = [&](const std::string& name, int64_t size) {
    return name.empty() ? absl::OkStatus()
                        : CheckShape(weights, name, {ffn.router.num_experts, size});
  };
  RETURN_IF_ERROR(check_bias(ffn.experts.gate_bias, ffn.hidden));
  RETURN_IF_ERROR(check_bias(ffn.experts.up_bias, up_rows));
  RETURN_IF_ERROR(check_bias(ffn.experts.down_bias, dim));
  if (ffn.shared.has_value()) RETURN_IF_ERROR(CheckDenseFfn(weights, *ffn.shared));
  if (!ffn.shared_gate.empty()) RETURN_IF_ERROR(CheckShape(weights, ffn.shared_gate, {1, dim}));
  return CheckVector(weights, ffn.output_bias, dim);
}

absl::Status CheckMixtureFfn(const WeightStore& weights, const MixtureFfnSpec& ffn, int64_t dim) {
  RETURN_IF_ERROR(CheckShape(weights, ffn.controller, {dim, ffn.num_experts}));
  RETURN_IF_ERROR(CheckShape(weights, ffn.up, {ffn.num_experts, dim, ffn.hidden}));
  return CheckShape(weights, ffn.down, {ffn.num_experts, ffn.hidden, dim});
}

absl::Status CheckSublayer(const WeightStore& weights, const SublayerSpec& sublayer, int64_t dim) {
  RETURN_IF_ERROR(CheckNorm(weights, sublayer.input_norm, dim));
  RETURN_IF_ERROR(CheckNorm(weights, sublayer.output_norm, dim));
  RETURN_IF_ERROR(CheckNorm(weights, sublayer.residual_norm, dim));
  if (const auto* attention = std::get_if<AttentionSpec>(&sublayer.block)) {
    return CheckAttention(weights, *attention);
  }
  if (const auto* latent = std::get_if<LatentAttentionSpec>(&sublayer.block))
    return CheckLatentAttention(weights, *latent);
  if (const auto* ffn = std::get_if<DenseFfnSpec>(&sublayer.block))
    return CheckDenseFfn(weights, *ffn);
  if (const auto* mixture = std::get_if<MixtureFfnSpec>(&sublayer.block))
    return CheckMixtureFfn(weights, *mixture, dim);
  return CheckMoeFfn(weights, std::get<MoeFfnSpec>(sublayer.block), dim);
}

absl::Status CheckLayer(const WeightStore& weights, const LayerSpec& layer, int64_t dim) {
  if (layer.depth.has_value()) {
    const auto& hidden = layer.depth->hidden;
    if (hidden.has_value()) RETURN_IF_ERROR(CheckProjection(weights, *hidden));
    RETURN_IF_ERROR(
        CheckShape(weights, layer.depth->weight, {1, hidden.has_value() ? hidden->out : dim}));
    RETURN_IF_ERROR(CheckVector(weights, layer.depth->bias, 1));
    for (const ProjectionSpec& part : layer.depth->predictor)
      RETURN_IF_ERROR(CheckProjection(weights, part));
  }
  for (const SublayerSpec& sublayer : layer.sublayers)
    RETURN_IF_ERROR(CheckSublayer(weights, sublayer, dim));
  return absl::OkStatus();
}

absl::Status CheckRepeat(const WeightStore& weights, const LayerGroupSpec& group, int64_t dim) {
  const RepeatSpec& repeat = group.repeat;
  if (repeat.injection.has_value()) RETURN_IF_ERROR(CheckProjection(weights, *repeat.injection));
  if (repeat.depth_router.has_value())
    RETURN_IF_ERROR(CheckRouter(weights, *repeat.depth_router, dim, 1));
  if (repeat.gate.has_value()) {
    RETURN_IF_ERROR(CheckProjection(weights, repeat.gate->hidden));
    RETURN_IF_ERROR(CheckProjection(weights, repeat.gate->out));
  }
  if (repeat.exit.has_value() && !repeat.exit->weight.empty()) {
    RETURN_IF_ERROR(CheckShape(weights, repeat.exit->weight, {1, dim}));
    RETURN_IF_ERROR(CheckVector(weights, repeat.exit->bias, 1));
  }
  if (repeat.signal.has_value() && !repeat.signal->step_weight.empty())
    RETURN_IF_ERROR(CheckShape(weights, repeat.signal->step_weight, {repeat.times, dim}));
  RETURN_IF_ERROR(CheckNorm(weights, repeat.norm, dim));
  return CheckNorm(weights, group.output_norm, dim);
}

}  // namespace

absl::Status CheckWeights(const ModelSpec& spec, const WeightStore& weights) {
  const StackSpec& stack = spec.decoder();
  const EmbeddingSpec& embedding = stack.embedding;
  RETURN_IF_ERROR(CheckShape(weights, embedding.weight, {embedding.vocab_size, embedding.dim}));
  if (!embedding.position_weight.empty()) {
    RETURN_IF_ERROR(
        CheckShape(weights, embedding.position_weight, {spec.max_positions, embedding.dim}));
  }
  if (!embedding.token_type_weight.empty()) {
    RETURN_IF_ERROR(CheckShape(weights, embedding.token_type_weight,
                               {embedding.num_token_types, embedding.dim}));
  }
  RETURN_IF_ERROR(CheckNorm(weights, embedding.norm, embedding.dim));
  for (const StackSpec& part : spec.stacks) {
    for (const LayerGroupSpec& group : part.groups) {
      RETURN_IF_ERROR(CheckRepeat(weights, group, embedding.dim));
      for (const LayerSpec& layer : group.layers)
        RETURN_IF_ERROR(CheckLayer(weights, layer, embedding.dim));
    }
    RETURN_IF_ERROR(CheckNorm(weights, part.final_norm, embedding.dim));
  }
  if (!spec.head.weight.empty()) {
    RETURN_IF_ERROR(CheckShape(weights, spec.head.weight, {embedding.vocab_size, embedding.dim}));
  }
  return CheckVector(weights, spec.head.bias, embedding.vocab_size);
}

}  // namespace sluice
