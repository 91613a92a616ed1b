#include "engine/blocks/cross_attention.h"

#include <cmath>

#include "engine/status_macros.h"

namespace sluice {

using kernels::AllRows;
using kernels::TensorView;

absl::StatusOr<std::unique_ptr<CrossAttention>> CrossAttention::Load(const AttentionSpec& spec,
                                                                     WeightLoader& loader) {
  auto block = std::make_unique<CrossAttention>();
  block->spec_ = spec;
  if (spec.scale == 0.0f) block->spec_.scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  ASSIGN_OR_RETURN(block->q_, loader.Matrix(spec.q));
  ASSIGN_OR_RETURN(block->kv_, loader.Matrix({spec.k, spec.v}, loader.format()));
  ASSIGN_OR_RETURN(block->o_, loader.Matrix(spec.o));
  ASSIGN_OR_RETURN(block->q_bias_, loader.Biases({spec.q}));
  ASSIGN_OR_RETURN(block->kv_bias_, loader.Biases({spec.k, spec.v}));
  ASSIGN_OR_RETURN(block->o_bias_, loader.Biases({spec.o}));
  return block;
}

void CrossAttention::Store(const BlockInput& input, ForwardContext& context) {
  Workspace::Scope scope(context.workspace);
  const Rows& encoded = *input.encoded;
  const kernels::RowSet all = AllRows(encoded.count());
  const kernels::KvRows& rows =
      context.placements.Place(input.kv.kv_class, context.batch, encoded.origin, context.cache);
  const TensorView kv = context.workspace.TakeMatrix(encoded.count(), kv_.n);
  context.backend.Linear({.x = encoded.x,
                          .x_rows = all,
                          .weight = &kv_,
                          .bias = kv_bias_.data(),
                          .out = kv,
                          .out_rows = all});
  const int64_t width = int64_t{spec_.num_kv_heads} * spec_.head_dim;
  context.backend.AppendKv(
      {.kv = context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class),
       .rows = rows,
       .key = kv.Columns(0, width),
       .value = kv.Columns(width, width)});
  context.stats.AddFlops(encoded.origin, 2.0 * static_cast<double>(kv_.n * kv_.k));
  context.stats.AddWeightBytes(kv_.bytes());
}

void CrossAttention::Forward(const BlockInput& input, ForwardContext& context) {
  if (input.encoded->count() > 0) Store(input, context);
  const int32_t count = input.rows.count();
  if (count == 0) return;
  Workspace::Scope scope(context.workspace);
  const kernels::RowSet all = AllRows(count);
  const kernels::KvRows& rows =
      context.placements.Look(input.kv.kv_class, context.batch, input.rows.origin, context.cache);
  const TensorView query = context.workspace.TakeMatrix(count, q_.n);
  const TensorView attended = context.workspace.TakeMatrix(count, q_.n);
  context.backend.Linear({.x = input.normed,
                          .x_rows = all,
                          .weight = &q_,
                          .bias = q_bias_.data(),
                          .out = query,
                          .out_rows = all});
  context.backend.PagedAttention(
      {.kv = context.cache.LayerView(input.kv.kv_class, input.kv.layer_in_class),
       .rows = rows,
       .query = query,
       .num_heads = spec_.num_heads,
       .scale = spec_.scale,
       .out = attended});
  context.backend.Linear({.x = attended,
                          .x_rows = all,
                          .weight = &o_,
                          .bias = o_bias_.data(),
                          .out = input.out,
                          .out_rows = all,
                          .accumulate = input.accumulate});
  for (int32_t i = 0; i < count; ++i)
    context.stats.AddRowFlops(input.rows.origin[i], FlopsPerSlot() * rows.end[i]);
  context.stats.AddFlops(input.rows.origin, 2.0 * static_cast<double>(q_.n * q_.k + o_.n * o_.k));
  context.stats.AddWeightBytes(q_.bytes() + o_.bytes());
}

int64_t CrossAttention::WorkspaceBytes(int32_t max_rows) const {
  return Workspace::BytesFor(max_rows * kv_.n) + 2 * Workspace::BytesFor(max_rows * q_.n);
}

// A decoder row's: the encoder's rows are counted where they run.
double CrossAttention::FlopsPerRow(bool) const {
  return 2.0 * static_cast<double>(q_.n * q_.k + o_.n * o_.k);
}

double CrossAttention::FlopsPerSlot() const { return 4.0 * spec_.num_heads * spec_.head_dim; }

int64_t CrossAttention::WeightBytes() const { return q_.bytes() + kv_.bytes() + o_.bytes(); }

}  // namespace sluice
