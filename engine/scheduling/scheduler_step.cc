// How a step's rows are chosen. Decode rows come first, then prefill rows of running and waiting
// sequences in one order; pages are taken as rows are chosen, from those later in the order when
// none are free.
#include <algorithm>
#include <utility>

#include "engine/scheduling/scheduler.h"
#include "engine/scheduling/sequence_order.h"
#include "kernels/check.h"

namespace sluice {
namespace {

bool Decodes(const Sequence& sequence) {
  return sequence.num_computed > 0 && sequence.num_computed + 1 == sequence.num_tokens();
}

// The prompt of such a sequence may not be cut.
bool NeedsWholePrompt(const Sequence& sequence) {
  return sequence.whole_prompt && sequence.num_computed == 0;
}

bool CanRun(const Sequence& sequence) {
  return sequence.status == SequenceStatus::kRunning && !sequence.paused;
}

}  // namespace

struct Scheduler::Step {
  StepPlan plan;
  int32_t rows_left = 0;
  int32_t prefill_left = 0;
  int32_t prefill_rows = 0;  // planned
  size_t next_running = 0;  // first entry of running_order_ that was not yet considered for prefill
  // Nobody at or after it in the order is admitted in this step: it was preempted, or it runs and
  // got no pages, and those behind it may not take them.
  const Sequence* line_end = nullptr;

  void CloseLineAt(const Sequence& sequence) {
    if (line_end == nullptr || Before(sequence, *line_end)) line_end = &sequence;
  }

  // 0 when a whole prompt does not fit. The cap on prefill rows does not hold for the first whole
  // prompt of a step, which it would block for ever.
  int32_t ChunkOf(const Sequence& sequence) const {
    if (NeedsWholePrompt(sequence)) {
      const int32_t room = prefill_rows == 0 ? rows_left : prefill_left;
      return sequence.prompt_tokens <= room ? sequence.prompt_tokens : 0;
    }
    return std::min(sequence.num_tokens() - sequence.num_computed, prefill_left);
  }

  void Add(Sequence& sequence, int32_t count, int32_t drafts = 0) {
    const int32_t last = sequence.num_computed + count;
    plan.rows.push_back({.sequence = &sequence,
                         .first = sequence.num_computed,
                         .count = count,
                         .samples = last == sequence.num_tokens() && sequence.max_tokens > 0,
                         .drafts = drafts});
    plan.num_rows += count + drafts;
    rows_left -= count + drafts;
  }

  void AddPrefill(Sequence& sequence, int32_t count) {
    Add(sequence, count);
    prefill_rows += count;
    prefill_left -= count;
  }

  void Drop(const Sequence& sequence) {
    const auto found = std::find_if(plan.rows.begin(), plan.rows.end(),
                                    [&](const auto& rows) { return rows.sequence == &sequence; });
    if (found == plan.rows.end()) return;
    plan.num_rows -= found->count + found->drafts;
    rows_left += found->count + found->drafts;
    plan.rows.erase(found);
  }
};

StepPlan Scheduler::Schedule(absl::Duration now, int32_t prefill_rows) {
  Step step;
  in_flight_.clear();
  Expire(now, running_, step.plan.expired);
  Expire(now, waiting_, step.plan.expired);
  running_order_.clear();
  for (const auto& sequence : running_) running_order_.push_back(sequence.get());
  step.rows_left = limits_.max_batch_tokens;
  if (!PlanAlone(step)) {
    PlanDecodes(step);
    const bool capped = prefill_rows > 0 && !step.plan.empty();
    step.prefill_left = capped ? std::min(prefill_rows, step.rows_left) : step.rows_left;
    PlanPrefills(step);
  }
  in_flight_ = step.plan.rows;
  return std::move(step.plan);
}

void Scheduler::Expire(absl::Duration now, const Queue& queue, std::vector<RequestId>& expired) {
  const size_t first = expired.size();
  for (const auto& sequence : queue) {
    if (sequence->deadline.has_value() && *sequence->deadline <= now)
      expired.push_back(sequence->id);
  }
  for (size_t i = first; i < expired.size(); ++i) Remove(*by_id_.at(expired[i]));
}

// A whole prompt that does not fit beside the decode rows runs without them, or it would wait until
// all of them have ended.
bool Scheduler::PlanAlone(Step& step) {
  Sequence* running = NextRunningPrefill(step);
  Sequence* waiting = FirstWaiting(step);
  if (running == nullptr && waiting == nullptr) return false;
  const bool admits = running == nullptr || (waiting != nullptr && Before(*waiting, *running));
  Sequence& first = admits ? *waiting : *running;
  if (!NeedsWholePrompt(first) || first.prompt_tokens <= step.rows_left - NumDecodes()) {
    return false;
  }
  if (admits) return Admit(first, step);
  PlanPrefill(first, step);
  return !step.plan.empty();
}

int32_t Scheduler::NumDecodes() const {
  return static_cast<int32_t>(std::count_if(
      running_order_.begin(), running_order_.end(),
      [](const Sequence* sequence) { return CanRun(*sequence) && Decodes(*sequence); }));
}

void Scheduler::PlanDecodes(Step& step) {
  const int32_t num_decodes = limits_.draft_tokens > 0 ? NumDecodes() : 0;
  for (Sequence* sequence : running_order_) {
    if (step.rows_left == 0) return;
    if (!CanRun(*sequence) || !Decodes(*sequence)) continue;
    const int32_t drafts = ReserveDrafts(*sequence, num_decodes, step);
    if (drafts > 0 || ReserveRows(*sequence, 1, step)) step.Add(*sequence, 1, drafts);
  }
}

// Drafts take only what nobody else needs: rows left by all who decode, and free pages.
int32_t Scheduler::ReserveDrafts(Sequence& sequence, int32_t num_decodes, const Step& step) {
  if (limits_.draft_tokens == 0 || !sequence.may_draft) return 0;
  if (num_decodes > limits_.max_drafting_sequences) return 0;
  const int32_t tokens_left = std::min(sequence.max_tokens - sequence.num_generated(),
                                       limits_.max_context_tokens - sequence.num_tokens());
  const int32_t drafts = std::min({limits_.draft_tokens, tokens_left - 1,
                                   limits_.max_batch_tokens / num_decodes - 1, step.rows_left - 1});
  if (drafts <= 0 || !pages_.Reserve(*sequence.kv, 1 + drafts).ok()) return 0;
  return drafts;
}

void Scheduler::PlanPrefills(Step& step) {
  bool line_blocked = false;
  while (step.prefill_left > 0) {
    Sequence* running = NextRunningPrefill(step);
    Sequence* waiting = line_blocked ? nullptr : FirstWaiting(step);
    if (running == nullptr && waiting == nullptr) return;
    if (running == nullptr || (waiting != nullptr && Before(*waiting, *running))) {
      line_blocked = !Admit(*waiting, step);
    } else {
      ++step.next_running;
      PlanPrefill(*running, step);
    }
  }
}

void Scheduler::PlanPrefill(Sequence& sequence, Step& step) {
  int32_t count = step.ChunkOf(sequence);
  while (count > 0 && !ReserveRows(sequence, count, step)) {
    count = NeedsWholePrompt(sequence) ? 0 : count / 2;
  }
  if (count > 0) step.AddPrefill(sequence, count);
}

// Pages for all known tokens must be free, not only for the first chunk: a sequence that could not
// finish its prefill would only be preempted again.
bool Scheduler::Admit(Sequence& sequence, Step& step) {
  const int32_t count = step.ChunkOf(sequence);
  if (count == 0) return false;
  while (num_running() >= limits_.max_sequences) {
    if (!PreemptFor(sequence, step)) return false;
  }
  auto opened = pages_.Open();
  while (!opened.ok()) {
    if (!PreemptFor(sequence, step)) return false;
    opened = pages_.Open();
  }
  sequence.kv = *opened;
  if (!ReserveRows(sequence, sequence.num_tokens(), step)) {
    pages_.Free(*sequence.kv);
    sequence.kv.reset();
    return false;
  }
  MoveToRunning(sequence);
  step.AddPrefill(sequence, count);
  return true;
}

bool Scheduler::ReserveRows(Sequence& sequence, int32_t rows, Step& step) {
  while (true) {
    const absl::Status reserved = pages_.Reserve(*sequence.kv, rows);
    if (reserved.ok()) return true;
    SLUICE_CHECK(reserved.code() == absl::StatusCode::kResourceExhausted) << reserved.message();
    if (!PreemptFor(sequence, step)) break;
  }
  if (sequence.status == SequenceStatus::kRunning) step.CloseLineAt(sequence);
  return false;
}

bool Scheduler::PreemptFor(const Sequence& sequence, Step& step) {
  Sequence* victim = Victim(sequence);
  if (victim == nullptr) return false;
  step.Drop(*victim);
  MoveToWaiting(*victim);
  ++victim->num_preemptions;
  ++num_preemptions_;
  if (!victim->paused) step.CloseLineAt(*victim);
  return true;
}

// A paused sequence makes no use of its pages, so it goes first; then the last in the order.
Sequence* Scheduler::Victim(const Sequence& sequence) const {
  for (auto entry = running_.rbegin(); entry != running_.rend(); ++entry) {
    if ((*entry)->paused) return entry->get();
  }
  if (running_.empty()) return nullptr;
  Sequence* last = running_.back().get();
  const bool allowed = sequence.status == SequenceStatus::kRunning
                           ? Before(sequence, *last)
                           : last->priority > sequence.priority;
  return allowed ? last : nullptr;
}

Sequence* Scheduler::NextRunningPrefill(Step& step) const {
  while (step.next_running < running_order_.size()) {
    Sequence* sequence = running_order_[step.next_running];
    if (CanRun(*sequence) && !Decodes(*sequence)) return sequence;
    ++step.next_running;
  }
  return nullptr;
}

Sequence* Scheduler::FirstWaiting(const Step& step) const {
  for (const auto& sequence : waiting_) {
    if (step.line_end != nullptr && !Before(*sequence, *step.line_end)) return nullptr;
    if (!sequence->paused) return sequence.get();
  }
  return nullptr;
}

}  // namespace sluice
