// The engine side of one HTTP request: submits every (prompt, choice) as its own engine request,
// brings their events from the engine thread to the I/O thread, and cancels or pauses them
// together.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine_client.h"
#include "server/http/async_signal.h"
#include "server/http/generation_plan.h"

namespace sluice::server {

struct ChoiceEvent {
  size_t choice = 0;
  TokenEvent event;
};

// Where the engine thread leaves events. Outlives the call when the engine is late.
class EventQueue {
 public:
  // `wake` lives until Close.
  EventQueue(const asio::any_io_executor& executor, AsyncSignal* wake)
      : executor_(executor), wake_(wake) {}

  void Push(size_t choice, TokenEvent event);  // any thread
  std::vector<ChoiceEvent> Take();
  // Later events are dropped, and nothing refers to the I/O context any more.
  void Close();

 private:
  const asio::any_io_executor executor_;
  absl::Mutex mutex_;
  AsyncSignal* const wake_;
  std::vector<ChoiceEvent> events_ ABSL_GUARDED_BY(mutex_);
  bool posted_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  // Tells a posted wake-up, on the I/O thread, whether `wake_` is still there.
  std::shared_ptr<bool> alive_ ABSL_GUARDED_BY(mutex_) = std::make_shared<bool>(true);
};

class GenerationCall {
 public:
  GenerationCall(EngineClient& engine, const asio::any_io_executor& executor);
  // Cancels what is still running.
  ~GenerationCall();
  GenerationCall(const GenerationCall&) = delete;
  GenerationCall& operator=(const GenerationCall&) = delete;

  // Submits choice p * plan.choices + c for each prompt p. On an error nothing is left running.
  absl::Status Submit(const GenerationPlan& plan);
  void Cancel(const std::string& reason);
  void SetPaused(bool paused);

  // What came since the last look, in order per choice.
  std::vector<ChoiceEvent> Take();
  bool finished() const { return num_finished_ == ids_.size(); }
  AsyncSignal& wake() { return wake_; }

 private:
  absl::Status SubmitCohort(const GenerationPlan& plan);

  EngineClient& engine_;
  AsyncSignal wake_;
  std::shared_ptr<EventQueue> queue_;
  std::vector<RequestId> ids_;
  std::vector<bool> choice_finished_;
  size_t num_finished_ = 0;
};

}  // namespace sluice::server
