#include "server/commands/bench_run.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

class DiscardSink final : public TokenSink {
 public:
  void OnEvent(TokenEvent event) override {
    started |= !event.tokens.empty();
    ended |= event.finish != FinishReason::kNone;
  }
  bool started = false, ended = false;
};

// What the engine has done so far, for differences around a timed stretch.
struct Mark {
  absl::Duration time;
  double flops = 0.0, weight_bytes = 0.0;
  uint64_t skipped = 0, steps = 0, generated = 0;
  std::vector<ExpertLayerMetrics> experts;
};

Mark TakeMark(Engine& engine, const Clock& clock) {
  MetricsSnapshot snapshot = engine.metrics().Snapshot();
  Mark mark{.time = clock.Now(),
            .flops = snapshot.flops_executed,
            .weight_bytes = snapshot.weight_bytes_read,
            .steps = snapshot.steps,
            .generated = snapshot.generated_tokens};
  for (const DepthLayerMetrics& layer : snapshot.depth_layers) mark.skipped += layer.skipped;
  mark.experts = std::move(snapshot.expert_layers);
  return mark;
}

// Rows per expert of one layer between two marks.
std::vector<uint64_t> ExpertRows(const Mark& start, const Mark& end, size_t layer) {
  std::vector<uint64_t> rows = end.experts[layer].tokens;
  if (layer < start.experts.size()) {  // layers appear when they are first used
    const std::vector<uint64_t>& before = start.experts[layer].tokens;
    for (size_t e = 0; e < before.size(); ++e) rows[e] -= before[e];
  }
  return rows;
}

double FairShare(const std::vector<uint64_t>& rows) {
  return static_cast<double>(std::accumulate(rows.begin(), rows.end(), uint64_t{0})) /
         static_cast<double>(rows.size());
}

// The last layer runs few rows of a prompt: what its experts get may be chance. It counts where it
// has half as many choices an expert as the others.
void AddExpertLoads(const Mark& start, const Mark& end, BenchResult& result) {
  double most_choices = 0.0;
  for (size_t layer = 0; layer < end.experts.size(); ++layer)
    most_choices = std::max(most_choices, FairShare(ExpertRows(start, end, layer)));
  for (size_t layer = 0; layer < end.experts.size(); ++layer) {
    const std::vector<uint64_t> rows = ExpertRows(start, end, layer);
    const double fair = FairShare(rows);
    if (fair == 0.0 || fair < most_choices / 2) continue;
    const auto [least, most] = std::minmax_element(rows.begin(), rows.end());
    const bool first = result.most_expert_load == 0.0;
    const double low = static_cast<double>(*least) / fair;
    result.least_expert_load = first ? low : std::min(result.least_expert_load, low);
    result.most_expert_load = std::max(result.most_expert_load, static_cast<double>(*most) / fair);
  }
}

// What the prompts took, and what the steps did that decoded every sequence.
BenchResult Rates(const Mark& start,
                  const Mark& prefilled,
                  const Mark& end,
                  double prompt_tokens,
                  double num_layers) {
  const double prefill_seconds = absl::ToDoubleSeconds(prefilled.time - start.time);
  const double prefill_flops = prefilled.flops - start.flops;
  const auto tokens = static_cast<double>(end.generated - prefilled.generated);
  const auto steps = static_cast<double>(end.steps - prefilled.steps);
  const double seconds = absl::ToDoubleSeconds(end.time - prefilled.time);
  const double flops = end.flops - prefilled.flops;
  const double weight_bytes = end.weight_bytes - prefilled.weight_bytes;
  return {.prefill_tokens_per_second = prompt_tokens / prefill_seconds,
          .decode_tokens_per_second = tokens / seconds,
          .prefill_flops_per_token = prefill_flops / prompt_tokens,
          .flops_per_token = flops / tokens,
          .weight_bytes_per_step = weight_bytes / steps,
          .weight_bytes_per_second = weight_bytes / seconds,
          .prefill_flops_per_second = prefill_flops / prefill_seconds,
          .decode_flops_per_second = flops / seconds,
          .skipped_ratio =
              static_cast<double>(end.skipped - prefilled.skipped) / (tokens * num_layers)};
}

}  // namespace

Request BenchRequest(const ModelCard& card, const BenchLoad& load, int32_t index) {
  Request request;
  uint64_t state = 88172645463325252u + static_cast<uint64_t>(index);
  for (int32_t i = 0; i < load.prompt_tokens; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    request.prompt.push_back(static_cast<int32_t>(state % static_cast<uint64_t>(card.vocab_size)));
  }
  request.stop = {.max_tokens = load.output_tokens, .ignore_eos = true};
  request.sampling.temperature = load.temperature;
  request.sampling.seed = static_cast<uint64_t>(index);
  return request;
}

int64_t PeakResidentBytes() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? int64_t{usage.ru_maxrss} * 1024 : 0;
}

void PrintPackedCache(const EngineReport& report) {
  if (!report.packed_cache.empty()) std::printf("packed: %s\n", report.packed_cache.c_str());
}

absl::StatusOr<std::unique_ptr<BenchSubject>> BenchSubject::Load(const EngineConfig& config,
                                                                 std::string label,
                                                                 const Clock& clock) {
  const absl::Duration begin = clock.Now();
  ASSIGN_OR_RETURN(LoadedModel model, LoadModel(config, nullptr));
  auto subject = std::make_unique<BenchSubject>();
  subject->load_seconds_ = absl::ToDoubleSeconds(clock.Now() - begin);
  subject->clock_ = &clock;
  subject->label_ = std::move(label);
  subject->card_ = model.card;
  subject->report_ = std::move(model.report);
  subject->tokenizer_ = std::move(model.tokenizer);
  subject->engine_ = std::make_unique<Engine>(Engine::Parts{.config = config,
                                                            .card = std::move(model.card),
                                                            .runner = std::move(model.runner),
                                                            .tokenizer = subject->tokenizer_.get(),
                                                            .clock = &clock});
  return subject;
}

absl::StatusOr<BenchResult> BenchSubject::Measure(const BenchLoad& load, bool forced_dense) {
  std::vector<std::shared_ptr<DiscardSink>> sinks;
  for (int32_t s = 0; s < load.batch; ++s) {
    Request request = BenchRequest(card_, load, s);
    if (forced_dense) request.routing.capacity = 1.0;
    sinks.push_back(std::make_shared<DiscardSink>());
    RETURN_IF_ERROR(engine_->Submit(RequestId{next_id_++}, request, sinks.back()));
  }
  const Mark start = TakeMark(*engine_, *clock_);
  const auto all_started = [&sinks] {
    return std::all_of(sinks.begin(), sinks.end(), [](const auto& sink) { return sink->started; });
  };
  while (!all_started() && engine_->Step()) {
  }
  const Mark prefilled = TakeMark(*engine_, *clock_);
  const auto one_ended = [&sinks] {
    return std::any_of(sinks.begin(), sinks.end(), [](const auto& sink) { return sink->ended; });
  };
  while (!one_ended() && engine_->Step()) {
  }
  const Mark decoded_together = TakeMark(*engine_, *clock_);
  while (engine_->num_active() > 0 && engine_->Step()) {
  }
  RETURN_IF_ERROR(engine_->runner().device_status());
  const Mark end = TakeMark(*engine_, *clock_);

  if (decoded_together.generated == prefilled.generated) {
    return absl::FailedPreconditionError(absl::StrCat(
        "batch ", load.batch, ": a sequence ended before the last one began, so no ",
        "step decoded all of them; raise --output-tokens, --max-batch-tokens or ", "--kv-memory"));
  }
  BenchResult result = Rates(start, prefilled, decoded_together,
                             static_cast<double>(load.batch) * load.prompt_tokens,
                             static_cast<double>(card_.num_layer_instances));
  result.output_tokens_per_second = static_cast<double>(end.generated - start.generated) /
                                    absl::ToDoubleSeconds(end.time - start.time);
  AddExpertLoads(start, end, result);
  return result;
}

}  // namespace sluice::server
