#include "server/http/connection.h"

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>

#include "absl/strings/str_cat.h"
#include "engine/clock.h"
#include "engine/request_error.h"
#include "server/http/exchange.h"
#include "server/http/openai_errors.h"
#include "server/http/server_core.h"

namespace sluice::server {
namespace {

constexpr size_t kReadBytes = 16 << 10;
constexpr size_t kMaxBufferedBytes = 64 << 10;
constexpr size_t kWritePieceBytes = 64 << 10;
constexpr double kMinBodyBytesPerSecond = 1024.0;

absl::Status ClientGone() { return absl::CancelledError("the client went away"); }

absl::Status TimedOut() {
  return RequestError(absl::StatusCode::kDeadlineExceeded, "request_timeout", "",
                      "the request took too long to arrive");
}

}  // namespace

absl::Duration SteadyNow() { return SteadyClock().Now(); }

Connection::Connection(ServerCore& core, ListenerKind kind, std::unique_ptr<ByteStream> stream)
    : core_(core),
      kind_(kind),
      stream_(std::move(stream)),
      deadline_(core.io.get_executor()),
      input_signal_(core.io.get_executor()),
      room_signal_(core.io.get_executor()) {
  core_.connections.insert(this);
}

Connection::~Connection() { core_.connections.erase(this); }

void Connection::Close() {
  stream_->Close();
  input_closed_ = true;
  NotifyInput();
  room_signal_.Notify();
}

void Connection::NotifyInput() {
  input_signal_.Notify();
  if (watcher_ != nullptr) watcher_->Notify();
}

void Connection::ArmDeadline(absl::Duration timeout) {
  const uint64_t epoch = ++deadline_epoch_;
  deadline_.expires_after(absl::ToChronoMilliseconds(timeout));
  deadline_.async_wait([self = shared_from_this(), epoch](boost::system::error_code error) {
    if (!error && self->deadline_epoch_ == epoch) self->Close();
  });
}

void Connection::DisarmDeadline() {
  ++deadline_epoch_;
  deadline_.cancel();
}

asio::awaitable<void> Connection::Serve(std::shared_ptr<Connection> self) {
  const bool secured = co_await self->Handshake();
  if (secured) {
    asio::co_spawn(self->core_.io.get_executor(), ReadLoop(self),
                   [self](const std::exception_ptr& error) {
                     if (error) self->Close();
                   });
    bool more = true;
    while (more) more = co_await self->ServeRequest();
    co_await self->Linger();
  }
  self->Close();
}

asio::awaitable<bool> Connection::Handshake() {
  ArmDeadline(core_.options.timeouts.tls_handshake);
  const IoResult result = co_await stream_->Handshake();
  DisarmDeadline();
  co_return !result.error;
}

asio::awaitable<void> Connection::ReadLoop(std::shared_ptr<Connection> self) {
  std::array<char, kReadBytes> bytes;
  while (!self->input_closed_) {
    if (!self->discarding_ && self->input_.size() >= kMaxBufferedBytes) {
      co_await self->room_signal_.Wait();
      continue;
    }
    const IoResult result = co_await self->stream_->ReadSome(asio::buffer(bytes));
    if (result.error) {
      self->input_closed_ = true;
    } else if (!self->discarding_) {
      self->input_.append(bytes.data(), result.bytes);
    }
    self->NotifyInput();
  }
}

asio::awaitable<absl::Status> Connection::ReadHead(RequestParser& parser) {
  const HttpTimeouts& timeouts = core_.options.timeouts;
  bool started = !served_any_ || !input_.empty();
  absl::Duration deadline = SteadyNow() + (started ? timeouts.head : timeouts.keep_alive_idle);
  while (true) {
    if (!started && !input_.empty()) {
      started = true;
      deadline = SteadyNow() + timeouts.head;
    }
    const bool any_bytes = !input_.empty();
    const absl::StatusOr<bool> done = parser.ParseHead(input_);
    room_signal_.Notify();
    if (!done.ok()) co_return done.status();
    if (*done) co_return absl::OkStatus();
    if (input_closed_) co_return ClientGone();
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) co_return any_bytes ? TimedOut() : ClientGone();
    co_await input_signal_.Wait(left);
  }
}

asio::awaitable<absl::Status> Connection::ReadBody(RequestParser& parser) {
  const absl::Duration window = core_.options.timeouts.body_window;
  const auto window_bytes =
      static_cast<size_t>(kMinBodyBytesPerSecond * absl::ToDoubleSeconds(window));
  absl::Duration window_end = SteadyNow() + window;
  size_t bytes_before = 0;
  while (true) {
    const absl::StatusOr<bool> done = parser.ParseBody(input_);
    room_signal_.Notify();
    const size_t received = parser.request().body.size();
    core_.body_bytes_in_flight += received - counted_body_bytes_;
    counted_body_bytes_ = received;
    if (!done.ok()) co_return done.status();
    if (*done) co_return absl::OkStatus();
    if (input_closed_) co_return ClientGone();
    if (core_.body_bytes_in_flight > core_.options.limits.max_body_bytes_in_flight) {
      co_return RequestError(absl::StatusCode::kResourceExhausted, "queue_full", "",
                             "too many request bodies are being read");
    }
    if (SteadyNow() >= window_end) {
      if (received - bytes_before < window_bytes) co_return TimedOut();
      bytes_before = received;
      window_end = SteadyNow() + window;
    }
    co_await input_signal_.Wait(window_end - SteadyNow());
  }
}

void Connection::ReleaseBody(RequestParser& parser) {
  core_.body_bytes_in_flight -= counted_body_bytes_;
  counted_body_bytes_ = 0;
  std::string().swap(parser.request().body);
}

asio::awaitable<bool> Connection::ServeRequest() {
  RequestParser parser(core_.options.limits);
  Exchange exchange{.core = core_,
                    .connection = *this,
                    .parser = parser,
                    .request = parser.request(),
                    .principal = {},
                    .record = {},
                    .path_argument = {}};
  const absl::Status head = co_await ReadHead(parser);
  if (absl::IsCancelled(head)) co_return false;
  const absl::Duration start = SteadyNow();
  served_any_ = true;
  core_.num_active.fetch_add(kind_ == ListenerKind::kApi ? 1 : 0);
  HttpResponse response;
  if (head.ok()) {
    response = co_await Dispatch(exchange);
  } else {
    response = ErrorResponse(head);
    response.close = true;
    exchange.record.request_id = core_.NewRequestId();
    exchange.record.route = "_unknown";
  }
  bool keep_alive = exchange.keep_alive && !input_closed_;
  if (!exchange.streamed) keep_alive = co_await WriteResponse(exchange, response);
  ReleaseBody(parser);
  core_.num_active.fetch_sub(kind_ == ListenerKind::kApi ? 1 : 0);
  exchange.record.duration = SteadyNow() - start;
  const AccessRecord& record = exchange.record;
  if (core_.options.counters != nullptr) core_.options.counters->Count(record.api, record.code);
  if (core_.options.access_log) core_.options.access_log(record);
  co_return keep_alive && !core_.stopping;
}

asio::awaitable<bool> Connection::WriteResponse(Exchange& exchange, HttpResponse& response) {
  exchange.record.status = response.status;
  exchange.record.code = response.code;
  exchange.record.error_code = response.error_code;
  if (response.status == 499) co_return false;  // nobody is there to read it
  const HttpRequest& request = exchange.request;
  const bool keep_alive = request.keep_alive && !response.close && !core_.draining();
  response.fields.emplace_back("x-request-id", exchange.record.request_id);
  const std::string length = response.status == 204
                                 ? std::string()
                                 : absl::StrCat("Content-Length: ", response.body.size());
  std::string bytes = ResponseHead(response, length, keep_alive);
  if (request.method != "HEAD") bytes.append(response.body);
  const bool written = co_await Write(bytes);
  co_return written&& keep_alive;
}

asio::awaitable<bool> Connection::Write(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::string_view piece = bytes.substr(0, kWritePieceBytes);
    ArmDeadline(core_.options.timeouts.write_stall);
    const IoResult result = co_await WriteUnwatched(piece);
    DisarmDeadline();
    if (result.error) co_return false;
    bytes.remove_prefix(piece.size());
  }
  co_return true;
}

asio::awaitable<IoResult> Connection::WriteUnwatched(std::string_view bytes) {
  return stream_->WriteAll(asio::buffer(bytes.data(), bytes.size()));
}

// Closing a socket with unread input resets it, and the peer may lose the response.
asio::awaitable<void> Connection::Linger() {
  if (input_closed_ || core_.stopping) co_return;
  stream_->ShutdownSend();
  discarding_ = true;
  room_signal_.Notify();
  const absl::Duration end = SteadyNow() + core_.options.timeouts.linger;
  while (!input_closed_ && SteadyNow() < end) co_await input_signal_.Wait(end - SteadyNow());
}

}  // namespace sluice::server
