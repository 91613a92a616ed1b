#include "engine/self_speculation.h"

#include <utility>

#include "kernels/check.h"

namespace sluice {

SelfSpeculation::SelfSpeculation(ModelRunner& runner, const Limits& limits)
    : runner_(runner), limits_(limits) {
  SLUICE_CHECK(limits.draft_tokens == 0 ||
               runner.draft_states().rows >= limits.draft_tokens * limits.max_sequences)
      << runner.draft_states().rows;
}

void SelfSpeculation::Guess(
    const StepPlan& plan,
    absl::FunctionRef<ActiveRequest&(const PlannedRows&)> request_of,
    absl::FunctionRef<void(const ForwardStats&, std::span<const int32_t>)> on_pass) {
  drafts_.clear();
  for (size_t p = 0; p < plan.rows.size(); ++p) {
    if (plan.rows[p].drafts == 0) continue;
    SLUICE_CHECK(plan.rows[p].count == 1 && plan.rows[p].drafts <= limits_.draft_tokens);
    drafts_.push_back({.plan_index = p,
                       .first_slot = static_cast<int32_t>(drafts_.size()) * limits_.draft_tokens});
  }
  SLUICE_CHECK(std::ssize(drafts_) <= limits_.max_sequences) << drafts_.size();
  for (size_t row = 0;; ++row) {
    for (auto* list : {&row_plan_, &tokens_, &positions_, &wanted_, &slots_}) list->clear();
    sequences_.clear(), is_prompt_.clear(), routing_.clear();
    for (const Draft& draft : drafts_) AddRow(plan, draft, row, request_of);
    if (tokens_.empty()) break;
    const Batch batch{
        .tokens = tokens_,
        .positions = positions_,
        .sequences = sequences_,
        .is_prompt = is_prompt_,
        .routing = routing_,
        .wanted = wanted_,
        .early_exit = {.draft = true, .slots = slots_, .states = runner_.draft_states()}};
    const ForwardStats& stats =
        runner_.Run(batch, nullptr, [&](int32_t index, std::span<float> logits) {
          const auto entry = static_cast<size_t>(row_plan_[static_cast<size_t>(index)]);
          std::vector<int32_t>& guesses = Of(entry)->guesses;
          const auto guess = request_of(plan.rows[entry]).Guess(logits, guesses);
          if (guess.ok()) guesses.push_back(*guess);
        });
    for (size_t i = 0; i < row_plan_.size(); ++i) {
      Of(static_cast<size_t>(row_plan_[i]))
          ->costs.push_back({stats.flops()[i], stats.routed_executed()[i],
                             stats.routed_offered()[i], stats.depth()[i]});
    }
    on_pass(stats, row_plan_);
  }
  for (Draft& draft : drafts_) {
    draft.logits.resize((draft.guesses.size() + 1) * static_cast<size_t>(limits_.vocab_size));
  }
}

// Nothing when the draft is complete, or has no token to go on with.
void SelfSpeculation::AddRow(const StepPlan& plan,
                             const Draft& draft,
                             size_t row,
                             absl::FunctionRef<ActiveRequest&(const PlannedRows&)> request_of) {
  const PlannedRows& rows = plan.rows[draft.plan_index];
  if (row >= static_cast<size_t>(rows.drafts) || row > draft.guesses.size()) return;
  row_plan_.push_back(static_cast<int32_t>(draft.plan_index));
  wanted_.push_back(static_cast<int32_t>(tokens_.size()));
  tokens_.push_back(row == 0 ? rows.sequence->tokens.back() : draft.guesses[row - 1]);
  positions_.push_back(rows.first + static_cast<int32_t>(row));
  sequences_.push_back(*rows.sequence->kv);
  is_prompt_.push_back(0);
  routing_.push_back(request_of(rows).routing());
  slots_.push_back(draft.first_slot + static_cast<int32_t>(row));
}

SelfSpeculation::Draft* SelfSpeculation::Of(size_t plan_index) {
  for (Draft& draft : drafts_) {
    if (draft.plan_index == plan_index) return &draft;
  }
  return nullptr;
}

std::span<float> SelfSpeculation::LogitsOf(Draft& draft, size_t row) const {
  const auto vocab = static_cast<size_t>(limits_.vocab_size);
  return std::span(draft.logits).subspan(row * vocab, vocab);
}

}  // namespace sluice
