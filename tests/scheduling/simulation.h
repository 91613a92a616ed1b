// One seeded run of the real scheduler and the real KV cache over a simulated model and clock:
// random arrivals, lengths, priorities, cancels, pauses, deadlines, failed steps, and pools too
// small for the load.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>

#include "engine/cache/kv_cache.h"
#include "engine/scheduling/scheduler.h"
#include "kernels/reference/reference_backend.h"
#include "tests/scheduling/simulated_model.h"

namespace sluice {

// How often each thing happened, so that a run in which it did not happen is no proof.
struct SimulationCounts {
  int64_t steps = 0;
  int64_t finished = 0;
  int64_t preemptions = 0;
  int64_t recomputed = 0;  // finished requests that had been preempted
  int64_t cancels = 0;
  int64_t cancels_in_step = 0;
  int64_t expired = 0;
  int64_t pauses = 0;
  int64_t paused_victims = 0;
  int64_t refused = 0;
  int64_t skipped_rows = 0;
  int64_t chunked_prefills = 0;
  int64_t whole_prompts = 0;
  int64_t capped_prefills = 0;  // steps whose prompts had a budget
  int64_t dear_prefills = 0;    // of those, over it as far as they may
  int64_t failed_steps = 0;
  int64_t confirmed_drafts = 0;
  int64_t rejected_drafts = 0;
  int64_t cohorts = 0;        // units of several members
  int64_t replayed_rows = 0;  // rows of finished members that were run again
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed);

  // Runs until every request has ended. Returns the first broken invariant, or "".
  std::string Run(SimulationCounts& counts);

 private:
  struct Active {
    SimulatedRequest request;
    std::vector<int32_t> text;  // what it generates alone
    std::optional<absl::Duration> deadline;
    bool paused = false;
    uint64_t unit = 0;  // members of a cohort have the same
  };

  int32_t Uniform(int32_t low, int32_t high);
  bool Chance(int32_t percent) { return Uniform(1, 100) <= percent; }
  void Fail(const std::string& rule);

  void Arrive();
  std::unique_ptr<Sequence> NewMember(const Active& unit);
  void DisturbOne(std::map<RequestId, Active>::iterator entry);
  void Disturb();
  void Cancel(RequestId id);
  void Step();
  void CheckPlan(const StepPlan& plan);
  void CheckLockstep(const StepPlan& plan);
  void CheckPrefillFlops(const StepPlan& plan);
  bool UnitPaused(uint64_t unit) const;
  void CheckVictims(const StepPlan& plan, const std::map<RequestId, bool>& ran);
  std::map<RequestId, bool> Running() const;
  void RunRows(const StepPlan& plan);
  void RunDrafts(const PlannedRows& rows, int32_t token, StepResult& result);
  void AbandonRows(const StepPlan& plan);
  void Finish(const Sequence& sequence);

  std::mt19937_64 random_;
  SchedulerLimits limits_;
  PrefillBudget budget_;
  kernels::ReferenceBackend backend_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<SimulatedModel> model_;
  std::unique_ptr<Scheduler> scheduler_;
  std::map<RequestId, Active> active_;
  std::map<RequestId, const Sequence*> sequences_;
  std::map<RequestId, Active> arriving_;
  std::map<RequestId, SimulatedRequest> requests_;  // of all that arrived
  absl::Duration now_ = absl::ZeroDuration();
  int32_t num_arrivals_left_ = 0;
  uint64_t next_id_ = 1;
  SimulationCounts counts_;
  std::string failure_;
};

}  // namespace sluice
