// Gated and plain feed-forward: down(act(gate x) * (up x)) or down(act(up x)).
#pragma once

#include <array>
#include <memory>

#include "engine/blocks/block.h"
#include "engine/blocks/soft_adapter.h"
#include "engine/blocks/weight_loader.h"
#include "engine/model/model_spec.h"

namespace sluice {

class DenseFfn final : public Block {
 public:
  static absl::StatusOr<std::unique_ptr<DenseFfn>> Load(const DenseFfnSpec& spec,
                                                        WeightLoader& loader);

  void Forward(const BlockInput& input, ForwardContext& context) override;
  // The same, with every row's result times row_scale[i] (needs input.accumulate).
  void ForwardScaled(const BlockInput& input, const float* row_scale, ForwardContext& context);
  int64_t WorkspaceBytes(int32_t max_rows) const override;
  double FlopsPerRow(bool dense) const override;
  int64_t WeightBytes() const override;
  void AddMatrices(std::vector<const kernels::PackedMatrix*>& to) const override;

 private:
  // Rows to activated hidden rows.
  kernels::TensorView Hidden(const BlockInput& input, ForwardContext& context);
  std::array<const SoftLowRank*, 3> low_ranks() const {
    return {&gate_low_rank_, &up_low_rank_, &down_low_rank_};
  }

  DenseFfnSpec spec_;
  kernels::PackedMatrix up_;  // gate | up when gated
  kernels::PackedMatrix down_;
  FloatVector up_bias_, down_bias_;
  SoftLowRank gate_low_rank_, up_low_rank_, down_low_rank_;
  SoftScaling hidden_scaling_;
};

}  // namespace sluice
