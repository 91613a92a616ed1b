#include "engine/metrics_collector.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace sluice {
namespace {

const char* Name(ExpertKind kind) {
  switch (kind) {
    case ExpertKind::kFfn:
      return "ffn";
    case ExpertKind::kValue:
      return "value";
    case ExpertKind::kOutput:
      return "output";
    case ExpertKind::kQuery:
      return "query";
  }
  return "ffn";
}

// A routed layer has its own numbers. Rows reach all layers of a repeat or none: one series for
// each repeat, "group.repeat".
std::string SeriesOf(const LayerInstance& instance) {
  if (instance.routed) return instance.label;
  return instance.label.substr(0, instance.label.rfind('.'));
}

std::vector<double> DepthBounds(size_t layers) {
  std::vector<double> bounds;
  const size_t step = std::max<size_t>(1, layers / 16);
  for (size_t depth = step; depth < layers; depth += step)
    bounds.push_back(static_cast<double>(depth));
  bounds.push_back(static_cast<double>(layers));
  return bounds;
}

}  // namespace

std::vector<double> TimeToFirstTokenBounds() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
          1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
}
std::vector<double> InterTokenLatencyBounds() {
  return {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
          0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
}
std::vector<double> RequestLatencyBounds() {
  return {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
          30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
}
std::vector<double> StepBounds() {
  return {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5};
}

void MetricsCollector::Window::Add(int64_t now, int64_t offered_rows, int64_t skipped_rows) {
  const auto slot = static_cast<size_t>(now % kWindowSeconds);
  if (second[slot] != now) second[slot] = now, offered[slot] = 0, skipped[slot] = 0;
  offered[slot] += offered_rows;
  skipped[slot] += skipped_rows;
}

void MetricsCollector::Window::Sum(int64_t now,
                                   int64_t* offered_rows,
                                   int64_t* skipped_rows) const {
  for (size_t slot = 0; slot < kWindowSeconds; ++slot) {
    if (now - second[slot] >= kWindowSeconds) continue;
    *offered_rows += offered[slot];
    *skipped_rows += skipped[slot];
  }
}

MetricsCollector::MetricsCollector(const Clock& clock,
                                   const std::vector<LayerInstance>& instances,
                                   const MetricsSnapshot::ModelFacts& facts)
    : clock_(clock), instances_(instances), depth_index_(instances.size(), -1) {
  totals_.token_depth = Histogram(DepthBounds(instances.size()));
  totals_.time_to_first_token_seconds = Histogram(TimeToFirstTokenBounds());
  totals_.inter_token_latency_seconds = Histogram(InterTokenLatencyBounds());
  totals_.request_latency_seconds = Histogram(RequestLatencyBounds());
  totals_.queue_seconds = Histogram(TimeToFirstTokenBounds());
  totals_.step_seconds = Histogram(StepBounds());
  totals_.model = facts;
  for (size_t i = 0; i < instances.size(); ++i) {
    if (!instances[i].routed && !instances[i].may_stop) continue;
    const std::string label = SeriesOf(instances[i]);
    // The layers of one repeat stand side by side.
    if (totals_.depth_layers.empty() || totals_.depth_layers.back().layer != label)
      totals_.depth_layers.push_back({.layer = label, .capacity = instances[i].capacity});
    depth_index_[i] = static_cast<int32_t>(totals_.depth_layers.size()) - 1;
  }
  depth_windows_.resize(totals_.depth_layers.size());
}

void MetricsCollector::AddStep(const StepFacts& step) {
  absl::MutexLock lock(&mutex_);
  ++totals_.steps;
  totals_.step_seconds.Observe(absl::ToDoubleSeconds(step.duration));
  totals_.flops_dense_equivalent += step.dense_flops;
  for (const int32_t depth : step.depths) totals_.token_depth.Observe(depth);
  mutex_.AssertHeld();
  AddWork(*step.stats);
}

void MetricsCollector::AddDraftPass(const ForwardStats& stats) {
  absl::MutexLock lock(&mutex_);
  mutex_.AssertHeld();
  AddWork(stats);
}

// What rows did, confirmed or not.
void MetricsCollector::AddWork(const ForwardStats& stats) {
  mutex_.AssertHeld();
  const int64_t now = Second();
  totals_.flops_executed += std::accumulate(stats.flops().begin(), stats.flops().end(), 0.0);
  totals_.weight_bytes_read += stats.weight_bytes();
  for (const DepthChoice& choice : stats.depth_choices()) {
    const auto index =
        static_cast<size_t>(depth_index_[static_cast<size_t>(choice.layer_instance)]);
    const int32_t skipped = choice.offered - choice.executed;
    totals_.depth_layers[index].executed += static_cast<uint64_t>(choice.executed);
    totals_.depth_layers[index].skipped += static_cast<uint64_t>(skipped);
    depth_windows_[index].Add(now, choice.offered, skipped);
  }
  AddExperts(stats);
}

void MetricsCollector::CountDrafts(int64_t confirmed, int64_t rejected) {
  absl::MutexLock lock(&mutex_);
  totals_.drafts_confirmed += static_cast<uint64_t>(confirmed);
  totals_.drafts_rejected += static_cast<uint64_t>(rejected);
}

size_t MetricsCollector::ExpertIndex(const ExpertChoice& choice) {
  mutex_.AssertHeld();
  const std::pair key(choice.layer_instance, choice.kind);
  const auto it = std::find(expert_keys_.begin(), expert_keys_.end(), key);
  if (it != expert_keys_.end()) return static_cast<size_t>(it - expert_keys_.begin());
  expert_keys_.push_back(key);
  const auto experts = static_cast<size_t>(choice.num_experts);
  ExpertLayerMetrics metrics;
  metrics.layer = instances_[static_cast<size_t>(choice.layer_instance)].label;
  metrics.kind = Name(choice.kind);
  metrics.tokens.assign(experts, 0);
  metrics.load_share = Histogram({0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0, 8.0});
  metrics.distinct_per_step = Histogram({1, 2, 4, 8, 16, 32, 64, 128, 256, 512});
  totals_.expert_layers.push_back(std::move(metrics));
  expert_windows_.push_back({std::vector<uint64_t>(experts, 0), std::vector<uint64_t>(experts, 0)});
  return expert_keys_.size() - 1;
}

void MetricsCollector::AddExperts(const ForwardStats& stats) {
  mutex_.AssertHeld();
  for (const ExpertChoice& choice : stats.expert_choices()) {
    const size_t index = ExpertIndex(choice);
    ExpertLayerMetrics& metrics = totals_.expert_layers[index];
    ExpertWindow& window = expert_windows_[index];
    std::vector<bool> seen(metrics.tokens.size(), false);
    int32_t distinct = 0;
    for (const int32_t expert : stats.expert_ids(choice)) {
      if (expert >= choice.num_experts) continue;
      const auto e = static_cast<size_t>(expert);
      ++metrics.tokens[e];
      ++window.current[e];
      distinct += seen[e] ? 0 : 1;
      seen[e] = true;
    }
    metrics.distinct_per_step.Observe(distinct);
    metrics.dropped += static_cast<uint64_t>(choice.dropped);
    window.current_rows += static_cast<uint64_t>(choice.count);
    if (window.current_rows < kExpertWindowRows) continue;
    const double total = static_cast<double>(
        std::accumulate(window.current.begin(), window.current.end(), uint64_t{0}));
    const double fair = total / static_cast<double>(window.current.size());
    for (const uint64_t load : window.current) {
      metrics.load_share.Observe(fair > 0 ? static_cast<double>(load) / fair : 0.0);
    }
    window.previous.swap(window.current);
    window.previous_rows = window.current_rows;
    std::fill(window.current.begin(), window.current.end(), 0);
    window.current_rows = 0;
  }
}

void MetricsCollector::Balance(const ExpertWindow& window, ExpertLayerMetrics* metrics) {
  std::vector<uint64_t> loads = window.current;
  for (size_t e = 0; e < loads.size(); ++e) loads[e] += window.previous[e];
  metrics->window_rows = window.current_rows + window.previous_rows;
  const double count = static_cast<double>(loads.size());
  double sum = 0.0, squares = 0.0, largest = 0.0;
  for (const uint64_t load : loads) {
    const auto value = static_cast<double>(load);
    sum += value, squares += value * value, largest = std::max(largest, value);
    metrics->dead_experts += load == 0 ? 1 : 0;
  }
  metrics->window_tokens = std::move(loads);
  const double mean = sum / count;
  if (mean < kChoicesOfAFairExpert) metrics->dead_experts = 0;
  if (sum == 0.0) return;
  metrics->max_over_mean = largest / mean;
  metrics->cv = std::sqrt(std::max(0.0, squares / count - mean * mean)) / mean;
  metrics->jain_index = sum * sum / (count * squares);
  double entropy = 0.0;
  for (const uint64_t load : metrics->window_tokens) {
    const double share = static_cast<double>(load) / sum;
    if (share > 0.0) entropy -= share * std::log(share);
  }
  metrics->normalized_entropy = count > 1 ? entropy / std::log(count) : 1.0;
}

void MetricsCollector::SetGauges(const Gauges& gauges) {
  absl::MutexLock lock(&mutex_);
  totals_.requests_running = gauges.running;
  totals_.requests_waiting = gauges.waiting;
  totals_.requests_paused = gauges.paused;
  totals_.kv_pages_total = gauges.pages_total;
  totals_.kv_pages_used = gauges.pages_used;
  totals_.kv_pages_free = gauges.pages_total - gauges.pages_used;
  totals_.kv_classes = gauges.kv_classes;
  totals_.gpu = gauges.gpu;
  totals_.preemptions["pages"] = gauges.preemptions;
}

void MetricsCollector::AddPromptTokens(int64_t count) {
  absl::MutexLock lock(&mutex_);
  totals_.prompt_tokens += static_cast<uint64_t>(count);
}
void MetricsCollector::AddGeneratedTokens(int64_t count) {
  absl::MutexLock lock(&mutex_);
  totals_.generated_tokens += static_cast<uint64_t>(count);
}
void MetricsCollector::ObserveFirstToken(absl::Duration since_submit) {
  absl::MutexLock lock(&mutex_);
  totals_.time_to_first_token_seconds.Observe(absl::ToDoubleSeconds(since_submit));
}
void MetricsCollector::ObserveInterToken(absl::Duration since_last) {
  absl::MutexLock lock(&mutex_);
  totals_.inter_token_latency_seconds.Observe(absl::ToDoubleSeconds(since_last));
}
void MetricsCollector::ObserveQueue(absl::Duration waited) {
  absl::MutexLock lock(&mutex_);
  totals_.queue_seconds.Observe(absl::ToDoubleSeconds(waited));
}
void MetricsCollector::ObserveFinished(absl::Duration since_submit) {
  absl::MutexLock lock(&mutex_);
  totals_.request_latency_seconds.Observe(absl::ToDoubleSeconds(since_submit));
}
void MetricsCollector::CountCancellation(const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  ++totals_.cancellations[reason];
}
void MetricsCollector::CountInvariantViolation(const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  ++totals_.invariant_violations[reason];
}

MetricsSnapshot MetricsCollector::Snapshot() const {
  const int64_t now = Second();
  absl::MutexLock lock(&mutex_);
  MetricsSnapshot snapshot = totals_;
  int64_t all_offered = 0, all_skipped = 0;
  for (size_t i = 0; i < depth_windows_.size(); ++i) {
    int64_t offered = 0, skipped = 0;
    depth_windows_[i].Sum(now, &offered, &skipped);
    if (offered > 0) {
      snapshot.depth_layers[i].skipped_ratio_window =
          static_cast<double>(skipped) / static_cast<double>(offered);
    }
    all_offered += offered;
    all_skipped += skipped;
  }
  if (all_offered > 0) {
    snapshot.skipped_ratio_window_all =
        static_cast<double>(all_skipped) / static_cast<double>(all_offered);
  }
  for (size_t i = 0; i < expert_windows_.size(); ++i) {
    Balance(expert_windows_[i], &snapshot.expert_layers[i]);
  }
  return snapshot;
}

}  // namespace sluice
