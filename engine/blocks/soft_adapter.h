// Adapters of softly merged experts on a projection (Zadouri et al. 2023, arXiv 2309.05444): MoV
// scales what the projection gives, MoLORA adds low-rank products. The weights of the experts
// depend on the row, so nothing is folded into the base. Any may be absent: then it does nothing.
#pragma once

#include <optional>
#include <vector>

#include "engine/blocks/forward_context.h"
#include "engine/blocks/weight_loader.h"

namespace sluice {

// p of every expert for rows of one width.
class SoftRouter {
 public:
  static absl::StatusOr<SoftRouter> Load(const SoftRouterSpec& spec,
                                         int64_t width,
                                         WeightLoader& loader);
  // out: [count, num_experts].
  void Weigh(const kernels::TensorView& x,
             int32_t count,
             const kernels::TensorView& out,
             ForwardContext& context) const;
  int64_t num_experts() const { return weight_.n; }
  int64_t bytes() const { return weight_.bytes(); }

 private:
  int32_t top_k_ = 0;
  kernels::PackedMatrix weight_;
  FloatVector bias_;
};

class SoftScaling {
 public:
  static absl::StatusOr<SoftScaling> Load(const std::optional<SoftScalingSpec>& spec,
                                          int64_t width,
                                          WeightLoader& loader);
  // In place, of rows 0 to count - 1.
  void Apply(const kernels::TensorView& x, int32_t count, ForwardContext& context) const;
  int64_t WorkspaceBytes(int32_t max_rows) const;
  double FlopsPerRow() const;
  int64_t WeightBytes() const;

 private:
  int64_t run_ = 0;  // columns of a run
  std::optional<SoftRouter> router_;
  std::vector<kernels::PackedMatrix> vectors_;  // per run
};

class SoftLowRank {
 public:
  static absl::StatusOr<SoftLowRank> Load(const ProjectionSpec& projection, WeightLoader& loader);
  // out[i] += scale * sum_e p_e B_e A_e x[i].
  void AddTo(const kernels::TensorView& x,
             int32_t count,
             const kernels::TensorView& out,
             ForwardContext& context) const;
  bool empty() const { return !router_.has_value(); }
  int64_t WorkspaceBytes(int32_t max_rows) const;
  double FlopsPerRow() const;
  int64_t WeightBytes() const;

 private:
  int64_t rank_ = 0;
  float scale_ = 1.0f;
  std::optional<SoftRouter> router_;
  kernels::PackedMatrix down_;  // every expert's A: in -> num_experts * rank
  kernels::PackedMatrix up_;    // every expert's B: num_experts * rank -> out
};

}  // namespace sluice
