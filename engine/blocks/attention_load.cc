// What an Attention is made of and what it costs; attention.cc runs it.
#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/blocks/attention.h"
#include "engine/status_macros.h"

namespace sluice {

absl::StatusOr<std::optional<Attention::ExpertProjection>> Attention::LoadExperts(
    const ProjectionSpec& projection, const AttentionSpec& spec, WeightLoader& loader) {
  if (!projection.experts.has_value()) return std::nullopt;
  const bool output = &projection == &spec.o;
  ASSIGN_OR_RETURN(ExpertRouter router,
                   ExpertRouter::Load(*projection.experts, spec.q.in, spec.num_heads, loader));
  // One expert maps dim -> head_dim for values, head_dim -> dim for outputs.
  ProjectionSpec one = projection;
  one.in = output ? spec.head_dim : projection.in;
  one.out = output ? projection.out : spec.head_dim;
  ASSIGN_OR_RETURN(auto matrices,
                   loader.Stacked(one, spec.num_heads * projection.experts->num_experts));
  return ExpertProjection{std::move(router), std::move(matrices)};
}

absl::StatusOr<Attention::Adapters> Attention::LoadAdapters(const AttentionSpec& spec,
                                                            WeightLoader& loader) {
  Adapters adapters;
  ASSIGN_OR_RETURN(adapters.q, SoftLowRank::Load(spec.q, loader));
  ASSIGN_OR_RETURN(adapters.k, SoftLowRank::Load(spec.k, loader));
  ASSIGN_OR_RETURN(adapters.v, SoftLowRank::Load(spec.v, loader));
  ASSIGN_OR_RETURN(adapters.o, SoftLowRank::Load(spec.o, loader));
  ASSIGN_OR_RETURN(adapters.k_scaling, SoftScaling::Load(spec.k.scaling, spec.k.out, loader));
  ASSIGN_OR_RETURN(adapters.v_scaling, SoftScaling::Load(spec.v.scaling, spec.v.out, loader));
  return adapters;
}

absl::StatusOr<std::unique_ptr<Attention>> Attention::Load(const AttentionSpec& spec,
                                                           RopeTables& tables,
                                                           WeightLoader& loader) {
  auto block = std::make_unique<Attention>();
  block->spec_ = spec;
  block->tables_ = &tables;
  if (spec.rope.has_value()) block->rope_table_ = tables.Register(*spec.rope);
  if (spec.scale == 0.0f) block->spec_.scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));

  ASSIGN_OR_RETURN(block->value_experts_, LoadExperts(spec.v, spec, loader));
  ASSIGN_OR_RETURN(block->output_experts_, LoadExperts(spec.o, spec, loader));
  std::vector<ProjectionSpec> fused = {spec.q, spec.k};
  if (!spec.value_from_residual && !block->value_experts_.has_value()) {
    fused.push_back(spec.v);
  } else if (!block->value_experts_.has_value()) {
    ASSIGN_OR_RETURN(block->v_, loader.Matrix(spec.v));
    ASSIGN_OR_RETURN(block->v_bias_, loader.Biases({spec.v}));
  }
  ASSIGN_OR_RETURN(block->qkv_, loader.Matrix(fused, loader.format()));
  ASSIGN_OR_RETURN(block->qkv_bias_, loader.Biases(fused));
  if (!block->output_experts_.has_value()) {
    ASSIGN_OR_RETURN(block->o_, loader.Matrix(spec.o));
    ASSIGN_OR_RETURN(block->o_bias_, loader.Biases({spec.o}));
  }
  const auto norm_size = [&](int32_t heads) {
    return spec.norm_per_head ? spec.head_dim : heads * spec.head_dim;
  };
  if (spec.q_norm.has_value()) {
    ASSIGN_OR_RETURN(block->q_norm_, Norm::Load(*spec.q_norm, norm_size(spec.num_heads), loader));
  }
  if (spec.k_norm.has_value()) {
    ASSIGN_OR_RETURN(block->k_norm_,
                     Norm::Load(*spec.k_norm, norm_size(spec.num_kv_heads), loader));
  }
  ASSIGN_OR_RETURN(block->sinks_, loader.Vector(spec.sinks, spec.num_heads));
  ASSIGN_OR_RETURN(block->adapters_, LoadAdapters(spec, loader));
  if (spec.sparse.has_value()) block->pattern_.emplace(*spec.sparse, spec.mask);
  return block;
}

int64_t Attention::WorkspaceBytes(int32_t max_rows) const {
  const int64_t q_width = int64_t{spec_.num_heads} * spec_.head_dim;
  const int64_t kv_width = int64_t{spec_.num_kv_heads} * spec_.head_dim;
  int64_t bytes = Workspace::BytesFor(max_rows * qkv_.n) + Workspace::BytesFor(max_rows * q_width) +
                  Workspace::BytesFor(max_rows * kv_width);
  if (spec_.rope.has_value())
    bytes += Workspace::BytesFor(int64_t{max_rows} * spec_.rope->rotary_dim);
  if (pattern_.has_value()) {
    const int64_t heads = pattern_->by_head() ? spec_.num_heads : 1;
    bytes += Workspace::BytesFor(max_rows * heads * pattern_->num_spans(), sizeof(kernels::KvSpan));
  }
  for (const auto* experts : {&value_experts_, &output_experts_}) {
    if (!experts->has_value()) continue;
    const int64_t total = int64_t{max_rows} * spec_.num_heads * (*experts)->router.spec().top_k;
    bytes += (*experts)->router.WorkspaceBytes(max_rows) + 2 * Workspace::BytesFor(total);
  }
  return bytes + adapters_.WorkspaceBytes(max_rows);
}

double Attention::Adapters::FlopsPerRow() const {
  double flops = 0.0;
  for (const SoftLowRank* part : low_ranks()) flops += part->FlopsPerRow();
  for (const SoftScaling* part : scalings()) flops += part->FlopsPerRow();
  return flops;
}

int64_t Attention::Adapters::NumParameters() const {
  int64_t count = 0;
  for (const SoftLowRank* part : low_ranks()) count += part->NumParameters();
  for (const SoftScaling* part : scalings()) count += part->NumParameters();
  return count;
}

int64_t Attention::Adapters::WeightBytes() const {
  int64_t bytes = 0;
  for (const SoftLowRank* part : low_ranks()) bytes += part->WeightBytes();
  for (const SoftScaling* part : scalings()) bytes += part->WeightBytes();
  return bytes;
}

int64_t Attention::Adapters::WorkspaceBytes(int32_t max_rows) const {
  int64_t bytes = 0;  // one after the other
  for (const SoftLowRank* part : low_ranks())
    bytes = std::max(bytes, part->WorkspaceBytes(max_rows));
  for (const SoftScaling* part : scalings())
    bytes = std::max(bytes, part->WorkspaceBytes(max_rows));
  return bytes;
}

double Attention::DenseProjectionFlops() const {
  return 2.0 * static_cast<double>(qkv_.n * qkv_.k + v_.n * v_.k + o_.n * o_.k);
}

double Attention::ExpertProjectionFlops(bool dense) const {
  double flops = 0.0;
  for (const auto* experts : {&value_experts_, &output_experts_}) {
    if (!experts->has_value()) continue;
    const RouterSpec& router = (*experts)->router.spec();
    const kernels::PackedMatrix& one = (*experts)->matrices.front();
    flops += (*experts)->router.FlopsPerRow() + 2.0 * static_cast<double>(one.n * one.k) *
                                                    spec_.num_heads *
                                                    (dense ? router.num_experts : router.top_k);
  }
  return flops;
}

double Attention::FlopsPerRow(bool dense) const {
  return DenseProjectionFlops() + ExpertProjectionFlops(dense) + adapters_.FlopsPerRow();
}

double Attention::FlopsPerSlot() const {
  return 4.0 * spec_.num_heads * spec_.head_dim;  // q.k and p.v
}

int64_t Attention::NumParameters() const {
  int64_t count = qkv_.n * qkv_.k + v_.n * v_.k + o_.n * o_.k + qkv_bias_.size + v_bias_.size +
                  o_bias_.size + sinks_.size + adapters_.NumParameters();
  if (q_norm_.has_value()) count += q_norm_->num_parameters();
  if (k_norm_.has_value()) count += k_norm_->num_parameters();
  for (const auto* experts : {&value_experts_, &output_experts_}) {
    if (!experts->has_value()) continue;
    count += (*experts)->router.num_parameters();
    for (const auto& matrix : (*experts)->matrices) count += matrix.n * matrix.k;
  }
  return count;
}

int64_t Attention::NumActiveParameters() const {
  int64_t count = NumParameters();
  for (const auto* experts : {&value_experts_, &output_experts_}) {
    if (!experts->has_value()) continue;
    const RouterSpec& router = (*experts)->router.spec();
    const auto& one = (*experts)->matrices.front();
    count -= one.n * one.k * spec_.num_heads * (router.num_experts - router.top_k);
  }
  return count;
}

int64_t Attention::WeightBytes() const {
  int64_t bytes = qkv_.bytes() + v_.bytes() + o_.bytes() + adapters_.WeightBytes();
  for (const auto* experts : {&value_experts_, &output_experts_}) {
    if (!experts->has_value()) continue;
    bytes += (*experts)->router.weight_bytes();
    for (const auto& matrix : (*experts)->matrices) bytes += matrix.bytes();
  }
  return bytes;
}

}  // namespace sluice
