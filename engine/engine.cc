#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/request_error.h"
#include "engine/routing_params.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

constexpr int kExpertKinds = 4;

// The decoder's start token behind an encoder has a row, which the card does not count.
int32_t ContextRows(const ModelCard& card) {
  return card.max_context_tokens + (card.decoder_start_token >= 0 ? 1 : 0);
}

SchedulerLimits Limits(const EngineConfig& config, const ModelCard& card) {
  return {.max_batch_tokens = config.max_batch_tokens,
          .max_sequences = config.max_sequences,
          .max_context_tokens = ContextRows(card),
          .max_queued_requests = config.max_queued_requests,
          .max_queued_tokens = config.max_queued_tokens};
}

}  // namespace

absl::Status CheckAdmissible(const Request& request, const ModelCard& model) {
  RETURN_IF_ERROR(CheckModelGives(request.embed, model.embedding_size > 0));
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const bool two_stacks = model.decoder_start_token >= 0;
  if (two_stacks && request.sampling.prompt_logprobs.has_value()) {
    return BadRequest("unsupported_parameter", "prompt_logprobs",
                      "the prompt is the encoder's: it has no log-probabilities");
  }
  const int32_t max_tokens = request.embed ? 0 : request.stop.max_tokens;
  if (prompt == 0) return BadRequest("empty_prompt", "prompt", "the prompt has no tokens");
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= model.vocab_size) {
      return BadRequest("token_out_of_vocab", "prompt",
                        "a prompt token id is outside the vocabulary");
    }
  }
  if (prompt > model.max_context_tokens) {
    return BadRequest("context_length_exceeded", "prompt",
                      "the prompt is longer than the model's context");
  }
  if (prompt + max_tokens > model.max_context_tokens) {
    return BadRequest("context_length_exceeded", "max_tokens",
                      "prompt and max_tokens together exceed the model's context");
  }
  if (prompt + max_tokens > model.kv_capacity_tokens) {
    return BadRequest("kv_capacity", prompt >= model.kv_capacity_tokens ? "prompt" : "max_tokens",
                      absl::StrCat("the KV cache holds ", model.kv_capacity_tokens,
                                   " tokens of one request; prompt and max_tokens ask for ",
                                   prompt + max_tokens));
  }
  if (NeedsWholePrompt(request.routing, model) &&
      prompt + (two_stacks ? 1 : 0) > model.max_batch_tokens) {
    const bool encoder = request.embed || two_stacks;
    return BadRequest(
        "context_length_exceeded", encoder ? "prompt" : "routing.mode",
        absl::StrCat(encoder ? "an encoder" : "top-k routing",
                     " needs the whole prompt in one step; raise --max-batch-tokens"));
  }
  return ResolveRouting(request.routing, model).status();
}

Engine::Engine(Parts parts)
    : config_(std::move(parts.config)),
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
      expert_base_(runner_->facts().instances.size() * kExpertKinds, -1) {
  const auto rows = static_cast<size_t>(config_.max_batch_tokens);
  for (auto* list : {&tokens_, &positions_, &wanted_, &row_plan_}) list->reserve(rows);
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
  const absl::Duration now = clock_.Now();
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
  if (request.timeout.has_value()) sequence->deadline = now + *request.timeout;
  RETURN_IF_ERROR(scheduler_.Add(std::move(sequence), now));
  active_[id] =
      std::make_unique<ActiveRequest>(std::move(request), std::move(sink), routing,
                                      ActiveRequest::Facts{.tokenizer = &tokenizer_,
                                                           .eos_token_ids = card_.eos_token_ids,
                                                           .vocab_size = card_.vocab_size,
                                                           .now = now});
  PublishGauges();
  return absl::OkStatus();
}

void Engine::Cancel(RequestId id, const std::string& reason) {
  if (!active_.contains(id)) return;
  scheduler_.Cancel(id);
  metrics_.CountCancellation(reason);
  FinishRequest(id, FinishReason::kCancelled, absl::OkStatus());
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
  StepPlan plan = scheduler_.Schedule(start, PrefillRows());
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
    ActiveRequest& request = Active(rows.sequence->id);
    if (!request.started) metrics_.ObserveQueue(start - request.submitted_at);
    request.started = true;
  }
  BuildBatch(plan);
  const Batch batch{.tokens = tokens_,
                    .positions = positions_,
                    .sequences = sequences_,
                    .is_prompt = is_prompt_,
                    .routing = routing_,
                    .wanted = wanted_,
                    .in_encoder = in_encoder_};
  const ForwardStats& stats =
      runner_->Run(batch, nullptr,
                   [&](int32_t index, std::span<float> logits) { OnLogits(plan, index, logits); });
  for (const PlannedRows& rows : plan.rows) runner_->Commit(*rows.sequence->kv);
  const absl::Duration duration = clock_.Now() - start;
  const double per_row = absl::ToDoubleSeconds(duration) / plan.num_rows;
  seconds_per_row_ = seconds_per_row_ == 0.0 ? per_row : 0.8 * seconds_per_row_ + 0.2 * per_row;
  CountStep(plan, stats, duration);

  const StepResult result = AcceptTokens(plan);
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

void Engine::BuildBatch(const StepPlan& plan) {
  tokens_.clear(), positions_.clear(), sequences_.clear(), is_prompt_.clear(), routing_.clear();
  wanted_.clear(), wanted_for_.clear(), row_plan_.clear(), in_encoder_.clear();
  for (size_t p = 0; p < plan.rows.size(); ++p) {
    const PlannedRows& rows = plan.rows[p];
    const Sequence& sequence = *rows.sequence;
    const ActiveRequest& request = Active(sequence.id);
    const size_t prompt = request.request().prompt.size();
    const auto encoded = static_cast<int32_t>(card_.decoder_start_token >= 0 ? prompt : 0);
    for (int32_t i = 0; i < rows.count; ++i) {
      const int32_t position = rows.first + i;
      const bool last = i + 1 == rows.count;
      const bool samples = last && rows.samples;
      const bool scores = request.wants_prompt_logprobs() && position >= request.prompt_scored() &&
                          position + 1 < sequence.prompt_tokens;
      const bool pools =
          request.request().embed && (position == 0 || runner_->facts().pooling == Pooling::kMean);
      if (samples || scores || pools) {
        wanted_.push_back(static_cast<int32_t>(tokens_.size()));
        wanted_for_.push_back({static_cast<int32_t>(p), position, samples});
      }
      tokens_.push_back(sequence.tokens[static_cast<size_t>(position)]);
      positions_.push_back(position < encoded ? position : position - encoded);
      if (encoded > 0) in_encoder_.push_back(position < encoded ? 1 : 0);
      sequences_.push_back(*sequence.kv);
      is_prompt_.push_back(position < sequence.prompt_tokens ? 1 : 0);
      routing_.push_back(request.routing());
      row_plan_.push_back(static_cast<int32_t>(p));
    }
  }
}

void Engine::OnLogits(const StepPlan& plan, int32_t index, std::span<float> logits) {
  const Wanted& wanted = wanted_for_[static_cast<size_t>(index)];
  ActiveRequest& request = Active(plan.rows[static_cast<size_t>(wanted.plan_index)].sequence->id);
  if (request.request().embed) {
    request.AddHidden(logits);
  } else if (wanted.samples) {
    request.SampleNext(logits);
  } else {
    request.ScorePrompt(wanted.position, logits);
  }
}

void Engine::CountStep(const StepPlan& plan, const ForwardStats& stats, absl::Duration duration) {
  const auto instances = static_cast<int64_t>(runner_->facts().instances.size());
  double dense = 0.0;
  int64_t prompt_rows = 0;
  size_t next_wanted = 0;  // rows of wanted_ are ascending
  for (size_t row = 0; row < tokens_.size(); ++row) {
    const PlannedRows& rows = plan.rows[static_cast<size_t>(row_plan_[row])];
    ComputeUsage& compute = Active(rows.sequence->id).usage().compute;
    const bool with_logits =
        next_wanted < wanted_.size() && static_cast<size_t>(wanted_[next_wanted]) == row;
    next_wanted += with_logits ? 1 : 0;
    const double row_dense = runner_->DenseFlops(positions_[row], with_logits);
    compute.executed_token_layers += stats.routed_executed()[row];
    compute.skipped_token_layers += stats.routed_offered()[row] - stats.routed_executed()[row];
    compute.all_token_layers += instances;
    ++compute.rows;
    compute.flops += stats.flops()[row];
    compute.dense_flops += row_dense;
    dense += row_dense;
    prompt_rows += is_prompt_[row];
  }
  CountExperts(plan, stats);
  TraceRows(plan, stats);
  metrics_.AddPromptTokens(prompt_rows);
  metrics_.AddStep({.stats = &stats, .dense_flops = dense, .duration = duration});
}

void Engine::CountExperts(const StepPlan& plan, const ForwardStats& stats) {
  for (const ExpertChoice& choice : stats.expert_choices()) {
    int64_t& base = expert_base_[static_cast<size_t>(choice.layer_instance) * kExpertKinds +
                                 static_cast<size_t>(choice.kind)];
    if (base < 0) {
      base = num_expert_slots_;
      num_expert_slots_ += choice.num_experts;
    }
    const auto ids = stats.expert_ids(choice);
    const auto rows = stats.expert_rows(choice);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= choice.num_experts) continue;
      const auto entry = static_cast<size_t>(row_plan_[static_cast<size_t>(rows[i])]);
      Active(plan.rows[entry].sequence->id).TouchExpert(base + ids[i]);
    }
  }
}

// The trace of a generated token is what the row ran whose logits picked it.
void Engine::TraceRows(const StepPlan& plan, const ForwardStats& stats) {
  for (size_t w = 0; w < wanted_.size(); ++w) {
    if (!wanted_for_[w].samples) continue;
    ActiveRequest& request =
        Active(plan.rows[static_cast<size_t>(wanted_for_[w].plan_index)].sequence->id);
    if (!request.wants_trace()) continue;
    const int32_t row = wanted_[w];
    TokenTrace trace;
    trace.depth = stats.depth()[static_cast<size_t>(row)];
    for (const auto& [taken_row, instance] : stats.taken()) {
      if (taken_row == row) trace.executed_layers.push_back(instance);
    }
    for (const ExpertChoice& choice : stats.expert_choices()) {
      const auto ids = stats.expert_ids(choice);
      const auto rows = stats.expert_rows(choice);
      for (size_t i = 0; i < ids.size(); ++i) {
        if (rows[i] != row || ids[i] >= choice.num_experts) continue;
        trace.experts.emplace_back(choice.layer_instance, ids[i]);
      }
    }
    request.SetTrace(std::move(trace));
  }
}

StepResult Engine::AcceptTokens(const StepPlan& plan) {
  StepResult result;
  const absl::Duration now = clock_.Now();
  int64_t generated = 0;
  for (const PlannedRows& rows : plan.rows) {
    if (!rows.samples) continue;
    ActiveRequest& request = Active(rows.sequence->id);
    SampledToken sampled{.id = rows.sequence->id, .token = request.sampled_token()};
    if (request.failure().ok()) {
      const bool first = request.num_generated() == 0;
      const absl::Duration since = now - (first ? request.submitted_at : request.last_token_at);
      if (first) {
        metrics_.ObserveFirstToken(since);
      } else {
        metrics_.ObserveInterToken(since);
      }
      const bool context_full = rows.sequence->num_tokens() + 1 >= ContextRows(card_);
      sampled.finished = request.AcceptToken(context_full, now);
      ++generated;
    } else {
      sampled.finished = true;
      runner_->Scrub(*rows.sequence->kv);  // its pages may hold what spoiled its logits
    }
    result.tokens.push_back(sampled);
  }
  metrics_.AddGeneratedTokens(generated);
  return result;
}

void Engine::FinishRequest(RequestId id, FinishReason reason, absl::Status error) {
  const auto it = active_.find(id);
  SLUICE_CHECK(it != active_.end()) << "finishing an unknown request";
  const std::unique_ptr<ActiveRequest> request = std::move(it->second);
  active_.erase(it);
  metrics_.ObserveFinished(clock_.Now() - request->submitted_at);
  request->Finish(reason, std::move(error));
}

// While sequences decode, a step should stay under max_step_ms at the measured speed.
int32_t Engine::PrefillRows() const {
  if (seconds_per_row_ <= 0.0) return 0;
  const double rows = config_.max_step_ms / 1000.0 / seconds_per_row_;
  return std::max(16, static_cast<int32_t>(std::min(rows, 1e9)));
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
