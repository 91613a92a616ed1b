#include "engine/blocks/attention.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/status_macros.h"

namespace sluice {

using kernels::AllRows;
using kernels::RowSet;
using kernels::TensorView;

namespace {

void Clip(const TensorView& x, float limit) {
  for (int64_t i = 0; i < x.rows; ++i) {
    float* row = x.Row(i);
    for (int64_t c = 0; c < x.cols; ++c) row[c] = std::clamp(row[c], -limit, limit);
  }
}

}  // namespace

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
  if (spec.position_bias.has_value()) {
    ASSIGN_OR_RETURN(block->position_bias_,
                     LoadPositionBias(*spec.position_bias, spec.mask, spec.num_heads, loader));
  }
  if (spec.sparse.has_value()) block->pattern_.emplace(*spec.sparse, spec.mask);
  return block;
}

void Attention::Forward(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  Workspace::Scope scope(context.workspace);
  const kernels::KvRows& rows =
      context.placements.Place(input.kv.kv_class, context.batch, input.rows.origin, context.cache);
  const Heads heads = Project(input, context);
  NormAndRotate(heads, input.rows, context.placements.Positions(input.kv.kv_class), context);

  const kernels::KvLayerView kv =
      context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class);
  context.backend.AppendKv({.kv = kv, .rows = rows, .key = heads.k, .value = heads.v});
  const TensorView attended =
      context.workspace.TakeMatrix(count, int64_t{spec_.num_heads} * spec_.head_dim);
  const Sight sight = Look(input, rows, context);
  kernels::AttentionArgs args{.kv = kv,
                              .rows = rows,
                              .query = heads.q,
                              .num_heads = spec_.num_heads,
                              .scale = spec_.scale,
                              .sinks = sinks_.data(),
                              .row_sinks = context.placements.Sinks(input.kv.kv_class),
                              .spans = sight.spans,
                              .num_spans = sight.num_spans,
                              .span_heads = sight.heads,
                              .out = attended};
  if (position_bias_.has_value()) {
    args.relative = position_bias_->table.data();
    args.relative_size = position_bias_->size;
    args.relative_zero = position_bias_->zero;
    args.relative_shared = true;
  }
  context.backend.PagedAttention(args);
  CountSlots(input.rows, rows, sight, context);
  ProjectOutput(input, attended, context);
  context.stats.AddFlops(input.rows.origin, DenseProjectionFlops());
  context.stats.AddWeightBytes(qkv_.bytes() + v_.bytes() + o_.bytes());
}

Attention::Sight Attention::Look(const BlockInput& input,
                                 const kernels::KvRows& rows,
                                 ForwardContext& context) const {
  if (!pattern_.has_value()) return {};
  const int32_t count = input.rows.count();
  const int32_t heads = pattern_->by_head() ? spec_.num_heads : 1;
  const int32_t num_spans = pattern_->num_spans();
  const int32_t kv_class = input.kv.kv_class;
  const int32_t* positions = context.placements.Positions(kv_class);
  auto* spans = context.workspace.Take<kernels::KvSpan>(int64_t{count} * heads * num_spans);
  for (int32_t i = 0; i < count; ++i) {
    const int32_t position =
        positions != nullptr ? positions[i]
                             : context.batch.positions[static_cast<size_t>(input.rows.origin[i])];
    const int32_t length = context.cache.Length(KvSequence{rows.sequence[i]}, kv_class);
    for (int32_t h = 0; h < heads; ++h) {
      const std::span own(spans + (int64_t{i} * heads + h) * num_spans,
                          static_cast<size_t>(num_spans));
      pattern_->Fill(position, length, h, own);
      context.placements.ToSlots(kv_class, i, own, context.cache);
    }
  }
  return {spans, num_spans, heads};
}

void Attention::CountSlots(const Rows& rows,
                           const kernels::KvRows& placed,
                           const Sight& sight,
                           ForwardContext& context) const {
  const int64_t stride = int64_t{sight.heads} * sight.num_spans;
  for (int32_t i = 0; i < rows.count(); ++i) {
    int64_t visible = sight.spans == nullptr ? placed.end[i] - placed.begin[i] : 0;
    for (int64_t s = i * stride; s < (i + 1) * stride; ++s)
      visible += sight.spans[s].end - sight.spans[s].begin;
    context.stats.AddRowFlops(rows.origin[i],
                              FlopsPerSlot() * static_cast<double>(visible) / sight.heads);
  }
}

Attention::Heads Attention::Project(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  const RowSet rows = AllRows(count);
  const int64_t q_width = int64_t{spec_.num_heads} * spec_.head_dim;
  const int64_t kv_width = int64_t{spec_.num_kv_heads} * spec_.head_dim;
  const TensorView fused = context.workspace.TakeMatrix(count, qkv_.n);
  context.backend.Linear({.x = input.normed,
                          .x_rows = rows,
                          .weight = &qkv_,
                          .bias = qkv_bias_.data(),
                          .out = fused,
                          .out_rows = rows});
  Heads heads{fused.Columns(0, q_width), fused.Columns(q_width, kv_width), {}};
  if (value_experts_.has_value()) {
    heads.v = context.workspace.TakeMatrix(count, kv_width);
    ProjectExpertValues(input, heads.v, context);
  } else if (v_.n > 0) {
    heads.v = context.workspace.TakeMatrix(count, kv_width);
    context.backend.Linear({.x = input.rows.x,
                            .x_rows = rows,
                            .weight = &v_,
                            .bias = v_bias_.data(),
                            .out = heads.v,
                            .out_rows = rows});
  } else {
    heads.v = fused.Columns(q_width + kv_width, kv_width);
  }
  return heads;
}

void Attention::NormAndRotate(const Heads& heads,
                              const Rows& rows,
                              const int32_t* positions,
                              ForwardContext& context) {
  const int64_t group = spec_.norm_per_head ? spec_.head_dim : 0;
  if (q_norm_.has_value()) q_norm_->Apply(heads.q, heads.q, rows.count(), group, context.backend);
  if (k_norm_.has_value()) k_norm_->Apply(heads.k, heads.k, rows.count(), group, context.backend);
  if (spec_.clip_qkv > 0.0f) {  // after the norms (transformers, modeling_olmoe.py)
    for (const TensorView& part : {heads.q, heads.k, heads.v}) Clip(part, spec_.clip_qkv);
  }
  if (rope_table_ < 0) return;
  TensorView table = tables_->Table(rope_table_);
  RowSet table_rows = rows.origin;
  if (positions != nullptr) {  // not the positions of the batch
    table = context.workspace.TakeMatrix(rows.count(), table.cols);
    table_rows = AllRows(rows.count());
    tables_->ComputeAt(rope_table_, positions, table, context.backend);
  }
  const auto rotate = [&](TensorView x, int32_t num_heads) {
    context.backend.Rope({.x = x,
                          .num_heads = num_heads,
                          .head_dim = spec_.head_dim,
                          .style = spec_.rope->style,
                          .table = table,
                          .table_rows = table_rows});
  };
  rotate(heads.q, spec_.num_heads);
  rotate(heads.k, spec_.num_kv_heads);
}

void Attention::ProjectExpertValues(const BlockInput& input,
                                    TensorView values,
                                    ForwardContext& context) {
  const int32_t count = input.rows.count();
  const ExpertRouter& router = value_experts_->router;
  const Routing routing = router.Route({.x = input.normed,
                                        .rows = &input.rows,
                                        .layer_instance = input.layer_instance,
                                        .kind = ExpertKind::kValue},
                                       context);
  const int32_t total = count * spec_.num_heads * routing.top_k;
  int32_t* x_row = context.workspace.Take<int32_t>(total);
  int32_t* out_row = context.workspace.Take<int32_t>(total);
  for (int32_t a = 0; a < total; ++a) {
    out_row[a] = a / routing.top_k;  // (row, head)
    x_row[a] = out_row[a] / spec_.num_heads;
  }
  const TensorView out =
      kernels::MatrixView(values.data, int64_t{count} * spec_.num_heads, spec_.head_dim);
  std::fill_n(static_cast<float*>(values.data), values.rows * values.cols, 0.0f);
  RunExperts(*value_experts_,
             {.x = spec_.value_from_residual ? input.rows.x : input.normed,
              .expert = routing.experts,
              .x_row = x_row,
              .out_row = out_row,
              .scale = routing.weights,
              .count = total,
              .out = out},
             input.rows, context);
}

void Attention::ProjectOutput(const BlockInput& input,
                              TensorView attended,
                              ForwardContext& context) {
  if (output_experts_.has_value()) return ProjectExpertOutput(input, attended, context);
  const RowSet rows = AllRows(input.rows.count());
  context.backend.Linear({.x = attended,
                          .x_rows = rows,
                          .weight = &o_,
                          .bias = o_bias_.data(),
                          .out = input.out,
                          .out_rows = rows,
                          .accumulate = input.accumulate});
}

void Attention::ProjectExpertOutput(const BlockInput& input,
                                    TensorView attended,
                                    ForwardContext& context) {
  const int32_t count = input.rows.count();
  const Routing routing = output_experts_->router.Route({.x = input.normed,
                                                         .rows = &input.rows,
                                                         .layer_instance = input.layer_instance,
                                                         .kind = ExpertKind::kOutput},
                                                        context);
  const int32_t total = count * spec_.num_heads * routing.top_k;
  int32_t* x_row = context.workspace.Take<int32_t>(total);
  int32_t* out_row = context.workspace.Take<int32_t>(total);
  for (int32_t a = 0; a < total; ++a) {
    x_row[a] = a / routing.top_k;  // (row, head)
    out_row[a] = x_row[a] / spec_.num_heads;
  }
  if (!input.accumulate) {
    for (int32_t i = 0; i < count; ++i) std::fill_n(input.out.Row(i), input.out.cols, 0.0f);
  }
  RunExperts(
      *output_experts_,
      {.x = kernels::MatrixView(attended.data, int64_t{count} * spec_.num_heads, spec_.head_dim),
       .expert = routing.experts,
       .x_row = x_row,
       .out_row = out_row,
       .scale = routing.weights,
       .count = total,
       .out = input.out},
      input.rows, context);
}

void Attention::RunExperts(const ExpertProjection& experts,
                           const kernels::ExpertLinearArgs& args,
                           const Rows& rows,
                           ForwardContext& context) const {
  kernels::ExpertLinearArgs call = args;
  call.weights = experts.matrices;
  context.backend.ExpertLinear(call);
  const kernels::PackedMatrix& one = experts.matrices.front();
  const double per_row =
      2.0 * static_cast<double>(one.n * one.k) * spec_.num_heads * experts.router.spec().top_k;
  context.stats.AddFlops(rows.origin, per_row);
  context.stats.AddWeightBytes(one.bytes() *
                               std::min<int64_t>(static_cast<int64_t>(args.count),
                                                 static_cast<int64_t>(experts.matrices.size())));
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
  return DenseProjectionFlops() + ExpertProjectionFlops(dense);
}

double Attention::FlopsPerSlot() const {
  return 4.0 * spec_.num_heads * spec_.head_dim;  // q.k and p.v
}

int64_t Attention::NumParameters() const {
  int64_t count = qkv_.n * qkv_.k + v_.n * v_.k + o_.n * o_.k + qkv_bias_.size + v_bias_.size +
                  o_bias_.size + sinks_.size;
  if (spec_.position_bias.has_value())
    count += int64_t{spec_.position_bias->num_buckets} * spec_.num_heads;
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
  int64_t bytes = qkv_.bytes() + v_.bytes() + o_.bytes();
  for (const auto* experts : {&value_experts_, &output_experts_}) {
    if (!experts->has_value()) continue;
    bytes += (*experts)->router.weight_bytes();
    for (const auto& matrix : (*experts)->matrices) bytes += matrix.bytes();
  }
  return bytes;
}

}  // namespace sluice
