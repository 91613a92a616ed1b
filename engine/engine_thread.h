// The only thread that mutates an Engine, with the mailbox in front of it. Implements EngineClient:
// any thread may submit, cancel, pause and look; events leave through the sinks on the engine
// thread.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/engine_client.h"
#include "engine/engine_config.h"

namespace sluice {

// A loaded engine's facts for the start-up report.
struct EngineReport {
  std::string spec_line;      // "mod: 8 layers (4 routed at 12.5 %), dim 256, ..."
  std::string sampling_line;  // "temperature 0.4, top_p 0.9 unless a request says otherwise"
  std::vector<kernels::KernelChoice> kernels;
  std::string weights;  // format of the projections: "bf16"
  int threads = 0;
  int64_t weight_bytes = 0, kv_bytes = 0, arena_bytes = 0, kv_tokens = 0;
  std::string packed_cache;  // what was done with it; empty without one
};

// Everything loaded from a model directory, before a thread runs it.
struct LoadedModel {
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  ModelCard card;
  EngineReport report;
};

// Opens and checks a model directory and packs its weights. InvalidArgument, NotFound,
// Unimplemented for bad models; ResourceExhausted when memory runs out.
absl::StatusOr<LoadedModel> LoadModel(const EngineConfig& config, const LoadProgress& progress);

class EngineThread final : public EngineClient {
 public:
  // Starts the thread. `clock` must outlive this object.
  EngineThread(const EngineConfig& config, LoadedModel model, const Clock& clock);
  // Cancels what is active ("shutdown") and joins.
  ~EngineThread() override;

  absl::StatusOr<RequestId> Submit(Request request, std::shared_ptr<TokenSink> sink) override;
  absl::StatusOr<std::vector<RequestId>> SubmitCohort(std::vector<CohortMember> members) override;
  void Cancel(RequestId id, std::string reason) override;
  void CancelAll(std::string reason) override;
  void SetPaused(RequestId id, bool paused) override;
  const ModelCard& model() const override { return card_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const ChatTemplate& chat_template() const override { return *chat_template_; }
  MetricsSnapshot Snapshot() const override { return engine_.metrics().Snapshot(); }
  void StartDraining() override { draining_.store(true); }
  bool draining() const override { return draining_.load(); }
  int64_t num_active() const override { return num_active_.load(); }
  bool healthy() const override { return healthy_.load(); }
  const EngineReport& report() const { return report_; }

 private:
  // A request, or the members of a cohort.
  struct Submission {
    std::vector<RequestId> ids;
    std::vector<CohortMember> members;
    bool cohort = false;
  };
  struct Cancellation {
    RequestId id{};
    std::string reason;
  };
  struct Pause {
    RequestId id{};
    bool paused = false;
  };

  void Run();
  // What other threads sent since the last step.
  struct Mail {
    std::vector<Submission> submissions;
    std::vector<Cancellation> cancellations;
    std::vector<Pause> pauses;
    std::optional<std::string> cancel_all;  // the reason
    int64_t num_requests() const {
      int64_t count = 0;
      for (const Submission& submission : submissions)
        count += static_cast<int64_t>(submission.members.size());
      return count;
    }
    bool empty() const {
      return submissions.empty() && cancellations.empty() && pauses.empty() &&
             !cancel_all.has_value();
    }
    void clear() {
      submissions.clear(), cancellations.clear(), pauses.clear();
      cancel_all.reset();
    }
  };
  // The ids, when there is room in the queue.
  absl::StatusOr<std::vector<RequestId>> Enqueue(std::vector<CohortMember> members, bool cohort);
  absl::Status CheckAccepting() const;
  // Waits for work; false when stopping. `mail` comes empty.
  bool TakeMail(Mail& mail);
  void Deliver(Mail& mail);
  void CheckInvariants();

  const EngineConfig config_;
  const ModelCard card_;
  const EngineReport report_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<ChatTemplate> chat_template_;
  mutable Engine engine_;  // metrics() is thread-safe; everything else belongs to the engine thread

  absl::Mutex mutex_;
  Mail mail_ ABSL_GUARDED_BY(mutex_);
  int64_t mailbox_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  // As of the last mailbox exchange or step: bounds the queue without waiting for a step.
  int64_t waiting_requests_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t waiting_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  bool runnable_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<uint64_t> next_id_{1};
  std::atomic<int64_t> num_active_{0};
  std::atomic<bool> draining_{false};
  std::atomic<bool> healthy_{true};
  std::thread thread_;
};

}  // namespace sluice
