// How a step's rows are chosen. Decode rows come first, then prefill rows of running and waiting
// sequences in one order; pages are taken as rows are chosen, from those later in the order when
// none are free.
#include <algorithm>
#include <limits>
#include <utility>

#include "engine/scheduling/cohort.h"
#include "engine/scheduling/scheduler.h"
#include "engine/scheduling/sequence_order.h"
#include "kernels/check.h"

namespace sluice {
namespace {

bool Decodes(const Sequence& sequence) {
  return UnitComputed(sequence) > 0 && UnitRows(sequence) == 1;
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
  double flops_left = std::numeric_limits<double>::infinity();  // of prefill rows
  double flops_per_row = 1.0;    // of sequences that do not know theirs
  int32_t min_prefill_rows = 1;  // of the first prefill
  bool has_prefill = false;
  size_t next_running = 0;  // first entry of running_order_ that was not yet considered for prefill
  // Nobody at or after it in the order is admitted in this step: it was preempted, or it runs and
  // got no pages, and those behind it may not take them.
  const Sequence* line_end = nullptr;

  void CloseLineAt(const Sequence& sequence) {
    if (line_end == nullptr || Before(sequence, *line_end)) line_end = &sequence;
  }

  double FlopsPerRow(const Sequence& sequence) const {
    return sequence.flops_per_row > 0.0 ? sequence.flops_per_row : flops_per_row;
  }

  // Positions to run. 0 when a whole prompt, or one position of all members, does not fit. The
  // first of these in a step may cost more than is left, or it would be blocked for ever.
  int32_t ChunkOf(const Sequence& sequence) const {
    const int32_t width = UnitWidth(sequence);
    const double affordable = std::max(0.0, flops_left / (width * FlopsPerRow(sequence)));
    if (NeedsWholePrompt(sequence)) {
      const int32_t rows = sequence.prompt_tokens;
      return rows <= rows_left && (!has_prefill || rows <= affordable) ? rows : 0;
    }
    const int32_t room = rows_left / width;
    const int32_t fits = affordable < room ? static_cast<int32_t>(affordable) : room;
    const int32_t least = has_prefill ? 0 : std::min(room, std::max(1, min_prefill_rows / width));
    return std::min(UnitRows(sequence), std::max(fits, least));
  }

  void Add(Sequence& sequence, int32_t count) {
    const RequestId live = FirstLive(sequence).id;
    ForEachMember(sequence, [&](Sequence& member) {
      if (!TakesPart(member)) return;
      const int32_t last = member.num_computed + count;
      plan.rows.push_back(
          {.sequence = &member,
           .first = member.num_computed,
           .count = count,
           .samples = IsLive(member) && last == member.num_tokens() && member.max_tokens > 0,
           .account = IsLive(member) ? member.id : live});
      plan.num_rows += count;
      rows_left -= count;
    });
  }

  void AddPrefill(Sequence& sequence, int32_t count) {
    flops_left -= count * UnitWidth(sequence) * FlopsPerRow(sequence);
    has_prefill = true;
    Add(sequence, count);
  }

  void Drop(const Sequence& sequence) {
    std::erase_if(plan.rows, [&](const PlannedRows& rows) {
      if (rows.sequence->carrier != &sequence) return false;
      plan.num_rows -= rows.count;
      rows_left += rows.count;
      return true;
    });
  }
};

StepPlan Scheduler::Schedule(absl::Duration now, const PrefillBudget& budget) {
  Step step;
  step.flops_per_row = budget.flops_per_row;
  step.min_prefill_rows = limits_.min_prefill_rows;
  in_flight_.clear();
  Expire(now, running_, step.plan.expired);
  Expire(now, waiting_, step.plan.expired);
  running_order_.clear();
  for (const auto& sequence : running_) running_order_.push_back(sequence.get());
  step.rows_left = limits_.max_batch_tokens;
  // Not twice in a row: a stream of such prompts would leave the others without a row.
  ran_alone_ = !ran_alone_ && PlanAlone(step);
  if (!ran_alone_) {
    PlanDecodes(step);
    if (budget.flops > 0.0 && !step.plan.empty()) step.flops_left = budget.flops;
    PlanPrefills(step);
    PlanDrafts(step);
  }
  in_flight_ = step.plan.rows;
  return std::move(step.plan);
}

void Scheduler::Expire(absl::Duration now, const Queue& queue, std::vector<RequestId>& expired) {
  const size_t first = expired.size();
  for (const auto& sequence : queue) {
    if (!sequence->deadline.has_value() || *sequence->deadline > now) continue;
    ForEachMember(std::as_const(*sequence), [&](const Sequence& member) {
      if (IsLive(member)) expired.push_back(member.id);
    });
  }
  for (size_t i = first; i < expired.size(); ++i) {
    const auto found = by_id_.find(expired[i]);  // gone with its unit
    if (found != by_id_.end()) Remove(*found->second->carrier);
  }
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

// Rows that the decoding sequences need.
int32_t Scheduler::NumDecodes() const {
  int32_t rows = 0;
  for (const Sequence* sequence : running_order_) {
    if (CanRun(*sequence) && Decodes(*sequence)) rows += UnitWidth(*sequence);
  }
  return rows;
}

void Scheduler::PlanDecodes(Step& step) {
  for (Sequence* sequence : running_order_) {
    if (step.rows_left == 0) return;
    if (!CanRun(*sequence) || !Decodes(*sequence)) continue;
    if (UnitWidth(*sequence) > step.rows_left) {
      step.CloseLineAt(*sequence);  // or those behind it would fill every step
      continue;
    }
    if (ReserveRows(*sequence, 1, step)) step.Add(*sequence, 1);
  }
}

// Guesses take only rows and pages that nobody else took. Not beside the row of a prompt, which may
// be routed by another rule than generated ones.
void Scheduler::PlanDrafts(Step& step) {
  if (limits_.draft_tokens == 0) return;
  const auto decodes = [](const PlannedRows& rows) {
    return rows.samples && rows.count == 1 && rows.first >= rows.sequence->prompt_tokens;
  };
  const auto num_decodes = std::count_if(step.plan.rows.begin(), step.plan.rows.end(), decodes);
  if (num_decodes > limits_.max_drafting_sequences) return;
  for (PlannedRows& rows : step.plan.rows) {
    const Sequence& sequence = *rows.sequence;
    if (!decodes(rows) || !sequence.may_draft || UnitSize(*sequence.carrier) > 1) continue;
    const int32_t tokens_left = std::min(sequence.max_tokens - sequence.num_generated(),
                                         limits_.max_context_tokens - sequence.num_tokens());
    const int32_t drafts = std::min({limits_.draft_tokens, tokens_left - 1, step.rows_left});
    if (drafts <= 0 || !pages_.Reserve(*sequence.kv, 1 + drafts).ok()) continue;
    rows.drafts = drafts;
    step.plan.num_rows += drafts;
    step.rows_left -= drafts;
  }
}

void Scheduler::PlanPrefills(Step& step) {
  bool line_blocked = false;
  while (step.rows_left > 0 && step.flops_left > 0.0) {
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
  if (count == 0 && !sequence.companions.empty()) step.CloseLineAt(sequence);
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
  while (num_running() + UnitSize(sequence) > limits_.max_sequences) {
    if (!PreemptFor(sequence, step)) return false;
  }
  if (!OpenMembers(sequence, step)) {
    ForEachMember(sequence, [this](Sequence& member) { FreePages(member); });
    return false;
  }
  MoveToRunning(sequence);
  step.AddPrefill(sequence, count);
  return true;
}

// A place and the pages of all known rows for every member. On false some may have theirs.
bool Scheduler::OpenMembers(Sequence& sequence, Step& step) {
  bool all = true;
  ForEachMember(sequence, [&](Sequence& member) {
    auto opened = all ? pages_.Open() : absl::ResourceExhaustedError("");
    while (all && !opened.ok()) {
      all = PreemptFor(sequence, step);
      if (all) opened = pages_.Open();
    }
    if (!all) return;
    member.kv = *opened;
    all = ReserveMember(member, KnownRows(member), step);
  });
  return all;
}

bool Scheduler::ReserveMember(Sequence& member, int32_t rows, Step& step) {
  while (true) {
    const absl::Status reserved = pages_.Reserve(*member.kv, rows);
    if (reserved.ok()) return true;
    SLUICE_CHECK(reserved.code() == absl::StatusCode::kResourceExhausted) << reserved.message();
    if (!PreemptFor(*member.carrier, step)) return false;
  }
}

bool Scheduler::ReserveRows(Sequence& sequence, int32_t rows, Step& step) {
  bool all = true;
  ForEachMember(sequence, [&](Sequence& member) {
    if (all && TakesPart(member)) all = ReserveMember(member, rows, step);
  });
  if (!all && sequence.status == SequenceStatus::kRunning) step.CloseLineAt(sequence);
  return all;
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
