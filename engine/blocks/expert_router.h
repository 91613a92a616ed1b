// RouterSpec -> which experts each row takes and with which weights. The logits are f32 whatever
// the format of the other weights, because a near tie decides which weights are read.
#pragma once

#include "engine/blocks/expert_selection.h"
#include "engine/blocks/forward_context.h"
#include "engine/blocks/weight_loader.h"
#include "engine/model/model_spec.h"

namespace sluice {

class ExpertRouter {
 public:
  // `groups`: independent choices per row (heads of SwitchHead); the weight is [groups * experts,
  // dim].
  static absl::StatusOr<ExpertRouter> Load(const RouterSpec& spec,
                                           int64_t dim,
                                           int32_t groups,
                                           WeightLoader& loader);

  // Takes the result from the arena: the caller's Scope frees it. Records the choice in the stats.
  struct Call {
    kernels::TensorView x;
    const Rows* rows = nullptr;
    int32_t layer_instance = 0;
    ExpertKind kind = ExpertKind::kFfn;
    bool record = true;  // false: the choice is not one among experts
  };
  Routing Route(const Call& call, ForwardContext& context) const;

  int64_t WorkspaceBytes(int32_t max_rows) const;
  double FlopsPerRow() const {
    return 2.0 * static_cast<double>(weight_.n * weight_.k + hidden_.n * hidden_.k);
  }
  int64_t weight_bytes() const { return weight_.bytes() + hidden_.bytes(); }
  const RouterSpec& spec() const { return spec_; }

 private:
  // [count, weight_.n], in the step's arena.
  kernels::TensorView Logits(kernels::TensorView x, int32_t count, ForwardContext& context) const;

  int64_t dim() const { return hidden_.n > 0 ? hidden_.k : weight_.k; }

  RouterSpec spec_;
  int32_t groups_ = 1;
  kernels::PackedMatrix hidden_;  // n == 0: a linear router
  kernels::PackedMatrix weight_;
  FloatVector bias_, selection_bias_, hidden_bias_;
};

}  // namespace sluice
