#include "server/http/sse_stream.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>

#include "absl/strings/str_format.h"
#include "server/http/openai_errors.h"

namespace sluice::server {
namespace {

// Small enough that a slow reader's progress is seen.
constexpr size_t kPieceBytes = 16 << 10;

}  // namespace

// Outlives the stream while a write is under way.
struct SseStream::Shared {
  std::shared_ptr<Connection> connection;
  AsyncSignal* wake = nullptr;
  std::string waiting;
  size_t in_flight_bytes = 0;
  bool writing = false;
  bool broken = false;
  bool reports_progress = false;
  absl::Duration last_send;
  absl::Duration last_progress;

  void NotifyProgress() const {
    if (wake != nullptr && (broken || reports_progress)) wake->Notify();
  }
};

SseStream::SseStream(std::shared_ptr<Connection> connection, AsyncSignal* wake, bool chunked)
    : chunked_(chunked), shared_(std::make_shared<Shared>()) {
  shared_->connection = std::move(connection);
  shared_->wake = wake;
  shared_->last_send = SteadyNow();
  shared_->last_progress = SteadyNow();
}

SseStream::~SseStream() { shared_->wake = nullptr; }

asio::awaitable<void> SseStream::WriteLoop(std::shared_ptr<Shared> shared) {
  std::string bytes;
  while (!shared->waiting.empty() && !shared->broken) {
    bytes.swap(shared->waiting);
    shared->waiting.clear();
    shared->in_flight_bytes = bytes.size();
    std::string_view rest = bytes;
    while (!rest.empty() && !shared->broken) {
      const std::string_view piece = rest.substr(0, kPieceBytes);
      const IoResult result = co_await shared->connection->WriteUnwatched(piece);
      shared->broken = static_cast<bool>(result.error);
      rest.remove_prefix(piece.size());
      shared->in_flight_bytes = rest.size();
      shared->last_progress = SteadyNow();
      shared->NotifyProgress();
    }
    bytes.clear();
  }
  shared->writing = false;
  shared->NotifyProgress();
}

void SseStream::Append(std::string_view bytes) {
  if (shared_->broken) return;
  const absl::Duration now = SteadyNow();
  shared_->last_send = now;
  if (buffered_bytes() == 0) shared_->last_progress = now;
  shared_->waiting.append(bytes);
  if (shared_->writing) return;
  shared_->writing = true;
  asio::co_spawn(shared_->connection->executor(), WriteLoop(shared_),
                 [shared = shared_](const std::exception_ptr& error) {
                   if (error) shared->connection->Close();
                 });
}

void SseStream::SendHead(std::string_view head) { Append(head); }

void SseStream::SendEvent(std::string_view event) {
  if (!chunked_) return Append(event);
  std::string chunk = absl::StrFormat("%x\r\n", event.size());
  chunk.append(event).append("\r\n");
  Append(chunk);
}

void SseStream::SendJson(const nlohmann::json& value) {
  SendEvent(std::string("data: ").append(Dump(value)).append("\n\n"));
}

void SseStream::SendDone() { SendEvent("data: [DONE]\n\n"); }

void SseStream::SendPing() { SendEvent(": ping\n\n"); }

void SseStream::SendEnd() {
  if (chunked_) Append("0\r\n\r\n");
}

void SseStream::ReportProgress(bool wanted) { shared_->reports_progress = wanted; }

size_t SseStream::buffered_bytes() const {
  return shared_->waiting.size() + shared_->in_flight_bytes;
}

bool SseStream::broken() const { return shared_->broken; }
absl::Duration SseStream::last_send() const { return shared_->last_send; }
absl::Duration SseStream::last_progress() const { return shared_->last_progress; }

}  // namespace sluice::server
