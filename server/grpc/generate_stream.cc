#include "server/grpc/generate_stream.h"

#include <utility>

#include "engine/clock.h"
#include "engine/request_error.h"
#include "server/generation_error.h"
#include "server/grpc/response_conversion.h"

namespace sluice::server {
namespace {

// Events waiting for a slow reader are merged into messages of about this size.
constexpr size_t kMergedBytes = 64 << 10;

// What an event costs in the queue; the same order as its size on the wire.
size_t EventBytes(const TokenEvent& event) {
  size_t bytes =
      64 + event.text.size() + event.tokens.size() * 4 + event.embedding.size() * sizeof(float);
  for (const TokenLogprob& logprob : event.logprobs) bytes += 24 + logprob.top.size() * 24;
  for (const auto& logprob : event.prompt_logprobs) {
    bytes += 24 + (logprob.has_value() ? logprob->top.size() * 24 : 0);
  }
  for (const TokenTrace& trace : event.traces) {
    bytes += 16 + trace.executed_layers.size() * 4 + trace.experts.size() * 8;
  }
  return bytes;
}

absl::Status SlowConsumer() {
  return RequestError(absl::StatusCode::kCancelled, "slow_consumer", "",
                      "the client did not read its stream");
}

}  // namespace

// Forwards one choice's events. Keeps the stream alive until the engine lets go of it.
class GenerateStream::Sink final : public TokenSink {
 public:
  Sink(std::shared_ptr<GenerateStream> stream, int32_t choice)
      : stream_(std::move(stream)), choice_(choice) {}
  void OnEvent(TokenEvent event) override { stream_->Enqueue(choice_, std::move(event)); }

 private:
  const std::shared_ptr<GenerateStream> stream_;
  const int32_t choice_;
};

GenerateStream::GenerateStream(Parts parts)
    : parts_(std::move(parts)),
      begun_(static_cast<size_t>(parts_.call.choices), false),
      unfinished_(parts_.call.choices) {}

absl::Status GenerateStream::Submit() {
  const GenerateCall& call = parts_.call;
  for (int32_t choice = 0; choice < call.choices; ++choice) {
    Request request = call.request;
    request.sampling.seed = ChoiceSeed(request.sampling.seed, choice);
    if (choice > 0) request.sampling.prompt_logprobs.reset();
    absl::StatusOr<RequestId> id = parts_.engine.Submit(
        std::move(request), std::make_shared<Sink>(shared_from_this(), choice));
    if (!id.ok()) {
      {
        const absl::MutexLock lock(&mutex_);
        closed_ = true;
      }
      CancelAll("sibling_refused");
      return id.status();
    }
    ids_.push_back(*id);
  }
  return absl::OkStatus();
}

void GenerateStream::Attach(StreamWriter* writer) {
  parts_.dispatcher.Post([self = shared_from_this(), writer] {
    self->writer_ = writer;
    self->Pump();
  });
}

void GenerateStream::Enqueue(int32_t choice, TokenEvent event) {
  const absl::MutexLock lock(&mutex_);
  if (closed_) return Charge(event);
  const size_t bytes = EventBytes(event);
  queue_.push_back({choice, bytes, std::move(event)});
  queued_bytes_ += bytes;
  if (pump_posted_) return;
  pump_posted_ = true;
  parts_.dispatcher.Post([self = shared_from_this()] { self->Pump(); });
}

void GenerateStream::Pump() {
  size_t queued_bytes = 0;
  {
    const absl::MutexLock lock(&mutex_);
    pump_posted_ = false;
    queued_bytes = queued_bytes_;
  }
  if (writer_ == nullptr) return;  // not attached: Submit may still be filling ids_
  UpdatePause(queued_bytes);
  Next();
}

void GenerateStream::Next() {
  if (writer_ == nullptr || writing_ || ended_) return;
  if (!failure_.ok()) return End(failure_);
  v1::GenerateResponse response;
  if (!TakeResponse(response)) {
    if (!failure_.ok() || unfinished_ == 0) End(failure_);
    return;
  }
  writing_ = true;
  write_started_ = SteadyClock().Now();
  if (!sent_first_) {
    sent_first_ = true;
    PostStallCheck(parts_.options.slow_reader);
  }
  writer_->Write(response);
}

bool GenerateStream::TakeResponse(v1::GenerateResponse& response) {
  size_t merged_bytes = 0;
  while (merged_bytes < kMergedBytes) {
    Item item;
    {
      const absl::MutexLock lock(&mutex_);
      if (queue_.empty()) break;
      if (merged_bytes > 0 && queue_.front().choice != response.index()) break;
      item = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= item.bytes;
    }
    NoteFinish(item.event);
    if (!failure_.ok()) break;  // what came before is still written
    merged_bytes += item.bytes;
    FillResponse(item, response);
  }
  if (merged_bytes == 0) return false;
  if (unfinished_ == 0) *response.mutable_usage() = ConvertUsage(usage_);
  size_t queued_bytes = 0;
  {
    const absl::MutexLock lock(&mutex_);
    queued_bytes = queued_bytes_;
  }
  UpdatePause(queued_bytes);
  return true;
}

void GenerateStream::FillResponse(Item& item, v1::GenerateResponse& response) {
  const GenerateCall& call = parts_.call;
  const Tokenizer& tokenizer = parts_.engine.tokenizer();
  const auto choice = static_cast<size_t>(item.choice);
  response.set_id(parts_.request_id);
  response.set_index(item.choice);
  if (!begun_[choice]) {
    begun_[choice] = true;
    response.mutable_text()->append(call.prompt_text);
    if (item.choice == 0 && call.wants_prompt_echo) {
      AppendPrompt(item.event, call, tokenizer, response);
    }
  }
  if (!sent_first_ && call.routing.ByteSizeLong() > 0) *response.mutable_routing() = call.routing;
  AppendEvent(item.event, call, tokenizer, response);
}

void GenerateStream::NoteFinish(const TokenEvent& event) {
  if (event.finish == FinishReason::kNone) return;
  --unfinished_;
  AddUsage(event.usage, usage_);
  Charge(event);
  if (!failure_.ok()) return;
  failure_ = GenerationError(event, parts_.engine.draining());
  if (failure_.ok()) return;
  CancelAll("sibling_failed");
}

// A client that leaves early still pays for what was generated.
void GenerateStream::Charge(const TokenEvent& event) {
  if (event.finish == FinishReason::kNone) return;
  parts_.authenticator.Charge(parts_.principal, event.usage.completion_tokens);
}

void GenerateStream::UpdatePause(size_t queued_bytes) {
  const size_t limit = parts_.options.buffer_bytes;
  const bool should_pause = paused_ ? queued_bytes > limit / 2 : queued_bytes >= limit;
  if (should_pause == paused_ || ended_) return;
  paused_ = should_pause;
  for (const RequestId id : ids_) parts_.engine.SetPaused(id, paused_);
}

// One timer per stream: comes back when the current write would have been stalled for too long.
void GenerateStream::CheckStall() {
  if (ended_) return;
  const absl::Duration limit = parts_.options.slow_reader;
  const absl::Duration waited =
      writing_ ? SteadyClock().Now() - write_started_ : absl::ZeroDuration();
  if (writing_ && waited >= limit) {
    if (failure_.ok()) failure_ = SlowConsumer();
    CancelAll("slow_consumer");
    writer_->Abort();
    return;
  }
  PostStallCheck(limit - waited);
}

// The timer does not keep a stream that has ended.
void GenerateStream::PostStallCheck(absl::Duration delay) {
  parts_.dispatcher.PostAfter(delay, [stream = weak_from_this()] {
    if (const auto self = stream.lock()) self->CheckStall();
  });
}

void GenerateStream::OnWritten(bool ok) {
  parts_.dispatcher.Post([self = shared_from_this(), ok] {
    self->writing_ = false;
    if (!ok && self->failure_.ok()) {
      self->failure_ = absl::CancelledError("the client went away");
      self->CancelAll("disconnect");
    }
    self->Next();
  });
}

void GenerateStream::OnClientGone(bool deadline_passed) {
  parts_.dispatcher.Post([self = shared_from_this(), deadline_passed] {
    if (self->ended_ || !self->failure_.ok()) return;
    self->failure_ = deadline_passed ? absl::DeadlineExceededError("the deadline has passed")
                                     : absl::CancelledError("the client went away");
    self->CancelAll(deadline_passed ? "deadline" : "disconnect");
    self->Next();
  });
}

void GenerateStream::CancelAll(const char* reason) {
  for (const RequestId id : ids_) parts_.engine.Cancel(id, reason);
}

void GenerateStream::End(const absl::Status& status) {
  ended_ = true;
  {
    const absl::MutexLock lock(&mutex_);
    closed_ = true;
    for (const Item& item : queue_) Charge(item.event);
    queue_.clear();
    queued_bytes_ = 0;
  }
  const v1::Usage usage = ConvertUsage(usage_);
  StreamWriter* writer = std::exchange(writer_, nullptr);
  writer->Finish(status, status.ok() ? &usage : nullptr);
}

}  // namespace sluice::server
