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

void Attention::Forward(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  Workspace::Scope scope(context.workspace);
  const RowSet* running = nullptr;  // of the stored rows; null: all
  if (input.stored != nullptr) running = &input.stored->running;
  if (input.keys != nullptr) running = &input.keys->running;
  const RowSet& stored = input.stored != nullptr ? input.stored->origin
                         : input.keys != nullptr ? input.keys->rows.origin
                                                 : input.rows.origin;
  const kernels::KvRows& places =
      context.placements.Place(input.kv.kv_class, context.batch, stored, context.cache);
  Heads heads;
  if (input.keys != nullptr) StoreKeyRows(input, places, context);
  if (count > 0) {
    heads = Project(input, context);
    Adapt(input, heads, context);
    NormAndRotate(heads, input.rows, context.placements.Positions(input.kv.kv_class), context);
  }
  if (input.keys == nullptr) Store(input, heads, places, context);
  if (count == 0) return;
  const kernels::KvRows rows =
      running == nullptr ? places : PartOf(places, *running, context.workspace);

  const kernels::KvLayerView kv =
      context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class);
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
  adapters_.o.AddTo(attended, count, input.out, context);
  const bool stores = Stores(input);
  context.stats.AddFlops(input.rows.origin,
                         DenseProjectionFlops(stores) + adapters_.FlopsPerRow(stores));
  context.stats.AddWeightBytes(q_.bytes() + o_.bytes() + (stores ? qkv_.bytes() + v_.bytes() : 0) +
                               adapters_.WeightBytes(stores));
}

// Not where the KV layer has everything already; the matrices of keys and values are then apart.
bool Attention::Stores(const BlockInput& input) const {
  if (q_.n == 0) return true;
  return input.keys == nullptr && (input.stored == nullptr || input.stored->kept.cols > 0);
}

// Keys and values of every row, whoever runs.
void Attention::StoreKeyRows(const BlockInput& input,
                             const kernels::KvRows& places,
                             ForwardContext& context) {
  SLUICE_CHECK(q_.n > 0 && input.stored == nullptr);
  Workspace::Scope scope(context.workspace);
  const Rows& rows = input.keys->rows;
  const BlockInput all{.rows = rows,
                       .normed = input.keys->normed,
                       .kv = input.kv,
                       .layer_instance = input.layer_instance};
  Heads heads;
  ProjectKeys(all, Linear(qkv_, qkv_bias_, all.normed, context), heads, context);
  Adapt(all, heads, context);
  NormAndRotate(heads, rows, nullptr, context);
  Store(all, heads, places, context);
  context.stats.AddFlops(rows.origin, KeyFlops());
  context.stats.AddWeightBytes(KeyBytes());
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
      context.placements.ToSlots(kv_class, KvSequence{rows.sequence[i]}, rows.end[i], own,
                                 context.cache);
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

TensorView Attention::Linear(const kernels::PackedMatrix& weight,
                             const FloatVector& bias,
                             TensorView x,
                             ForwardContext& context) const {
  const RowSet rows = AllRows(static_cast<int32_t>(x.rows));
  const TensorView out = context.workspace.TakeMatrix(x.rows, weight.n);
  context.backend.Linear({.x = x,
                          .x_rows = rows,
                          .weight = &weight,
                          .bias = bias.data(),
                          .out = out,
                          .out_rows = rows});
  return out;
}

Attention::Heads Attention::Project(const BlockInput& input, ForwardContext& context) {
  Heads heads;
  if (q_.n > 0) heads.q = Linear(q_, q_bias_, input.normed, context);
  if (!Stores(input)) return heads;
  TensorView keys = Linear(qkv_, qkv_bias_, input.normed, context);
  if (q_.n == 0) {
    const int64_t q_width = int64_t{spec_.num_heads} * spec_.head_dim;
    heads.q = keys.Columns(0, q_width);
    keys = keys.Columns(q_width, keys.cols - q_width);
  }
  ProjectKeys(input, keys, heads, context);
  return heads;
}

// `keys`: the fused keys, with the values behind them where those read the same rows.
void Attention::ProjectKeys(const BlockInput& input,
                            TensorView keys,
                            Heads& heads,
                            ForwardContext& context) {
  const int64_t kv_width = int64_t{spec_.num_kv_heads} * spec_.head_dim;
  heads.k = keys.Columns(0, kv_width);
  if (value_experts_.has_value()) {
    heads.v = context.workspace.TakeMatrix(input.rows.count(), kv_width);
    ProjectExpertValues(input, heads.v, context);
  } else if (v_.n > 0) {
    heads.v = Linear(v_, v_bias_, input.rows.x, context);
  } else {
    heads.v = keys.Columns(kv_width, kv_width);
  }
}

void Attention::Adapt(const BlockInput& input, const Heads& heads, ForwardContext& context) const {
  const int32_t count = input.rows.count();
  if (heads.q.cols > 0) adapters_.q.AddTo(input.normed, count, heads.q, context);
  if (heads.k.cols == 0) return;  // the KV layer has them already
  adapters_.k.AddTo(input.normed, count, heads.k, context);
  adapters_.v.AddTo(spec_.value_from_residual ? input.rows.x : input.normed, count, heads.v,
                    context);
  adapters_.k_scaling.Apply(heads.k, count, context);
  adapters_.v_scaling.Apply(heads.v, count, context);
}

void Attention::NormAndRotate(const Heads& heads,
                              const Rows& rows,
                              const int32_t* positions,
                              ForwardContext& context) {
  const int64_t group = spec_.norm_per_head ? spec_.head_dim : 0;
  const bool queries = heads.q.cols > 0;
  const bool keys = heads.k.cols > 0;
  if (queries && q_norm_.has_value())
    q_norm_->Apply(heads.q, heads.q, rows.count(), group, context.backend);
  if (keys && k_norm_.has_value())
    k_norm_->Apply(heads.k, heads.k, rows.count(), group, context.backend);
  if (spec_.clip_qkv > 0.0f) {  // after the norms (transformers, modeling_olmoe.py)
    context.backend.Synchronize();
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
  if (queries) rotate(heads.q, spec_.num_heads);
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
  context.backend.Fill(values, 0.0f);
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
  if (!input.accumulate) context.backend.Fill(input.out.Rows(0, count), 0.0f);
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
