// One HTTP request on a connection of its own, as a coroutine that always ends: every wait has a
// limit. I/O thread only.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "server/http/asio.h"
#include "server/load/request_record.h"
#include "server/load/response_reader.h"
#include "server/load/server_address.h"

namespace sluice::server {

struct LoadTarget {
  ServerAddress address;
  std::string api_key;
  std::vector<asio::ip::tcp::endpoint> endpoints;  // tried in this order
  absl::Duration timeout;                          // without anything new
};

// "POST /v1/completions" with `body`, or a GET without one.
std::string RequestBytes(const LoadTarget& target, std::string_view path, std::string_view body);

class HttpExchange : public std::enable_shared_from_this<HttpExchange> {
 public:
  enum class BodyUse : uint8_t { kNothingNew, kProgress, kComplete, kAbandon };
  using OnBody = std::function<BodyUse(int status, std::string_view piece)>;
  struct Result {
    RequestEnd end = RequestEnd::kInterrupted;  // kAnswered: a whole response
    int status = 0;
    std::string message;
  };

  HttpExchange(asio::io_context& io, const LoadTarget& target);

  // Once per object. The object, `bytes` and what `on_body` refers to outlive the coroutine.
  asio::awaitable<Result> Run(const std::string& bytes, const OnBody& on_body);
  // Ends Run soon with kInterrupted.
  void Cancel();
  // Where Run got a connection.
  const asio::ip::tcp::endpoint& endpoint() const { return endpoint_; }

 private:
  void WaitAtMost(absl::Duration limit);
  void Watch();
  void Close();
  asio::awaitable<Result> ReadAnswer(const OnBody& on_body);
  Result Ended(RequestEnd end, std::string message);

  const LoadTarget& target_;
  asio::ip::tcp::socket socket_;
  asio::steady_timer timer_;
  std::chrono::steady_clock::time_point deadline_;
  asio::ip::tcp::endpoint endpoint_;
  ResponseReader reader_;
  std::array<char, 16384> buffer_;
  bool timed_out_ = false;
  bool cancelled_ = false;
};

}  // namespace sluice::server
