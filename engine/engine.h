// Wires scheduler, model, sampler and text into one Step. Synchronous and single threaded:
// EngineThread owns the thread around it, tests and `sluice generate` call it directly.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/active_request.h"
#include "engine/clock.h"
#include "engine/compute_budget.h"
#include "engine/engine_client.h"
#include "engine/engine_config.h"
#include "engine/metrics_collector.h"
#include "engine/model_runner.h"
#include "engine/request.h"
#include "engine/scheduling/scheduler.h"
#include "engine/self_speculation.h"

namespace sluice {

// Limits that a request must fit; immutable, so that any thread may check before submitting.
absl::Status CheckAdmissible(const Request& request, const ModelCard& model);
// The same for the members of a cohort, and for all of them together.
absl::Status CheckCohortAdmissible(const std::vector<CohortMember>& members,
                                   const ModelCard& model);
// Refuses a request that must not be submitted by itself (routing.mode cohort).
absl::Status CheckAlone(const Request& request);

class Engine {
 public:
  struct Parts {
    EngineConfig config;
    ModelCard card;
    std::unique_ptr<ModelRunner> runner;
    const Tokenizer* tokenizer = nullptr;  // outlives the engine
    const Clock* clock = nullptr;          // outlives the engine
  };
  explicit Engine(Parts parts);

  // Errors as EngineClient::Submit. The id is the caller's, unique.
  absl::Status Submit(RequestId id, Request request, std::shared_ptr<TokenSink> sink);
  // As EngineClient::SubmitCohort; `ids` are the members'.
  absl::Status SubmitCohort(const std::vector<RequestId>& ids, std::vector<CohortMember> members);
  // `kv_capacity` when the members, each of which fits, do not fit the cache together. Any thread.
  absl::Status CheckCohortFits(const std::vector<CohortMember>& members) const;
  // Ends the request, and its cohort, with kCancelled; its pages are free on return. `reason` is
  // from a closed set.
  void Cancel(RequestId id, const std::string& reason);
  void SetPaused(RequestId id, bool paused);
  void CancelAll(const std::string& reason);
  // Ends every request with kError and `error`.
  void FailAll(const absl::Status& error);
  // Runs one step. False when nothing was runnable.
  bool Step();
  // The last step could place no row although a request may run: an invariant is broken.
  bool stalled() const { return stalled_; }

  bool HasWork() const { return scheduler_.HasRunnable() || !active_.empty(); }
  bool HasRunnable() const { return scheduler_.HasRunnable(); }
  int32_t num_waiting() const { return scheduler_.num_waiting(); }
  int64_t num_queued_tokens() const { return scheduler_.num_queued_tokens(); }
  bool IsActive(RequestId id) const { return active_.contains(id); }
  int64_t num_active() const { return static_cast<int64_t>(active_.size()); }
  MetricsCollector& metrics() { return metrics_; }
  ModelRunner& runner() { return *runner_; }
  // OK, or what is broken: pages, scheduler lists. For tests and the idle check.
  absl::Status CheckIntegrity() const;

 private:
  std::unique_ptr<Sequence> MakeSequence(RequestId id, const Request& request, absl::Duration now);
  void Activate(RequestId id, CohortMember member, const RowRouting& routing, absl::Duration now);
  std::vector<RequestId> CohortOf(RequestId id) const;
  void BuildBatch(const StepPlan& plan);
  void AddRow(const PlannedRows& rows, size_t plan_index, int32_t position, int32_t token);
  void OnLogits(const StepPlan& plan, int32_t index, std::span<float> logits);
  void CountRows(const StepPlan& plan, const ForwardStats& stats);
  void CountRow(ActiveRequest& request,
                const ForwardStats& stats,
                size_t row,
                bool with_logits,
                const SelfSpeculation::Cost& drafted = {});
  void CountExperts(const StepPlan& plan,
                    const ForwardStats& stats,
                    std::span<const int32_t> row_plan);
  void TraceRows(const StepPlan& plan, const ForwardStats& stats);
  StepResult AcceptTokens(const StepPlan& plan, const ForwardStats& stats);
  SampledToken AcceptToken(const PlannedRows& rows, int32_t num_tokens);
  void AcceptDraft(const PlannedRows& rows,
                   SelfSpeculation::Draft& draft,
                   const ForwardStats& stats,
                   StepResult& result);
  void FinishRequest(RequestId id, FinishReason reason, absl::Status error);
  void PublishGauges();
  double RowFlops(int32_t position, bool with_logits, const ComputeUsage& usage) const;
  std::vector<RequestId> ActiveIds() const;
  ActiveRequest& Active(RequestId id) { return *active_.at(id); }

  EngineConfig config_;
  ModelCard card_;
  std::unique_ptr<ModelRunner> runner_;
  const Tokenizer& tokenizer_;
  const Clock& clock_;
  MetricsCollector metrics_;
  Scheduler scheduler_;
  SelfSpeculation speculation_;
  ComputeBudget budget_;
  absl::flat_hash_map<RequestId, std::unique_ptr<ActiveRequest>> active_;
  std::vector<int64_t> expert_base_;  // first expert slot of each (layer instance, kind)
  int64_t num_expert_slots_ = 0;
  MetricsCollector::Gauges gauges_;
  bool stalled_ = false;
  ComputeBudget::Step step_cost_;
  int32_t next_cohort_ = 0;

  // Buffers of the step, reserved once.
  std::vector<int32_t> tokens_, positions_, wanted_;
  std::vector<int32_t> step_depths_;  // per token: layers executed
  std::vector<int32_t> slots_;        // only filled when a sequence drafts
  std::vector<KvSequence> sequences_;
  std::vector<uint8_t> is_prompt_, in_encoder_;
  std::vector<RowRouting> routing_;
  struct Wanted {
    int32_t plan_index = 0;
    int32_t position = 0;
    bool samples = false;
    int32_t draft_row = -1;  // of a drafting sequence
  };
  std::vector<Wanted> wanted_for_;
  std::vector<int32_t> row_plan_;  // row of the step -> plan entry
};

}  // namespace sluice
