// Mixture of Tokens (Antoniak et al. 2023, arXiv 2310.15961): every expert runs once per group of
// rows, on a mixture of them. Every row is a group of its own, together with zero rows, unless its
// request names a cohort; groups never reach beyond a cohort, so never beyond a request.
#pragma once

#include <memory>
#include <vector>

#include "engine/blocks/block.h"
#include "engine/blocks/weight_loader.h"

namespace sluice {

class MixtureFfn final : public Block {
 public:
  static absl::StatusOr<std::unique_ptr<MixtureFfn>> Load(const MixtureFfnSpec& spec,
                                                          int64_t dim,
                                                          WeightLoader& loader);

  void Forward(const BlockInput& input, ForwardContext& context) override;
  int64_t WorkspaceBytes(int32_t max_rows) const override;
  double FlopsPerRow(bool dense) const override;
  int64_t WeightBytes() const override;

 private:
  // Rows [begin[g], begin[g + 1]) of `order` are group g, in the order of their slots.
  struct Groups {
    int32_t* order = nullptr;
    int32_t* begin = nullptr;
    int32_t count = 0;
  };
  // One execution: the weights of every row and expert, [rows, num_experts], and what the rows
  // gain.
  struct Mixing {
    Groups groups;
    kernels::TensorView merge, emit, sum;
  };
  // A block of experts on a tile of groups: what is run at a time.
  struct Tile {
    int32_t first_group = 0, num_groups = 0;
    int32_t first_expert = 0, num_experts = 0;
    int32_t count() const { return num_groups * num_experts; }
  };

  Groups MakeGroups(const BlockInput& input, ForwardContext& context) const;
  void MakeWeights(const BlockInput& input, Mixing& mixing, ForwardContext& context) const;
  void WeighGroup(const Groups& groups, int32_t group, kernels::TensorView weights) const;
  void RunTile(const Tile& tile,
               const Mixing& mixing,
               const BlockInput& input,
               ForwardContext& context) const;
  void CountTile(const Tile& tile,
                 const Groups& groups,
                 const Rows& rows,
                 ForwardContext& context) const;

  MixtureFfnSpec spec_;
  kernels::PackedMatrix controller_;
  std::vector<kernels::PackedMatrix> up_, down_;  // per expert
};

}  // namespace sluice
