#include "server/http/generation_stream.h"

#include <algorithm>

#include "server/http/openai_errors.h"

namespace sluice::server {

GenerationStream::GenerationStream(Exchange& exchange,
                                   GenerationCall& call,
                                   ResponseContext context,
                                   ErrorFunction error_of)
    : exchange_(exchange),
      call_(call),
      plan_(context.plan),
      error_of_(error_of),
      chunked_(exchange.request.is_http11),
      sse_(exchange.connection.shared_from_this(), &call.wake(), chunked_),
      shape_(MakeResponseShape(std::move(context))) {}

asio::awaitable<void> GenerationStream::Run() {
  const HttpTimeouts& timeouts = exchange_.core.options.timeouts;
  exchange_.streamed = true;
  exchange_.record.status = 200;
  SendHead();
  for (size_t i = 0; i < plan_.prompts.size() * static_cast<size_t>(plan_.choices); ++i) {
    const nlohmann::json opening = shape_->Opening(i);
    if (!opening.is_null()) sse_.SendJson(opening);
  }
  bool running = true;
  while (running && !call_.finished()) {
    co_await call_.wake().Wait(NextDeadline());
    running = Deliver();
    if (!running) break;
    BalancePressure();
    if (abandoned_) break;
    const bool silent = SteadyNow() - sse_.last_send() >= timeouts.ping;
    if (silent && !paused_) sse_.SendPing();
  }
  if (abandoned_) co_return;
  if (!failed_) exchange_.record.completion_tokens = usage_.completion_tokens();
  if (!failed_ && plan_.include_usage) sse_.SendJson(shape_->UsageChunk(usage_));
  sse_.SendDone();
  sse_.SendEnd();
  const bool flushed = co_await Flush();
  exchange_.keep_alive =
      flushed && chunked_ && !failed_ && exchange_.request.keep_alive && !exchange_.core.draining();
}

void GenerationStream::SendHead() {
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.fields.emplace_back("Cache-Control", "no-cache");
  head.fields.emplace_back("X-Accel-Buffering", "no");
  head.fields.emplace_back("x-request-id", exchange_.record.request_id);
  AddCorsFields(exchange_, head);
  const bool keep_alive = chunked_ && exchange_.request.keep_alive && !exchange_.core.draining();
  sse_.SendHead(ResponseHead(head, chunked_ ? "Transfer-Encoding: chunked" : "", keep_alive));
}

bool GenerationStream::Deliver() {
  if (exchange_.connection.disconnected() || sse_.broken()) {
    Abandon(absl::StatusCode::kCancelled, "disconnect");
    return false;
  }
  const auto choices = static_cast<size_t>(plan_.choices);
  for (const ChoiceEvent& item : call_.Take()) {
    const absl::Status error = error_of_(item.event, exchange_.core);
    if (!error.ok()) {
      Fail(error);
      return false;
    }
    exchange_.record.completion_tokens += static_cast<int64_t>(item.event.tokens.size());
    const nlohmann::json chunk = shape_->Chunk(item.choice, item.event);
    if (!chunk.is_null()) sse_.SendJson(chunk);
    if (item.event.finish == FinishReason::kNone) continue;
    usage_.Add(item.event.usage, item.choice % choices == 0);
  }
  return true;
}

// The status line is long gone: the error becomes the last event.
void GenerationStream::Fail(const absl::Status& error) {
  call_.Cancel("sibling_failed");
  failed_ = true;
  exchange_.record.code = error.code();
  exchange_.record.error_code = ClassifyError(error).code;
  sse_.SendJson(ErrorJson(error));
}

void GenerationStream::BalancePressure() {
  const size_t limit = exchange_.core.options.limits.stream_buffer_bytes;
  const size_t buffered = sse_.buffered_bytes();
  if (!paused_ && buffered > limit) {
    paused_ = true;
    call_.SetPaused(true);
  } else if (paused_ && buffered <= limit / 4) {
    paused_ = false;
    call_.SetPaused(false);
  }
  sse_.ReportProgress(paused_);
  const absl::Duration stalled = SteadyNow() - sse_.last_progress();
  if (paused_ && stalled >= exchange_.core.options.timeouts.slow_reader) {
    exchange_.record.error_code = "slow_consumer";
    Abandon(absl::StatusCode::kCancelled, "slow_consumer");
  }
}

void GenerationStream::Abandon(absl::StatusCode code, const char* reason) {
  call_.Cancel(reason);
  abandoned_ = true;
  exchange_.record.status = 499;
  exchange_.record.code = code;
  exchange_.keep_alive = false;
  exchange_.connection.Close();
}

absl::Duration GenerationStream::NextDeadline() const {
  const HttpTimeouts& timeouts = exchange_.core.options.timeouts;
  const absl::Duration deadline =
      paused_ ? sse_.last_progress() + timeouts.slow_reader : sse_.last_send() + timeouts.ping;
  // One tick more, so that the deadline has passed when the wait ends.
  return deadline - SteadyNow() + absl::Milliseconds(1);
}

asio::awaitable<bool> GenerationStream::Flush() {
  const absl::Duration patience = exchange_.core.options.timeouts.slow_reader;
  sse_.ReportProgress(true);
  while (sse_.buffered_bytes() > 0) {
    if (sse_.broken() || exchange_.connection.disconnected()) co_return false;
    const absl::Duration left = sse_.last_progress() + patience - SteadyNow();
    if (left <= absl::ZeroDuration()) {
      exchange_.connection.Close();
      co_return false;
    }
    co_await call_.wake().Wait(left);
  }
  co_return !sse_.broken();
}

}  // namespace sluice::server
