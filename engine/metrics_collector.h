// Folds what each step did into counters, windows and histograms. The engine thread writes once per
// step; any thread may take a snapshot. Not for names or formats (server/metrics).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/blocks/forward_stats.h"
#include "engine/clock.h"
#include "engine/metrics.h"
#include "engine/model/model.h"

namespace sluice {

class MetricsCollector {
 public:
  MetricsCollector(const Clock& clock,
                   const std::vector<LayerInstance>& instances,
                   const MetricsSnapshot::ModelFacts& facts);

  struct StepFacts {
    const ForwardStats* stats = nullptr;
    std::span<const int32_t> depths;  // layers executed, one per token
    double dense_flops = 0.0;
    absl::Duration duration;
  };
  void AddStep(const StepFacts& step);

  // Gauges as of the end of a step.
  struct Gauges {
    uint64_t running = 0, waiting = 0, paused = 0;
    uint64_t pages_total = 0, pages_used = 0;
    uint64_t preemptions = 0;
    std::vector<MetricsSnapshot::KvClass> kv_classes;
    std::optional<GpuMetrics> gpu;
  };
  void SetGauges(const Gauges& gauges);

  // A pass of draft rows to the early exit: what it spent. Its rows are no tokens yet.
  void AddDraftPass(const ForwardStats& stats);
  void CountDrafts(int64_t confirmed, int64_t rejected);
  void AddPromptTokens(int64_t count);
  void AddGeneratedTokens(int64_t count);
  void ObserveFirstToken(absl::Duration since_submit);
  void ObserveInterToken(absl::Duration since_last);
  void ObserveQueue(absl::Duration waited);
  void ObserveFinished(absl::Duration since_submit);
  void CountCancellation(const std::string& reason);
  void CountInvariantViolation(const std::string& reason);

  MetricsSnapshot Snapshot() const;

 private:
  static constexpr int kWindowSeconds = 60;
  static constexpr uint64_t kExpertWindowRows = 4096;
  // With so many choices for each expert of a fair router chance leaves one in three thousand
  // without any: exp(-8).
  static constexpr double kChoicesOfAFairExpert = 8.0;

  // Rows offered and skipped per second, for the last minute.
  struct Window {
    std::array<int64_t, kWindowSeconds> second{}, offered{}, skipped{};
    void Add(int64_t now, int64_t offered_rows, int64_t skipped_rows);
    void Sum(int64_t now, int64_t* offered_rows, int64_t* skipped_rows) const;
  };
  struct ExpertWindow {
    std::vector<uint64_t> current, previous;
    uint64_t current_rows = 0, previous_rows = 0;
  };

  int64_t Second() const { return absl::ToInt64Seconds(clock_.Now()); }
  void AddWork(const ForwardStats& stats);
  void AddExperts(const ForwardStats& stats);
  size_t ExpertIndex(const ExpertChoice& choice);
  static void Balance(const ExpertWindow& window, ExpertLayerMetrics* metrics);

  const Clock& clock_;
  const std::vector<LayerInstance> instances_;
  mutable absl::Mutex mutex_;
  MetricsSnapshot totals_ ABSL_GUARDED_BY(mutex_);
  std::vector<int32_t> depth_index_;  // layer instance -> totals_.depth_layers, -1 when not routed
  std::vector<Window> depth_windows_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<int32_t, ExpertKind>> expert_keys_ ABSL_GUARDED_BY(mutex_);
  std::vector<ExpertWindow> expert_windows_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sluice
