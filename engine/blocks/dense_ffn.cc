#include "engine/blocks/dense_ffn.h"

#include <algorithm>
#include <utility>

#include "engine/status_macros.h"

namespace sluice {

absl::StatusOr<std::unique_ptr<DenseFfn>> DenseFfn::Load(const DenseFfnSpec& spec,
                                                         WeightLoader& loader) {
  auto block = std::make_unique<DenseFfn>();
  block->spec_ = spec;
  std::vector<ProjectionSpec> up = {spec.up};
  if (spec.gated) up.insert(up.begin(), spec.gate);
  ASSIGN_OR_RETURN(block->up_, loader.Matrix(up, loader.format()));
  ASSIGN_OR_RETURN(block->up_bias_, loader.Biases(up));
  ASSIGN_OR_RETURN(block->down_, loader.Matrix(spec.down));
  ASSIGN_OR_RETURN(block->down_bias_, loader.Biases({spec.down}));
  if (spec.gated) {
    ASSIGN_OR_RETURN(block->gate_low_rank_, SoftLowRank::Load(spec.gate, loader));
  }
  ASSIGN_OR_RETURN(block->up_low_rank_, SoftLowRank::Load(spec.up, loader));
  ASSIGN_OR_RETURN(block->down_low_rank_, SoftLowRank::Load(spec.down, loader));
  ASSIGN_OR_RETURN(block->hidden_scaling_,
                   SoftScaling::Load(spec.hidden_scaling, spec.hidden, loader));
  return block;
}

void DenseFfn::Forward(const BlockInput& input, ForwardContext& context) {
  ForwardScaled(input, nullptr, context);
}

void DenseFfn::ForwardScaled(const BlockInput& input,
                             const float* row_scale,
                             ForwardContext& context) {
  const int32_t count = input.rows.count();
  const kernels::RowSet rows = kernels::AllRows(count);
  Workspace::Scope scope(context.workspace);
  const kernels::TensorView hidden = Hidden(input, context);
  context.backend.Linear({.x = hidden,
                          .x_rows = rows,
                          .weight = &down_,
                          .bias = down_bias_.data(),
                          .out = input.out,
                          .out_rows = rows,
                          .accumulate = input.accumulate,
                          .row_scale = row_scale});
  down_low_rank_.AddTo(hidden, count, input.out, context);
  context.stats.AddFlops(input.rows.origin, FlopsPerRow(false));
  context.stats.AddWeightBytes(WeightBytes());
}

kernels::TensorView DenseFfn::Hidden(const BlockInput& input, ForwardContext& context) {
  const int32_t count = input.rows.count();
  const kernels::RowSet rows = kernels::AllRows(count);
  const kernels::TensorView x = spec_.input_from_residual ? input.rows.x : input.normed;
  kernels::TensorView hidden = context.workspace.TakeMatrix(count, up_.n);
  const bool activate_apart = spec_.gated || !up_low_rank_.empty();
  context.backend.Linear({.x = x,
                          .x_rows = rows,
                          .weight = &up_,
                          .bias = up_bias_.data(),
                          .activation = activate_apart ? Activation::kNone : spec_.activation,
                          .out = hidden,
                          .out_rows = rows});
  if (spec_.gated) gate_low_rank_.AddTo(x, count, hidden.Columns(0, spec_.hidden), context);
  up_low_rank_.AddTo(x, count, hidden.Columns(up_.n - spec_.hidden, spec_.hidden), context);
  if (activate_apart) {
    const kernels::TensorView activated = hidden.Columns(0, spec_.hidden);
    context.backend.Activate({.activation = spec_.activation,
                              .gated = spec_.gated,
                              .x = hidden,
                              .rows = count,
                              .out = activated});
    hidden = activated;
  }
  hidden_scaling_.Apply(hidden, count, context);
  return hidden;
}

int64_t DenseFfn::WorkspaceBytes(int32_t max_rows) const {
  int64_t adapters = hidden_scaling_.WorkspaceBytes(max_rows);
  for (const SoftLowRank* part : low_ranks())
    adapters = std::max(adapters, part->WorkspaceBytes(max_rows));
  return Workspace::BytesFor(int64_t{max_rows} * up_.n) + adapters;
}

double DenseFfn::FlopsPerRow(bool /*dense*/) const {
  double flops =
      2.0 * static_cast<double>(up_.n * up_.k + down_.n * down_.k) + hidden_scaling_.FlopsPerRow();
  for (const SoftLowRank* part : low_ranks()) flops += part->FlopsPerRow();
  return flops;
}

int64_t DenseFfn::WeightBytes() const {
  int64_t bytes = up_.bytes() + down_.bytes() + hidden_scaling_.WeightBytes();
  for (const SoftLowRank* part : low_ranks()) bytes += part->WeightBytes();
  return bytes;
}

void DenseFfn::AddMatrices(std::vector<const kernels::PackedMatrix*>& to) const {
  to.insert(to.end(), {&up_, &down_});
}

}  // namespace sluice
