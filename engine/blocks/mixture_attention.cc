#include "engine/blocks/mixture_attention.h"

#include <algorithm>
#include <cmath>

#include "engine/status_macros.h"

namespace sluice {

using kernels::AllRows;
using kernels::RowSet;
using kernels::TensorView;

namespace {

// Swaps the two middle axes of [rows, a, b, size] into [rows, b, a, size].
void SwapAxes(const TensorView& from, int32_t a, int32_t b, int64_t size, const TensorView& to) {
  for (int64_t row = 0; row < from.rows; ++row) {
    for (int32_t i = 0; i < a; ++i) {
      for (int32_t j = 0; j < b; ++j)
        std::copy_n(from.Row(row) + (i * b + j) * size, size, to.Row(row) + (j * a + i) * size);
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<MixtureAttention>> MixtureAttention::Load(const AttentionSpec& spec,
                                                                         RopeTables& tables,
                                                                         WeightLoader& loader) {
  const RouterSpec& experts = *spec.q.experts;
  ASSIGN_OR_RETURN(ExpertRouter router, ExpertRouter::Load(experts, spec.q.in, 1, loader));
  auto block = std::make_unique<MixtureAttention>(std::move(router));
  block->spec_ = spec;
  block->dim_ = spec.q.in;
  block->tables_ = &tables;
  if (spec.rope.has_value()) block->rope_table_ = tables.Register(*spec.rope);
  if (spec.scale == 0.0f) block->spec_.scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  ASSIGN_OR_RETURN(block->kv_, loader.Matrix({spec.k, spec.v}, loader.format()));
  ASSIGN_OR_RETURN(block->kv_bias_, loader.Biases({spec.k, spec.v}));
  ASSIGN_OR_RETURN(block->queries_, loader.Stacked(spec.q, experts.num_experts));
  ASSIGN_OR_RETURN(block->outputs_, loader.Stacked(spec.o, experts.num_experts));
  ASSIGN_OR_RETURN(block->output_bias_, loader.Vector(spec.o.bias, spec.o.out));
  if (spec.relative.has_value()) RETURN_IF_ERROR(block->LoadRelative(loader));
  return block;
}

// Row d of a head's matrix is scale * table[:, M - d]: the column of a key d positions before.
absl::Status MixtureAttention::LoadRelative(WeightLoader& loader) {
  const RelativePositionSpec& relative = *spec_.relative;
  const int64_t dims = spec_.head_dim;
  const int64_t distances = relative.max_distance;
  const int64_t columns = 2 * distances + 1;
  ASSIGN_OR_RETURN(const FloatVector table, loader.Vector(relative.weight, width() * columns));
  std::vector<float> all(static_cast<size_t>(table.size));
  loader.backend().CopyToHost(table.data(), all.data(), all.size() * sizeof(float));
  std::vector<float> rows(static_cast<size_t>(distances * dims));
  for (int32_t head = 0; head < spec_.num_heads; ++head) {
    for (int64_t d = 0; d < distances; ++d) {
      for (int64_t e = 0; e < dims; ++e) {
        rows[static_cast<size_t>(d * dims + e)] =
            relative.scale * all[static_cast<size_t>((head * dims + e) * columns + distances - d)];
      }
    }
    const kernels::WeightSource source{rows.data(), kernels::DType::kF32, distances, dims, false};
    ASSIGN_OR_RETURN(kernels::PackedMatrix matrix,
                     loader.backend().Pack({&source, 1}, kernels::WeightFormat::kF32));
    relative_.push_back(std::move(matrix));
  }
  return absl::OkStatus();
}

void MixtureAttention::Forward(const BlockInput& input, ForwardContext& context) {
  Workspace::Scope scope(context.workspace);
  const kernels::KvRows rows = Store(input, context);
  const int32_t count = input.rows.count();
  if (count == 0) return;
  const Routing routing = router_.Route({.x = input.normed,
                                         .rows = &input.rows,
                                         .layer_instance = input.layer_instance,
                                         .kind = ExpertKind::kQuery},
                                        context);
  const TensorView query = Queries(input, routing, context);
  Rotate(input, query, spec_.num_heads * top_k(), context);
  const TensorView attended = context.workspace.TakeMatrix(count, query.cols);
  kernels::AttentionArgs args{
      .kv = context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class), .rows = rows};
  args.query = query;
  args.num_heads = spec_.num_heads * top_k();
  args.scale = spec_.scale;
  if (!relative_.empty()) {
    args.relative = RelativeLogits(query, context);
    args.relative_size = spec_.relative->max_distance;
  }
  args.out = attended;
  context.backend.PagedAttention(args);
  for (int32_t i = 0; i < count; ++i) {
    context.stats.AddRowFlops(input.rows.origin[i], FlopsPerSlot() * (rows.end[i] - rows.begin[i]));
  }
  Output(input, routing, attended, context);
}

kernels::KvRows MixtureAttention::Store(const BlockInput& input, ForwardContext& context) {
  const SecondStream* second = input.second;
  const Rows& stored = second == nullptr ? input.rows : second->rows;
  const RowSet fresh = second == nullptr ? AllRows(stored.count()) : second->fresh;
  const TensorView kv =
      second == nullptr ? context.workspace.TakeMatrix(stored.count(), 2 * width()) : second->kept;
  if (fresh.count > 0) {
    context.backend.Linear({.x = second == nullptr ? input.normed : input.second_normed,
                            .x_rows = AllRows(fresh.count),
                            .weight = &kv_,
                            .bias = kv_bias_.data(),
                            .out = kv,
                            .out_rows = fresh});
    context.stats.AddWeightBytes(kv_.bytes());
  }
  for (int32_t i = 0; i < fresh.count; ++i) {
    context.stats.AddRowFlops(stored.origin[fresh[i]], 2.0 * static_cast<double>(kv_.n * kv_.k));
  }
  const kernels::KvRows& all =
      context.placements.Place(input.kv.kv_class, context.batch, stored.origin, context.cache);
  Rotate(input, kv.Columns(0, width()), spec_.num_heads, context);
  context.backend.AppendKv(
      {.kv = context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class),
       .rows = all,
       .key = kv.Columns(0, width()),
       .value = kv.Columns(width(), width())});
  if (input.rows.count() == stored.count()) return all;
  // The places of the rows that ask; both lists ascend.
  const int32_t count = input.rows.count();
  int32_t* part[4];
  for (int32_t*& list : part) list = context.workspace.Take<int32_t>(count);
  for (int32_t i = 0, at = 0; i < count; ++i, ++at) {
    while (stored.origin[at] != input.rows.origin[i]) ++at;
    part[0][i] = all.sequence[at];
    part[1][i] = all.slot[at];
    part[2][i] = all.begin[at];
    part[3][i] = all.end[at];
  }
  return {part[0], part[1], part[2], part[3], count};
}

TensorView MixtureAttention::Queries(const BlockInput& input,
                                     const Routing& routing,
                                     ForwardContext& context) {
  const int32_t count = input.rows.count();
  const int32_t total = count * top_k();
  const TensorView query = context.workspace.TakeMatrix(count, top_k() * width());
  const TensorView chosen = context.workspace.TakeMatrix(count, top_k() * width());
  int32_t* x_row = context.workspace.Take<int32_t>(total);
  int32_t* out_row = context.workspace.Take<int32_t>(total);
  for (int32_t a = 0; a < total; ++a) {
    x_row[a] = a / top_k();
    out_row[a] = a;
  }
  context.backend.Fill(chosen, 0.0f);
  context.backend.ExpertLinear({.x = input.normed,
                                .weights = queries_,
                                .expert = routing.experts,
                                .x_row = x_row,
                                .out_row = out_row,
                                .count = total,
                                .out = kernels::MatrixView(chosen.data, total, width())});
  context.backend.Synchronize();
  SwapAxes(chosen, top_k(), spec_.num_heads, spec_.head_dim, query);
  context.stats.AddFlops(input.rows.origin, 2.0 * static_cast<double>(dim_ * width()) * top_k());
  context.stats.AddWeightBytes(queries_.front().bytes() *
                               std::min<int64_t>(total, router_.spec().num_experts));
  return query;
}

void MixtureAttention::Rotate(const BlockInput& input,
                              TensorView x,
                              int32_t heads,
                              ForwardContext& context) const {
  if (rope_table_ < 0) return;
  Workspace::Scope scope(context.workspace);
  TensorView table = tables_->Table(rope_table_);
  RowSet table_rows = input.rows.origin;
  const int32_t* positions = context.placements.Positions(input.kv.kv_class);
  if (positions != nullptr) {  // not the positions of the batch
    table = context.workspace.TakeMatrix(input.rows.count(), table.cols);
    table_rows = AllRows(input.rows.count());
    tables_->ComputeAt(rope_table_, positions, table, context.backend);
  }
  context.backend.Rope({.x = x,
                        .num_heads = heads,
                        .head_dim = spec_.head_dim,
                        .style = spec_.rope->style,
                        .table = table,
                        .table_rows = table_rows});
}

const float* MixtureAttention::RelativeLogits(TensorView query, ForwardContext& context) {
  const RowSet rows = AllRows(query.rows);
  const int64_t dims = spec_.head_dim;
  const int64_t distances = spec_.relative->max_distance;
  const int32_t heads = spec_.num_heads * top_k();
  const TensorView logits = context.workspace.TakeMatrix(query.rows, heads * distances);
  for (int32_t head = 0; head < heads; ++head) {
    context.backend.Linear({.x = query.Columns(head * dims, dims),
                            .x_rows = rows,
                            .weight = &relative_[static_cast<size_t>(head / top_k())],
                            .out = logits.Columns(head * distances, distances),
                            .out_rows = rows});
  }
  return logits.Row(0);
}

void MixtureAttention::Output(const BlockInput& input,
                              const Routing& routing,
                              TensorView attended,
                              ForwardContext& context) {
  const int32_t count = input.rows.count();
  const int32_t total = count * top_k();
  const TensorView by_choice = context.workspace.TakeMatrix(count, attended.cols);
  context.backend.Synchronize();
  SwapAxes(attended, spec_.num_heads, top_k(), spec_.head_dim, by_choice);
  int32_t* x_row = context.workspace.Take<int32_t>(total);
  int32_t* out_row = context.workspace.Take<int32_t>(total);
  for (int32_t a = 0; a < total; ++a) {
    x_row[a] = a;
    out_row[a] = a / top_k();
  }
  if (!input.accumulate) context.backend.Fill(input.out.Rows(0, count), 0.0f);
  context.backend.ExpertLinear({.x = kernels::MatrixView(by_choice.data, total, width()),
                                .weights = outputs_,
                                .expert = routing.experts,
                                .x_row = x_row,
                                .out_row = out_row,
                                .scale = routing.weights,
                                .count = total,
                                .out = input.out});
  AddToRows(output_bias_, count, input.out, context.backend);
  context.stats.AddFlops(input.rows.origin, 2.0 * static_cast<double>(dim_ * width()) * top_k());
  context.stats.AddWeightBytes(outputs_.front().bytes() *
                               std::min<int64_t>(total, router_.spec().num_experts));
}

int64_t MixtureAttention::WorkspaceBytes(int32_t max_rows) const {
  const int64_t choices = int64_t{max_rows} * top_k();
  const int64_t distances = spec_.relative.has_value() ? spec_.relative->max_distance : 0;
  return router_.WorkspaceBytes(max_rows) + Workspace::BytesFor(2 * max_rows * width()) +
         4 * Workspace::BytesFor(choices * width()) + 4 * Workspace::BytesFor(choices) +
         4 * Workspace::BytesFor(max_rows) +
         (spec_.rope.has_value() ? Workspace::BytesFor(max_rows * spec_.rope->rotary_dim) : 0) +
         Workspace::BytesFor(choices * spec_.num_heads * distances);
}

double MixtureAttention::FlopsPerRow(bool dense) const {
  const int32_t experts = dense ? router_.spec().num_experts : top_k();
  return router_.FlopsPerRow() + 2.0 * static_cast<double>(kv_.n * kv_.k) +
         4.0 * static_cast<double>(dim_ * width()) * experts;
}

double MixtureAttention::FlopsPerSlot() const {
  return 4.0 * static_cast<double>(width()) * top_k();  // q.k and p.v
}

int64_t MixtureAttention::WeightBytes() const {
  int64_t bytes = router_.weight_bytes() + kv_.bytes();
  for (const auto* matrices : {&queries_, &outputs_, &relative_}) {
    for (const kernels::PackedMatrix& matrix : *matrices) bytes += matrix.bytes();
  }
  return bytes;
}

}  // namespace sluice
