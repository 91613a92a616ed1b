// What an Attention is made of; attention.cc runs it.
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
                                                           WeightLoader& loader,
                                                           bool query_apart) {
  auto block = std::make_unique<Attention>();
  block->spec_ = spec;
  block->tables_ = &tables;
  if (spec.rope.has_value()) block->rope_table_ = tables.Register(*spec.rope);
  if (spec.scale == 0.0f) block->spec_.scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));

  ASSIGN_OR_RETURN(block->value_experts_, LoadExperts(spec.v, spec, loader));
  ASSIGN_OR_RETURN(block->output_experts_, LoadExperts(spec.o, spec, loader));
  std::vector<ProjectionSpec> fused;
  if (query_apart) {
    ASSIGN_OR_RETURN(block->q_, loader.Matrix(spec.q));
    ASSIGN_OR_RETURN(block->q_bias_, loader.Biases({spec.q}));
  } else {
    fused.push_back(spec.q);
  }
  fused.push_back(spec.k);
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
  if (spec.position_bias.has_value()) {
    ASSIGN_OR_RETURN(block->position_bias_,
                     LoadPositionBias(*spec.position_bias, spec.mask, spec.num_heads, loader));
  }
  if (spec.sparse.has_value()) block->pattern_.emplace(*spec.sparse, spec.mask);
  return block;
}

}  // namespace sluice
