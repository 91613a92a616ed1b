#include "server/metrics/metric_table.h"

#include <array>

namespace sluice::server {
namespace {

using enum Metric;
using enum MetricKind;

constexpr std::array<MetricRow, kNumMetrics> kTable = {{
    {kTokenLayers, "sluice_token_layers_total", kCounter,
     "Rows at layers that a row may skip or not reach, by whether the layer ran."},
    {kSkippedTokenRatio, "sluice_skipped_token_ratio", kGauge,
     "Rows skipped over rows offered at routed layers, last 60 s."},
    {kTokenDepth, "sluice_token_depth", kHistogram, "Layers executed per token."},
    {kRouterCapacity, "sluice_router_capacity", kGauge,
     "Share of rows the layer's router was trained for; no series where that is not known."},
    {kExpertMaxOverMean, "sluice_expert_load_max_over_mean", kGauge,
     "Busiest expert over the mean of its layer, recent rows; 1 is balanced.", 3},
    {kExpertCv, "sluice_expert_load_cv", kGauge,
     "Coefficient of variation of the experts' loads, recent rows.", 4},
    {kExpertEntropy, "sluice_expert_load_normalized_entropy", kGauge,
     "Entropy of the experts' loads over its maximum, recent rows; 1 is balanced.", 5},
    {kExpertJain, "sluice_expert_load_jain_index", kGauge,
     "Jain's fairness index of the experts' loads, recent rows; 1 is balanced.", 6},
    {kDeadExperts, "sluice_dead_experts", kGauge, "Experts that no recent row chose.", 2},
    {kExpertLoadShare, "sluice_expert_load_share", kHistogram,
     "Load of each expert over its fair share, sampled per window of rows.", 8},
    {kExpertTokens, "sluice_expert_tokens_total", kCounter, "Rows per expert.", 9},
    {kExpertDistinctPerStep, "sluice_expert_distinct_per_step", kHistogram,
     "Different experts used in one step.", 7},
    {kExpertsDropped, "sluice_experts_dropped_total", kCounter,
     "Expert choices of prompt rows that full experts refused (routing.mode capacity)."},
    {kFlops, "sluice_flops_total", kCounter,
     "Floating point operations done, and what the same rows would need without skipping."},
    {kWeightBytesRead, "sluice_weight_bytes_read_total", kCounter,
     "Bytes of weights that the routing made necessary to read."},
    {kKvPages, "sluice_kv_pages", kGauge, "Pages of keys and values, by state."},
    {kKvBytesSaved, "sluice_kv_bytes_saved", kGauge,
     "Bytes of keys and values that skipped rows did not store, by class.", 1},
    {kRequests, "sluice_requests_total", kCounter, "Requests answered, by API and status code."},
    {kRequestsRunning, "sluice_requests_running", kGauge, "Requests in the running batch."},
    {kRequestsWaiting, "sluice_requests_waiting", kGauge, "Requests waiting for a place."},
    {kRequestsPaused, "sluice_requests_paused", kGauge,
     "Requests paused because their reader is slow."},
    {kTimeToFirstToken, "sluice_time_to_first_token_seconds", kHistogram,
     "From arrival to the first token."},
    {kInterTokenLatency, "sluice_inter_token_latency_seconds", kHistogram,
     "Between two tokens of a request."},
    {kRequestLatency, "sluice_request_latency_seconds", kHistogram,
     "From arrival to the last token."},
    {kQueueSeconds, "sluice_queue_seconds", kHistogram, "From arrival to the first step."},
    {kStepSeconds, "sluice_step_seconds", kHistogram, "Duration of one engine step."},
    {kPromptTokens, "sluice_prompt_tokens_total", kCounter, "Prompt tokens computed."},
    {kGeneratedTokens, "sluice_generated_tokens_total", kCounter, "Tokens generated."},
    {kCachedPromptTokens, "sluice_cached_prompt_tokens_total", kCounter,
     "Prompt tokens whose keys and values were reused."},
    {kDraftTokens, "sluice_draft_tokens_total", kCounter,
     "Tokens guessed by the first layers, by whether the whole model confirmed them."},
    {kPreemptions, "sluice_preemptions_total", kCounter, "Sequences preempted, by reason."},
    {kCancellations, "sluice_cancellations_total", kCounter, "Requests cancelled, by reason."},
    {kDegradedRequests, "sluice_degraded_requests_total", kCounter,
     "Requests that ran below the capacity they asked for."},
    {kUnknownRequestFields, "sluice_unknown_request_fields_total", kCounter,
     "Request fields that nobody knows, ignored."},
    {kLogLinesDropped, "sluice_log_lines_dropped_total", kCounter,
     "Log lines dropped because the writer could not keep up."},
    {kInvariantViolations, "sluice_invariant_violations_total", kCounter,
     "Broken invariants of the engine, by reason; always a bug."},
    {kEngineSteps, "sluice_engine_steps_total", kCounter, "Steps of the engine."},
    {kGpuUp, "sluice_gpu_up", kGauge,
     "0 once the GPU has failed for good: the server ends. No series without a GPU."},
    {kGpuMemory, "sluice_gpu_memory_bytes", kGauge,
     "Memory of the GPU by use: the server's own, others' and the CUDA context's at its start, and "
     "what it may still take."},
    {kGpuMemoryTotal, "sluice_gpu_memory_total_bytes", kGauge, "Memory that the GPU has."},
    {kReady, "sluice_ready", kGauge, "1 while requests are accepted."},
    {kSeriesDropped, "sluice_metrics_series_dropped", kGauge,
     "Series left out to stay within the budget."},
    {kBuildInfo, "sluice_build_info", kGauge, "Always 1; version and kernels of this process."},
    {kModelInfo, "sluice_model_info", kGauge, "Always 1; facts about the served model."},
    {kVllmRunning, "vllm:num_requests_running", kGauge, "Requests in the running batch."},
    {kVllmWaiting, "vllm:num_requests_waiting", kGauge, "Requests waiting for a place."},
    {kVllmKvUsage, "vllm:kv_cache_usage_perc", kGauge, "Used share of KV pages; 1 is full."},
    {kVllmTimeToFirstToken, "vllm:time_to_first_token_seconds", kHistogram,
     "From arrival to the first token."},
    {kVllmInterTokenLatency, "vllm:inter_token_latency_seconds", kHistogram,
     "Between two tokens of a request."},
    {kVllmTimePerOutputToken, "vllm:time_per_output_token_seconds", kHistogram,
     "Between two tokens of a request."},
    {kVllmRequestLatency, "vllm:e2e_request_latency_seconds", kHistogram,
     "From arrival to the last token."},
    {kVllmQueueTime, "vllm:request_queue_time_seconds", kHistogram,
     "From arrival to the first step."},
    {kVllmPromptTokens, "vllm:prompt_tokens_total", kCounter, "Prompt tokens computed."},
    {kVllmGenerationTokens, "vllm:generation_tokens_total", kCounter, "Tokens generated."},
    {kVllmPreemptions, "vllm:num_preemptions_total", kCounter, "Sequences preempted."},
    {kVllmRequestSuccess, "vllm:request_success_total", kCounter, "Requests that ended well."},
}};

constexpr bool IsInOrder() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<size_t>(kTable[i].metric) != i) return false;
  }
  return true;
}
static_assert(IsInOrder(), "rows stand in the order of the enum");

}  // namespace

const MetricRow& RowOf(Metric metric) { return kTable[static_cast<size_t>(metric)]; }
std::span<const MetricRow> MetricTable() { return kTable; }

}  // namespace sluice::server
