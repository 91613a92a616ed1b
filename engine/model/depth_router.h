// Mixture-of-Depths: which rows take a layer (Raposo et al. 2024, arXiv 2404.02258; models.md 1.2).
// Decides per row by the router's or a predictor's threshold, or by top-k over one request's
// prompt; a request may move the threshold with its capacity knob. Never looks across sequences.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/blocks/weight_loader.h"
#include "engine/model/rows.h"

namespace sluice {

class DepthRouter {
 public:
  static absl::StatusOr<DepthRouter> Load(const DepthRouterSpec& spec,
                                          int64_t dim,
                                          WeightLoader& loader);

  // Takes the selection from the arena. `rows`: what router and predictor read. `candidates`: per
  // row of the batch, whether a nested router may take it; null: all.
  Selection Select(const Rows& rows,
                   int32_t layer_instance,
                   const uint8_t* candidates,
                   ForwardContext& context) const;

  const DepthRouterSpec& spec() const { return spec_; }
  int64_t WorkspaceBytes(int32_t max_rows) const;
  double FlopsPerRow() const;
  int64_t WeightBytes() const;

 private:
  float Threshold(const RowRouting& routing) const;
  DepthDecide Decide(const RowRouting& routing, bool is_prompt) const;
  float* RouterScores(const Rows& rows, ForwardContext& context) const;
  float* PredictorScores(const Rows& rows, ForwardContext& context) const;
  DepthDecide DecideOf(int32_t row, const Batch& batch) const;
  void AveragePrompts(const Rows& rows, const Batch& batch, float* scores) const;
  int32_t NumTaken(float capacity, int32_t rows) const;
  void SelectTopKPrompt(const Rows& rows,
                        const uint8_t* candidates,
                        const float* scores,
                        float* thresholds,
                        ForwardContext& context) const;
  void SoftmaxOverSelected(const Rows& rows,
                           const kernels::RowSet& selected,
                           const Batch& batch,
                           float* scores) const;
  GateFunction ScaleGates(float* scores, int32_t count) const;

  DepthRouterSpec spec_;
  kernels::PackedMatrix hidden_;  // n == 0: a linear router
  kernels::PackedMatrix router_;
  FloatVector hidden_bias_, bias_;
  std::vector<kernels::PackedMatrix> predictor_;
  std::vector<FloatVector> predictor_bias_;
};

}  // namespace sluice
