// One HTTP/1 connection: reads requests one after the other, gives each to Dispatch, writes the
// response. A single reader always has a read under way, so a route learns at once that its client
// went away. I/O thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/http/async_signal.h"
#include "server/http/byte_stream.h"
#include "server/http/request_parser.h"

namespace sluice::server {

class ServerCore;
struct Exchange;
struct HttpResponse;

enum class ListenerKind : uint8_t { kApi, kMetrics };

// Monotonic time for deadlines on sockets.
absl::Duration SteadyNow();

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ServerCore& core, ListenerKind kind, std::unique_ptr<ByteStream> stream);
  ~Connection();

  // Serves requests until the connection ends; keeps it alive meanwhile.
  static asio::awaitable<void> Serve(std::shared_ptr<Connection> self);
  // Ends every pending read and write.
  void Close();

  ListenerKind kind() const { return kind_; }
  asio::any_io_executor executor() { return deadline_.get_executor(); }
  // The peer closed or reset, or Close was called. A half-close counts as gone.
  bool disconnected() const { return input_closed_; }
  // Notified when `disconnected` may have changed; null to end that.
  void set_watcher(AsyncSignal* watcher) { watcher_ = watcher; }

  // Reads the rest of the request's body. DeadlineExceeded, ResourceExhausted, InvalidArgument with
  // codes; Cancelled when the client went away.
  asio::awaitable<absl::Status> ReadBody(RequestParser& parser);
  // The body is no longer needed; gives its bytes back to the budget.
  void ReleaseBody(RequestParser& parser);
  // False when the connection is broken or the peer took nothing for the stall timeout.
  asio::awaitable<bool> Write(std::string_view bytes);
  // Without stall timeout, for streams that watch their own progress.
  asio::awaitable<IoResult> WriteUnwatched(std::string_view bytes);

 private:
  static asio::awaitable<void> ReadLoop(std::shared_ptr<Connection> self);

  asio::awaitable<bool> Handshake();
  asio::awaitable<bool> ServeRequest();
  asio::awaitable<absl::Status> ReadHead(RequestParser& parser);
  asio::awaitable<bool> WriteResponse(Exchange& exchange, HttpResponse& response);
  asio::awaitable<void> Linger();
  void NotifyInput();
  // Closes the connection unless Disarm is called within `timeout`.
  void ArmDeadline(absl::Duration timeout);
  void DisarmDeadline();

  ServerCore& core_;
  const ListenerKind kind_;
  std::unique_ptr<ByteStream> stream_;
  asio::steady_timer deadline_;
  uint64_t deadline_epoch_ = 0;
  AsyncSignal input_signal_;
  AsyncSignal room_signal_;
  AsyncSignal* watcher_ = nullptr;
  std::string input_;
  size_t counted_body_bytes_ = 0;
  bool input_closed_ = false;
  bool discarding_ = false;
  bool served_any_ = false;
};

}  // namespace sluice::server
