// Mixture-of-experts feed-forward: route, run the chosen experts, combine; null experts cost
// nothing, a shared expert runs for every row. Softmax MoE, sigma-MoE and integrated MoDE differ
// only in their spec.
#pragma once

#include <memory>

#include "engine/blocks/block.h"
#include "engine/blocks/dense_ffn.h"
#include "engine/blocks/expert_router.h"

namespace sluice {

class MoeFfn final : public Block {
 public:
  static absl::StatusOr<std::unique_ptr<MoeFfn>> Load(const MoeFfnSpec& spec,
                                                      int64_t dim,
                                                      kernels::Backend& backend,
                                                      WeightLoader& loader);

  explicit MoeFfn(ExpertRouter router) : router_(std::move(router)) {}
  void Forward(const BlockInput& input, ForwardContext& context) override;
  int64_t WorkspaceBytes(int32_t max_rows) const override;
  double FlopsPerRow(bool dense) const override;
  int64_t WeightBytes() const override;
  void AddMatrices(std::vector<const kernels::PackedMatrix*>& to) const override;

 private:
  double ExpertFlops() const;
  void CountExpertWork(const Routing& routing, const Rows& rows, ForwardContext& context) const;
  void AddShared(const BlockInput& input, ForwardContext& context);

  MoeFfnSpec spec_;
  const kernels::Backend* backend_ = nullptr;  // for workspace sizes
  ExpertRouter router_;
  kernels::PackedExperts experts_;
  WeightLoader::ExpertVectors biases_;
  std::unique_ptr<DenseFfn> shared_;
  kernels::PackedMatrix shared_gate_;  // n == 0: none
  FloatVector output_bias_;
};

}  // namespace sluice
