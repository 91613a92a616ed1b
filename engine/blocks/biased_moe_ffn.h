// Mixture-of-experts feed-forward whose experts have biases: sum over j of w_j (W2 act(W1 x + b1) +
// b2), as two ExpertLinear calls over (row, choice) pairs. Plain experts only; gated ones without
// biases are MoeFfn's.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "engine/blocks/block.h"
#include "engine/blocks/expert_router.h"

namespace sluice {

class BiasedMoeFfn final : public Block {
 public:
  static absl::StatusOr<std::unique_ptr<BiasedMoeFfn>> Load(const MoeFfnSpec& spec,
                                                            int64_t dim,
                                                            WeightLoader& loader);

  explicit BiasedMoeFfn(ExpertRouter router) : router_(std::move(router)) {}
  void Forward(const BlockInput& input, ForwardContext& context) override;
  int64_t WorkspaceBytes(int32_t max_rows) const override;
  double FlopsPerRow(bool dense) const override;
  int64_t NumParameters() const override;
  int64_t NumActiveParameters() const override;
  int64_t WeightBytes() const override;

 private:
  // The (row, choice) pairs that name a real expert, in that order.
  struct Pairs {
    int32_t* expert = nullptr;
    int32_t* row = nullptr;
    int32_t* pair = nullptr;  // 0, 1, ...
    float* weight = nullptr;
    int32_t count = 0;
  };
  Pairs Collect(const Routing& routing, const Rows& rows, ForwardContext& context) const;
  int64_t ExpertParameters() const;

  MoeFfnSpec spec_;
  int64_t dim_ = 0;
  ExpertRouter router_;
  std::vector<kernels::PackedMatrix> up_, down_;  // [experts]
  FloatVector up_bias_, down_bias_;
};

}  // namespace sluice
