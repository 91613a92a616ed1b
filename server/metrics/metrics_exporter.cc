#include "server/metrics/metrics_exporter.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "server/metrics/family_list.h"

namespace sluice::server {
namespace {

using enum Metric;

// `usual` reasons are there from the first scrape on, because a rate needs a start.
void AddByReason(Metric metric,
                 std::initializer_list<const char*> usual,
                 std::map<std::string, uint64_t> counts,
                 FamilyList& list) {
  for (const char* reason : usual) counts.try_emplace(reason, 0);
  uint64_t others = 0;
  size_t shown = 0;
  for (const auto& [reason, count] : counts) {
    // Reasons are constants of ours; the bound is there in case one is not.
    if (++shown <= 16) {
      list.Add(metric, count, {{"reason", reason}});
    } else {
      others += count;
    }
  }
  if (others > 0) list.Add(metric, others, {{"reason", "_other"}});
}

void AddDepth(const MetricsSnapshot& snapshot, FamilyList& list) {
  for (const DepthLayerMetrics& layer : snapshot.depth_layers) {
    list.Add(kTokenLayers, layer.executed, {{"layer", layer.layer}, {"outcome", "executed"}});
    list.Add(kTokenLayers, layer.skipped, {{"layer", layer.layer}, {"outcome", "skipped"}});
  }
  for (const DepthLayerMetrics& layer : snapshot.depth_layers) {
    list.Add(kSkippedTokenRatio, layer.skipped_ratio_window, {{"layer", layer.layer}});
  }
  if (!snapshot.depth_layers.empty()) {
    list.Add(kSkippedTokenRatio, snapshot.skipped_ratio_window_all, {{"layer", "all"}});
  }
  for (const DepthLayerMetrics& layer : snapshot.depth_layers) {
    if (layer.capacity.has_value())
      list.Add(kRouterCapacity, *layer.capacity, {{"layer", layer.layer}});
  }
  list.Add(kTokenDepth, snapshot.token_depth);
}

void AddExpertLayer(const ExpertLayerMetrics& layer, FamilyList& list) {
  const Labels labels = {{"layer", layer.layer}, {"kind", layer.kind}};
  list.Add(kExpertMaxOverMean, layer.max_over_mean, labels);
  list.Add(kExpertCv, layer.cv, labels);
  list.Add(kExpertEntropy, layer.normalized_entropy, labels);
  list.Add(kExpertJain, layer.jain_index, labels);
  list.Add(kDeadExperts, static_cast<double>(layer.dead_experts), labels);
  list.Add(kExpertLoadShare, layer.load_share, labels);
  list.Add(kExpertDistinctPerStep, layer.distinct_per_step, labels);
}

// Of layers whose experts may refuse rows: a rate needs a start.
void AddDropped(const MetricsSnapshot& snapshot, const ModelCard& card, FamilyList& list) {
  const std::vector<std::string>& modes = card.routing_modes;
  const bool may_drop = std::find(modes.begin(), modes.end(), "capacity") != modes.end();
  for (const ExpertLayerMetrics& layer : snapshot.expert_layers) {
    if (layer.dropped > 0 || (may_drop && layer.kind == "ffn"))
      list.Add(kExpertsDropped, layer.dropped, {{"layer", layer.layer}});
  }
}

void AddExperts(const MetricsSnapshot& snapshot, const MetricsOptions& options, FamilyList& list) {
  size_t pairs = 0;
  for (const ExpertLayerMetrics& layer : snapshot.expert_layers) {
    AddExpertLayer(layer, list);
    pairs += layer.tokens.size();
  }
  const bool exports_each =
      options.expert_series == ExpertSeries::kFull ||
      (options.expert_series == ExpertSeries::kAuto && pairs <= options.max_auto_expert_series);
  if (!exports_each) return;
  for (const ExpertLayerMetrics& layer : snapshot.expert_layers) {
    for (size_t expert = 0; expert < layer.tokens.size(); ++expert) {
      list.Add(kExpertTokens, layer.tokens[expert],
               {{"layer", layer.layer}, {"kind", layer.kind}, {"expert", absl::StrCat(expert)}});
    }
  }
}

void AddWork(const MetricsSnapshot& snapshot, FamilyList& list) {
  list.Add(kFlops, snapshot.flops_executed, {{"kind", "executed"}});
  list.Add(kFlops, snapshot.flops_dense_equivalent, {{"kind", "dense_equivalent"}});
  list.Add(kWeightBytesRead, snapshot.weight_bytes_read);
  list.Add(kKvPages, snapshot.kv_pages_used, {{"state", "used"}});
  list.Add(kKvPages, snapshot.kv_pages_free, {{"state", "free"}});
  list.Add(kKvPages, snapshot.kv_pages_cached, {{"state", "cached"}});
  for (const MetricsSnapshot::KvClass& kv : snapshot.kv_classes) {
    list.Add(kKvBytesSaved, kv.bytes_saved, {{"class", kv.name}});
  }
  list.Add(kEngineSteps, snapshot.steps);
  list.Add(kPromptTokens, snapshot.prompt_tokens);
  list.Add(kGeneratedTokens, snapshot.generated_tokens);
  list.Add(kCachedPromptTokens, snapshot.cached_prompt_tokens);
  list.Add(kDraftTokens, snapshot.drafts_confirmed, {{"outcome", "confirmed"}});
  list.Add(kDraftTokens, snapshot.drafts_rejected, {{"outcome", "rejected"}});
  AddByReason(kPreemptions, {"pages"}, snapshot.preemptions, list);
  AddByReason(kCancellations, {"disconnect", "deadline", "slow_consumer"}, snapshot.cancellations,
              list);
  AddByReason(kInvariantViolations, {"integrity", "no_progress"}, snapshot.invariant_violations,
              list);
}

void AddGpu(const GpuMetrics& gpu, FamilyList& list) {
  list.Add(kGpuUp, gpu.up ? 1.0 : 0.0);
  const auto add = [&](const char* kind, int64_t bytes) {
    list.Add(kGpuMemory, static_cast<double>(bytes), {{"kind", kind}});
  };
  add("weights", gpu.weight_bytes);
  add("kv_cache", gpu.kv_cache_bytes);
  add("scratch", gpu.scratch_bytes);
  add("others", gpu.others_bytes);
  add("free", gpu.free_bytes);
  list.Add(kGpuMemoryTotal, static_cast<double>(gpu.total_bytes));
}

void AddRequests(const MetricsSnapshot& snapshot, FamilyList& list) {
  list.Add(kRequestsRunning, snapshot.requests_running);
  list.Add(kRequestsWaiting, snapshot.requests_waiting);
  list.Add(kRequestsPaused, snapshot.requests_paused);
  list.Add(kTimeToFirstToken, snapshot.time_to_first_token_seconds);
  list.Add(kInterTokenLatency, snapshot.inter_token_latency_seconds);
  list.Add(kRequestLatency, snapshot.request_latency_seconds);
  list.Add(kQueueSeconds, snapshot.queue_seconds);
  list.Add(kStepSeconds, snapshot.step_seconds);
}

void AddModel(const MetricsSnapshot::ModelFacts& facts, const ModelCard& card, FamilyList& list) {
  list.Add(kModelInfo, 1.0,
           {{"model", card.id},
            {"family", card.family},
            {"fingerprint", card.fingerprint},
            {"layers", absl::StrCat(facts.layers)},
            {"experts", absl::StrCat(facts.experts)},
            {"parameters_total", absl::StrCat(facts.parameters_total)},
            {"parameters_active", absl::StrCat(facts.parameters_active)}});
}

uint64_t NumSuccessful(const RequestCounters& counters) {
  return counters.requests(Api::kCompletions, 0) + counters.requests(Api::kChat, 0) +
         counters.requests(Api::kEmbeddings, 0) + counters.requests(Api::kGrpcGenerate, 0);
}

void AddVllmNames(const MetricsSnapshot& snapshot,
                  const RequestCounters& counters,
                  const std::string& model,
                  FamilyList& list) {
  const Labels labels = {{"model_name", model}};
  list.Add(kVllmRunning, snapshot.requests_running, labels);
  list.Add(kVllmWaiting, snapshot.requests_waiting, labels);
  const double pages = static_cast<double>(snapshot.kv_pages_total);
  list.Add(kVllmKvUsage, pages > 0 ? static_cast<double>(snapshot.kv_pages_used) / pages : 0.0,
           labels);
  list.Add(kVllmTimeToFirstToken, snapshot.time_to_first_token_seconds, labels);
  list.Add(kVllmInterTokenLatency, snapshot.inter_token_latency_seconds, labels);
  list.Add(kVllmTimePerOutputToken, snapshot.inter_token_latency_seconds, labels);
  list.Add(kVllmRequestLatency, snapshot.request_latency_seconds, labels);
  list.Add(kVllmQueueTime, snapshot.queue_seconds, labels);
  list.Add(kVllmPromptTokens, snapshot.prompt_tokens, labels);
  list.Add(kVllmGenerationTokens, snapshot.generated_tokens, labels);
  uint64_t preemptions = 0;
  for (const auto& [reason, count] : snapshot.preemptions) preemptions += count;
  list.Add(kVllmPreemptions, preemptions, labels);
  list.Add(kVllmRequestSuccess, NumSuccessful(counters), labels);
}

void AddServers(const RequestCounters& counters, uint64_t log_lines_dropped, FamilyList& list) {
  for (size_t api = 0; api < kNumApis; ++api) {
    for (size_t code = 0; code < kNumStatusCodes; ++code) {
      const uint64_t count = counters.requests(static_cast<Api>(api), code);
      // A series appears with its first request, except OK: rates need a start.
      if (count == 0 && code != 0) continue;
      list.Add(kRequests, count,
               {{"api", Name(static_cast<Api>(api))},
                {"code", StatusCodeWord(static_cast<absl::StatusCode>(code))}});
    }
  }
  list.Add(kUnknownRequestFields, counters.unknown_fields());
  list.Add(kDegradedRequests, counters.degraded());
  list.Add(kLogLinesDropped, log_lines_dropped);
}

}  // namespace

MetricsExporter::MetricsExporter(MetricsOptions options,
                                 const RequestCounters& counters,
                                 std::function<uint64_t()> log_lines_dropped)
    : options_(std::move(options)),
      counters_(counters),
      log_lines_dropped_(std::move(log_lines_dropped)) {}

void MetricsExporter::SetEngine(const EngineClient* engine,
                                const std::vector<std::pair<std::string, std::string>>& kernels) {
  for (const auto& [op, kernel] : kernels) {
    absl::StrAppend(&kernels_, kernels_.empty() ? "" : " ", op, "=", kernel);
  }
  engine_.store(engine, std::memory_order_release);
}

std::string MetricsExporter::Render() const {
  FamilyList list;
  const EngineClient* engine = engine_.load(std::memory_order_acquire);
  const bool is_ready = engine != nullptr && engine->healthy() && !engine->draining();
  list.Add(kBuildInfo, 1.0,
           {{"version", options_.version}, {"kernels", engine == nullptr ? "" : kernels_}});
  list.Add(kReady, is_ready ? 1.0 : 0.0);
  AddServers(counters_, log_lines_dropped_ ? log_lines_dropped_() : 0, list);
  if (engine != nullptr) {
    const MetricsSnapshot snapshot = engine->Snapshot();
    AddModel(snapshot.model, engine->model(), list);
    AddRequests(snapshot, list);
    AddWork(snapshot, list);
    if (snapshot.gpu.has_value()) AddGpu(*snapshot.gpu, list);
    AddDepth(snapshot, list);
    AddExperts(snapshot, options_, list);
    AddDropped(snapshot, engine->model(), list);
    if (options_.vllm_names) AddVllmNames(snapshot, counters_, engine->model().id, list);
  }
  const Metric spared = kExpertTokens;
  const bool spares = options_.expert_series == ExpertSeries::kFull;
  // One is for the series that says how many are missing.
  const size_t dropped = list.Shrink(options_.max_series - 1, spares ? &spared : nullptr);
  list.Add(kSeriesDropped, static_cast<double>(dropped));
  return list.Serialize();
}

}  // namespace sluice::server
