// One norm with its weights.
#pragma once

#include "absl/status/statusor.h"
#include "engine/blocks/forward_context.h"
#include "engine/blocks/weight_loader.h"
#include "engine/model/model_spec.h"

namespace sluice {

class Norm {
 public:
  // `size`: elements of the weight: the row's width, or one group's.
  static absl::StatusOr<Norm> Load(const NormSpec& spec, int64_t size, WeightLoader& loader);

  // out = norm(x), both [count, cols]; `group` > 0 norms each run of `group` columns by itself. In
  // place allowed.
  void Apply(kernels::TensorView x,
             kernels::TensorView out,
             int32_t count,
             int64_t group,
             kernels::Backend& backend) const;

 private:
  NormSpec spec_;
  FloatVector weight_, bias_;
};

}  // namespace sluice
