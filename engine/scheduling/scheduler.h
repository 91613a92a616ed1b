// Continuous batching without prefill/decode phases: each step takes one row of every running
// sequence that decodes, then prefill chunks, within a budget of rows (which memory sets) and one
// of FLOPs (which time sets: a row that skips half of its layers costs half). Order: priority, then
// arrival. Preemption by recompute: when pages run out the youngest, least urgent sequence gives
// its pages back and starts again; its generated tokens are kept. No tensors, no thread, and no
// clock of its own: time comes in with the call.
//
// Rules: waiting sequences are admitted strictly in order; the head of the line blocks all behind
// it, so nobody starves inside a priority. A sequence may preempt paused ones and, when it runs,
// those after it in the order; when it waits, only those of a less urgent priority. So the most
// urgent runnable one always gets its pages.
//
// A sequence with companions is a unit that runs in lockstep (cohort.h): all of it is admitted,
// preempted, cancelled and expires together; what is said here of a sequence holds for a unit.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/cache/page_budget.h"
#include "engine/scheduling/sequence.h"
#include "engine/scheduling/step_plan.h"

namespace sluice {

struct SchedulerLimits {
  int32_t max_batch_tokens = 512;
  int32_t max_sequences = 64;
  int32_t max_context_tokens = 1024;
  int32_t max_queued_requests = 512;
  int64_t max_queued_tokens = 262'144;
  // Rows with guessed tokens per decoding sequence, while at most `max_drafting_sequences` decode.
  int32_t draft_tokens = 0;
  int32_t max_drafting_sequences = 0;
  // Of the first prompt in a step, whatever PrefillBudget says: decoding may slow prompts down, not
  // stop them.
  int32_t min_prefill_rows = 1;
};

// What the prompt rows of a step may cost while others decode.
struct PrefillBudget {
  double flops = 0.0;          // by Sequence::flops_per_row; 0: only the row budget counts
  double flops_per_row = 1.0;  // of sequences that do not know theirs
};

class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, PageBudget& pages);

  // InvalidArgument when the sequence can never run: `empty_prompt`, `context_length_exceeded`
  // (prompt and max_tokens together, or a whole prompt over the row budget), `kv_capacity`.
  // ResourceExhausted `queue_full`; DeadlineExceeded. Errors carry codes (request_error.h).
  absl::Status Add(std::unique_ptr<Sequence> sequence, absl::Duration now);
  // Frees everything of the sequence's unit at once; false when unknown. Not while a forward step
  // runs. Between Schedule and Commit (a failed step) it also takes the sequence's rows out of the
  // step.
  bool Cancel(RequestId id);
  void SetPaused(RequestId id, bool paused);

  // Chooses the next step and reserves its pages. An empty plan means nothing is runnable.
  // Invariant: a runnable sequence exists => the plan is not empty. A plan that was never committed
  // is abandoned: its rows are planned again (the caller has truncated the cache to num_computed).
  StepPlan Schedule(absl::Duration now, const PrefillBudget& budget);
  // Applies the results of the last plan; sequences that reached max_tokens or the context end
  // finish too. Returns the finished ones (moved out, pages free), in plan order. A sampled token
  // is appended also when it ends its sequence. Of drafted rows those count as computed whose
  // tokens were confirmed; the caller has truncated the cache behind them. A sequence with
  // max_tokens 0 samples nothing and finishes when its prompt is computed. Of a unit the members
  // finish one by one.
  std::vector<std::unique_ptr<Sequence>> Commit(const StepResult& result);

  int32_t num_waiting() const;
  int32_t num_running() const;  // sequences with a place in the cache
  int32_t num_paused() const;
  int64_t num_queued_tokens() const { return num_queued_tokens_; }
  int64_t num_preemptions() const { return num_preemptions_; }
  bool HasRunnable() const;
  // Internal error naming the broken rule.
  absl::Status CheckIntegrity() const;

 private:
  // Both in (priority, arrival) order. A preempted sequence keeps its arrival, so it waits in front
  // of all that came later.
  using Queue = std::deque<std::unique_ptr<Sequence>>;
  struct Step;

  // Admission and bookkeeping: scheduler.cc.
  absl::Status CheckCanRun(const Sequence& sequence) const;
  absl::Status CheckUnitFits(const Sequence& sequence) const;
  absl::Status CheckQueueRoom(const Sequence& sequence) const;
  bool IsFinished(const Sequence& sequence, bool stopped) const;
  std::unique_ptr<Sequence> Remove(Sequence& sequence);
  std::unique_ptr<Sequence> FinishMember(Sequence& member);
  void FreePages(Sequence& member);
  void MoveToRunning(Sequence& sequence);
  void MoveToWaiting(Sequence& sequence);
  static void UpdatePaused(Sequence& carrier);
  absl::Status CheckQueue(const Queue& queue, SequenceStatus status) const;
  absl::Status CheckMember(const Sequence& member,
                           const Sequence& carrier,
                           SequenceStatus status) const;

  // The choice of a step's rows: scheduler_step.cc.
  void Expire(absl::Duration now, const Queue& queue, std::vector<RequestId>& expired);
  bool PlanAlone(Step& step);
  void PlanDecodes(Step& step);
  int32_t NumDecodes() const;
  void PlanPrefills(Step& step);
  void PlanDrafts(Step& step);
  void PlanPrefill(Sequence& sequence, Step& step);
  bool Admit(Sequence& sequence, Step& step);
  bool OpenMembers(Sequence& sequence, Step& step);
  bool ReserveMember(Sequence& member, int32_t rows, Step& step);
  bool ReserveRows(Sequence& sequence, int32_t rows, Step& step);
  bool PreemptFor(const Sequence& sequence, Step& step);
  Sequence* Victim(const Sequence& sequence) const;
  Sequence* NextRunningPrefill(Step& step) const;
  Sequence* FirstWaiting(const Step& step) const;

  SchedulerLimits limits_;
  PageBudget& pages_;
  Queue waiting_;
  Queue running_;
  absl::flat_hash_map<RequestId, Sequence*> by_id_;
  std::vector<PlannedRows> in_flight_;    // the rows of the last plan
  std::vector<Sequence*> running_order_;  // scratch of Schedule
  bool ran_alone_ = false;  // the last step was one whole prompt without the decode rows
  uint64_t num_arrivals_ = 0;
  int64_t num_queued_tokens_ = 0;
  int64_t num_preemptions_ = 0;
};

}  // namespace sluice
