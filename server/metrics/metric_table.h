// Every metric Sluice exports: name, type, help and the order in which they are given up when there
// would be too many series. The only place that spells metric names. Interface, not implementation:
// boards, alert rules and autoscalers depend on these strings.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace sluice::server {

enum class Metric : uint8_t {
  kTokenLayers,
  kSkippedTokenRatio,
  kTokenDepth,
  kRouterCapacity,
  kExpertMaxOverMean,
  kExpertCv,
  kExpertEntropy,
  kExpertJain,
  kDeadExperts,
  kExpertLoadShare,
  kExpertTokens,
  kExpertDistinctPerStep,
  kExpertsDropped,
  kFlops,
  kWeightBytesRead,
  kKvPages,
  kKvBytesSaved,
  kRequests,
  kRequestsRunning,
  kRequestsWaiting,
  kRequestsPaused,
  kTimeToFirstToken,
  kInterTokenLatency,
  kRequestLatency,
  kQueueSeconds,
  kStepSeconds,
  kPromptTokens,
  kGeneratedTokens,
  kCachedPromptTokens,
  kDraftTokens,
  kPreemptions,
  kCancellations,
  kDegradedRequests,
  kUnknownRequestFields,
  kLogLinesDropped,
  kInvariantViolations,
  kEngineSteps,
  kGpuUp,
  kGpuMemory,
  kGpuMemoryTotal,
  kReady,
  kSeriesDropped,
  kBuildInfo,
  kModelInfo,
  // With --metrics-compat=vllm.
  kVllmRunning,
  kVllmWaiting,
  kVllmKvUsage,
  kVllmTimeToFirstToken,
  kVllmInterTokenLatency,
  kVllmTimePerOutputToken,
  kVllmRequestLatency,
  kVllmQueueTime,
  kVllmPromptTokens,
  kVllmGenerationTokens,
  kVllmPreemptions,
  kVllmRequestSuccess,
};
inline constexpr int kNumMetrics = 56;

enum class MetricKind : uint8_t { kCounter, kGauge, kHistogram };

struct MetricRow {
  Metric metric;
  std::string_view name;
  MetricKind kind;
  std::string_view help;
  // Families with the highest number are dropped first when the budget is exceeded; 0: never.
  int sacrifice = 0;
};

const MetricRow& RowOf(Metric metric);
std::span<const MetricRow> MetricTable();

}  // namespace sluice::server
