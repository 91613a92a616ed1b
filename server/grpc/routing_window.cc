#include "server/grpc/routing_window.h"

#include <algorithm>
#include <limits>

namespace sluice::server {
namespace {

int64_t Grown(uint64_t before, uint64_t after) {
  return after > before ? static_cast<int64_t>(after - before) : 0;
}

int64_t Sum(const std::vector<uint64_t>& counts) {
  uint64_t sum = 0;
  for (const uint64_t count : counts) sum += count;
  return static_cast<int64_t>(sum);
}

const ExpertLayerMetrics* Before(const MetricsSnapshot& before, size_t index) {
  return index < before.expert_layers.size() ? &before.expert_layers[index] : nullptr;
}

void FillDepthLayer(const MetricsSnapshot& before,
                    const MetricsSnapshot& after,
                    size_t index,
                    v1::DepthLayerWindow& window) {
  const DepthLayerMetrics& now = after.depth_layers[index];
  const bool known = index < before.depth_layers.size();
  window.set_layer(now.layer);
  window.set_capacity(now.capacity.value_or(0.0));
  window.set_executed_rows(Grown(known ? before.depth_layers[index].executed : 0, now.executed));
  window.set_skipped_rows(Grown(known ? before.depth_layers[index].skipped : 0, now.skipped));
}

void FillExpertLayer(const ExpertLayerMetrics* before,
                     const ExpertLayerMetrics& now,
                     v1::ExpertLayerWindow& window) {
  window.set_layer(now.layer);
  window.set_kind(now.kind);
  int64_t total = 0;
  int64_t most = 0;
  int32_t dead = 0;
  for (size_t expert = 0; expert < now.tokens.size(); ++expert) {
    const bool known = before != nullptr && expert < before->tokens.size();
    const int64_t rows = Grown(known ? before->tokens[expert] : 0, now.tokens[expert]);
    window.add_rows(rows);
    total += rows;
    most = std::max(most, rows);
    dead += rows == 0 ? 1 : 0;
  }
  const double mean = now.tokens.empty()
                          ? 0.0
                          : static_cast<double>(total) / static_cast<double>(now.tokens.size());
  window.set_max_over_mean(mean > 0.0 ? static_cast<double>(most) / mean : 0.0);
  window.set_dead_experts(dead);
}

}  // namespace

int64_t WindowRows(const MetricsSnapshot& before, const MetricsSnapshot& after) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < after.depth_layers.size(); ++i) {
    v1::DepthLayerWindow window;
    FillDepthLayer(before, after, i, window);
    const int64_t rows = window.executed_rows() + window.skipped_rows();
    if (rows > 0) least = std::min(least, rows);
  }
  for (size_t i = 0; i < after.expert_layers.size(); ++i) {
    const ExpertLayerMetrics* known = Before(before, i);
    const int64_t rows =
        Sum(after.expert_layers[i].tokens) - (known == nullptr ? 0 : Sum(known->tokens));
    if (rows > 0) least = std::min(least, rows);
  }
  if (least != std::numeric_limits<int64_t>::max()) return least;
  // A dense model has no routing to hide; its tokens count instead.
  return Grown(before.prompt_tokens, after.prompt_tokens) +
         Grown(before.generated_tokens, after.generated_tokens);
}

v1::RoutingWindow MakeRoutingWindow(const MetricsSnapshot& before, const MetricsSnapshot& after) {
  v1::RoutingWindow window;
  for (size_t i = 0; i < after.depth_layers.size(); ++i) {
    FillDepthLayer(before, after, i, *window.add_depth_layers());
  }
  for (size_t i = 0; i < after.expert_layers.size(); ++i) {
    FillExpertLayer(Before(before, i), after.expert_layers[i], *window.add_expert_layers());
  }
  window.set_flops(after.flops_executed - before.flops_executed);
  window.set_dense_flops(after.flops_dense_equivalent - before.flops_dense_equivalent);
  window.set_generated_tokens(Grown(before.generated_tokens, after.generated_tokens));
  return window;
}

}  // namespace sluice::server
