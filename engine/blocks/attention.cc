#include "engine/blocks/attention.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/blocks/kv_rows.h"
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
  return block;
}

void Attention::Forward(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  Workspace::Scope scope(context.workspace);
  const RowSet& stored = input.stored == nullptr ? input.rows.origin : input.stored->origin;
  const kernels::KvRows& places =
      context.placements.Place(input.kv.kv_class, context.batch, stored, context.cache);
  Heads heads;
  if (count > 0) {
    heads = Project(input, context);
    NormAndRotate(heads, input.rows, context.placements.Positions(input.kv.kv_class), context);
  }
  Store(input, heads, places, context);
  if (count == 0) return;
  const kernels::KvRows rows =
      input.stored == nullptr ? places : PartOf(places, input.stored->running, context.workspace);

  const kernels::KvLayerView kv =
      context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class);
  const TensorView attended =
      context.workspace.TakeMatrix(count, int64_t{spec_.num_heads} * spec_.head_dim);
  context.backend.PagedAttention({.kv = kv,
                                  .rows = rows,
                                  .query = heads.q,
                                  .num_heads = spec_.num_heads,
                                  .scale = spec_.scale,
                                  .sinks = sinks_.data(),
                                  .row_sinks = context.placements.Sinks(input.kv.kv_class),
                                  .out = attended});
  for (int32_t i = 0; i < count; ++i) {
    const int32_t visible = rows.end[i] - rows.begin[i];
    context.stats.AddRowFlops(input.rows.origin[i], FlopsPerSlot() * visible);
  }
  ProjectOutput(input, attended, context);
  const bool stores = Stores(input);
  context.stats.AddFlops(input.rows.origin, DenseProjectionFlops(stores));
  context.stats.AddWeightBytes(q_.bytes() + o_.bytes() + (stores ? qkv_.bytes() + v_.bytes() : 0));
}

// Not where the KV layer has everything already; the matrices of keys and values are then apart.
bool Attention::Stores(const BlockInput& input) const {
  return q_.n == 0 || input.stored == nullptr || input.stored->kept.cols > 0;
}

// Rows that stopped are stored as their last execution left them.
void Attention::Store(const BlockInput& input,
                      const Heads& heads,
                      const kernels::KvRows& places,
                      ForwardContext& context) {
  const kernels::KvLayerView kv =
      context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class);
  const StoredRows* stored = input.stored;
  if (stored == nullptr)
    return context.backend.AppendKv({.kv = kv, .rows = places, .key = heads.k, .value = heads.v});
  if (stored->kept.cols == 0) return;
  const int64_t width = int64_t{spec_.num_kv_heads} * spec_.head_dim;
  const auto keep = [&](const TensorView& from, int64_t column) {
    context.backend.CombineDepth({.combine = DepthCombine::kOnlyBlock,
                                  .gate = GateFunction::kOne,
                                  .y = from,
                                  .x = stored->kept.Columns(column, width),
                                  .rows = stored->kept_running});
  };
  if (stored->running.count > 0) {
    keep(heads.k, 0);
    keep(heads.v, width);
  }
  Workspace::Scope scope(context.workspace);
  TensorView kept = stored->kept;
  if (stored->origin.count < kept.rows) {
    kept = context.workspace.TakeMatrix(stored->origin.count, 2 * width);
    context.backend.Gather(stored->kept, stored->kept_origin, kept);
  }
  context.backend.AppendKv({.kv = kv,
                            .rows = places,
                            .key = kept.Columns(0, width),
                            .value = kept.Columns(width, width)});
}

Attention::Heads Attention::Project(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  const RowSet rows = AllRows(count);
  const int64_t q_width = int64_t{spec_.num_heads} * spec_.head_dim;
  const int64_t kv_width = int64_t{spec_.num_kv_heads} * spec_.head_dim;
  const auto project = [&](const kernels::PackedMatrix& weight, const FloatVector& bias) {
    const TensorView out = context.workspace.TakeMatrix(count, weight.n);
    context.backend.Linear({.x = input.normed,
                            .x_rows = rows,
                            .weight = &weight,
                            .bias = bias.data(),
                            .out = out,
                            .out_rows = rows});
    return out;
  };
  Heads heads;
  if (q_.n > 0) heads.q = project(q_, q_bias_);
  if (!Stores(input)) return heads;
  const TensorView fused = project(qkv_, qkv_bias_);
  const int64_t k_begin = q_.n > 0 ? 0 : q_width;
  if (q_.n == 0) heads.q = fused.Columns(0, q_width);
  heads.k = fused.Columns(k_begin, kv_width);
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
    heads.v = fused.Columns(k_begin + kv_width, kv_width);
  }
  return heads;
}

void Attention::NormAndRotate(const Heads& heads,
                              const Rows& rows,
                              const int32_t* positions,
                              ForwardContext& context) {
  const int64_t group = spec_.norm_per_head ? spec_.head_dim : 0;
  if (q_norm_.has_value()) q_norm_->Apply(heads.q, heads.q, rows.count(), group, context.backend);
  const bool keys = heads.k.cols > 0;
  if (keys && k_norm_.has_value())
    k_norm_->Apply(heads.k, heads.k, rows.count(), group, context.backend);
  if (spec_.clip_qkv > 0.0f) {  // after the norms (transformers, modeling_olmoe.py)
    for (const TensorView& part : {heads.q, heads.k, heads.v}) {
      if (part.cols > 0) Clip(part, spec_.clip_qkv);
    }
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
  if (keys) rotate(heads.k, spec_.num_kv_heads);
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

}  // namespace sluice
