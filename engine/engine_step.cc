// One step of the engine from inside: the batch that goes into the model, and what becomes of its
// counts and logits.
#include <algorithm>
#include <utility>

#include "engine/engine.h"
#include "kernels/check.h"

namespace sluice {

void Engine::BuildBatch(const StepPlan& plan) {
  tokens_.clear(), positions_.clear(), sequences_.clear(), is_prompt_.clear(), routing_.clear();
  wanted_.clear(), wanted_for_.clear(), row_plan_.clear(), slots_.clear();
  in_encoder_.clear();
  for (size_t p = 0; p < plan.rows.size(); ++p) {
    const PlannedRows& rows = plan.rows[p];
    const Sequence& sequence = *rows.sequence;
    const ActiveRequest& request = Active(rows.account);
    const bool replayed = rows.account != sequence.id;
    const SelfSpeculation::Draft* draft = speculation_.Of(p);
    for (int32_t i = 0; i < rows.count; ++i) {
      const int32_t position = rows.first + i;
      const bool last = i + 1 == rows.count;
      const bool samples = last && rows.samples;
      const bool scores = !replayed && !request.request().embed &&
                          request.wants_prompt_logprobs() && position >= request.prompt_scored() &&
                          position + 1 < sequence.prompt_tokens;
      const bool pools =
          request.request().embed && (position == 0 || runner_->facts().pooling == Pooling::kMean);
      if (samples || scores || pools) {
        wanted_.push_back(static_cast<int32_t>(tokens_.size()));
        wanted_for_.push_back(
            {static_cast<int32_t>(p), position, samples, draft != nullptr ? 0 : -1});
      }
      AddRow(rows, p, position, sequence.tokens[static_cast<size_t>(position)]);
      if (!speculation_.empty()) slots_.push_back(draft != nullptr ? draft->SlotOf(0) : -1);
    }
    const size_t guesses = draft != nullptr ? draft->guesses.size() : 0;
    for (size_t row = 1; row <= guesses; ++row) {
      const int32_t position = rows.first + static_cast<int32_t>(row);
      wanted_.push_back(static_cast<int32_t>(tokens_.size()));
      wanted_for_.push_back({static_cast<int32_t>(p), position, true, static_cast<int32_t>(row)});
      AddRow(rows, p, position, draft->guesses[row - 1]);
      slots_.push_back(draft->SlotOf(row));
    }
  }
}

// Behind an encoder the decoder counts its own positions.
void Engine::AddRow(const PlannedRows& rows, size_t plan_index, int32_t position, int32_t token) {
  const ActiveRequest& request = Active(rows.account);
  const size_t prompt = request.request().prompt.size();
  const auto encoded = static_cast<int32_t>(card_.decoder_start_token >= 0 ? prompt : 0);
  tokens_.push_back(token);
  positions_.push_back(position < encoded ? position : position - encoded);
  if (encoded > 0) in_encoder_.push_back(position < encoded ? 1 : 0);
  sequences_.push_back(*rows.sequence->kv);
  is_prompt_.push_back(position < rows.sequence->prompt_tokens ? 1 : 0);
  routing_.push_back(request.routing());
  routing_.back().slot = rows.sequence->slot;
  row_plan_.push_back(static_cast<int32_t>(plan_index));
}

void Engine::OnLogits(const StepPlan& plan, int32_t index, std::span<float> logits) {
  const Wanted& wanted = wanted_for_[static_cast<size_t>(index)];
  const auto entry = static_cast<size_t>(wanted.plan_index);
  ActiveRequest& request = Active(plan.rows[entry].sequence->id);
  if (request.request().embed) {
    request.AddHidden(logits);
  } else if (wanted.draft_row >= 0) {  // its turn comes when the guess before it is confirmed
    SelfSpeculation::Draft& draft = *speculation_.Of(entry);
    std::copy(logits.begin(), logits.end(),
              speculation_.LogitsOf(draft, static_cast<size_t>(wanted.draft_row)).begin());
  } else if (wanted.samples) {
    request.SampleNext(logits);
  } else {
    request.ScorePrompt(wanted.position, logits);
  }
}

// Every row but those of drafts, which count when they are confirmed.
void Engine::CountRows(const StepPlan& plan, const ForwardStats& stats) {
  int64_t prompt_rows = 0;
  size_t next_wanted = 0;  // rows of wanted_ are ascending
  for (size_t row = 0; row < tokens_.size(); ++row) {
    const PlannedRows& rows = plan.rows[static_cast<size_t>(row_plan_[row])];
    const bool with_logits =
        next_wanted < wanted_.size() && static_cast<size_t>(wanted_[next_wanted]) == row;
    const bool drafted = with_logits && wanted_for_[next_wanted].draft_row >= 0;
    next_wanted += with_logits ? 1 : 0;
    prompt_rows += is_prompt_[row];
    if (rows.count > 1) step_cost_.prefill_flops += stats.flops()[row];
    step_cost_.decodes |= rows.count == 1;
    if (!drafted) CountRow(Active(rows.account), stats, row, with_logits);
  }
  CountExperts(plan, stats, row_plan_);
  TraceRows(plan, stats);
  metrics_.AddPromptTokens(prompt_rows);
}

// `drafted`: what the row spent before, on its way to the exit.
void Engine::CountRow(ActiveRequest& request,
                      const ForwardStats& stats,
                      size_t row,
                      bool with_logits,
                      const SelfSpeculation::Cost& drafted) {
  ComputeUsage& compute = request.usage().compute;
  const bool in_encoder = !in_encoder_.empty() && in_encoder_[row] != 0;
  const double dense = runner_->DenseFlops(positions_[row], with_logits, in_encoder);
  const RunnerFacts& facts = runner_->facts();
  const int64_t encoder_layers = facts.num_encoder_instances;
  const auto layers = static_cast<int64_t>(facts.instances.size());
  const int32_t executed = stats.routed_executed()[row] + drafted.executed;
  compute.executed_token_layers += executed;
  compute.skipped_token_layers += stats.routed_offered()[row] + drafted.offered - executed;
  compute.all_token_layers += in_encoder ? encoder_layers : layers - encoder_layers;
  ++compute.rows;
  compute.dropped_experts += stats.dropped()[row];
  compute.flops += stats.flops()[row] + drafted.flops;
  compute.dense_flops += dense;
  step_cost_.flops += stats.flops()[row] + drafted.flops;
  step_cost_.dense_flops += dense;
  step_depths_.push_back(stats.depth()[row] + drafted.depth);
}

void Engine::CountExperts(const StepPlan& plan,
                          const ForwardStats& stats,
                          std::span<const int32_t> row_plan) {
  for (const ExpertChoice& choice : stats.expert_choices()) {
    int64_t& base = expert_base_[static_cast<size_t>(choice.layer_instance) * kNumExpertKinds +
                                 static_cast<size_t>(choice.kind)];
    if (base < 0) {
      base = num_expert_slots_;
      num_expert_slots_ += choice.num_experts;
    }
    const auto ids = stats.expert_ids(choice);
    const auto rows = stats.expert_rows(choice);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= choice.num_experts) continue;
      const auto entry = static_cast<size_t>(row_plan[static_cast<size_t>(rows[i])]);
      Active(plan.rows[entry].account).TouchExpert(base + ids[i]);
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

StepResult Engine::AcceptTokens(const StepPlan& plan, const ForwardStats& stats) {
  StepResult result;
  for (size_t p = 0; p < plan.rows.size(); ++p) {
    const PlannedRows& rows = plan.rows[p];
    if (SelfSpeculation::Draft* draft = speculation_.Of(p); draft != nullptr) {
      AcceptDraft(rows, *draft, stats, result);
    } else if (rows.samples) {
      result.tokens.push_back(AcceptToken(rows, rows.sequence->num_tokens()));
    } else if (!Active(rows.sequence->id).failure().ok()) {
      runner_->Scrub(*rows.sequence->kv);  // a prompt that is scored or embedded
    }
  }
  return result;
}

// `num_tokens`: of the sequence before this token.
SampledToken Engine::AcceptToken(const PlannedRows& rows, int32_t num_tokens) {
  ActiveRequest& request = Active(rows.sequence->id);
  SampledToken sampled{.id = rows.sequence->id, .token = request.sampled_token()};
  if (!request.failure().ok()) {
    sampled.finished = true;
    runner_->Scrub(*rows.sequence->kv);  // its pages may hold what spoiled its logits
    return sampled;
  }
  const absl::Duration now = clock_.Now();
  const bool first = request.num_generated() == 0;
  const absl::Duration since = now - (first ? request.submitted_at : request.last_token_at);
  if (first) {
    metrics_.ObserveFirstToken(since);
  } else {
    metrics_.ObserveInterToken(since);
  }
  metrics_.AddGeneratedTokens(1);
  const bool context_full = num_tokens + 1 >= card_.context_rows();
  sampled.finished = request.AcceptToken(context_full, now);
  return sampled;
}

// Samples row after row of the whole model's logits while the guesses hold.
void Engine::AcceptDraft(const PlannedRows& rows,
                         SelfSpeculation::Draft& draft,
                         const ForwardStats& stats,
                         StepResult& result) {
  ActiveRequest& request = Active(rows.sequence->id);
  const auto first = static_cast<size_t>(
      std::find(row_plan_.begin(), row_plan_.end(), static_cast<int32_t>(draft.plan_index)) -
      row_plan_.begin());
  size_t confirmed = 0;
  bool going = true;
  for (size_t row = 0; row <= draft.guesses.size(); ++row) {
    const auto cost = row < draft.costs.size() ? draft.costs[row] : SelfSpeculation::Cost{};
    if (!going) {
      request.usage().compute.flops += cost.flops + stats.flops()[first + row];
      continue;
    }
    CountRow(request, stats, first + row, /*with_logits=*/true, cost);
    request.SampleNext(speculation_.LogitsOf(draft, row));
    const SampledToken sampled =
        AcceptToken(rows, rows.sequence->num_tokens() + static_cast<int32_t>(row));
    result.tokens.push_back(sampled);
    going = !sampled.finished && row < draft.guesses.size() && sampled.token == draft.guesses[row];
    confirmed += going ? 1 : 0;
  }
  metrics_.CountDrafts(static_cast<int64_t>(confirmed),
                       static_cast<int64_t>(draft.guesses.size() - confirmed));
  runner_->Truncate(*rows.sequence->kv, rows.first + 1 + static_cast<int32_t>(confirmed));
}

}  // namespace sluice
