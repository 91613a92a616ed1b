// What a step executed, counted where it happens: per row, per routed layer instance, per expert
// choice. Sized once (Reset allocates only when a limit grows); plain data for the engine's metrics
// and responses.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/tensor_view.h"

namespace sluice {

enum class ExpertKind : uint8_t { kFfn, kValue, kOutput, kQuery };
inline constexpr int kNumExpertKinds = 4;

// One expert router execution: `top_k` choices for each of `count` rows. Ids >= num_experts mean no
// expert.
struct ExpertChoice {
  int32_t layer_instance = 0;
  ExpertKind kind = ExpertKind::kFfn;
  int32_t num_experts = 0;
  int32_t top_k = 0;
  int32_t first = 0;  // into ForwardStats::expert_ids and ::expert_rows
  int32_t count = 0;
  int32_t dropped = 0;  // choices that their experts' capacity refused
};

struct DepthChoice {
  int32_t layer_instance = 0;
  int32_t offered = 0;
  int32_t executed = 0;
};

class ForwardStats {
 public:
  // Room for steps of `max_rows` rows and `max_choices` expert ids.
  void Reserve(int32_t max_rows, int32_t num_layer_instances, int64_t max_expert_ids);
  // Forgets the last step.
  void Reset(int32_t num_rows);

  void AddFlops(const kernels::RowSet& origin, double flops_per_row);
  void AddRowFlops(int32_t origin, double flops) { flops_[static_cast<size_t>(origin)] += flops; }
  void AddWeightBytes(int64_t bytes) { weight_bytes_ += static_cast<double>(bytes); }
  void CountLayer(const kernels::RowSet& origin);
  void CountRouted(int32_t layer_instance,
                   const kernels::RowSet& offered,
                   const kernels::RowSet& executed);
  // One choice of row `origin` that its expert's capacity refused.
  void CountDropped(int32_t origin) { ++dropped_[static_cast<size_t>(origin)]; }
  // `ids`: [rows, top_k].
  void RecordExperts(const ExpertChoice& choice, const kernels::RowSet& origin, const int32_t* ids);

  // Per row of the step.
  std::span<const double> flops() const { return flops_; }
  std::span<const int32_t> depth() const { return depth_; }  // layer instances executed
  std::span<const int32_t> routed_executed() const { return routed_executed_; }
  std::span<const int32_t> routed_offered() const { return routed_offered_; }
  std::span<const int32_t> dropped() const { return dropped_; }  // expert choices
  double weight_bytes() const { return weight_bytes_; }
  const std::vector<DepthChoice>& depth_choices() const { return depth_choices_; }
  const std::vector<ExpertChoice>& expert_choices() const { return expert_choices_; }
  std::span<const int32_t> expert_ids(const ExpertChoice& choice) const;
  std::span<const int32_t> expert_rows(const ExpertChoice& choice) const;
  // (row, layer instance) pairs of executed routed layers, in execution order.
  const std::vector<std::pair<int32_t, int32_t>>& taken() const { return taken_; }

 private:
  std::vector<double> flops_;
  std::vector<int32_t> depth_, routed_executed_, routed_offered_, dropped_;
  std::vector<DepthChoice> depth_choices_;
  std::vector<ExpertChoice> expert_choices_;
  std::vector<int32_t> expert_ids_, expert_rows_;
  std::vector<std::pair<int32_t, int32_t>> taken_;
  double weight_bytes_ = 0.0;
};

}  // namespace sluice
