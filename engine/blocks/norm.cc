#include "engine/blocks/norm.h"

#include "engine/status_macros.h"

namespace sluice {

absl::StatusOr<Norm> Norm::Load(const NormSpec& spec, int64_t size, WeightLoader& loader) {
  Norm norm;
  norm.spec_ = spec;
  ASSIGN_OR_RETURN(norm.weight_, loader.Vector(spec.weight, size, spec.weight_offset));
  ASSIGN_OR_RETURN(norm.bias_, loader.Vector(spec.bias, size));
  return norm;
}

void Norm::Apply(kernels::TensorView x,
                 kernels::TensorView out,
                 int32_t count,
                 int64_t group,
                 kernels::Backend& backend) const {
  backend.Norm({.kind = spec_.kind,
                .epsilon = spec_.epsilon,
                .weight = weight_.data(),
                .bias = bias_.data(),
                .group = group,
                .x = x,
                .x_rows = kernels::AllRows(count),
                .out = out,
                .out_rows = kernels::AllRows(count)});
}

}  // namespace sluice
