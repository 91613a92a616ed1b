#include "tests/scheduling/simulation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/scheduling/cohort.h"
#include "engine/scheduling/sequence_order.h"

namespace sluice {
namespace {

constexpr int32_t kMaxContext = 40;
constexpr int64_t kMaxSteps = 20'000;

}  // namespace

Simulation::Simulation(uint64_t seed) : random_(seed) {
  limits_.max_batch_tokens = Chance(20) ? Uniform(1, 4) : Uniform(5, 32);
  limits_.max_sequences = Uniform(1, 8);
  limits_.max_context_tokens = kMaxContext;
  limits_.max_queued_requests = Uniform(2, 30);
  limits_.max_queued_tokens = Uniform(20, 400);
  if (Chance(40)) {
    limits_.draft_tokens = Uniform(1, 5);
    limits_.max_drafting_sequences = Uniform(1, 4);
  }
  budget_ = {.flops = Chance(50) ? 0.0 : Uniform(1, 12), .flops_per_row = Uniform(1, 12) / 4.0};
  limits_.min_prefill_rows = Uniform(1, 4);
  num_arrivals_left_ = Uniform(5, 30);
  const std::vector<KvClassSpec> classes = SimulatedModel::Classes();
  const int64_t longest = KvBytesPerToken(backend_, classes) * kMaxContext;
  auto cache =
      KvCache::Create(backend_, classes,
                      {.memory_bytes = longest * Uniform(60, 250) / 100,
                       .max_sequences = std::max(1, limits_.max_sequences + Uniform(-1, 1)),
                       .max_tokens = kMaxContext,
                       .poison_freed_pages = Chance(50)});
  if (!cache.ok()) {
    Fail(std::string(cache.status().message()));
    return;
  }
  cache_ = std::move(*cache);
  model_ = std::make_unique<SimulatedModel>(*cache_);
  scheduler_ = std::make_unique<Scheduler>(limits_, *cache_);
}

int32_t Simulation::Uniform(int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random_() % static_cast<uint64_t>(high - low + 1));
}

void Simulation::Fail(const std::string& rule) {
  if (failure_.empty()) failure_ = absl::StrCat("step ", counts_.steps, ": ", rule);
}

std::string Simulation::Run(SimulationCounts& counts) {
  while (failure_.empty() && (num_arrivals_left_ > 0 || !active_.empty())) {
    if (num_arrivals_left_ > 0 && Chance(30)) Arrive();
    Disturb();
    Step();
    if (++counts_.steps > kMaxSteps) Fail("requests do not end");
  }
  if (failure_.empty() && cache_->num_used_pages() != 0) Fail("pages are left");
  if (failure_.empty() && scheduler_->num_waiting() + scheduler_->num_running() != 0) {
    Fail("sequences are left");
  }
  if (failure_.empty()) {
    counts_.preemptions = scheduler_->num_preemptions();
    counts_.skipped_rows = model_->num_skipped_rows();
    counts = counts_;
  }
  return failure_;
}

void Simulation::Arrive() {
  --num_arrivals_left_;
  Active unit{.request = {.whole_prompt = Chance(15)}, .unit = next_id_};
  if (Chance(15)) unit.deadline = now_ + absl::Milliseconds(Uniform(1, 400));
  arriving_.clear();
  std::unique_ptr<Sequence> sequence = NewMember(unit);
  sequence->priority = Chance(70) ? 0 : Uniform(-2, 2);
  sequence->deadline = unit.deadline;
  for (int32_t more = Chance(20) ? Uniform(1, 3) : 0; more > 0; --more) {
    sequence->companions.push_back(NewMember(unit));
    sequence->companions.back()->slot = static_cast<int32_t>(sequence->companions.size());
  }
  std::map<RequestId, const Sequence*> members;
  ForEachMember(std::as_const(*sequence),
                [&](const Sequence& member) { members[member.id] = &member; });
  if (!scheduler_->Add(std::move(sequence), now_).ok()) {
    ++counts_.refused;
    return;
  }
  counts_.cohorts += members.size() > 1 ? 1 : 0;
  sequences_.insert(members.begin(), members.end());
  active_.merge(arriving_);
}

// A random sequence, filed under arriving_.
std::unique_ptr<Sequence> Simulation::NewMember(const Active& unit) {
  Active active = unit;
  SimulatedRequest& request = active.request;
  request.id = RequestId{next_id_++};
  request.key = random_();
  request.max_tokens = Chance(5) ? 0 : Uniform(1, 16);
  for (int32_t left = Chance(30) ? Uniform(1, 30) : Uniform(1, 8); left > 0; --left) {
    request.prompt.push_back(Uniform(1, 5));
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->id = request.id;
  sequence->tokens = request.prompt;
  sequence->prompt_tokens = sequence->num_tokens();
  sequence->max_tokens = request.max_tokens;
  sequence->whole_prompt = request.whole_prompt;
  if (Chance(50)) sequence->flops_per_row = Uniform(1, 12) / 4.0;
  active.text = SimulatedModel::SoloText(request);
  requests_[request.id] = request;
  arriving_.emplace(request.id, std::move(active));
  return sequence;
}

// A random client goes away, stops reading, or reads again.
void Simulation::Disturb() {
  if (active_.empty() || !Chance(25)) return;
  auto entry = active_.begin();
  std::advance(entry, Uniform(0, static_cast<int32_t>(active_.size()) - 1));
  DisturbOne(entry);
}

void Simulation::DisturbOne(std::map<RequestId, Active>::iterator entry) {
  const RequestId id = entry->first;
  Active& active = entry->second;
  if (Chance(10)) {
    ++counts_.cancels;
    return Cancel(id);
  }
  counts_.pauses += active.paused ? 0 : 1;
  active.paused = !active.paused;
  scheduler_->SetPaused(id, active.paused);
}

void Simulation::Cancel(RequestId id) {
  if (!scheduler_->Cancel(id)) Fail("cancel of an active request finds nothing");
  const uint64_t unit = active_.at(id).unit;
  std::erase_if(active_, [&](const auto& entry) {
    if (entry.second.unit == unit) sequences_.erase(entry.first);
    return entry.second.unit == unit;
  });
}

bool Simulation::UnitPaused(uint64_t unit) const {
  return std::any_of(active_.begin(), active_.end(), [unit](const auto& entry) {
    return entry.second.unit == unit && entry.second.paused;
  });
}

void Simulation::Step() {
  now_ += absl::Milliseconds(Uniform(0, 10));
  const std::map<RequestId, bool> ran = Running();
  const StepPlan plan = scheduler_->Schedule(now_, budget_);
  for (const RequestId id : plan.expired) {
    ++counts_.expired;
    const auto found = active_.find(id);
    if (found == active_.end()) return Fail("an unknown request expired");
    if (found->second.deadline.value_or(absl::InfiniteDuration()) > now_) Fail("expired early");
    active_.erase(found);
    sequences_.erase(id);
  }
  if (plan.empty() == scheduler_->HasRunnable()) Fail("no progress");
  CheckPlan(plan);
  CheckVictims(plan, ran);
  if (!failure_.empty()) return;
  if (Chance(2)) {
    AbandonRows(plan);
  } else {
    RunRows(plan);
  }
  const absl::Status cache = cache_->CheckIntegrity();
  if (!cache.ok()) Fail(std::string(cache.message()));
  const absl::Status scheduler = scheduler_->CheckIntegrity();
  if (!scheduler.ok()) Fail(std::string(scheduler.message()));
}

std::map<RequestId, bool> Simulation::Running() const {
  std::map<RequestId, bool> running;
  for (const auto& [id, sequence] : sequences_) {
    running[id] = sequence->status == SequenceStatus::kRunning;
  }
  return running;
}

void Simulation::CheckPlan(const StepPlan& plan) {
  int32_t num_rows = 0;
  std::map<const Sequence*, int> seen;
  for (const PlannedRows& rows : plan.rows) {
    const Sequence& sequence = *rows.sequence;
    num_rows += rows.count + rows.drafts;
    if (rows.drafts > limits_.draft_tokens || (rows.drafts > 0 && !rows.samples)) {
      return Fail("drafts that nobody asked for");
    }
    if (sequence.num_generated() + rows.drafts >= sequence.max_tokens && rows.drafts > 0) {
      return Fail("drafts beyond the end");
    }
    if (++seen[&sequence] > 1) return Fail("planned twice");
    const bool replay = !IsLive(sequence);
    if (replay == (rows.account == sequence.id)) return Fail("counted for the wrong request");
    counts_.replayed_rows += replay ? rows.count : 0;
    if (!active_.contains(rows.account)) return Fail("planned after its end");
    if (UnitPaused(active_.at(rows.account).unit)) return Fail("planned while paused");
    if (active_.at(rows.account).deadline.value_or(absl::InfiniteDuration()) <= now_) {
      return Fail("planned after its deadline");
    }
    if (rows.first != sequence.num_computed || rows.count <= 0) return Fail("rows out of order");
    const int32_t last = rows.first + rows.count;
    if (last > sequence.num_tokens()) return Fail("rows beyond the tokens");
    const bool samples = !replay && last == sequence.num_tokens() && sequence.max_tokens > 0;
    if (rows.samples != samples) return Fail("wrong rows sample");
    if (last < sequence.prompt_tokens) ++counts_.chunked_prefills;
    if (!sequence.whole_prompt || rows.first >= sequence.prompt_tokens) continue;
    ++counts_.whole_prompts;
    if (rows.first != 0 || last < sequence.prompt_tokens) return Fail("a whole prompt was cut");
  }
  if (num_rows != plan.num_rows || num_rows > limits_.max_batch_tokens) Fail("row budget");
  CheckLockstep(plan);
  CheckPrefillFlops(plan);
}

// Beside decode rows, prompts cost at most what the step was given; only the first may cost more,
// when it has few rows or may not be cut.
void Simulation::CheckPrefillFlops(const StepPlan& plan) {
  bool decodes = false;
  double spent = 0.0;
  std::map<const Sequence*, int32_t> units;  // rows
  for (const PlannedRows& rows : plan.rows) {
    const Sequence& unit = *rows.sequence->carrier;
    if (UnitComputed(unit) > 0 && UnitRows(unit) == 1) {
      decodes = true;
    } else {
      units[&unit] += rows.count;
      spent += rows.count * (unit.flops_per_row > 0.0 ? unit.flops_per_row : budget_.flops_per_row);
    }
  }
  if (!decodes || units.empty() || budget_.flops == 0.0) return;
  ++counts_.capped_prefills;
  if (spent <= budget_.flops) return;
  ++counts_.dear_prefills;
  const Sequence* only = units.begin()->first;
  const bool whole = only->whole_prompt && only->num_computed == 0;
  const int32_t least = std::max(limits_.min_prefill_rows, UnitWidth(*only));
  if (units.size() > 1 || (!whole && units.begin()->second > least))
    Fail("prompts cost more than the step was given");
}

// All members of a unit that have rows at these positions run them together, those that had them
// the first time included.
void Simulation::CheckLockstep(const StepPlan& plan) {
  std::map<const Sequence*, const PlannedRows*> planned;
  for (const PlannedRows& rows : plan.rows) planned[rows.sequence] = &rows;
  for (const PlannedRows& rows : plan.rows) {
    ForEachMember(std::as_const(*rows.sequence->carrier), [&](const Sequence& member) {
      const auto found = planned.find(&member);
      const int32_t ends = KnownRows(member);
      if ((found != planned.end()) != (ends > rows.first)) return Fail("a member is left behind");
      if (found == planned.end()) return;
      if (found->second->first != rows.first || found->second->count != rows.count)
        Fail("members run other positions");
    });
  }
}

// Nobody that could run lost its pages to less urgent ones only.
void Simulation::CheckVictims(const StepPlan& plan, const std::map<RequestId, bool>& ran) {
  for (const auto& [id, sequence] : sequences_) {
    const auto found = ran.find(id);
    const bool preempted =
        found != ran.end() && found->second && sequence->status == SequenceStatus::kWaiting;
    if (!preempted) continue;
    if (sequence->carrier->paused) {
      ++counts_.paused_victims;
      continue;
    }
    const Sequence* victim = sequence;
    const bool justified = std::any_of(plan.rows.begin(), plan.rows.end(), [&](const auto& rows) {
      return Before(*rows.sequence, *victim);
    });
    if (!justified) return Fail("preempted for less urgent ones");
  }
}

void Simulation::RunRows(const StepPlan& plan) {
  StepResult result;
  for (const PlannedRows& rows : plan.rows) {
    const int32_t token = model_->Run(requests_.at(rows.sequence->id), rows);
    if (rows.samples) {
      result.tokens.push_back({rows.sequence->id, token, token == SimulatedModel::kEndToken});
      RunDrafts(rows, token, result);
    }
    cache_->Commit(*rows.sequence->kv);
  }
  if (plan.empty()) return;
  // A client that goes away while the step runs.
  if (Chance(3)) {
    ++counts_.cancels_in_step;
    Cancel(plan.rows[static_cast<size_t>(Uniform(1, static_cast<int32_t>(plan.rows.size()))) - 1]
               .account);
  }
  for (const auto& sequence : scheduler_->Commit(result)) Finish(*sequence);
}

// `token` follows the planned row. Every guess runs; those behind a wrong one are forgotten.
void Simulation::RunDrafts(const PlannedRows& rows, int32_t token, StepResult& result) {
  if (rows.drafts == 0) return;
  Sequence ahead;
  ahead.id = rows.sequence->id;
  ahead.tokens = rows.sequence->tokens;
  ahead.kv = rows.sequence->kv;
  int32_t confirmed = 0;
  bool right = true;
  for (int32_t draft = 0; draft < rows.drafts; ++draft) {
    right = right && token != SimulatedModel::kEndToken && Chance(70);
    ahead.tokens.push_back(right ? token : token + 1);
    const PlannedRows guess{
        .sequence = &ahead, .first = rows.first + 1 + draft, .count = 1, .samples = true};
    const int32_t next = model_->Run(requests_.at(ahead.id), guess);
    if (!right) continue;
    token = next;
    ++confirmed;
    result.tokens.push_back({ahead.id, token, token == SimulatedModel::kEndToken});
  }
  cache_->Truncate(*ahead.kv, rows.first + 1 + confirmed);
  counts_.confirmed_drafts += confirmed;
  counts_.rejected_drafts += rows.drafts - confirmed;
}

// A step that failed half way: some rows are stored, none count.
void Simulation::AbandonRows(const StepPlan& plan) {
  ++counts_.failed_steps;
  for (const PlannedRows& rows : plan.rows) {
    if (Chance(50)) model_->Run(requests_.at(rows.sequence->id), rows);
    cache_->Truncate(*rows.sequence->kv, rows.sequence->num_computed);
    cache_->Commit(*rows.sequence->kv);
  }
}

void Simulation::Finish(const Sequence& sequence) {
  ++counts_.finished;
  const auto found = active_.find(sequence.id);
  if (found == active_.end()) return Fail("ended twice");
  const std::vector<int32_t> text(sequence.tokens.begin() + sequence.prompt_tokens,
                                  sequence.tokens.end());
  if (text != found->second.text) Fail("the text differs from the text generated alone");
  if (sequence.num_preemptions > 0) ++counts_.recomputed;
  sequences_.erase(sequence.id);
  active_.erase(found);
}

}  // namespace sluice
