#include "server/load/http_exchange.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::server {
namespace {

constexpr absl::Duration kConnectLimit = absl::Seconds(10);
// For the end of a body whose last event has come.
constexpr absl::Duration kFarewellLimit = absl::Seconds(1);

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

std::string RequestBytes(const LoadTarget& target, std::string_view path, std::string_view body) {
  std::string bytes = absl::StrCat(body.empty() ? "GET " : "POST ", target.address.base_path,
                                   View(path), " HTTP/1.1\r\nHost: ", target.address.Authority(),
                                   "\r\nConnection: close\r\nUser-Agent: sluice-bench\r\n");
  if (!target.api_key.empty()) {
    absl::StrAppend(&bytes, "Authorization: Bearer ", target.api_key, "\r\n");
  }
  if (!body.empty()) {
    absl::StrAppend(&bytes, "Content-Type: application/json\r\nContent-Length: ", body.size(),
                    "\r\n");
  }
  return absl::StrCat(bytes, "\r\n", View(body));
}

HttpExchange::HttpExchange(asio::io_context& io, const LoadTarget& target)
    : target_(target), socket_(io), timer_(io) {}

void HttpExchange::WaitAtMost(absl::Duration limit) {
  deadline_ = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(limit);
}

// A deadline moves with every event; the timer looks at it only when it fires.
void HttpExchange::Watch() {
  timer_.expires_at(deadline_);
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const std::shared_ptr<HttpExchange> self = weak.lock();
    if (error || self == nullptr || !self->socket_.is_open()) return;
    if (std::chrono::steady_clock::now() < self->deadline_) return self->Watch();
    self->timed_out_ = true;
    self->Close();
  });
}

void HttpExchange::Close() {
  boost::system::error_code ignored;
  socket_.close(ignored);
  timer_.cancel(ignored);
}

void HttpExchange::Cancel() {
  cancelled_ = true;
  Close();
}

HttpExchange::Result HttpExchange::Ended(RequestEnd end, std::string message) {
  if (timed_out_ && end != RequestEnd::kConnect) {
    end = RequestEnd::kTimeout;
    message =
        absl::StrCat("nothing new within --timeout of ", absl::FormatDuration(target_.timeout));
  }
  if (cancelled_) {
    end = RequestEnd::kInterrupted;
    message = "interrupted";
  }
  Close();
  return {.end = end, .status = reader_.status(), .message = std::move(message)};
}

asio::awaitable<HttpExchange::Result> HttpExchange::Run(const std::string& bytes,
                                                        const OnBody& on_body) {
  boost::system::error_code error;
  WaitAtMost(std::min(kConnectLimit, target_.timeout));
  // Opened here, because the timer looks whether it is.
  for (const auto& endpoint : target_.endpoints) {
    socket_.open(endpoint.protocol(), error);
    if (!error) break;
  }
  if (error) {
    co_return Ended(RequestEnd::kConnect, absl::StrCat("cannot open a socket: ", error.message()));
  }
  Watch();
  endpoint_ = co_await asio::async_connect(socket_, target_.endpoints,
                                           asio::redirect_error(asio::use_awaitable, error));
  if (error) {
    co_return Ended(RequestEnd::kConnect,
                    absl::StrCat("cannot connect to ", target_.address.Authority(), ": ",
                                 timed_out_ ? "no answer" : error.message()));
  }
  socket_.set_option(asio::ip::tcp::no_delay(true), error);
  WaitAtMost(target_.timeout);
  co_await asio::async_write(socket_, asio::buffer(bytes),
                             asio::redirect_error(asio::use_awaitable, error));
  // A failed write is no end: the server may have refused before it read everything.
  co_return co_await ReadAnswer(on_body);
}

asio::awaitable<HttpExchange::Result> HttpExchange::ReadAnswer(const OnBody& on_body) {
  boost::system::error_code error;
  bool is_complete = false, is_abandoned = false;
  const auto use = [&](std::string_view piece) {
    if (is_complete || is_abandoned) return;
    const BodyUse body_use = on_body(reader_.status(), piece);
    is_complete = body_use == BodyUse::kComplete;
    is_abandoned = body_use == BodyUse::kAbandon;
    if (body_use == BodyUse::kProgress) WaitAtMost(target_.timeout);
    if (!is_complete) return;
    WaitAtMost(kFarewellLimit);
    Watch();  // this deadline is earlier than the one it waits for
  };
  while (!reader_.is_done()) {
    const size_t count = co_await socket_.async_read_some(
        asio::buffer(buffer_), asio::redirect_error(asio::use_awaitable, error));
    if (error) break;
    const absl::Status status = reader_.Feed({buffer_.data(), count}, use);
    if (is_abandoned) break;
    if (is_complete && !status.ok()) break;
    if (!status.ok()) co_return Ended(RequestEnd::kMalformed, std::string(status.message()));
  }
  if (is_complete || is_abandoned) {
    timed_out_ = cancelled_ = false;
    co_return Ended(RequestEnd::kAnswered, "");
  }
  const absl::Status status = reader_.End();
  if (cancelled_ || timed_out_ || !status.ok()) {
    co_return Ended(RequestEnd::kDisconnected, std::string(status.message()));
  }
  co_return Ended(RequestEnd::kAnswered, "");
}

}  // namespace sluice::server
