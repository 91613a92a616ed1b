#include "engine/blocks/latent_attention.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/blocks/kv_rows.h"
#include "engine/status_macros.h"

namespace sluice {

using kernels::AllRows;
using kernels::MatrixView;
using kernels::PackedMatrix;
using kernels::RowSet;
using kernels::TensorView;

absl::StatusOr<std::unique_ptr<LatentAttention>> LatentAttention::Load(
    const LatentAttentionSpec& spec, RopeTables& tables, WeightLoader& loader) {
  auto block = std::make_unique<LatentAttention>();
  block->spec_ = spec;
  block->tables_ = &tables;
  block->rope_table_ = tables.Register(spec.rope);
  if (spec.scale == 0.0f) {
    const auto width = static_cast<float>(spec.nope_dim + spec.rope_dim);
    block->spec_.scale = 1.0f / std::sqrt(width);
  }
  // The file has the latent first; the op that rotates wants the rotated part first.
  ProjectionSpec latent = spec.kv_down;
  ProjectionSpec rotated = spec.kv_down;
  latent.out = spec.latent_dim;
  rotated.row_begin += spec.latent_dim;
  rotated.out = spec.rope_dim;
  std::vector<ProjectionSpec> down = {rotated, latent};
  if (spec.q_down.has_value()) down.insert(down.begin(), *spec.q_down);
  ASSIGN_OR_RETURN(block->down_, loader.Matrix(down, loader.format()));
  ASSIGN_OR_RETURN(block->down_bias_, loader.Biases(down));
  if (spec.q_norm.has_value()) {
    ASSIGN_OR_RETURN(block->q_norm_, Norm::Load(*spec.q_norm, block->rank(), loader));
  }
  ASSIGN_OR_RETURN(block->kv_norm_, Norm::Load(spec.kv_norm, spec.latent_dim, loader));
  ASSIGN_OR_RETURN(block->q_, loader.Matrix(spec.q));
  ASSIGN_OR_RETURN(block->o_, loader.Matrix(spec.o));
  ASSIGN_OR_RETURN(block->o_bias_, loader.Biases({spec.o}));
  RETURN_IF_ERROR(block->LoadHeads(loader));
  return block;
}

absl::Status LatentAttention::LoadHeads(WeightLoader& loader) {
  for (int64_t head = 0; head < spec_.num_heads; ++head) {
    ProjectionSpec part = spec_.kv_up;
    part.row_begin += head * (int64_t{spec_.nope_dim} + spec_.value_dim);
    part.out = spec_.nope_dim;
    ASSIGN_OR_RETURN(PackedMatrix key, loader.Turned(part));
    key_heads_.push_back(std::move(key));
    part.row_begin += spec_.nope_dim;
    part.out = spec_.value_dim;
    ASSIGN_OR_RETURN(PackedMatrix value, loader.Matrix(part));
    value_heads_.push_back(std::move(value));
  }
  return absl::OkStatus();
}

void LatentAttention::Forward(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  const int64_t heads = spec_.num_heads;
  Workspace::Scope scope(context.workspace);
  const Rows& stored = input.keys != nullptr ? input.keys->rows : input.rows;
  const RowSet all = AllRows(stored.count());
  TensorView down = context.workspace.TakeMatrix(stored.count(), down_.n);
  context.backend.Linear({.x = input.keys != nullptr ? input.keys->normed : input.normed,
                          .x_rows = all,
                          .weight = &down_,
                          .bias = down_bias_.data(),
                          .out = down,
                          .out_rows = all});
  const TensorView key = down.Columns(rank(), key_dim());
  const TensorView latent = key.Columns(spec_.rope_dim, spec_.latent_dim);
  kv_norm_->Apply(latent, latent, stored.count(), 0, context.backend);
  Rotate(key, 1, stored, context);
  const kernels::KvLayerView kv =
      context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class);
  const kernels::KvRows& places =
      context.placements.Place(input.kv.kv_class, context.batch, stored.origin, context.cache);
  context.backend.AppendKv({.kv = kv, .rows = places, .key = key, .value = {}});
  context.stats.AddFlops(stored.origin, KeyFlopsPerRow(false));
  context.stats.AddWeightBytes(down_.bytes());
  if (count == 0) return;

  kernels::KvRows rows = places;
  if (input.keys != nullptr) {
    rows = PartOf(places, input.keys->running, context.workspace);
    const TensorView all_down = down;
    down = context.workspace.TakeMatrix(count, rank());
    if (rank() > 0) context.backend.Gather(all_down.Columns(0, rank()), input.keys->running, down);
  }
  const TensorView query = Queries(input, down, context);
  const TensorView attended = context.workspace.TakeMatrix(count, heads * spec_.latent_dim);
  context.backend.PagedAttention({.kv = kv,
                                  .rows = rows,
                                  .query = query,
                                  .num_heads = spec_.num_heads,
                                  .scale = spec_.scale,
                                  .out = attended});
  for (int32_t i = 0; i < count; ++i) {
    const int32_t visible = rows.end[i] - rows.begin[i];
    context.stats.AddRowFlops(input.rows.origin[i], FlopsPerSlot() * visible);
  }
  const TensorView values = context.workspace.TakeMatrix(count, heads * spec_.value_dim);
  MapHeads(value_heads_, MatrixView(attended.data, count * heads, spec_.latent_dim),
           MatrixView(values.data, count * heads, spec_.value_dim), context);
  context.backend.Linear({.x = values,
                          .x_rows = AllRows(count),
                          .weight = &o_,
                          .bias = o_bias_.data(),
                          .out = input.out,
                          .out_rows = AllRows(count),
                          .accumulate = input.accumulate});
  context.stats.AddFlops(input.rows.origin, FlopsPerRow(false) - KeyFlopsPerRow(false));
  context.stats.AddWeightBytes(WeightBytes() - down_.bytes());
}

TensorView LatentAttention::Queries(const BlockInput& input,
                                    TensorView down,
                                    ForwardContext& context) const {
  const int32_t count = input.rows.count();
  const int64_t heads = spec_.num_heads;
  const int64_t width = int64_t{spec_.nope_dim} + spec_.rope_dim;
  TensorView x = input.normed;
  if (spec_.q_down.has_value()) {
    x = down.Columns(0, rank());
    if (q_norm_.has_value()) q_norm_->Apply(x, x, count, 0, context.backend);
  }
  const TensorView query = context.workspace.TakeMatrix(count, heads * key_dim());
  const TensorView q = context.workspace.TakeMatrix(count, q_.n);
  context.backend.Linear(
      {.x = x, .x_rows = AllRows(count), .weight = &q_, .out = q, .out_rows = AllRows(count)});
  const TensorView from = MatrixView(q.data, count * heads, width);
  const TensorView to = MatrixView(query.data, count * heads, key_dim());
  context.backend.Gather(from.Columns(spec_.nope_dim, spec_.rope_dim), AllRows(count * heads),
                         to.Columns(0, spec_.rope_dim));
  MapHeads(key_heads_, from.Columns(0, spec_.nope_dim),
           to.Columns(spec_.rope_dim, spec_.latent_dim), context);
  Rotate(query, spec_.num_heads, input.rows, context);
  return query;
}

void LatentAttention::Rotate(TensorView x,
                             int32_t num_heads,
                             const Rows& rows,
                             ForwardContext& context) const {
  context.backend.Rope({.x = x,
                        .num_heads = num_heads,
                        .head_dim = static_cast<int32_t>(key_dim()),
                        .style = spec_.rope.style,
                        .table = tables_->Table(rope_table_),
                        .table_rows = rows.origin});
}

void LatentAttention::MapHeads(const std::vector<PackedMatrix>& matrices,
                               TensorView x,
                               TensorView out,
                               ForwardContext& context) const {
  Workspace::Scope scope(context.workspace);
  const auto total = static_cast<int32_t>(x.rows);
  const int32_t count = total / spec_.num_heads;
  int32_t* head = context.workspace.Take<int32_t>(total);
  int32_t* row = context.workspace.Take<int32_t>(total);
  for (int32_t a = 0; a < total; ++a) {  // head by head, so that each matrix is read once
    head[a] = a / count;
    row[a] = a % count * spec_.num_heads + head[a];
  }
  context.backend.Fill(out.Rows(0, total), 0.0f);
  context.backend.ExpertLinear({.x = x,
                                .weights = matrices,
                                .expert = head,
                                .x_row = row,
                                .out_row = row,
                                .count = total,
                                .out = out});
}

int64_t LatentAttention::WorkspaceBytes(int32_t max_rows) const {
  const int64_t rows = max_rows;
  const int64_t heads = rows * spec_.num_heads;
  // With keys of more rows: the queries' part of the first projection apart, and their places.
  const int64_t apart = Workspace::BytesFor(rows * rank()) + 4 * Workspace::BytesFor(rows);
  return apart + Workspace::BytesFor(rows * down_.n) + Workspace::BytesFor(rows * q_.n) +
         Workspace::BytesFor(heads * key_dim()) + Workspace::BytesFor(heads * spec_.latent_dim) +
         Workspace::BytesFor(heads * spec_.value_dim) + 2 * Workspace::BytesFor(heads);
}

double LatentAttention::FlopsPerRow(bool /*dense*/) const {
  const int64_t absorbed =
      int64_t{spec_.num_heads} * spec_.latent_dim * (spec_.nope_dim + spec_.value_dim);
  return 2.0 * static_cast<double>(down_.n * down_.k + q_.n * q_.k + o_.n * o_.k + absorbed);
}

// The first projection with the queries' part of it, which rows that do not run waste: apart it
// would be two products in every step.
double LatentAttention::KeyFlopsPerRow(bool /*dense*/) const {
  return 2.0 * static_cast<double>(down_.n * down_.k);
}

double LatentAttention::FlopsPerSlot() const {
  return 2.0 * spec_.num_heads * static_cast<double>(key_dim() + spec_.latent_dim);
}

int64_t LatentAttention::WeightBytes() const {
  int64_t bytes = down_.bytes() + q_.bytes() + o_.bytes();
  for (const auto* heads : {&key_heads_, &value_heads_}) {
    for (const PackedMatrix& matrix : *heads) bytes += matrix.bytes();
  }
  return bytes;
}

}  // namespace sluice
