// An EngineClient without a model: a byte-level tokenizer (id = byte, four special tokens) and
// scripted token streams. Records what the server asked for. For tests of server/ only.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine_client.h"

namespace sluice {

inline constexpr int32_t kFakeBos = 256;
inline constexpr int32_t kFakeEos = 257;
inline constexpr int32_t kFakeTurnStart = 258;  // "<|im_start|>"
inline constexpr int32_t kFakeTurnEnd = 259;    // "<|im_end|>"
inline constexpr int32_t kFakeVocabulary = 260;

std::unique_ptr<Tokenizer> MakeFakeTokenizer();
// "<|im_start|>{role}\n{content}<|im_end|>\n" per message, then "<|im_start|>assistant\n".
std::unique_ptr<ChatTemplate> MakeFakeChatTemplate();
ModelCard FakeModelCard();

struct FakeEngineOptions {
  ModelCard card = FakeModelCard();
  // Generated for every request, one event per element, ends with `stop`; when max_tokens is
  // smaller it ends there with `length`. Repeats when `endless`.
  std::vector<std::string> reply = {"Hel", "lo", " wor", "ld"};
  bool endless = false;
  // Events come only through Emit.
  bool manual = false;
};

class FakeEngine : public EngineClient {
 public:
  FakeEngine();
  explicit FakeEngine(FakeEngineOptions options);
  ~FakeEngine() override;

  absl::StatusOr<RequestId> Submit(Request request, std::shared_ptr<TokenSink> sink) override;
  absl::StatusOr<std::vector<RequestId>> SubmitCohort(std::vector<CohortMember> members) override;
  void Cancel(RequestId id, std::string reason) override;
  void CancelAll(std::string reason) override;
  void SetPaused(RequestId id, bool paused) override;
  const ModelCard& model() const override { return options_.card; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const ChatTemplate& chat_template() const override { return *chat_template_; }
  MetricsSnapshot Snapshot() const override;
  void StartDraining() override;
  bool draining() const override;
  int64_t num_active() const override;
  bool healthy() const override;

  // Script.
  void FailNextSubmit(absl::Status error);
  void set_snapshot(MetricsSnapshot snapshot);
  void set_healthy(bool healthy);
  // Manual mode: sends one event on the caller's thread.
  void Emit(size_t submit_index, TokenEvent event);

  // Record.
  struct Pause {
    size_t submit_index;
    bool paused;
  };
  std::vector<Request> submitted() const;
  std::vector<size_t> cohort_sizes() const;
  std::vector<std::string> cancel_reasons() const;
  std::vector<Pause> pauses() const;
  // Wait for a condition of the record, at most `timeout`; false when it did not come true.
  bool WaitForSubmits(size_t count, absl::Duration timeout = absl::Seconds(20)) const;
  bool WaitForCancels(size_t count, absl::Duration timeout = absl::Seconds(20)) const;
  bool WaitForPause(bool paused, absl::Duration timeout = absl::Seconds(20)) const;
  bool WaitForIdle(absl::Duration timeout = absl::Seconds(20)) const;

 private:
  struct Running {
    Request request;
    std::shared_ptr<TokenSink> sink;
    size_t next = 0;
    bool paused = false;
    bool finished = false;
    bool cancelled = false;
  };

  void Work();
  bool Runnable(const Running& running) const { return !running.finished && !running.paused; }
  TokenEvent NextEvent(Running& running) const;
  void Finish(Running& running, TokenEvent& event, FinishReason reason) const;

  FakeEngineOptions options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_template_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::deque<Running> running_;  // index = submit order; ids are index + 1
  std::vector<size_t> cohort_sizes_;
  std::vector<std::string> cancel_reasons_;
  std::vector<Pause> pauses_;
  std::deque<absl::Status> submit_errors_;
  MetricsSnapshot snapshot_;
  bool draining_ = false;
  bool healthy_ = true;
  bool stopping_ = false;
  std::thread worker_;
};

}  // namespace sluice
