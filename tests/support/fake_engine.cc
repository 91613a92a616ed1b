#include "tests/support/fake_engine.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "engine/request_error.h"

namespace sluice {
namespace {

// Best first; the chosen token is the best one, so that its value equals the maximum.
TokenLogprob MakeLogprob(int32_t token, int32_t alternatives) {
  TokenLogprob logprob;
  logprob.token = token;
  logprob.logprob = -0.1f - 0.001f * static_cast<float>(token);
  for (int32_t i = 0; i < alternatives; ++i) {
    logprob.top.emplace_back((token + i) % kFakeBos, logprob.logprob - static_cast<float>(i));
  }
  return logprob;
}

template <class Predicate>
bool WaitFor(std::mutex& mutex,
             std::condition_variable& changed,
             absl::Duration timeout,
             Predicate predicate) {
  std::unique_lock lock(mutex);
  return changed.wait_for(lock, absl::ToChronoMilliseconds(timeout), predicate);
}

}  // namespace

FakeEngine::FakeEngine() : FakeEngine(FakeEngineOptions()) {}

FakeEngine::FakeEngine(FakeEngineOptions options)
    : options_(std::move(options)),
      tokenizer_(MakeFakeTokenizer()),
      chat_template_(MakeFakeChatTemplate()) {
  if (!options_.manual) worker_ = std::thread([this] { Work(); });
}

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
}

absl::StatusOr<RequestId> FakeEngine::Submit(Request request, std::shared_ptr<TokenSink> sink) {
  const std::lock_guard lock(mutex_);
  if (!submit_errors_.empty()) {
    absl::Status error = std::move(submit_errors_.front());
    submit_errors_.pop_front();
    return error;
  }
  if (draining_) {
    return RequestError(absl::StatusCode::kUnavailable, "shutting_down", "", "shutting down");
  }
  running_.push_back({.request = std::move(request), .sink = std::move(sink)});
  changed_.notify_all();
  return RequestId{running_.size()};
}

absl::StatusOr<std::vector<RequestId>> FakeEngine::SubmitCohort(std::vector<CohortMember> members) {
  if (members.size() > static_cast<size_t>(options_.card.cohort_size))
    return BadRequest("too_many_sequences", "prompt", "the cohort is too large");
  {
    const std::lock_guard lock(mutex_);
    cohort_sizes_.push_back(members.size());
  }
  std::vector<RequestId> ids;
  for (CohortMember& member : members) {
    const auto id = Submit(std::move(member.request), std::move(member.sink));
    if (!id.ok()) return id.status();
    ids.push_back(*id);
  }
  return ids;
}

void FakeEngine::Cancel(RequestId id, std::string reason) {
  std::shared_ptr<TokenSink> sink;
  {
    const std::lock_guard lock(mutex_);
    cancel_reasons_.push_back(std::move(reason));
    Running& running = running_[static_cast<size_t>(id) - 1];
    running.cancelled = true;
    running.paused = false;
    if (options_.manual && !running.finished) {
      running.finished = true;
      sink = running.sink;
    }
    changed_.notify_all();
  }
  if (sink == nullptr) return;
  TokenEvent event;
  event.finish = FinishReason::kCancelled;
  sink->OnEvent(std::move(event));
}

void FakeEngine::CancelAll(std::string reason) {
  size_t count = 0;
  {
    const std::lock_guard lock(mutex_);
    count = running_.size();
  }
  for (size_t i = 0; i < count; ++i) Cancel(RequestId{i + 1}, reason);
}

void FakeEngine::SetPaused(RequestId id, bool paused) {
  const std::lock_guard lock(mutex_);
  const size_t index = static_cast<size_t>(id) - 1;
  running_[index].paused = paused;
  pauses_.push_back({index, paused});
  changed_.notify_all();
}

void FakeEngine::Work() {
  std::unique_lock lock(mutex_);
  size_t turn = 0;
  while (!stopping_) {
    const auto runnable = [this](const Running& running) { return Runnable(running); };
    if (std::none_of(running_.begin(), running_.end(), runnable)) {
      changed_.wait(lock);
      continue;
    }
    turn = (turn + 1) % running_.size();
    Running& running = running_[turn];
    if (!Runnable(running)) continue;
    TokenEvent event = NextEvent(running);
    running.finished = event.finish != FinishReason::kNone;
    const std::shared_ptr<TokenSink> sink = running.sink;
    if (running.finished) running.sink = nullptr;
    lock.unlock();
    sink->OnEvent(std::move(event));
    lock.lock();
    changed_.notify_all();
  }
}

TokenEvent FakeEngine::NextEvent(Running& running) const {
  TokenEvent event;
  const Request& request = running.request;
  if (running.cancelled) {
    Finish(running, event, FinishReason::kCancelled);
    return event;
  }
  if (request.embed) {
    event.embedding = {static_cast<float>(request.prompt.size()),
                       static_cast<float>(request.prompt.front()), -0.5f};
    Finish(running, event, FinishReason::kStop);
    return event;
  }
  if (running.next == 0 && request.sampling.prompt_logprobs.has_value()) {
    for (const int32_t token : request.prompt) {
      event.prompt_logprobs.emplace_back(MakeLogprob(token, *request.sampling.prompt_logprobs));
    }
    event.prompt_logprobs.front().reset();
  }
  if (request.stop.max_tokens == 0) {
    Finish(running, event, FinishReason::kLength);
    return event;
  }
  const std::string& piece = options_.reply[running.next % options_.reply.size()];
  ++running.next;
  event.text = piece;
  event.tokens = {static_cast<unsigned char>(piece.front())};
  if (request.sampling.logprobs.has_value()) {
    event.logprobs.push_back(MakeLogprob(event.tokens.front(), *request.sampling.logprobs));
  }
  if (request.routing.trace) {
    event.traces.push_back({.depth = 3, .executed_layers = {1}, .experts = {{0, 1}, {1, 0}}});
  }
  const bool spent = static_cast<int64_t>(running.next) >= request.stop.max_tokens;
  const bool at_end = !options_.endless && running.next >= options_.reply.size();
  if (at_end) {
    Finish(running, event, FinishReason::kStop);
  } else if (spent) {
    Finish(running, event, FinishReason::kLength);
  }
  return event;
}

void FakeEngine::Finish(Running& running, TokenEvent& event, FinishReason reason) const {
  event.finish = reason;
  Usage& usage = event.usage;
  usage.prompt_tokens = static_cast<int32_t>(running.request.prompt.size());
  usage.completion_tokens = static_cast<int32_t>(running.next);
  const int64_t rows = usage.prompt_tokens + usage.completion_tokens;
  usage.compute.rows = rows;
  usage.compute.executed_token_layers = rows;
  usage.compute.skipped_token_layers = rows;
  usage.compute.all_token_layers = 4 * rows;
  usage.compute.distinct_experts = 3;
  usage.compute.dropped_experts = 2;
  usage.compute.flops = 750.0 * static_cast<double>(rows);
  usage.compute.dense_flops = 1000.0 * static_cast<double>(rows);
}

MetricsSnapshot FakeEngine::Snapshot() const {
  const std::lock_guard lock(mutex_);
  return snapshot_;
}

void FakeEngine::StartDraining() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

bool FakeEngine::draining() const {
  const std::lock_guard lock(mutex_);
  return draining_;
}

int64_t FakeEngine::num_active() const {
  const std::lock_guard lock(mutex_);
  return std::count_if(running_.begin(), running_.end(),
                       [](const Running& running) { return !running.finished; });
}

bool FakeEngine::healthy() const {
  const std::lock_guard lock(mutex_);
  return healthy_;
}

void FakeEngine::FailNextSubmit(absl::Status error) {
  const std::lock_guard lock(mutex_);
  submit_errors_.push_back(std::move(error));
}

void FakeEngine::set_snapshot(MetricsSnapshot snapshot) {
  const std::lock_guard lock(mutex_);
  snapshot_ = std::move(snapshot);
}

void FakeEngine::set_healthy(bool healthy) {
  const std::lock_guard lock(mutex_);
  healthy_ = healthy;
}

void FakeEngine::Emit(size_t submit_index, TokenEvent event) {
  std::shared_ptr<TokenSink> sink;
  {
    const std::lock_guard lock(mutex_);
    Running& running = running_[submit_index];
    if (running.finished) return;
    running.finished = event.finish != FinishReason::kNone;
    sink = running.sink;
    changed_.notify_all();
  }
  sink->OnEvent(std::move(event));
}

std::vector<Request> FakeEngine::submitted() const {
  const std::lock_guard lock(mutex_);
  std::vector<Request> requests;
  for (const Running& running : running_) requests.push_back(running.request);
  return requests;
}

std::vector<size_t> FakeEngine::cohort_sizes() const {
  const std::lock_guard lock(mutex_);
  return cohort_sizes_;
}

std::vector<std::string> FakeEngine::cancel_reasons() const {
  const std::lock_guard lock(mutex_);
  return cancel_reasons_;
}

std::vector<FakeEngine::Pause> FakeEngine::pauses() const {
  const std::lock_guard lock(mutex_);
  return pauses_;
}

bool FakeEngine::WaitForSubmits(size_t count, absl::Duration timeout) const {
  return WaitFor(mutex_, changed_, timeout, [&] { return running_.size() >= count; });
}

bool FakeEngine::WaitForCancels(size_t count, absl::Duration timeout) const {
  return WaitFor(mutex_, changed_, timeout, [&] { return cancel_reasons_.size() >= count; });
}

bool FakeEngine::WaitForPause(bool paused, absl::Duration timeout) const {
  return WaitFor(mutex_, changed_, timeout, [&] {
    return std::any_of(pauses_.begin(), pauses_.end(),
                       [&](const Pause& pause) { return pause.paused == paused; });
  });
}

bool FakeEngine::WaitForIdle(absl::Duration timeout) const {
  return WaitFor(mutex_, changed_, timeout, [&] {
    return std::all_of(running_.begin(), running_.end(),
                       [](const Running& running) { return running.finished; });
  });
}

}  // namespace sluice
