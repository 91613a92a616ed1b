// What the engine counts, as plain data. No Prometheus types and no metric names: server/metrics
// names them. A snapshot is a consistent copy; counters only grow.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace sluice {

// Cumulative counts per upper bound; counts has bounds.size() + 1 entries, the last is +Inf.
struct Histogram {
  std::vector<double> bounds;
  std::vector<uint64_t> counts;
  double sum = 0.0;

  Histogram() : Histogram(std::vector<double>()) {}
  explicit Histogram(std::vector<double> upper_bounds)
      : bounds(std::move(upper_bounds)), counts(bounds.size() + 1, 0) {}
  void Observe(double value) {
    size_t i = 0;
    while (i < bounds.size() && value > bounds[i]) ++i;
    ++counts[i];
    sum += value;
  }
};

// One routed (depth) layer instance, or the layers of one repeat that rows may not reach.
struct DepthLayerMetrics {
  std::string layer;  // its index, "group.repeat.index" of shared layers, or "group.repeat"
  std::optional<double> capacity;  // trained share; none: not known
  uint64_t executed = 0;
  uint64_t skipped = 0;
  double skipped_ratio_window = 0.0;  // last 60 s; 0 when nothing was offered
};

// One kind of expert choice in one layer instance.
struct ExpertLayerMetrics {
  std::string layer;
  std::string kind;              // ffn, value, output, query
  std::vector<uint64_t> tokens;  // rows per expert, cumulative
  // Over the last `window_rows` routed rows: load / fair share statistics (1.0 = fair).
  double max_over_mean = 0.0, cv = 0.0, normalized_entropy = 0.0, jain_index = 0.0;
  // Without a row in the window; 0 until its choices are so many that this is hardly chance.
  int32_t dead_experts = 0;
  uint64_t dropped = 0;  // choices that the experts' capacity refused, cumulative
  uint64_t window_rows = 0;
  std::vector<uint64_t> window_tokens;  // rows per expert in the window
  Histogram load_share;                 // expert load over fair share, sampled once per full window
  Histogram distinct_per_step;
};

// The GPU that the model runs on. Memory in bytes, as the backend counts it. The parts add up to
// the total less what --gpu-memory-fraction leaves alone.
struct GpuMetrics {
  bool up = true;  // false once it has failed for good
  int64_t total_bytes = 0;
  int64_t weight_bytes = 0, kv_cache_bytes = 0;
  int64_t scratch_bytes = 0;  // whatever else the engine took: activations, lists
  int64_t others_bytes = 0;   // in use at the start: other processes, our own CUDA context
  int64_t free_bytes = 0;     // what the engine may still take
};

struct MetricsSnapshot {
  std::vector<DepthLayerMetrics> depth_layers;
  double skipped_ratio_window_all = 0.0;
  Histogram token_depth;
  std::vector<ExpertLayerMetrics> expert_layers;
  double flops_executed = 0.0;
  double flops_dense_equivalent = 0.0;
  double weight_bytes_read = 0.0;

  struct KvClass {
    std::string name;
    double bytes_saved = 0.0;  // bytes that rows skipped by routing would have stored, now
  };
  std::vector<KvClass> kv_classes;
  uint64_t kv_pages_total = 0, kv_pages_used = 0, kv_pages_free = 0, kv_pages_cached = 0;

  std::optional<GpuMetrics> gpu;  // none on the CPU

  uint64_t requests_running = 0, requests_waiting = 0, requests_paused = 0;
  Histogram time_to_first_token_seconds, inter_token_latency_seconds, request_latency_seconds,
      queue_seconds, step_seconds;
  uint64_t prompt_tokens = 0, generated_tokens = 0, cached_prompt_tokens = 0;
  uint64_t drafts_confirmed = 0, drafts_rejected = 0;  // guessed tokens
  std::map<std::string, uint64_t> preemptions, cancellations, invariant_violations;  // by reason
  uint64_t steps = 0;

  struct ModelFacts {
    std::string family;
    int64_t layers = 0, experts = 0, parameters_total = 0, parameters_active = 0;
  } model;
};

// Bucket bounds, the same as vLLM's, so that boards made for it fit.
std::vector<double> TimeToFirstTokenBounds();
std::vector<double> InterTokenLatencyBounds();
std::vector<double> RequestLatencyBounds();
std::vector<double> StepBounds();

}  // namespace sluice
