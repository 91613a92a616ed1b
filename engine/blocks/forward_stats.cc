#include "engine/blocks/forward_stats.h"

#include <algorithm>

namespace sluice {

using kernels::RowSet;

void ForwardStats::Reserve(int32_t max_rows, int32_t num_layer_instances, int64_t max_expert_ids) {
  const auto rows = static_cast<size_t>(max_rows);
  const auto layers = static_cast<size_t>(num_layer_instances);
  for (auto* list : {&depth_, &routed_executed_, &routed_offered_, &dropped_}) list->reserve(rows);
  flops_.reserve(rows);
  depth_choices_.reserve(layers);
  // Every choice names at least one expert of a row.
  expert_choices_.reserve(static_cast<size_t>(max_expert_ids / std::max(max_rows, 1)));
  expert_ids_.reserve(static_cast<size_t>(max_expert_ids));
  expert_rows_.reserve(static_cast<size_t>(max_expert_ids));
  taken_.reserve(rows * layers);
}

void ForwardStats::Reset(int32_t num_rows) {
  const auto rows = static_cast<size_t>(num_rows);
  flops_.assign(rows, 0.0);
  depth_.assign(rows, 0);
  routed_executed_.assign(rows, 0);
  routed_offered_.assign(rows, 0);
  dropped_.assign(rows, 0);
  depth_choices_.clear();
  expert_choices_.clear();
  expert_ids_.clear();
  expert_rows_.clear();
  taken_.clear();
  weight_bytes_ = 0.0;
}

void ForwardStats::AddFlops(const RowSet& origin, double flops_per_row) {
  for (int32_t i = 0; i < origin.count; ++i)
    flops_[static_cast<size_t>(origin[i])] += flops_per_row;
}

void ForwardStats::CountLayer(const RowSet& origin) {
  for (int32_t i = 0; i < origin.count; ++i) ++depth_[static_cast<size_t>(origin[i])];
}

void ForwardStats::CountRouted(int32_t layer_instance,
                               const RowSet& offered,
                               const RowSet& executed) {
  depth_choices_.push_back({layer_instance, offered.count, executed.count});
  for (int32_t i = 0; i < offered.count; ++i) ++routed_offered_[static_cast<size_t>(offered[i])];
  for (int32_t i = 0; i < executed.count; ++i) {
    ++routed_executed_[static_cast<size_t>(executed[i])];
    taken_.emplace_back(executed[i], layer_instance);
  }
}

void ForwardStats::RecordExperts(const ExpertChoice& choice,
                                 const RowSet& origin,
                                 const int32_t* ids) {
  ExpertChoice recorded = choice;
  recorded.first = static_cast<int32_t>(expert_ids_.size());
  recorded.count = origin.count;
  for (int32_t i = 0; i < origin.count; ++i) {
    for (int32_t j = 0; j < choice.top_k; ++j) {
      expert_ids_.push_back(ids[i * choice.top_k + j]);
      expert_rows_.push_back(origin[i]);
    }
  }
  expert_choices_.push_back(recorded);
}

std::span<const int32_t> ForwardStats::expert_ids(const ExpertChoice& choice) const {
  return std::span(expert_ids_)
      .subspan(static_cast<size_t>(choice.first), static_cast<size_t>(choice.count * choice.top_k));
}

std::span<const int32_t> ForwardStats::expert_rows(const ExpertChoice& choice) const {
  return std::span(expert_rows_)
      .subspan(static_cast<size_t>(choice.first), static_cast<size_t>(choice.count * choice.top_k));
}

}  // namespace sluice
