#include "engine/engine.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/request_error.h"
#include "engine/routing_params.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

// The card knows the rows of a step that was left to the model.
EngineConfig Resolved(EngineConfig config, const ModelCard& card) {
  if (config.max_batch_tokens == 0) config.max_batch_tokens = card.max_batch_tokens;
  return config;
}

// Of a prompt beside decode rows that fill a step.
constexpr int32_t kMinPrefillRows = 16;

SchedulerLimits Limits(const EngineConfig& config, const ModelCard& card) {
  return {.max_batch_tokens = config.max_batch_tokens,
          .max_sequences = config.max_sequences,
          .max_context_tokens = card.context_rows(),
          .max_queued_requests = config.max_queued_requests,
          .max_queued_tokens = config.max_queued_tokens,
          .draft_tokens = config.draft_exit_layer > 0 ? config.draft_tokens : 0,
          .max_drafting_sequences = kMaxDraftingSequences,
          .min_prefill_rows = kMinPrefillRows};
}

}  // namespace

Engine::Engine(Parts parts)
    : config_(Resolved(std::move(parts.config), parts.card)),
      card_(std::move(parts.card)),
      runner_(std::move(parts.runner)),
      tokenizer_(*parts.tokenizer),
      clock_(*parts.clock),
      metrics_(clock_,
               runner_->facts().instances,
               {.family = card_.family,
                .layers = card_.num_layer_instances,
                .experts = card_.num_experts,
                .parameters_total = card_.parameters_total,
                .parameters_active = card_.parameters_active}),
      scheduler_(Limits(config_, card_), runner_->pages()),
      speculation_(*runner_,
                   {.draft_tokens = config_.draft_exit_layer > 0 ? config_.draft_tokens : 0,
                    .max_sequences = kMaxDraftingSequences,
                    .vocab_size = card_.vocab_size}),
      budget_(config_.max_step_ms / 1000.0),
      expert_base_(runner_->facts().instances.size() * kNumExpertKinds, -1) {
  const auto rows = static_cast<size_t>(config_.max_batch_tokens);
  for (auto* list : {&tokens_, &positions_, &wanted_, &row_plan_, &step_depths_})
    list->reserve(rows);
  sequences_.reserve(rows);
  is_prompt_.reserve(rows);
  in_encoder_.reserve(rows);
  routing_.reserve(rows);
  wanted_for_.reserve(rows);
  if (const KvCache* cache = runner_->cache(); cache != nullptr) {
    for (const KvClassSpec& kv : cache->classes()) gauges_.kv_classes.push_back({kv.name, 0.0});
  }
  PublishGauges();
}

absl::Status Engine::Submit(RequestId id, Request request, std::shared_ptr<TokenSink> sink) {
  RETURN_IF_ERROR(CheckAdmissible(request, card_));
  ASSIGN_OR_RETURN(const RowRouting routing, ResolveRouting(request.routing, card_));
  if (request.embed) request.stop.max_tokens = 0;
  RETURN_IF_ERROR(CheckAlone(request));
  const absl::Duration now = clock_.Now();
  RETURN_IF_ERROR(scheduler_.Add(MakeSequence(id, request, now), now));
  Activate(id, {std::move(request), std::move(sink)}, routing, now);
  PublishGauges();
  return absl::OkStatus();
}

absl::Status Engine::SubmitCohort(const std::vector<RequestId>& ids,
                                  std::vector<CohortMember> members) {
  RETURN_IF_ERROR(CheckCohortAdmissible(members, card_));
  ASSIGN_OR_RETURN(RowRouting routing, ResolveRouting(members.front().request.routing, card_));
  const absl::Duration now = clock_.Now();
  std::unique_ptr<Sequence> carrier;
  for (size_t i = 0; i < members.size(); ++i) {
    std::unique_ptr<Sequence> sequence = MakeSequence(ids[i], members[i].request, now);
    sequence->slot = static_cast<int32_t>(i);
    if (i == 0) {
      carrier = std::move(sequence);
    } else {
      carrier->companions.push_back(std::move(sequence));
    }
  }
  RETURN_IF_ERROR(scheduler_.Add(std::move(carrier), now));
  routing.cohort = next_cohort_;
  next_cohort_ = next_cohort_ == std::numeric_limits<int32_t>::max() ? 0 : next_cohort_ + 1;
  for (size_t i = 0; i < members.size(); ++i) {
    routing.slot = static_cast<int32_t>(i);
    Activate(ids[i], std::move(members[i]), routing, now);
  }
  PublishGauges();
  return absl::OkStatus();
}

std::unique_ptr<Sequence> Engine::MakeSequence(RequestId id,
                                               const Request& request,
                                               absl::Duration now) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->tokens = request.prompt;
  sequence->tokens.reserve(request.prompt.size() + static_cast<size_t>(request.stop.max_tokens) +
                           2);
  if (card_.decoder_start_token >= 0) sequence->tokens.push_back(card_.decoder_start_token);
  sequence->prompt_tokens = sequence->num_tokens();
  sequence->max_tokens = request.stop.max_tokens;
  sequence->priority = request.priority;
  sequence->whole_prompt = NeedsWholePrompt(request.routing, card_);
  // The path of a drafted row is split over passes; a traced one stays whole.
  sequence->may_draft = !request.routing.trace;
  if (request.timeout.has_value()) sequence->deadline = now + *request.timeout;
  return sequence;
}

void Engine::Activate(RequestId id,
                      CohortMember member,
                      const RowRouting& routing,
                      absl::Duration now) {
  active_[id] = std::make_unique<ActiveRequest>(
      std::move(member.request), std::move(member.sink), routing,
      ActiveRequest::Facts{.tokenizer = &tokenizer_,
                           .eos_token_ids = card_.eos_token_ids,
                           .vocab_size = card_.vocab_size,
                           .prompt_precedes = card_.decoder_start_token < 0,
                           .now = now});
}

// The active members of a request's cohort, or the request alone.
std::vector<RequestId> Engine::CohortOf(RequestId id) const {
  const int32_t cohort = active_.at(id)->routing().cohort;
  if (cohort < 0) return {id};
  std::vector<RequestId> ids;
  for (const auto& [other, request] : active_) {
    if (request->routing().cohort == cohort) ids.push_back(other);
  }
  return ids;
}

void Engine::Cancel(RequestId id, const std::string& reason) {
  if (!active_.contains(id)) return;
  const std::vector<RequestId> ids = CohortOf(id);
  scheduler_.Cancel(id);
  for (const RequestId member : ids) {
    metrics_.CountCancellation(reason);
    FinishRequest(member, FinishReason::kCancelled, absl::OkStatus());
  }
  PublishGauges();
}

void Engine::CancelAll(const std::string& reason) {
  for (const RequestId id : ActiveIds()) Cancel(id, reason);
}

void Engine::FailAll(const absl::Status& error) {
  for (const RequestId id : ActiveIds()) {
    scheduler_.Cancel(id);
    FinishRequest(id, FinishReason::kError, error);
  }
  PublishGauges();
}

std::vector<RequestId> Engine::ActiveIds() const {
  std::vector<RequestId> ids;
  ids.reserve(active_.size());
  for (const auto& [id, request] : active_) ids.push_back(id);
  return ids;
}

void Engine::SetPaused(RequestId id, bool paused) {
  scheduler_.SetPaused(id, paused);
  PublishGauges();
}

bool Engine::Step() {
  const absl::Duration start = clock_.Now();
  StepPlan plan = scheduler_.Schedule(
      start, {.flops = budget_.PrefillFlops(), .flops_per_row = RowFlops(0, false, {})});
  for (const RequestId id : plan.expired) {
    metrics_.CountCancellation("deadline");
    FinishRequest(id, FinishReason::kError,
                  RequestError(absl::StatusCode::kDeadlineExceeded, "deadline_exceeded",
                               "timeout_ms", "the request's time ran out"));
  }
  if (plan.empty()) {
    stalled_ = plan.expired.empty() && scheduler_.HasRunnable();
    if (stalled_) metrics_.CountInvariantViolation("no_progress");
    PublishGauges();
    return !plan.expired.empty();
  }
  for (const PlannedRows& rows : plan.rows) {
    ActiveRequest& request = Active(rows.account);
    if (!request.started) metrics_.ObserveQueue(start - request.submitted_at);
    request.started = true;
  }
  speculation_.Guess(
      plan, [&](const PlannedRows& rows) -> ActiveRequest& { return Active(rows.sequence->id); },
      [&](const ForwardStats& stats, std::span<const int32_t> row_plan) {
        CountExperts(plan, stats, row_plan);
        metrics_.AddDraftPass(stats);
      });
  BuildBatch(plan);
  const Batch batch{.tokens = tokens_,
                    .positions = positions_,
                    .sequences = sequences_,
                    .is_prompt = is_prompt_,
                    .routing = routing_,
                    .wanted = wanted_,
                    .early_exit = {.slots = slots_, .states = runner_->draft_states()},
                    .in_encoder = in_encoder_};
  const ForwardStats& stats =
      runner_->Run(batch, nullptr,
                   [&](int32_t index, std::span<float> logits) { OnLogits(plan, index, logits); });
  // No row has a result, nor will one: whoever runs the engine ends all requests (FailAll).
  if (!runner_->device_status().ok()) {
    PublishGauges();  // who is told that the device is lost finds it so in the metrics
    return false;
  }
  const absl::Duration duration = clock_.Now() - start;
  step_cost_ = {.seconds = absl::ToDoubleSeconds(duration)};
  step_depths_.clear();
  CountRows(plan, stats);
  const StepResult result = AcceptTokens(plan, stats);
  metrics_.AddStep({.stats = &stats,
                    .depths = step_depths_,
                    .dense_flops = step_cost_.dense_flops,
                    .duration = duration});
  budget_.Observe(step_cost_);
  for (const PlannedRows& rows : plan.rows) {
    ActiveRequest& request = Active(rows.account);
    rows.sequence->flops_per_row =
        RowFlops(rows.first + rows.count, request.wants_prompt_logprobs(), request.usage().compute);
    runner_->Commit(*rows.sequence->kv);
  }
  std::vector<std::unique_ptr<Sequence>> finished = scheduler_.Commit(result);
  for (const auto& sequence : finished) {
    ActiveRequest& request = Active(sequence->id);
    if (!request.failure().ok()) {
      FinishRequest(sequence->id, FinishReason::kError, request.failure());
    } else {
      const FinishReason reason = request.finish_reason();
      const auto otherwise = request.request().embed ? FinishReason::kStop : FinishReason::kLength;
      FinishRequest(sequence->id, reason == FinishReason::kNone ? otherwise : reason,
                    absl::OkStatus());
    }
  }
  PublishGauges();
  return true;
}

void Engine::FinishRequest(RequestId id, FinishReason reason, absl::Status error) {
  const auto it = active_.find(id);
  SLUICE_CHECK(it != active_.end()) << "finishing an unknown request";
  const std::unique_ptr<ActiveRequest> request = std::move(it->second);
  active_.erase(it);
  metrics_.ObserveFinished(clock_.Now() - request->submitted_at);
  request->Finish(reason, std::move(error));
}

// Expected of a row of a request that has used so much.
double Engine::RowFlops(int32_t position, bool with_logits, const ComputeUsage& usage) const {
  const double dense = runner_->DenseFlops(position, with_logits, /*in_encoder=*/false);
  return std::max(1.0, dense * budget_.ExpectedShare(usage));
}

void Engine::PublishGauges() {
  gauges_.running = static_cast<uint64_t>(scheduler_.num_running());
  gauges_.waiting = static_cast<uint64_t>(scheduler_.num_waiting());
  gauges_.paused = static_cast<uint64_t>(scheduler_.num_paused());
  gauges_.preemptions = static_cast<uint64_t>(scheduler_.num_preemptions());
  if (const KvCache* cache = runner_->cache(); cache != nullptr) {
    gauges_.pages_total = static_cast<uint64_t>(cache->num_pages());
    gauges_.pages_used = static_cast<uint64_t>(cache->num_used_pages());
    for (size_t c = 0; c < gauges_.kv_classes.size(); ++c) {
      gauges_.kv_classes[c].bytes_saved =
          static_cast<double>(cache->BytesSaved(static_cast<int32_t>(c)));
    }
  }
  gauges_.gpu = runner_->gpu();
  metrics_.SetGauges(gauges_);
}

absl::Status Engine::CheckIntegrity() const {
  RETURN_IF_ERROR(scheduler_.CheckIntegrity());
  if (const KvCache* cache = runner_->cache(); cache != nullptr) {
    RETURN_IF_ERROR(cache->CheckIntegrity());
    if (active_.empty() && cache->num_used_pages() != 0) {
      return absl::InternalError("pages are in use while no request is active");
    }
  }
  return absl::OkStatus();
}

}  // namespace sluice
