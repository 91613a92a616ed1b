// One streaming response: server-sent events through a bounded buffer that a writer coroutine
// empties. Says how full it is; pausing and cancelling is the route's decision. I/O thread only.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "nlohmann/json.hpp"
#include "server/http/async_signal.h"
#include "server/http/connection.h"

namespace sluice::server {

class SseStream {
 public:
  // `wake` is notified when the connection broke and, while that is asked for, whenever bytes have
  // left, until the stream is destroyed.
  SseStream(std::shared_ptr<Connection> connection, AsyncSignal* wake, bool chunked);
  ~SseStream();
  SseStream(const SseStream&) = delete;
  SseStream& operator=(const SseStream&) = delete;

  // The response head, as it is.
  void SendHead(std::string_view head);
  // "data: {json}\n\n".
  void SendJson(const nlohmann::json& value);
  void SendDone();
  void SendPing();  // a comment
  // The end of a chunked body; nothing may follow.
  void SendEnd();

  // For who waits for room or for the end: off, or a token that needs neither costs a second wake.
  void ReportProgress(bool wanted);
  size_t buffered_bytes() const;
  bool broken() const;
  // When something was last put into the buffer; when bytes last left it.
  absl::Duration last_send() const;
  absl::Duration last_progress() const;

 private:
  struct Shared;
  static asio::awaitable<void> WriteLoop(std::shared_ptr<Shared> shared);
  void SendEvent(std::string_view event);
  void Append(std::string_view bytes);

  const bool chunked_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace sluice::server
