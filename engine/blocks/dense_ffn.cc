#include "engine/blocks/dense_ffn.h"

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
  kernels::TensorView hidden = context.workspace.TakeMatrix(count, up_.n);
  context.backend.Linear({.x = spec_.input_from_residual ? input.rows.x : input.normed,
                          .x_rows = rows,
                          .weight = &up_,
                          .bias = up_bias_.data(),
                          .activation = spec_.gated ? Activation::kNone : spec_.activation,
                          .out = hidden,
                          .out_rows = rows});
  if (spec_.gated) {
    const kernels::TensorView activated = hidden.Columns(0, spec_.hidden);
    context.backend.Activate({.activation = spec_.activation,
                              .gated = true,
                              .x = hidden,
                              .rows = count,
                              .out = activated});
    hidden = activated;
  }
  context.backend.Linear({.x = hidden,
                          .x_rows = rows,
                          .weight = &down_,
                          .bias = down_bias_.data(),
                          .out = input.out,
                          .out_rows = rows,
                          .accumulate = input.accumulate,
                          .row_scale = row_scale});
  context.stats.AddFlops(input.rows.origin, FlopsPerRow(false));
  context.stats.AddWeightBytes(WeightBytes());
}

int64_t DenseFfn::WorkspaceBytes(int32_t max_rows) const {
  return Workspace::BytesFor(int64_t{max_rows} * up_.n);
}

double DenseFfn::FlopsPerRow(bool /*dense*/) const {
  return 2.0 * static_cast<double>(up_.n * up_.k + down_.n * down_.k);
}

int64_t DenseFfn::NumParameters() const {
  return up_.n * up_.k + down_.n * down_.k + up_bias_.size + down_bias_.size;
}

}  // namespace sluice
