#include "engine/scheduling/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/request_error.h"
#include "engine/scheduling/cohort.h"
#include "engine/scheduling/sequence_order.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

using Queue = std::deque<std::unique_ptr<Sequence>>;

Queue::iterator PlaceOf(Queue& queue, const Sequence& sequence) {
  return std::lower_bound(
      queue.begin(), queue.end(), sequence,
      [](const auto& entry, const Sequence& wanted) { return Before(*entry, wanted); });
}

void Insert(Queue& queue, std::unique_ptr<Sequence> sequence) {
  const auto place = PlaceOf(queue, *sequence);
  queue.insert(place, std::move(sequence));
}

std::unique_ptr<Sequence> Extract(Queue& queue, const Sequence& sequence) {
  const auto place = PlaceOf(queue, sequence);
  SLUICE_CHECK(place != queue.end() && place->get() == &sequence);
  std::unique_ptr<Sequence> taken = std::move(*place);
  queue.erase(place);
  return taken;
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, PageBudget& pages)
    : limits_(limits), pages_(pages) {
  SLUICE_CHECK(limits.max_batch_tokens > 0 && limits.max_sequences > 0);
}

absl::Status Scheduler::Add(std::unique_ptr<Sequence> sequence, absl::Duration now) {
  SLUICE_CHECK(!by_id_.contains(sequence->id)) << static_cast<uint64_t>(sequence->id);
  RETURN_IF_ERROR(CheckCanRun(*sequence));
  for (const auto& companion : sequence->companions) RETURN_IF_ERROR(CheckCanRun(*companion));
  RETURN_IF_ERROR(CheckUnitFits(*sequence));
  if (sequence->deadline.has_value() && *sequence->deadline <= now) {
    return RequestError(absl::StatusCode::kDeadlineExceeded, "deadline_exceeded", "",
                        "The deadline has passed.");
  }
  RETURN_IF_ERROR(CheckQueueRoom(*sequence));
  const uint64_t arrival = num_arrivals_++;
  ForEachMember(*sequence, [&](Sequence& member) {
    member.status = SequenceStatus::kWaiting;
    member.num_computed = 0;
    member.kv.reset();
    member.carrier = sequence.get();
    member.priority = sequence->priority;
    member.arrival = arrival;
    SLUICE_CHECK(by_id_.emplace(member.id, &member).second) << static_cast<uint64_t>(member.id);
  });
  num_queued_tokens_ += UnitTokens(*sequence);
  Insert(waiting_, std::move(sequence));
  return absl::OkStatus();
}

absl::Status Scheduler::CheckCanRun(const Sequence& sequence) const {
  if (sequence.prompt_tokens <= 0)
    return BadRequest("empty_prompt", "prompt", "The prompt is empty.");
  SLUICE_CHECK(sequence.prompt_tokens == sequence.num_tokens()) << sequence.num_tokens();
  if (sequence.max_tokens < 0) {
    return BadRequest("integer_out_of_range", "max_tokens", "max_tokens is negative.");
  }
  const int64_t longest = int64_t{sequence.prompt_tokens} + sequence.max_tokens;
  if (longest > limits_.max_context_tokens) {
    return BadRequest("context_length_exceeded", "prompt",
                      "The prompt and max_tokens together exceed the context length.");
  }
  if (sequence.whole_prompt && sequence.prompt_tokens > limits_.max_batch_tokens) {
    return BadRequest(
        "context_length_exceeded", "prompt",
        "This routing mode needs the whole prompt in one step; the prompt is longer.");
  }
  if (!pages_.CanEverFit(static_cast<int32_t>(longest))) {
    return BadRequest("kv_capacity", "prompt",
                      "The prompt and max_tokens together exceed the memory of the KV cache.");
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CheckUnitFits(const Sequence& sequence) const {
  if (sequence.companions.empty()) return absl::OkStatus();
  const int32_t size = UnitSize(sequence);
  if (size > limits_.max_sequences || size > limits_.max_batch_tokens) {
    return BadRequest("too_many_sequences", "prompt",
                      "The prompts of a cohort run together; there are too many for one step.");
  }
  std::vector<int32_t> longest;
  bool whole_prompt = false;
  ForEachMember(sequence, [&](const Sequence& member) {
    longest.push_back(member.prompt_tokens + member.max_tokens);
    whole_prompt |= member.whole_prompt;
  });
  if (whole_prompt) {
    return BadRequest("unsupported_parameter", "routing.mode",
                      "A cohort goes on position by position; its prompts cannot run whole.");
  }
  if (pages_.CanEverFit(longest)) return absl::OkStatus();
  return BadRequest("kv_capacity", "prompt",
                    "The prompts of the cohort together exceed the memory of the KV cache.");
}

// The bound on tokens does not hold for an empty queue: a prompt over it would be refused for ever,
// while the client was told to try again.
absl::Status Scheduler::CheckQueueRoom(const Sequence& sequence) const {
  const bool too_many = num_waiting() >= limits_.max_queued_requests;
  const bool too_long =
      !waiting_.empty() && num_queued_tokens_ + UnitTokens(sequence) > limits_.max_queued_tokens;
  if (!too_many && !too_long) return absl::OkStatus();
  return RequestError(absl::StatusCode::kResourceExhausted, "queue_full", "",
                      "Too many requests are waiting; try again later.");
}

void Scheduler::UpdatePaused(Sequence& carrier) {
  carrier.paused = false;
  ForEachMember(carrier, [&](const Sequence& member) { carrier.paused |= member.reader_is_slow; });
}

bool Scheduler::Cancel(RequestId id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  Sequence* sequence = found->second->carrier;
  for (PlannedRows& rows : in_flight_) {
    if (rows.sequence != nullptr && rows.sequence->carrier == sequence) rows.sequence = nullptr;
  }
  Remove(*sequence);
  return true;
}

void Scheduler::SetPaused(RequestId id, bool paused) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  found->second->reader_is_slow = paused;
  UpdatePaused(*found->second->carrier);
}

std::vector<std::unique_ptr<Sequence>> Scheduler::Commit(const StepResult& result) {
  std::vector<std::unique_ptr<Sequence>> finished;
  std::vector<Sequence*> ended;  // carriers whose last member has finished
  auto next = result.tokens.begin();
  const auto skip_cancelled = [&] {
    while (next != result.tokens.end() && !by_id_.contains(next->id)) ++next;
  };
  for (const PlannedRows& rows : in_flight_) {
    if (rows.sequence == nullptr) continue;
    Sequence& sequence = *rows.sequence;
    sequence.num_computed = rows.first + rows.count;
    if (!IsLive(sequence) && !TakesPart(sequence)) FreePages(sequence);
    if (!IsLive(sequence) || TakesPart(sequence)) continue;
    bool stopped = false;
    if (rows.samples) {
      skip_cancelled();
      SLUICE_CHECK(next != result.tokens.end() && next->id == sequence.id)
          << "no token for request " << static_cast<uint64_t>(sequence.id);
      sequence.tokens.push_back(next->token);
      stopped = next->finished;
      ++next;
      for (int32_t draft = 0; draft < rows.drafts; ++draft) {  // confirmed ones
        if (next == result.tokens.end() || next->id != sequence.id) break;
        SLUICE_CHECK(!stopped) << "tokens behind the end of a request";
        ++sequence.num_computed;
        sequence.tokens.push_back(next->token);
        stopped = next->finished;
        ++next;
      }
    }
    if (!IsFinished(sequence, stopped)) continue;
    Sequence* carrier = sequence.carrier;
    if (carrier->companions.empty()) {
      finished.push_back(Remove(sequence));
      continue;
    }
    finished.push_back(FinishMember(sequence));
    if (!IsLive(FirstLive(*carrier))) ended.push_back(carrier);
  }
  in_flight_.clear();
  for (Sequence* carrier : ended) Remove(*carrier);
  return finished;
}

// Of a sequence whose rows are all computed.
bool Scheduler::IsFinished(const Sequence& sequence, bool stopped) const {
  return stopped || sequence.num_generated() >= sequence.max_tokens ||
         sequence.num_tokens() >= limits_.max_context_tokens;
}

std::unique_ptr<Sequence> Scheduler::Remove(Sequence& sequence) {
  const bool waiting = sequence.status == SequenceStatus::kWaiting;
  std::unique_ptr<Sequence> taken = Extract(waiting ? waiting_ : running_, sequence);
  if (waiting) num_queued_tokens_ -= UnitTokens(*taken);
  ForEachMember(*taken, [&](Sequence& member) {
    FreePages(member);
    member.status = SequenceStatus::kFinished;
    if (IsLive(member)) by_id_.erase(member.id);
  });
  return taken;
}

// Its tokens stay with the unit, which may have to be computed again; the caller gets a copy.
std::unique_ptr<Sequence> Scheduler::FinishMember(Sequence& member) {
  by_id_.erase(member.id);
  member.replayed_rows = member.num_computed;
  member.reader_is_slow = false;
  FreePages(member);
  UpdatePaused(*member.carrier);
  auto copy = std::make_unique<Sequence>();
  copy->id = member.id;
  copy->tokens = member.tokens;
  copy->prompt_tokens = member.prompt_tokens;
  copy->max_tokens = member.max_tokens;
  copy->num_computed = member.num_computed;
  copy->num_preemptions = member.carrier->num_preemptions;
  copy->status = SequenceStatus::kFinished;
  return copy;
}

void Scheduler::FreePages(Sequence& member) {
  if (member.kv.has_value()) pages_.Free(*member.kv);
  member.kv.reset();
}

void Scheduler::MoveToRunning(Sequence& sequence) {
  num_queued_tokens_ -= UnitTokens(sequence);
  std::unique_ptr<Sequence> taken = Extract(waiting_, sequence);
  ForEachMember(*taken, [](Sequence& member) { member.status = SequenceStatus::kRunning; });
  Insert(running_, std::move(taken));
}

void Scheduler::MoveToWaiting(Sequence& sequence) {
  num_queued_tokens_ += UnitTokens(sequence);
  std::unique_ptr<Sequence> taken = Extract(running_, sequence);
  ForEachMember(*taken, [this](Sequence& member) {
    FreePages(member);
    member.num_computed = 0;
    member.status = SequenceStatus::kWaiting;
  });
  Insert(waiting_, std::move(taken));
}

int32_t Scheduler::num_waiting() const {
  int32_t requests = 0;
  for (const auto& sequence : waiting_) {
    ForEachMember(std::as_const(*sequence),
                  [&](const Sequence& member) { requests += IsLive(member) ? 1 : 0; });
  }
  return requests;
}

int32_t Scheduler::num_running() const {
  int32_t places = 0;
  for (const auto& sequence : running_) {
    ForEachMember(std::as_const(*sequence),
                  [&](const Sequence& member) { places += member.kv.has_value() ? 1 : 0; });
  }
  return places;
}

int32_t Scheduler::num_paused() const {
  const auto paused = [](const auto& sequence) { return sequence->paused; };
  return static_cast<int32_t>(std::count_if(running_.begin(), running_.end(), paused) +
                              std::count_if(waiting_.begin(), waiting_.end(), paused));
}

bool Scheduler::HasRunnable() const {
  const auto runnable = [](const auto& sequence) { return !sequence->paused; };
  return std::any_of(running_.begin(), running_.end(), runnable) ||
         std::any_of(waiting_.begin(), waiting_.end(), runnable);
}

absl::Status Scheduler::CheckIntegrity() const {
  RETURN_IF_ERROR(CheckQueue(waiting_, SequenceStatus::kWaiting));
  RETURN_IF_ERROR(CheckQueue(running_, SequenceStatus::kRunning));
  size_t live = 0;
  for (const Queue* queue : {&waiting_, &running_}) {
    for (const auto& sequence : *queue) {
      ForEachMember(std::as_const(*sequence),
                    [&](const Sequence& member) { live += IsLive(member) ? 1 : 0; });
    }
  }
  if (by_id_.size() != live) {
    return absl::InternalError(
        absl::StrCat(by_id_.size(), " sequences known, ", live, " waiting or running"));
  }
  if (num_running() > limits_.max_sequences) {
    return absl::InternalError(absl::StrCat(num_running(), " sequences run"));
  }
  int64_t queued_tokens = 0;
  for (const auto& sequence : waiting_) queued_tokens += UnitTokens(*sequence);
  if (queued_tokens != num_queued_tokens_) {
    return absl::InternalError(
        absl::StrCat(queued_tokens, " tokens wait, counted ", num_queued_tokens_));
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CheckQueue(const Queue& queue, SequenceStatus status) const {
  const Sequence* last = nullptr;
  for (const auto& sequence : queue) {
    absl::Status unit;
    ForEachMember(std::as_const(*sequence), [&](const Sequence& member) {
      if (unit.ok()) unit = CheckMember(member, *sequence, status);
    });
    RETURN_IF_ERROR(unit);
    if (last != nullptr && !Before(*last, *sequence)) {
      return absl::InternalError(
          absl::StrCat("request ", static_cast<uint64_t>(sequence->id), ": out of order"));
    }
    last = sequence.get();
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CheckMember(const Sequence& member,
                                    const Sequence& carrier,
                                    SequenceStatus status) const {
  const auto broken = [&](const char* rule) {
    return absl::InternalError(
        absl::StrCat("request ", static_cast<uint64_t>(member.id), ": ", rule));
  };
  const bool running = status == SequenceStatus::kRunning;
  const auto known = by_id_.find(member.id);
  if (member.carrier != &carrier) return broken("in another unit");
  if (member.status != status) return broken("in the wrong queue");
  if (!running && member.num_computed != 0) return broken("waits with computed rows");
  if (member.kv.has_value() != (running && TakesPart(member)))
    return broken("has pages without need or needs them");
  if (!IsLive(member)) return absl::OkStatus();
  if (known == by_id_.end() || known->second != &member) return broken("not known");
  if (member.num_computed >= member.num_tokens()) return broken("has nothing to run");
  if (member.num_computed != UnitComputed(carrier)) return broken("is not in step");
  return absl::OkStatus();
}

}  // namespace sluice
