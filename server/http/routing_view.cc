#include "server/http/routing_view.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace sluice::server {
namespace {

uint64_t Sum(const std::vector<uint64_t>& values) {
  return std::accumulate(values.begin(), values.end(), uint64_t{0});
}

// Load statistics of one window; 1.0 is a fair share.
nlohmann::json Balance(const std::vector<uint64_t>& tokens) {
  const auto total = static_cast<double>(Sum(tokens));
  const auto experts = static_cast<double>(tokens.size());
  double squares = 0.0;
  double entropy = 0.0;
  int64_t dead = 0;
  for (const uint64_t count : tokens) {
    const double share = static_cast<double>(count) / total;
    squares += share * share;
    if (count == 0) ++dead;
    if (count > 0) entropy -= share * std::log(share);
  }
  const auto most = static_cast<double>(*std::max_element(tokens.begin(), tokens.end()));
  nlohmann::json balance;
  balance["max_over_mean"] = most * experts / total;
  balance["cv"] = std::sqrt(std::max(squares * experts - 1.0, 0.0));
  balance["normalized_entropy"] = tokens.size() > 1 ? entropy / std::log(experts) : 1.0;
  balance["jain_index"] = 1.0 / (squares * experts);
  balance["dead_experts"] = dead;
  return balance;
}

}  // namespace

nlohmann::json RoutingView::Update(const MetricsSnapshot& snapshot) {
  for (const DepthLayerMetrics& layer : snapshot.depth_layers) UpdateDepth(layer);
  for (const ExpertLayerMetrics& layer : snapshot.expert_layers) UpdateExperts(layer);
  nlohmann::json depth = nlohmann::json::array();
  for (const auto& [name, window] : depth_) {
    const uint64_t rows = window.window_executed + window.window_skipped;
    if (rows == 0) continue;
    nlohmann::json row;
    row["layer"] = name;
    row["trained_capacity"] =
        window.capacity.has_value() ? nlohmann::json(*window.capacity) : nlohmann::json();
    row["window_rows"] = rows;
    row["executed"] = window.window_executed;
    row["skipped"] = window.window_skipped;
    row["skipped_ratio"] = static_cast<double>(window.window_skipped) / static_cast<double>(rows);
    depth.push_back(std::move(row));
  }
  nlohmann::json experts = nlohmann::json::array();
  for (const auto& [key, window] : experts_) {
    if (window.window_tokens.empty()) continue;
    nlohmann::json row = Balance(window.window_tokens);
    row["layer"] = window.layer;
    row["kind"] = window.kind;
    row["window_assignments"] = Sum(window.window_tokens);
    row["expert_tokens"] = window.window_tokens;
    experts.push_back(std::move(row));
  }
  nlohmann::json result;
  result["object"] = "routing";
  result["min_window_rows"] = kMinWindowRows;
  result["depth_layers"] = std::move(depth);
  result["expert_layers"] = std::move(experts);
  return result;
}

void RoutingView::UpdateDepth(const DepthLayerMetrics& layer) {
  DepthWindow& window = depth_[layer.layer];
  const uint64_t executed = layer.executed - window.executed;
  const uint64_t skipped = layer.skipped - window.skipped;
  if (executed + skipped < kMinWindowRows) return;
  window = {.executed = layer.executed,
            .skipped = layer.skipped,
            .capacity = layer.capacity,
            .window_executed = executed,
            .window_skipped = skipped};
}

void RoutingView::UpdateExperts(const ExpertLayerMetrics& layer) {
  ExpertWindow& window = experts_[layer.layer + "/" + layer.kind];
  window.layer = layer.layer;
  window.kind = layer.kind;
  window.tokens.resize(layer.tokens.size());
  std::vector<uint64_t> passed(layer.tokens.size());
  uint64_t most = 0;
  for (size_t i = 0; i < passed.size(); ++i) {
    passed[i] = layer.tokens[i] - window.tokens[i];
    most = std::max(most, passed[i]);
  }
  // A row chooses an expert at most once, so at least `most` rows passed; their sum counts each row
  // once per chosen expert. Requiring 1,000 rows per expert slot taken is the safe side of both.
  const uint64_t slots = std::max<uint64_t>(1, Sum(passed) / std::max<uint64_t>(most, 1));
  if (Sum(passed) < kMinWindowRows * slots && most < kMinWindowRows) return;
  window.tokens = layer.tokens;
  window.window_tokens = std::move(passed);
}

}  // namespace sluice::server
